"""`fleet shards`, `shard SLOT`, `account ID`, `budget`: what runs where. Reads Redis, and Postgres for an account's row."""

from __future__ import annotations

from typing import Any

import click

from fleet.commands.accounts import AccountId
from fleet.commands.output import emit, iso
from fleet.commands.session import Session, Stopped, env_file_option, json_option, session
from fleet.runtime.account_rows import AccountRows
from fleet.runtime.fleet_view import FleetView

SHARD_COLUMNS = ("slot", "host", "pid", "state", "incarnation", "accounts", "live", "load", "heartbeat_age_s")
STREAM_COLUMNS = ("id", "state", "token", "since", "last_event_at", "reconnects", "gap")
BUDGET_COLUMNS = ("kind", "exchange", "egress_ip", "tokens", "burst", "per_s", "blocked_s")


def fleet_view(here: Session) -> FleetView:
    return FleetView(here.redis(), here.settings.dead_after_s)


def stream(row: dict[str, Any]) -> dict[str, Any]:
    """A stream's row with times as the CLI shows them."""
    shown = {key: value for key, value in row.items() if not key.endswith("_ms")}
    return shown | {"since": iso(row["since_ms"]), "last_event_at": iso(row["last_event_ms"])}


@click.command()
@json_option
@env_file_option
def shards(as_json: bool) -> None:
    """The workers: who runs, how many accounts, how old the last heartbeat is."""
    emit(fleet_view(session()).shards(), as_json, SHARD_COLUMNS)


@click.command()
@click.argument("slot")
@json_option
@env_file_option
def shard(slot: str, as_json: bool) -> None:
    """One worker's accounts and their states."""
    rows = fleet_view(session()).shard(slot)
    if rows is None:
        raise Stopped(f"no shard {slot}; `fleet shards` lists them", 1)
    emit([stream(row) for row in rows], as_json, STREAM_COLUMNS)


@click.command()
@click.argument("account_id", type=AccountId(), metavar="ID")
@json_option
@env_file_option
def account(account_id: str, as_json: bool) -> None:
    """One account: its owner and how its stream stands."""
    here = session()
    row = AccountRows(here.postgres()).show(account_id)
    shown = stream(fleet_view(here).account(account_id))
    if not row["is_active"] and shown["slot"] is None:
        shown |= {"state": "inactive", "gap": False}
    order = ("id", "exchange", "market", "slot", "token", "state", "since", "last_event_at", "reconnects", "gap")
    both = {**row, **shown}
    emit({key: both[key] for key in order}, as_json)


@click.command()
@json_option
@env_file_option
def budget(as_json: bool) -> None:
    """What is left of the dial and request budgets, per exchange and egress address."""
    emit(session().redis().budgets(), as_json, BUDGET_COLUMNS)
