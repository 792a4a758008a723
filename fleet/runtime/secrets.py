"""The only door to cryptography: a keyring file and AES-256-GCM for the credentials in `exchange_accounts`.

In: a keyring file (mode 0600) and ciphertext columns. Out: Credentials, only in the process that dials, with their signer where
the secret is a private key; ciphertext for the CLI that stores them. Nothing here puts a key or a plaintext into a repr, a log
or an exception; where the original error could carry one (a JSON error keeps its document) it is not chained.

Form of a ciphertext: one byte format version, 12 bytes nonce, then AES-GCM output. Its associated data names the purpose,
the key id and the account id, so a ciphertext copied to another row or under another key id does not open.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
import tempfile
import time
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from fleet.core import decoding
from fleet.core.errors import SecretsError
from fleet.core.model import Credentials, KeyPair

FORMAT = b"\x01"
NONCE_BYTES = 12
KEY_BYTES = 32
PURPOSE = "streamfleet exchange_accounts.credentials"


class _Key(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of the keyring file; `key` is base64 of 32 bytes."""

    id: str
    created_ms: int
    key: str

    def __repr__(self) -> str:
        return f"_Key({self.id})"


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[_Key]

    def __repr__(self) -> str:
        return "_File(…)"


class Keyring:
    """Several keys by id. The newest (last) encrypts, each of them decrypts, so a key is rotated by adding one."""

    def __init__(self, path: Path, keys: list[_Key]) -> None:
        self.path = path
        self._keys = keys
        self._ciphers = {key.id: AESGCM(_key_bytes(path, key)) for key in keys}
        if not keys or len(self._ciphers) != len(keys):
            raise SecretsError(f"{path}: no key, or a key id twice")

    def __repr__(self) -> str:
        return f"Keyring({str(self.path)!r}, {self.key_ids()})"

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> Keyring:
        """Write a new keyring with one random key, mode 0600. Raises SecretsError if the file exists or cannot be written."""
        path = Path(path)
        keys = [_new_key(set())]
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                os.fchmod(file.fileno(), 0o600)
                file.write(_encode(keys))
                os.fsync(file.fileno())
        except OSError as error:
            raise SecretsError(f"{path}: {error.strerror}") from error
        return cls(path, keys)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Keyring:
        """Read a keyring. Raises SecretsError if it is unreadable, malformed, of another mode than 0600 or another user's."""
        path = Path(path)
        try:
            with path.open("rb") as file:
                state = os.fstat(file.fileno())
                mode = stat.S_IMODE(state.st_mode)
                if mode != 0o600 or not stat.S_ISREG(state.st_mode):
                    raise SecretsError(
                        f"{path}: mode {mode:04o} refused; a keyring is a file of mode 0600 (chmod 600 {path})"
                    )
                if state.st_uid != os.geteuid():
                    raise SecretsError(f"{path}: belongs to another user (uid {state.st_uid})")
                content = file.read()
        except OSError as error:
            raise SecretsError(f"{path}: {error.strerror}") from error
        try:
            return cls(path, decoding.decode(content, _File).keys)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise SecretsError(f"{path}: not a keyring (fleet keyring new FILE writes one)") from None

    def key_ids(self) -> list[str]:
        """Oldest first; the last one encrypts."""
        return [key.id for key in self._keys]

    def add_key(self) -> str:
        """Add a random key, which encrypts from now on, and return its id. The file is replaced in one step."""
        keys = [*self._keys, _new_key(set(self._ciphers))]
        try:
            handle, temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")  # mode 0600
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(_encode(keys))
                    os.fsync(file.fileno())
                Path(temporary).replace(self.path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise SecretsError(f"{self.path}: {error.strerror}") from error
        self._keys = keys
        self._ciphers[keys[-1].id] = AESGCM(_key_bytes(self.path, keys[-1]))
        return keys[-1].id

    def encrypt(self, credentials: Credentials, account_id: str) -> tuple[str, bytes]:
        """(key id, ciphertext) for the two credential columns of row `account_id`."""
        key_id = self._keys[-1].id
        nonce = os.urandom(NONCE_BYTES)
        plaintext = msgspec.json.encode(credentials)
        return key_id, FORMAT + nonce + self._ciphers[key_id].encrypt(nonce, plaintext, _bound_to(key_id, account_id))

    def decrypt(self, key_id: str, ciphertext: bytes, account_id: str) -> Credentials:
        """Open what `encrypt` made for the same row. Raises SecretsError for a missing key, another row, a changed byte or a
        private key that cannot be used."""
        cipher = self._ciphers.get(key_id)
        if cipher is None:
            raise SecretsError(f"account {account_id}: the keyring has no key {key_id!r}")
        ciphertext = bytes(ciphertext)
        nonce, sealed = ciphertext[1 : 1 + NONCE_BYTES], ciphertext[1 + NONCE_BYTES :]
        if ciphertext[:1] != FORMAT or len(sealed) < 16:
            raise SecretsError(f"account {account_id}: credentials are not in a known form")
        try:
            plaintext = cipher.decrypt(nonce, sealed, _bound_to(key_id, account_id))
            return with_signer(decoding.decode(plaintext, Credentials))
        except (InvalidTag, msgspec.MsgspecError):
            raise SecretsError(f"account {account_id}: credentials do not belong to this row or were changed") from None
        except ValueError as error:
            raise SecretsError(f"account {account_id}: {error}") from None


def with_signer(credentials: Credentials) -> Credentials:
    """The same, able to sign where the secret is a private key in PEM; a shared secret stays as it is. Raises ValueError for PEM
    that is not an unencrypted private key of a kind exchanges take; its text quotes nothing of it."""
    if not credentials.secret.lstrip().startswith("-----BEGIN "):
        return credentials
    known = msgspec.structs.asdict(credentials)
    try:
        key = serialization.load_pem_private_key(credentials.secret.strip().encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if isinstance(key, Ed25519PrivateKey):
        return KeyPair(**known, pair="ed25519", sign_with=key.sign)
    if isinstance(key, RSAPrivateKey):
        rsa = key  # PKCS #1 v1.5 with SHA-256, as the exchanges that take RSA keys document it
        return KeyPair(**known, pair="rsa", sign_with=lambda data: rsa.sign(data, padding.PKCS1v15(), hashes.SHA256()))
    raise ValueError("the secret is not an unencrypted Ed25519 or RSA private key in PEM")


def new_ed25519() -> str:
    """A new private key in PEM, for simulated accounts."""
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return Ed25519PrivateKey.generate().private_bytes(*form).decode()


def _bound_to(key_id: str, account_id: str) -> bytes:
    return f"{PURPOSE}|{key_id}|{str(account_id).lower()}".encode()


def _new_key(taken: set[str]) -> _Key:
    now_ms = int(time.time() * 1000)
    key_id = f"k{secrets.token_hex(4)}"
    while key_id in taken:
        key_id = f"k{secrets.token_hex(4)}"
    return _Key(id=key_id, created_ms=now_ms, key=base64.b64encode(os.urandom(KEY_BYTES)).decode())


def _key_bytes(path: Path, key: _Key) -> bytes:
    try:
        raw = base64.b64decode(key.key, validate=True)
    except ValueError:
        raw = b""
    if len(raw) != KEY_BYTES:
        raise SecretsError(f"{path}: key {key.id!r} is not {KEY_BYTES} bytes of base64") from None
    return raw


def _encode(keys: list[_Key]) -> bytes:
    return msgspec.json.format(msgspec.json.encode(_File(keys=keys)), indent=2) + b"\n"
