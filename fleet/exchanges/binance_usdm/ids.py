"""Deterministic event ids of Binance USDⓈ-M: one exchange event, one id, whether the socket or REST told us (section 7.2).

Numbers enter an id by `plain`, because the two sides format them differently ("0.020" and "0.02"). No id holds a secret.
"""

from __future__ import annotations

from fleet.core.events import plain
from fleet.exchanges.binance_usdm.limits import EXCHANGE, MARKET

VENUE = f"{EXCHANGE}:{MARKET}"
ALGO = "algo-"


def fill_id(account_id: str, symbol: str, trade_id: int, order_id: int) -> str:
    """Trade ids are unique per symbol only; a self-match gives one trade id to two orders."""
    return f"{VENUE}:{account_id}:fill:{symbol}:{trade_id}:{order_id}"


def order_id(
    account_id: str, symbol: str, order: int, status: str, filled: str, price: str, qty: str, update_ms: int
) -> str:
    """One state of an order: stream o.T equals REST updateTime. With price and quantity, as an order may be amended in the
    millisecond in which it was placed or filled."""
    amendable = f"{plain(filled)}:{plain(price)}:{plain(qty)}"
    return f"{VENUE}:{account_id}:order:{symbol}:{order}:{status}:{amendable}:{update_ms}"


def algo_order_id(account_id: str, symbol: str, algo: int, status: str, update_ms: int) -> str:
    """One state of a conditional order. What it executed is no part of it: REST does not tell that."""
    return f"{VENUE}:{account_id}:order:{symbol}:{algo_name(algo)}:{status.lower()}:{update_ms}"


def algo_name(algo: int) -> str:
    """Its order id in events. Algo ids count apart from the matching engine's."""
    return f"{ALGO}{algo}"


def position_id(account_id: str, symbol: str, side: str, update_ms: int, qty: str) -> str:
    """Without the entry price: the stream rounds it, and REST's account does not tell it."""
    return f"{VENUE}:{account_id}:position:{symbol}:{side}:{update_ms}:{plain(qty)}"


def balance_id(account_id: str, asset: str, update_ms: int, wallet: str) -> str:
    return f"{VENUE}:{account_id}:balance:{asset}:{update_ms}:{plain(wallet)}"


def account_event_id(account_id: str, event: str, key: str) -> str:
    return f"{VENUE}:{account_id}:account:{event}:{key}"


def depth_snapshot_id(symbol: str, last_seq: int, read_ms: int) -> str:
    """The same state may be read twice, and a book that was invalid in between begins anew: it must not pass for a repetition."""
    return f"{VENUE}:depth:{symbol}:snapshot:{last_seq}:{read_ms}"
