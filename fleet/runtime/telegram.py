"""Telegram's Bot API, the one call the fleet makes: a chat and a text in, a `Delivery` out. Used by the coordinator's leader.

The bot token is part of every URL, so it lives in the root URL of the connection, which `fleet.runtime.http` never puts
into an error; what this module raises or returns names the method and a status only. Rules are of the Bot API's page
"Making requests" and its `ResponseParameters` (retry_after, migrate_to_chat_id).
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from fleet.core.errors import ConnectionFailed, SettingsError
from fleet.core.exchange import HttpReply, HttpRequest
from fleet.runtime.http import Http
from fleet.runtime.settings import Settings

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
MAX_TEXT = 4096  # characters of one message
DEFAULT_WAIT_S = 5.0  # after a 429 that does not say how long


class Answer(enum.StrEnum):
    """What became of one message."""

    SENT = "sent"
    SLOW_DOWN = "slow_down"  # 429: the whole bot waits `wait_s`
    RETRY = "retry"  # an outage, 5xx, or a token that is refused: nothing is wrong with the message
    REFUSED = "refused"  # this chat will never take it: unknown chat, bot blocked
    MOVED = "moved"  # the group became a supergroup: `chat_id` is its new id


class Delivery(msgspec.Struct, frozen=True):
    """`detail` is safe to store and to log."""

    answer: Answer
    detail: str = ""
    wait_s: float = 0.0
    chat_id: str = ""


class Messenger(Protocol):
    """What the notice sender needs; Telegram, or a test's fake."""

    def send(self, chat_id: str, text: str) -> Delivery: ...


class Telegram:
    """The Bot API under one token. One thread."""

    def __init__(self, api_url: str, token: str, *, ca_file: str = "", timeout_s: float = 10.0) -> None:
        self._http = Http(f"{api_url.rstrip('/')}/bot{token}", ca_file=ca_file, timeout_s=timeout_s, max_connections=1)

    def __repr__(self) -> str:
        return "Telegram(…)"

    def send(self, chat_id: str, text: str) -> Delivery:
        """One `sendMessage`. Raises nothing: an outage is a RETRY."""
        body = msgspec.json.encode({"chat_id": chat_id, "text": _fit(text)})
        request = HttpRequest("POST", "/sendMessage", (("Content-Type", "application/json"),), body)
        try:
            reply = self._http.send(request)
        except ConnectionFailed as error:
            return Delivery(Answer.RETRY, f"no answer: {error.reason}")
        return _delivery(reply)

    def close(self) -> None:
        self._http.close()


def from_settings(settings: Settings) -> Telegram | None:
    """The bot of FLEET_TELEGRAM_TOKEN_FILE, None where no file is named. Raises SettingsError if it cannot be used."""
    if not settings.telegram_token_file:
        return None
    try:
        token = Path(settings.telegram_token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise SettingsError(f"FLEET_TELEGRAM_TOKEN_FILE={settings.telegram_token_file}: {reason}") from error
    if not token or not all(c.isascii() and (c.isalnum() or c in ":_-") for c in token):
        raise SettingsError(f"FLEET_TELEGRAM_TOKEN_FILE={settings.telegram_token_file}: holds no bot token")
    url = urlsplit(settings.telegram_api_url)
    if not url.hostname or url.scheme != "https" and not (url.scheme == "http" and url.hostname in LOOPBACK_NAMES):
        raise SettingsError(
            f"FLEET_TELEGRAM_API_URL={settings.telegram_api_url!r}: an https:// URL is expected (http:// for loopback only)"
        )
    return Telegram(settings.telegram_api_url, token, ca_file=settings.tls_ca_file)


def _delivery(reply: HttpReply) -> Delivery:
    answer = _decode(reply.body)
    parameters = answer.get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}
    detail = f"HTTP {reply.status}"
    if answer.get("description"):  # Telegram's own words, e.g. "Forbidden: bot was blocked by the user"
        detail += f": {str(answer['description'])[:200]}"
    if reply.status == 200 and answer.get("ok") is True:
        return Delivery(Answer.SENT, detail)
    if reply.status == 429:
        wait_s = _seconds(parameters.get("retry_after")) or _seconds(reply.headers.get("retry-after"))
        return Delivery(Answer.SLOW_DOWN, detail, wait_s or DEFAULT_WAIT_S)
    if reply.status == 400 and parameters.get("migrate_to_chat_id"):
        return Delivery(Answer.MOVED, detail, chat_id=str(parameters["migrate_to_chat_id"]))
    if reply.status in (400, 403) and answer.get("ok") is False:  # anything but the Bot API's JSON is a proxy's page
        return Delivery(Answer.REFUSED, detail)
    return Delivery(Answer.RETRY, detail)


def _decode(body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a proxy's page may be anything
        return {}
    return value if isinstance(value, dict) else {}


def _seconds(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return 0.0


def _fit(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
