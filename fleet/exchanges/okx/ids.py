"""Deterministic event ids of OKX: one exchange event, one id, whether the socket or REST told us (okx.md section 7).

Numbers enter an id by `plain`. No id holds a secret.
"""

from __future__ import annotations

from fleet.core.events import plain
from fleet.exchanges.okx.limits import EXCHANGE, MARKET

VENUE = f"{EXCHANGE}:{MARKET}"
TERMINAL = frozenset({"filled", "canceled", "rejected"})
UNTOLD = ("", "0")  # what the stream has for the trade id of a liquidation or ADL; REST numbers those below zero (6.4)


def trade_id(told: str, bill: str) -> str:
    """Of a fill by REST. The sheet knows none without a trade id; should there be one, its bill tells it from all others."""
    return f"bill-{bill}" if told in UNTOLD else told


def fill_id(account_id: str, symbol: str, trade: str, order: str) -> str:
    """Trade ids are unique per instrument; a self-trade gives one trade id to two orders."""
    return f"{VENUE}:{account_id}:fill:{symbol}:{trade}:{order}"


def order_id(
    account_id: str, symbol: str, order: str, status: str, filled: str, update_ms: int, price: str, qty: str
) -> str:
    """One state of an order. An end is pushed twice with different times (5.1), but an order ends once. An amendment may come
    within the millisecond of what it changes: its terms tell the two apart."""
    state = f"{VENUE}:{account_id}:order:{symbol}:{order}:{status}:{plain(filled)}"
    return state if status in TERMINAL else f"{state}:{update_ms}:{plain(price)}:{plain(qty)}"


def position_id(account_id: str, symbol: str, mode: str, side: str, update_ms: int, qty: str) -> str:
    """The update time does not move with the mark price: repeated pushes of one position are one event."""
    return f"{VENUE}:{account_id}:position:{symbol}:{mode}:{side}:{update_ms}:{plain(qty)}"


def balance_id(account_id: str, asset: str, update_ms: int, wallet: str, available: str | None) -> str:
    """`available` is part of it: orders change it alone, and balance_and_position does not tell it."""
    free = "" if available is None else plain(available)
    return f"{VENUE}:{account_id}:balance:{asset}:{update_ms}:{plain(wallet)}:{free}"


def account_event_id(account_id: str, event: str, key: str) -> str:
    return f"{VENUE}:{account_id}:account:{event}:{key}"
