"""Deterministic event ids of Binance Spot: one exchange event, one id, whether the socket or REST told us (section 7.2).

Numbers enter an id by `plain`. The sheet's key of an order state is the execution id `I`, which REST does not tell: what it
led to (status, quantities, time) is told by both.
"""

from __future__ import annotations

from fleet.core.events import plain
from fleet.exchanges.binance_spot.limits import EXCHANGE, MARKET

VENUE = f"{EXCHANGE}:{MARKET}"


ALLOCATION = "alloc-"


def allocation(allocation_id: int) -> str:
    """Trade id of an allocation, what smart order routing (SOR) gave an order from elsewhere: these are numbered apart from the
    trades of the symbol."""
    return f"{ALLOCATION}{allocation_id}"


def fill_id(account_id: str, symbol: str, trade_id: str, order_id: int) -> str:
    """Trade ids are unique per symbol only; a self-match gives one trade id to two orders."""
    return f"{VENUE}:{account_id}:fill:{symbol}:{trade_id}:{order_id}"


def order_id(
    account_id: str, symbol: str, order: int, kind: str, status: str, filled: str, qty: str, update_ms: int
) -> str:
    """One state of an order: stream T equals REST updateTime. With its quantity where it can rest in the book, as it may be amended
    in the millisecond in which it was filled; that of a market order given in the quote asset may be told as 0."""
    amounts = f"{plain(filled)}:{plain(qty)}" if "LIMIT" in kind else plain(filled)
    return f"{VENUE}:{account_id}:order:{symbol}:{order}:{status}:{amounts}:{update_ms}"


def balance_id(account_id: str, asset: str, update_ms: int, wallet: str, available: str) -> str:
    """Stream u equals REST updateTime for the assets of the latest change."""
    return f"{VENUE}:{account_id}:balance:{asset}:{update_ms}:{plain(wallet)}:{plain(available)}"


def account_event_id(account_id: str, event: str, key: str) -> str:
    return f"{VENUE}:{account_id}:account:{event}:{key}"


def depth_snapshot_id(symbol: str, last_seq: int, read_ms: int) -> str:
    """The same state may be read twice, and a book that was invalid in between begins anew: it must not pass for a repetition."""
    return f"{VENUE}:depth:{symbol}:snapshot:{last_seq}:{read_ms}"
