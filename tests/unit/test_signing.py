"""Private keys in place of shared secrets: recognised from the secret, signing as RFC 8032 and PKCS #1 say."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from fleet.core.errors import ConnectionFailed, SecretsError
from fleet.core.exchange import HttpRequest
from fleet.core.model import Credentials, KeyPair
from fleet.core.signing import signature
from fleet.exchanges import exchanges
from fleet.runtime.account_rows import BadAccount, parse_credentials
from fleet.runtime.http import Http
from fleet.runtime.secrets import Keyring, new_ed25519, with_signer
from simulator import keys

# RFC 8032, 7.1, tests 1 and 2: seed, message, signature
RFC_8032 = [
    ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
     "d25bf5f0595bbe24655141438e7a100b"),
    ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
     "387b2eaeb4302aeeb00d291612bb0c00"),
]  # fmt: skip
PKCS8 = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)


def pem_of_seed(seed: str) -> str:
    der = bytes.fromhex("302e020100300506032b657004220420" + seed)
    return f"-----BEGIN PRIVATE KEY-----\n{base64.b64encode(der).decode()}\n-----END PRIVATE KEY-----\n"


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, password: bytes | None = None) -> str:
    lock = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(*PKCS8, lock).decode()


def pem_of_public(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.mark.parametrize(("seed", "message", "expected"), RFC_8032)
def test_ed25519_vectors(seed: str, message: str, expected: str) -> None:
    pair = with_signer(Credentials("k", pem_of_seed(seed)))
    assert isinstance(pair, KeyPair) and pair.kind == "ed25519"
    assert pair.sign_with(bytes.fromhex(message)).hex() == expected
    assert base64.b64decode(signature(pair, bytes.fromhex(message).decode())).hex() == expected


def test_rsa_is_pkcs1_with_sha256(rsa_key: rsa.RSAPrivateKey) -> None:
    pair = with_signer(Credentials("k", pem(rsa_key)))
    assert pair.kind == "rsa"
    proof = base64.b64decode(signature(pair, "symbol=BTCUSDT&timestamp=1"))
    rsa_key.public_key().verify(proof, b"symbol=BTCUSDT&timestamp=1", padding.PKCS1v15(), hashes.SHA256())


def test_a_shared_secret_is_left_as_it_is() -> None:
    plain = Credentials("k", "s", "p")
    assert with_signer(plain) is plain and plain.kind == "hmac"


def test_the_keyring_hands_out_the_signer(tmp_path: Path) -> None:
    ring, secret = Keyring.create(tmp_path / "ring"), new_ed25519()
    opened = ring.decrypt(*ring.encrypt(Credentials("k", secret), "id"), "id")
    assert isinstance(opened, KeyPair) and (opened.api_key, opened.secret, opened.pair) == ("k", secret, "ed25519")
    assert keys.signed(secret, b"x", signature(opened, "x")) and not keys.signed(secret, b"y", signature(opened, "x"))
    with pytest.raises(SecretsError, match="private key in PEM") as refused:
        ring.decrypt(*ring.encrypt(Credentials("k", "-----BEGIN PRIVATE KEY-----\ncanary"), "id"), "id")
    assert "canary" not in repr(refused.value) and refused.value.__cause__ is None


def test_what_each_venue_takes(rsa_key: rsa.RSAPrivateKey) -> None:
    def parse(secret: str, name: str, passphrase: str | None = None) -> str:
        text = json.dumps({"api_key": "k", "secret": secret, "passphrase": passphrase})
        return parse_credentials(text, exchanges()[name]).secret

    edwards = new_ed25519()
    for name in ("binance_spot", "binance_usdm"):
        assert parse(edwards, name) == edwards and parse(pem(rsa_key), name)
    assert parse(pem(rsa_key), "bybit") and parse("s", "okx", "p") == "s"
    with pytest.raises(BadAccount, match="okx needs a passphrase"):
        parse("s", "okx")
    curve = ec.generate_private_key(ec.SECP256R1())
    refused = [
        (edwards, "bybit", "ed25519 are not"), (edwards, "okx", "ed25519 are not"),
        (pem(rsa_key, b"pw"), "bybit", "unencrypted"), (pem(curve), "bybit", "unencrypted"),
        ("-----BEGIN canary", "binance_spot", "unencrypted"),
    ]  # fmt: skip
    for secret, name, why in refused:
        with pytest.raises(BadAccount, match=why) as error:
            parse(secret, name, "p")
        assert "canary" not in str(error.value) and secret not in str(error.value)


@pytest.mark.parametrize(
    ("api_key", "passphrase"),
    [("canary\n", "p"), (" canary", "p"), ("canaryé", "p"), ("can\x00ary", "p"), ("canary", "p\n")],
)
def test_what_no_header_can_carry_is_refused_as_it_is_added(api_key: str, passphrase: str) -> None:
    text = json.dumps({"api_key": api_key, "secret": "s", "passphrase": passphrase})
    with pytest.raises(BadAccount, match="a letter that no key has") as refused:
        parse_credentials(text, exchanges()["okx"])
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize("api_key", ["canary\n", "ключ-canary"])
def test_a_key_that_no_header_can_carry_is_a_failed_call_and_not_told(api_key: str) -> None:
    """One that is in the table all the same: the library's error would quote it."""
    with pytest.raises(ConnectionFailed) as failed:
        Http("http://127.0.0.1:1", timeout_s=1).send(HttpRequest("GET", "/x?s=canary", (("X-KEY", api_key),)))
    assert "canary" not in str(failed.value) and failed.value.__suppress_context__


def test_the_simulator_knows_either_half_of_a_key(rsa_key: rsa.RSAPrivateKey) -> None:
    proof = signature(with_signer(Credentials("k", pem(rsa_key))), "payload")
    public = pem_of_public(rsa_key)
    assert keys.signed(public, b"payload", proof) and keys.kind(public) == "rsa"
    assert not keys.signed(public, b"payload", "not base64") and keys.kind("shared") == "hmac"
    with pytest.raises(ValueError, match="secret"):
        keys.kind(pem_of_public(ec.generate_private_key(ec.SECP256R1())))
