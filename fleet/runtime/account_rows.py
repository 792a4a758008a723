"""Rows of `exchange_accounts` as an operator changes them: add, list, show, (de)activate, new credentials, remove.

In: plaintext credentials of one account, never kept. Out: rows without ciphertext. Used by `fleet accounts …` and by the
demo, which adds its accounts through this same door. The coordinator hears of each change by the table's trigger.
"""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.errors import FleetError
from fleet.core.exchange import Exchange
from fleet.core.model import Credentials
from fleet.runtime.postgres import Postgres, queries
from fleet.runtime.secrets import Keyring, with_signer


class NoSuchAccount(FleetError):
    """No row of exchange_accounts has this id."""

    def __init__(self, account_id: str) -> None:
        super().__init__(f"no account {account_id}")


class BadAccount(FleetError):
    """What was asked cannot be a row: credentials without a secret, a duplicate."""


class NewAccount(msgspec.Struct, frozen=True):
    """What an operator says of a new account, beside its credentials."""

    user_id: str
    exchange: str
    market: str
    label: str
    is_testnet: bool = False
    telegram_chat_id: str | None = None


def parse_credentials(text: bytes | str, venue: Exchange) -> Credentials:
    """JSON `{"api_key", "secret", "passphrase"?}` → Credentials of a kind that `venue` takes. Raises BadAccount; its text never
    quotes the input."""
    try:
        credentials = decoding.decode(text, Credentials)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        # not chained: the vendor's message is harmless today, but it comes from parsing a secret
        raise BadAccount(
            'credentials: a JSON object {"api_key", "secret", "passphrase"?} of strings is expected'
        ) from None
    if not credentials.api_key.strip() or not credentials.secret.strip():
        raise BadAccount("credentials: api_key and secret must not be empty")
    if venue.needs_passphrase and not credentials.passphrase:
        raise BadAccount(f"credentials: {venue.exchange} needs a passphrase")
    for name, text in (("api_key", credentials.api_key), ("passphrase", credentials.passphrase or "")):
        if not (text.isascii() and text.isprintable()) or text != text.strip():  # both travel in a header
            raise BadAccount(f"credentials: {name} holds a space at an end, a line end or a letter that no key has")
    try:
        kind = with_signer(credentials).kind
    except ValueError as error:
        raise BadAccount(f"credentials: {error}") from None
    if kind not in venue.key_kinds:
        raise BadAccount(
            f"credentials: {venue.exchange} keys of kind {kind} are not known; {', '.join(venue.key_kinds)} are"
        )
    return credentials


class AccountRows:
    """The operator's view of the table. One Postgres connection, one thread."""

    def __init__(self, pg: Postgres) -> None:
        self._pg = pg
        self._sql = queries("account_rows")

    def add(self, account: NewAccount, credentials: Credentials, keyring: Keyring) -> str:
        """Encrypt and insert one active row; returns its id. Raises BadAccount if (user, exchange, market, label) exists.
        Whether there is such an exchange and market is the caller's to know: the folders of fleet.exchanges say it."""
        account_id = str(uuid.uuid4())
        key_id, ciphertext = keyring.encrypt(credentials, account_id)
        row = {**msgspec.structs.asdict(account), "id": account_id, "key_id": key_id, "ciphertext": ciphertext}
        if not self._pg.fetch(self._sql["insert_account"], row):
            raise BadAccount(
                f"user {account.user_id} already has a {account.exchange} {account.market} account labelled {account.label!r}"
            )
        return account_id

    def every(self) -> list[dict[str, Any]]:
        return self._pg.fetch(self._sql["list_accounts"])

    def show(self, account_id: str) -> dict[str, Any]:
        rows = self._pg.fetch(self._sql["show_account"], {"id": account_id})
        if not rows:
            raise NoSuchAccount(account_id)
        return rows[0]

    def activate(self, account_id: str) -> bool:
        """True where a quarantine was cleared by it."""
        self._change("activate_account", account_id)
        return self._pg.execute(self._sql["clear_quarantine"], {"id": account_id}) > 0

    def quarantine_of(self, account_id: str) -> dict[str, Any] | None:
        """`{reason, since}` of the quarantine that keeps the account from being started; None where there is none."""
        rows = self._pg.fetch(self._sql["quarantine_of"], {"id": account_id})
        return rows[0] if rows else None

    def quarantined(self) -> list[dict[str, Any]]:
        """`{account_id, reason, since}` of all accounts in quarantine."""
        return self._pg.fetch(self._sql["quarantined"])

    def deactivate(self, account_id: str, reason: str) -> None:
        self._change("deactivate_account", account_id, reason=reason)

    def set_credentials(self, account_id: str, credentials: Credentials, keyring: Keyring) -> None:
        key_id, ciphertext = keyring.encrypt(credentials, account_id)
        self._change("set_credentials", account_id, key_id=key_id, ciphertext=ciphertext)

    def remove(self, account_id: str) -> None:
        self._change("remove_account", account_id)

    def gaps(self, open_only: bool, since: dt.datetime | None, most: int) -> list[dict[str, Any]]:
        """Rows of stream_gaps, the `most` newest first; `since` keeps those that were open at or after it."""
        return self._pg.fetch(self._sql["list_gaps"], {"open_only": open_only, "since": since, "most": most})

    def undecryptable(self, keyring: Keyring) -> list[tuple[str, str]]:
        """(account id, why) of the rows whose credentials this keyring does not open. Plaintexts are dropped at once."""
        bad: list[tuple[str, str]] = []
        for row in self._pg.fetch(self._sql["ciphertexts"]):
            if row["credential_ciphertext"] is None:  # a row that somebody wrote by SQL
                bad.append((str(row["id"]), "it has no credentials"))
                continue
            try:
                keyring.decrypt(row["credential_key_id"], bytes(row["credential_ciphertext"]), str(row["id"]))
            except FleetError as error:
                bad.append((str(row["id"]), str(error)))
        return bad

    def _change(self, name: str, account_id: str, **values: Any) -> None:
        if self._pg.execute(self._sql[name], {"id": account_id, **values}) == 0:
            raise NoSuchAccount(account_id)
