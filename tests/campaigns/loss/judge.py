"""Was anything lost? In: the exchange's ledger and what was stored of it; out: a verdict that names what differs. Pure.

Both sides are folded to the same shape (`Books`), numbers compared as numbers. Fills must be there once each and equal; of orders,
positions and balances the last state counts. What an account held before the ledger begins is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import msgspec

from fleet.core.events import MODES_APART
from fleet.core.recovery import TERMINAL

Key = tuple[str, ...]  # exchange:market, account id, then what names the thing there
Facts = tuple[object, ...]

STATUSES = {"cancelled": "canceled", "expired_in_match": "expired", "partially_filled_canceled": "canceled"}
SIDES = {("okx:unified", "both"): "net"}  # what the venue calls a position without sides
SHOWN = 5  # examples of each kind of difference


def number(text: object) -> Decimal:
    return Decimal(str(text)) if text not in (None, "") else Decimal(0)


@dataclass
class Books:
    """What happened to all accounts: fills → (price, qty, side, fee), orders → (status, filled), positions → (qty,), balances →
    (wallet,). `repeated`: identities that came more than once where once was due."""

    fills: dict[Key, Facts] = field(default_factory=dict)
    orders: dict[Key, Facts] = field(default_factory=dict)
    positions: dict[Key, Facts] = field(default_factory=dict)
    balances: dict[Key, Facts] = field(default_factory=dict)
    repeated: list[Key] = field(default_factory=list)


def of_ledger(rows: Iterable[Mapping[str, Any]], accounts: Mapping[str, str]) -> Books:
    """The truth. `accounts`: API key → account id; rows of other keys are nobody's business here."""
    books, latest = Books(), dict[Key, tuple[int, int]]()
    filled: dict[Key, Decimal] = {}
    for row in rows:
        account, kind = accounts.get(str(row.get("api_key"))), row["type"]
        if account is None:
            continue
        venue, symbol = f"{row['exchange']}:{row['market']}", str(row["symbol"])
        at = (int(row["ts"]), int(row["seq"]))
        if kind == "fill":
            key: Key = (venue, account, symbol, str(row["trade_id"]), str(row["order_id"]))
            books.fills[key] = (number(row["price"]), number(row["qty"]), row["side"], number(row.get("fee")))
            order = (venue, account, symbol, str(row["order_id"]))
            filled[order] = filled.get(order, Decimal(0)) + number(row["qty"])
            continue
        target, key, facts = _state(kind, row, (venue, account), symbol, books)
        if target is not None and at >= latest.get((kind, *key), (0, 0)):
            latest[kind, *key] = at
            target[key] = facts
    books.orders = {key: (*facts, filled.get(key, Decimal(0))) for key, facts in books.orders.items()}
    return books


def _state(
    kind: str, row: Mapping[str, Any], owner: Key, symbol: str, books: Books
) -> tuple[dict[Key, Facts] | None, Key, Facts]:
    if kind == "order":
        status = str(row["status"])
        return books.orders, (*owner, symbol, str(row["order_id"])), (STATUSES.get(status, status),)
    if kind == "position":
        side = str(row["side"]).lower()
        return books.positions, (*owner, symbol, SIDES.get((owner[0], side), side)), (number(row["qty"]),)
    if kind == "balance":
        return books.balances, (*owner, str(row["asset"])), (number(row["wallet"]),)
    return None, (), ()


