"""Signatures as the simulated exchanges check them. In: an account's secret, what was signed, the signature sent; out: yes or no.

A secret that is PEM stands for a registered public key (an exchange never sees the private one; a test may register either):
then the signature is base64 of Ed25519 or RSASSA-PKCS1-v1_5 with SHA-256. Any other secret is that of an HMAC-SHA256 in hex.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import hmac
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

PEM = "-----BEGIN "


@functools.lru_cache(maxsize=4096)
def public_key(secret: str) -> Ed25519PublicKey | RSAPublicKey | None:
    """The key that verifies, None for a shared secret. Raises ValueError for PEM of anything else."""
    text = secret.strip()
    if not text.startswith(PEM):
        return None
    try:
        if "PRIVATE KEY" in text.splitlines()[0]:
            private = serialization.load_pem_private_key(text.encode(), password=None)
            if isinstance(private, (Ed25519PrivateKey, RSAPrivateKey)):
                return private.public_key()
        public = serialization.load_pem_public_key(text.encode())
    except (TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("secret: not a readable key") from error
    if isinstance(public, (Ed25519PublicKey, RSAPublicKey)):
        return public
    raise ValueError("secret: neither an Ed25519 nor an RSA key")


def kind(secret: str) -> Literal["hmac", "ed25519", "rsa"]:
    key = public_key(secret)
    return "hmac" if key is None else "ed25519" if isinstance(key, Ed25519PublicKey) else "rsa"


def signed(secret: str, payload: bytes, signature: str) -> bool:
    """Is `signature` that of `payload`?"""
    key = public_key(secret)
    if key is None:
        expected = hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest()
        return hmac.compare_digest(expected.encode(), signature.lower().encode())
    try:
        raw = base64.b64decode(signature, validate=True)
        if isinstance(key, Ed25519PublicKey):
            key.verify(raw, payload)
        else:
            key.verify(raw, payload, padding.PKCS1v15(), hashes.SHA256())
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True
