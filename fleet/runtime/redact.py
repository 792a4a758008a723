"""Redaction: values on their way to a log in, the same without what looks like a secret out. Used by `fleet.runtime.logs`.

It is the second line of defence: no secret, listen key, signed URL or bot token should reach a log call in the first place.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

SECRET_FIELDS = frozenset(
    ("secret", "secret_key", "api_secret", "api_key", "apikey", "listen_key", "listenkey", "signature", "passphrase")
    + ("password", "authorization", "x-mbx-apikey", "bot_token", "credentials", "signed_url")
)
SECRET_WORDS = (
    r"listen_?key|signature|api_?key|api_?secret|secret|passphrase|(?:sentinel_)?password|authorization|x-mbx-apikey"
)
MASKS = (
    (re.compile(rf"(?i)\b({SECRET_WORDS})\b([\"']?\s*[=:]\s*[\"']?)[^&\s\"',}})]+"), r"\1\2…"),
    (re.compile(r"(://[^:/@\s]*):[^@/\s]+@"), r"\1:…@"),  # user:password@ of a DSN
    (re.compile(r"(?<!\d)\d{6,}:[A-Za-z0-9_-]{30,}"), "…"),  # a Telegram bot token, in a URL path or alone
    (re.compile(r"\b(?=[a-z0-9]*[A-Z])[A-Za-z0-9]{60,}\b"), "…"),  # the shape of Binance keys, secrets, listen keys
)
QUERY = re.compile(r"\?[^\s'\"]+")


def redact(text: str) -> str:
    """`text` without what looks like a secret, a listen key, a password in a URL or a bot token."""
    for pattern, replacement in MASKS:
        text = pattern.sub(replacement, text)
    return text


def clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(k): clean(v) for k, v in value.items() if str(k).lower() not in SECRET_FIELDS}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [clean(v) for v in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return redact(str(value))
