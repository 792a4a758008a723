"""Keyring and ciphertexts: what opens, what does not, and that nothing leaks a plaintext or a key."""

from __future__ import annotations

import json
import logging
import stat
import traceback
from pathlib import Path

import pytest

from fleet.core.errors import SecretsError
from fleet.core.model import Credentials
from fleet.runtime.secrets import Keyring

ROW = "7b0c5f0e-9d0f-4a5c-8f5e-3d6f0f4b8f10"
OTHER_ROW = "00000000-0000-4000-8000-000000000000"
CREDENTIALS = Credentials(api_key="CANARY-KEY", secret="CANARY-SECRET", passphrase="CANARY-PASS")


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring.create(tmp_path / "keyring.json")


def test_a_ciphertext_opens_for_its_own_row_only(keyring: Keyring) -> None:
    key_id, sealed = keyring.encrypt(CREDENTIALS, ROW)
    assert keyring.decrypt(key_id, sealed, ROW) == CREDENTIALS
    assert keyring.decrypt(key_id, sealed, ROW.upper()) == CREDENTIALS
    assert b"CANARY" not in sealed
    with pytest.raises(SecretsError, match="do not belong"):
        keyring.decrypt(key_id, sealed, OTHER_ROW)


def test_every_changed_byte_is_noticed(keyring: Keyring) -> None:
    key_id, sealed = keyring.encrypt(CREDENTIALS, ROW)
    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(SecretsError):
            keyring.decrypt(key_id, bytes(changed), ROW)
    for length in (0, 1, 12, 20, len(sealed) - 1):
        with pytest.raises(SecretsError):
            keyring.decrypt(key_id, sealed[:length], ROW)


def test_an_added_key_encrypts_and_the_old_one_still_decrypts(keyring: Keyring) -> None:
    old_id, old = keyring.encrypt(CREDENTIALS, ROW)
    added = keyring.add_key()
    again = Keyring.load(keyring.path)
    new_id, new = again.encrypt(CREDENTIALS, ROW)
    assert new_id == added != old_id
    assert again.key_ids() == [old_id, added]
    assert again.decrypt(old_id, old, ROW) == again.decrypt(new_id, new, ROW) == CREDENTIALS
    with pytest.raises(SecretsError):
        again.decrypt(new_id, old, ROW)
    with pytest.raises(SecretsError, match="no key 'gone'"):
        again.decrypt("gone", old, ROW)
    assert stat.S_IMODE(keyring.path.stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o666, 0o604, 0o700, 0o400])
def test_another_mode_is_refused(keyring: Keyring, mode: int) -> None:
    keyring.path.chmod(mode)
    with pytest.raises(SecretsError, match=f"{mode:04o}"):
        Keyring.load(keyring.path)


def test_an_existing_file_is_never_overwritten(keyring: Keyring) -> None:
    before = keyring.path.read_bytes()
    with pytest.raises(SecretsError, match="exists"):
        Keyring.create(keyring.path)
    assert keyring.path.read_bytes() == before


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", '{"keys": []}', '{"keys": [{"id": "a", "created_ms": 1, "key": "CANARY"}]}', "CANARY \xff"],
)
def test_a_malformed_keyring_is_one_clear_line_without_its_content(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keyring.json"
    path.write_bytes(content.encode("latin-1"))
    path.chmod(0o600)
    with pytest.raises(SecretsError) as caught:
        Keyring.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "CANARY" not in "".join(traceback.format_exception(caught.value))


def test_a_missing_file_and_a_directory_are_clear(tmp_path: Path) -> None:
    with pytest.raises(SecretsError, match="No such file"):
        Keyring.load(tmp_path / "none.json")
    with pytest.raises(SecretsError):
        Keyring.load(tmp_path)


def test_no_repr_error_or_log_shows_a_secret(keyring: Keyring, caplog: pytest.LogCaptureFixture) -> None:
    key_id, sealed = keyring.encrypt(CREDENTIALS, ROW)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").debug("%r %s %r", CREDENTIALS, CREDENTIALS, keyring)
    with pytest.raises(SecretsError) as caught:
        keyring.decrypt(key_id, sealed, OTHER_ROW)
    key = json.loads(keyring.path.read_text())["keys"][0]["key"]
    shown = caplog.text + "".join(traceback.format_exception(caught.value)) + repr(keyring.__dict__)
    assert "CANARY" not in shown
    assert key not in shown
