"""`fleet shards`, `shard SLOT`, `account ID`, `budget`: what runs where. Reads Redis, and Postgres for an account's row.

While Redis is away, or has lost its data and they are not rebuilt yet, owners are shown as Postgres' copy has them; a line on
standard error says which source was read, how old it is and what is not known, and the exit code is 1. Rows that are shown during a
rebuild have `rebuilding` in their JSON. What is true but not asked for (nobody leads) is a line there too, exit code 0.
Accounts in quarantine run nowhere: in the JSON of `fleet shards` they are a last row of their own, without a slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from fleet.commands.accounts import AccountId
from fleet.commands.output import emit, iso, moment
from fleet.commands.session import Session, Stopped, env_file_option, json_option, session
from fleet.core.errors import BeingRebuilt, FleetError, StoreUnavailable
from fleet.runtime.account_rows import AccountRows
from fleet.runtime.durable_view import DurableView
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.redis_store import RedisStore

SHARD_COLUMNS = ("slot", "host", "pid", "state", "incarnation", "accounts", "live", "load", "heartbeat_age_s")
STREAM_COLUMNS = ("id", "state", "token", "since", "last_event_at", "reconnects", "gap")
BUDGET_COLUMNS = ("kind", "exchange", "egress_ip", "tokens", "burst", "per_s", "blocked_s")
ACCOUNT_FIELDS = (
    "id", "exchange", "market", "slot", "token", "state", "since", "last_event_at", "reconnects", "gap", "egress_ip",
    "reason",
)  # fmt: skip
REBUILDING = "rebuilding"  # true in the rows that are shown meanwhile, and in no other
SOME = 3  # accounts named in a line
NO_LEADER = "no coordinator leads: streams go on, nothing is assigned or moved"


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
    here = session()
    store = here.redis()
    view = FleetView(store, here.settings.dead_after_s)
    try:
        rows, unplaced = view.shards(), view.unplaced()
        leads = bool(store.leader())
    except StoreUnavailable as error:
        durable, old = _durable(here, error)
        held, note = _quarantined(here)
        rows = _marked(durable.shards(), error)
        emit(rows + (_held_row(held) if as_json else []), as_json, SHARD_COLUMNS)
        _note(note)
        raise Stopped(old(), 1) from error
    held, note = _quarantined(here)
    emit(rows + (_held_row(held) if as_json else []), as_json, SHARD_COLUMNS)
    _note("" if leads else NO_LEADER)
    for why, n in sorted(unplaced.items()):
        _note(f"{n} account{'s' if n > 1 else ''} unplaced: {why}")
    _note(note)


@click.command()
@click.argument("slot")
@json_option
@env_file_option
def shard(slot: str, as_json: bool) -> None:
    """One worker's accounts and their states."""
    here = session()
    try:
        rows = fleet_view(here).shard(slot)
    except StoreUnavailable as error:
        durable, old = _durable(here, error)
        emit(_marked([stream(row) for row in durable.shard(slot)], error), as_json, STREAM_COLUMNS)
        raise Stopped(old(), 1) from error
    if rows is None:
        raise Stopped(f"no shard {slot}; `fleet shards` lists them", 1)
    emit([stream(row) for row in rows], as_json, STREAM_COLUMNS)


@click.command()
@click.argument("account_id", type=AccountId(), metavar="ID")
@json_option
@env_file_option
def account(account_id: str, as_json: bool) -> None:
    """One account: its owner, how its stream stands, and if it runs nowhere, why."""
    here = session()
    trouble: list[str] = []
    row = _row(here, account_id, trouble)
    try:
        store = here.redis()
        shown = stream(FleetView(store, here.settings.dead_after_s).account(account_id))
        _note("" if store.leader() else NO_LEADER)
    except StoreUnavailable as error:
        if trouble:
            raise Stopped(f"{trouble[0]}; {error}", 1) from error
        durable, old = _durable(here, error)
        [shown] = _marked([stream(durable.account(account_id))], error)
        trouble.append(old())
    if shown["slot"] is None and row["is_active"] is False:
        shown |= {"state": "inactive", "gap": False, "reason": row["deactivated_reason"]}
    elif shown["slot"] is None and row["quarantine"]:
        shown |= {"state": "quarantined", "reason": row["quarantine"]}
    both = {**row, **shown}
    emit({key: both[key] for key in (*ACCOUNT_FIELDS, REBUILDING) if key in both}, as_json)
    if trouble:
        raise Stopped(trouble[0], 1)


