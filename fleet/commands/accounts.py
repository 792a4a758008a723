"""`fleet accounts …`: the rows of exchange_accounts. Credentials come from a file, standard input or a prompt, never argv."""

from __future__ import annotations

import sys
import uuid
from pathlib import Path

import click
import msgspec

from fleet.commands.output import emit
from fleet.commands.session import Stopped, env_file_option, json_option, session
from fleet.core.errors import SettingsError
from fleet.core.exchange import Exchange
from fleet.core.model import Credentials
from fleet.exchanges import exchanges, for_account
from fleet.runtime.account_rows import AccountRows, NewAccount, parse_credentials

MARKETS = {
    exchange: sorted(v.market for v in exchanges().values() if v.exchange == exchange)
    for exchange in sorted({v.exchange for v in exchanges().values()})
}

LIST_COLUMNS = ("id", "user_id", "exchange", "market", "label", "is_testnet", "is_active", "deactivated_reason")


class AccountId(click.ParamType[str]):
    """A UUID, in any of its spellings."""

    name = "id"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return str(uuid.UUID(value))
        except ValueError:
            self.fail(f"{value!r} is not an account id (a UUID)", param, ctx)


credentials_option = click.option(
    "--credentials",
    "source",
    metavar="FILE|-",
    help='File (or - for standard input) with {"api_key","secret","passphrase"?}; prompted for on a terminal.',
)


@click.group()
@env_file_option
def accounts() -> None:
    """Exchange accounts: add, list, show, activate, deactivate, set-credentials, remove."""


@accounts.command("add")
@click.option("--user", "user_id", required=True, help="Whose account it is.")
@click.option("--exchange", required=True, type=click.Choice(sorted(MARKETS)))
@click.option("--market", required=True, type=click.Choice(sorted({m for ms in MARKETS.values() for m in ms})))
@click.option("--label", required=True)
@click.option("--testnet", is_flag=True, help="The exchange's test network.")
@click.option("--telegram-chat", "chat", help="Chat that is told when the credentials stop working.")
@credentials_option
@json_option
@env_file_option
def add(
    user_id: str,
    exchange: str,
    market: str,
    label: str,
    testnet: bool,
    chat: str | None,
    source: str | None,
    as_json: bool,
) -> None:
    """Add an account; it streams within a second. Prints its id."""
    if market not in MARKETS[exchange]:
        raise click.UsageError(f"{exchange} has no market {market!r}; it has: {', '.join(MARKETS[exchange])}")
    credentials = read_credentials(source, for_account(exchange, market))
    here = session()
    keyring = here.keyring()
    account = NewAccount(user_id, exchange, market, label, testnet, chat)
    account_id = AccountRows(here.postgres()).add(account, credentials, keyring)
    if as_json:
        emit({"id": account_id}, as_json)
    else:
        click.echo(account_id)


@accounts.command("list")
@json_option
@env_file_option
def list_accounts(as_json: bool) -> None:
    """All accounts."""
    emit(AccountRows(session().postgres()).every(), as_json, LIST_COLUMNS)


@accounts.command("show")
@click.argument("account_id", type=AccountId(), metavar="ID")
@json_option
@env_file_option
def show(account_id: str, as_json: bool) -> None:
    """One account's row."""
    emit(AccountRows(session().postgres()).show(account_id), as_json)


@accounts.command("activate")
@click.argument("account_id", type=AccountId(), metavar="ID")
@env_file_option
def activate(account_id: str) -> None:
    """Stream it again, and forget why it was deactivated or quarantined."""
    if AccountRows(session().postgres()).activate(account_id):
        click.echo("out of quarantine")


@accounts.command("deactivate")
@click.argument("account_id", type=AccountId(), metavar="ID")
@click.option("--reason", required=True)
@env_file_option
def deactivate(account_id: str, reason: str) -> None:
    """Stop its stream and say why."""
    AccountRows(session().postgres()).deactivate(account_id, reason)


@accounts.command("set-credentials")
@click.argument("account_id", type=AccountId(), metavar="ID")
@credentials_option
@env_file_option
def set_credentials(account_id: str, source: str | None) -> None:
    """Replace its API key; a running stream reconnects with the new one."""
    here = session()
    keyring = here.keyring()
    rows = AccountRows(here.postgres())
    row = rows.show(account_id)
    venue = for_account(str(row["exchange"]), str(row["market"]))
    rows.set_credentials(account_id, read_credentials(source, venue), keyring)


@accounts.command("remove")
@click.argument("account_id", type=AccountId(), metavar="ID")
@env_file_option
def remove(account_id: str) -> None:
    """Stop its stream and delete the row."""
    AccountRows(session().postgres()).remove(account_id)


def read_credentials(source: str | None, venue: Exchange) -> Credentials:
    """From FILE, from standard input for `-`, or by prompt on a terminal. Raises a usage error where none of them is there."""
    if source is None:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "--credentials FILE or --credentials - is needed where there is no terminal to ask on"
            )
        asked = Credentials(
            api_key=click.prompt("API key", hide_input=True, err=True),
            secret=click.prompt("Secret", hide_input=True, err=True),
            passphrase=click.prompt("Passphrase", hide_input=True, err=True) if venue.needs_passphrase else None,
        )
        return parse_credentials(msgspec.json.encode(asked), venue)
    if source == "-":
        return parse_credentials(sys.stdin.buffer.read(), venue)
    try:
        text = Path(source).read_bytes()
    except OSError as error:
        raise Stopped(str(SettingsError(f"{source}: {error.strerror}")), 2) from error
    return parse_credentials(text, venue)