def of_events(records: Iterable[Mapping[str, Any]]) -> Books:
    """Published user events, in order, as the Postgres sink ranks them (0003_sinks.sql)."""
    books, ranks = Books(), dict[Key, tuple[object, ...]]()
    held: dict[Key, Facts] = {}  # by margin mode where that tells positions apart
    for e in records:
        kind, owner = e["type"], (f"{e['exchange']}:{e['market']}", str(e["account_id"]))
        if kind == "fill":
            books.fills[*owner, e["symbol"], e["trade_id"], e["order_id"]] = (
                number(e["price"]), number(e["qty"]), e["side"], number(e["fee"]),
            )  # fmt: skip
            continue
        key: Key
        rank: tuple[object, ...] = (e["ts_event"], e["source"] == "stream")
        if kind == "order":
            target, key = books.orders, (*owner, e["symbol"], e["order_id"])
            facts: Facts = (e["status"], number(e["filled_qty"]))
            rank = (e["status"] in TERMINAL, number(e["filled_qty"]), e["ts_event"])
        elif kind == "position":
            mode = e["margin_mode"] if e["exchange"] in MODES_APART else ""
            target, key, facts = held, (*owner, e["symbol"], e["position_side"], mode), (number(e["qty"]),)
        elif kind == "balance":
            target, key, facts = books.balances, (*owner, e["asset"]), (number(e["wallet"]),)
        else:
            continue
        if (kind, *key) not in ranks or rank >= ranks[kind, *key]:
            ranks[kind, *key], target[key] = rank, facts
    for key, (qty,) in held.items():
        add_position(books, key[:-1], number(qty))
    return books


def add_position(books: Books, key: Key, qty: Decimal) -> None:
    """The ledger's positions have no margin mode: those of both modes add up to one of it."""
    (before,) = books.positions.get(key, (Decimal(0),))
    books.positions[key] = (number(before) + qty,)


class Difference(msgspec.Struct):
    """Of one kind of thing."""

    ledger: int
    stored: int
    missing: int = 0
    extra: int = 0
    wrong: int = 0
    examples: list[str] = []


class Verdict(msgspec.Struct):
    """`complete` is what the campaign is about; the rest says why not."""

    fills: Difference
    orders: Difference
    positions: Difference
    balances: Difference

    @property
    def complete(self) -> bool:
        parts = (self.fills, self.orders, self.positions, self.balances)
        return not any(part.missing or part.extra or part.wrong for part in parts)

    def outstanding(self) -> str:
        """In a few words, "" if complete."""
        said = []
        for name in ("fills", "orders", "positions", "balances"):
            part: Difference = getattr(self, name)
            said += [f"{n} {name} {what}" for what in ("missing", "extra", "wrong") if (n := getattr(part, what))]
        return ", ".join(said)


def compare(truth: Books, stored: Books) -> Verdict:
    """Ledger against what was stored. A flat position and an empty wallet may be absent on either side; what the ledger says
    nothing of (a wallet since before it begins) is not judged."""
    balances = {key: facts for key, facts in stored.balances.items() if key in truth.balances}
    return Verdict(
        fills=_difference(truth.fills, stored.fills, stored.repeated),
        orders=_difference(truth.orders, stored.orders),
        positions=_difference(_held(truth.positions), _held(stored.positions)),
        balances=_difference(_held(truth.balances), _held(balances)),
    )


def _held(states: dict[Key, Facts]) -> dict[Key, Facts]:
    return {key: facts for key, facts in states.items() if facts != (Decimal(0),)}


def _difference(truth: dict[Key, Facts], stored: dict[Key, Facts], repeated: Iterable[Key] = ()) -> Difference:
    missing = sorted(truth.keys() - stored.keys())
    extra = sorted([*(stored.keys() - truth.keys()), *repeated])
    wrong = sorted(key for key in truth.keys() & stored.keys() if truth[key] != stored[key])
    examples = [f"missing {'/'.join(key)}: {_told(truth[key])}" for key in missing[:SHOWN]]
    examples += [f"extra {'/'.join(key)}" for key in extra[:SHOWN]]
    examples += [f"wrong {'/'.join(k)}: {_told(stored[k])}, true is {_told(truth[k])}" for k in wrong[:SHOWN]]
    return Difference(len(truth), len(stored), len(missing), len(extra), len(wrong), examples)


def _told(facts: Facts) -> str:
    return " ".join(map(str, facts))