@click.command()
@json_option
@env_file_option
def budget(as_json: bool) -> None:
    """What is left of the dial and request budgets, per exchange and egress address."""
    try:
        emit(session().redis().budgets(), as_json, BUDGET_COLUMNS)
    except StoreUnavailable as error:
        raise Stopped(
            f"{error}; only there are the budgets known, each process goes on with its own share", 1
        ) from error


def open_redis(here: Session, wish: str) -> RedisStore:
    """For commands that ask the fleet for something. Raises Stopped where Redis is away."""
    store = here.redis()
    try:
        store.leader()
    except StoreUnavailable as error:
        raise Stopped(f"{error}; {wish} cannot be asked for without it, streams go on as they are", 1) from error
    return store


def _row(here: Session, account_id: str, trouble: list[str]) -> dict[str, Any]:
    """The account's row and its quarantine; without Postgres what only Redis may know of it."""
    rows = AccountRows(here.postgres())
    try:
        held = rows.quarantine_of(account_id)
        return rows.show(account_id) | {"quarantine": held and f"{held['reason']}; `fleet accounts activate` ends it"}
    except StoreUnavailable as error:
        trouble.append(f"{error}; exchange, market and whether it is active are not known, the rest is from redis")
        return {"exchange": None, "market": None, "is_active": None, "quarantine": None}


def _quarantined(here: Session) -> tuple[list[dict[str, Any]], str]:
    """The accounts that are kept from being started, which only Postgres knows, and a line about them."""
    if not here.settings.postgres_dsn:
        return [], ""
    try:
        held = AccountRows(here.postgres()).quarantined()
    except StoreUnavailable as error:
        return [], f"{error}; whether accounts are in quarantine is not known"
    ids = ", ".join(str(row["account_id"]) for row in held[:SOME])
    more = f" and {len(held) - SOME} more" if len(held) > SOME else ""
    return held, f"{len(held)} in quarantine: {ids}{more}; `fleet account ID` says why" if held else ""


def _held_row(held: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row of accounts in quarantine, with the columns of a worker's row; none where there are no such accounts."""
    accounts = [
        {
            "account_id": str(row["account_id"]),
            "since": moment(row["since"]),
            "reason": row["reason"],
            "release": f"fleet accounts activate {row['account_id']}",
        }
        for row in held
    ]
    row = dict.fromkeys(SHARD_COLUMNS) | {"state": "quarantined", "accounts": len(held), "live": 0}
    return [row | {"quarantined": accounts}] if held else []


def _marked(rows: list[dict[str, Any]], error: StoreUnavailable) -> list[dict[str, Any]]:
    """Rows of Postgres' copy, with a field that says so where the reason is a rebuild."""
    return [row | {REBUILDING: True} for row in rows] if isinstance(error, BeingRebuilt) else rows


def _durable(here: Session, error: StoreUnavailable) -> tuple[DurableView, Callable[[], str]]:
    """Postgres' copy, and once it was read a line that says so. Raises Stopped where that cannot be read either."""
    if not here.settings.postgres_dsn:
        raise Stopped(str(error), 1) from error
    view = DurableView(here.postgres())
    try:
        view.shards()
    except FleetError as second:
        raise Stopped(f"{error}; {second}: nothing is known of who runs what, streams go on", 1) from second

    def old() -> str:
        age = "it is empty" if view.newest_s is None else f"its newest move is {view.newest_s:.0f} s old"
        return f"{error}; owners are from the copy in postgres ({age}), how streams stand is not known"

    return view, old


def _note(text: str) -> None:
    if text:
        click.echo(f"fleet: {text}", err=True)
