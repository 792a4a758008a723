"""Signatures as several exchanges document them, word for word the same. In: credentials and what is signed. Out: text.

Pure; run by the processes that dial. A shared secret gives a MAC; a private key signs by itself (`KeyPair.sign_with`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac

from fleet.core.model import Credentials, KeyPair


def signature(credentials: Credentials, payload: str) -> str:
    """hex(HMAC-SHA256(secret, payload)); with a private key base64 of its signature (not percent-encoded)."""
    if isinstance(credentials, KeyPair):
        return base64.b64encode(credentials.sign_with(payload.encode())).decode()
    return hmac.new(credentials.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
