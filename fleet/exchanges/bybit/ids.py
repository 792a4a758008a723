"""Deterministic event ids of Bybit: one exchange event, one id, whether the socket or REST told us (section 7).

The category is part of each id: BTCUSDT exists on spot and on linear. Numbers enter an id by `plain`. No id holds a secret.
"""

from __future__ import annotations

from fleet.core.events import plain
from fleet.core.recovery import TERMINAL
from fleet.exchanges.bybit.limits import EXCHANGE, MARKET

VENUE = f"{EXCHANGE}:{MARKET}"


def fill_id(account_id: str, category: str, symbol: str, exec_id: str, order: str) -> str:
    """With the order: the venue has one execution id for several (6.3 sorts equal ones by order), as in a trade with oneself."""
    return f"{VENUE}:{account_id}:fill:{category}:{symbol}:{exec_id}:{order}"


def order_id(
    account_id: str, category: str, order: str, status: str, filled: str, price: str, qty: str, update_ms: int
) -> str:
    """One state of an order. Without the time once it is filled: a cancel that comes too late makes the venue send the filled
    order a second time with a later one (5.1). With price and quantity while it is open: it may be amended in the millisecond in
    which it was filled in part."""
    at = "" if status == "filled" else f":{update_ms}"
    terms = "" if status in TERMINAL else f":{plain(price)}:{plain(qty)}"
    return f"{VENUE}:{account_id}:order:{category}:{order}:{status}:{plain(filled)}{terms}{at}"


def position_id(account_id: str, category: str, symbol: str, side: str, update_ms: int, seq: str, qty: str) -> str:
    """The venue repeats an unchanged position at every order: the same id again. With the sequence of the trade that made it: a
    position may return within a millisecond to what it was (7)."""
    return f"{VENUE}:{account_id}:position:{category}:{symbol}:{side}:{update_ms}:{seq}:{plain(qty)}"


def balance_id(account_id: str, asset: str, at_ms: int, message: str, wallet: str) -> str:
    """A wallet has no update time of its own (5.4): the message's or the reply's. With the message's own id: a wallet may return
    within a millisecond to what it was."""
    return f"{VENUE}:{account_id}:balance:{asset}:{at_ms}:{message}:{plain(wallet)}"


def account_event_id(account_id: str, event: str, key: str) -> str:
    return f"{VENUE}:{account_id}:account:{event}:{key}"


def market_id(category: str, kind: str, symbol: str, *parts: object) -> str:
    """Id of a public event."""
    return ":".join((EXCHANGE, category, kind, symbol, *map(str, parts)))
