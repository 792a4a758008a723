"""OKX REST rows: the calls that fetch them, and the fills they become. Pure; used by recover.py.

The events carry the same ids as the stream's (ids.py), `source=rest`. Pages go backwards by `after` (older than that id): the
meaning of `before` alone is disputed (okx.md section 6.3).
"""

from __future__ import annotations

import math
from typing import TypeVar

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.events import Fill
from fleet.core.exchange import HttpCall, HttpReply
from fleet.exchanges.okx import ids, wire
from fleet.exchanges.okx.limits import EXCHANGE, IN_TWO_SECONDS, MARKET, PAGE
from fleet.exchanges.okx.parse import negated
from fleet.exchanges.okx.session import UNREADABLE

T = TypeVar("T")

BALANCE = HttpCall("GET", "/api/v5/account/balance", auth="signed")
POSITIONS = HttpCall("GET", "/api/v5/account/positions", auth="signed")
PENDING = "/api/v5/trade/orders-pending"
ORDERS = "/api/v5/trade/orders-history"
OLD_ORDERS = "/api/v5/trade/orders-history-archive"
FILLS = "/api/v5/trade/fills"
OLD_FILLS = "/api/v5/trade/fills-history"
PRODUCTS = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION")
# A user may ask for so many pages in two seconds (6.3). A long history comes that fast: what follows the first page of each
# product weighs what keeps it slower.
PAGES_IN_TWO_SECONDS = {FILLS: 60, OLD_FILLS: 10, PENDING: 60, ORDERS: 40, OLD_ORDERS: 20}
ORDERS_IN_TWO_SECONDS, ORDERS_AT_ONCE = (
    60,
    20,
)  # single orders of one instrument (6.3), and how many of them come unpaced


def page_call(path: str, after: str, **params: str) -> HttpCall:
    """One page, newest first; `after` "" = from the newest on."""
    cursor = (("after", after),) if after else ()
    most = PAGES_IN_TWO_SECONDS.get(path)
    weight = math.ceil(IN_TWO_SECONDS / (most - len(PRODUCTS))) if after and most else 1
    return HttpCall("GET", path, (*params.items(), ("limit", str(PAGE)), *cursor), weight, auth="signed")


def order_call(symbol: str, order_id: str, asked: int = 0) -> HttpCall:
    """`asked`: how many single orders the same read has asked for."""
    paced = math.ceil(IN_TWO_SECONDS / (ORDERS_IN_TWO_SECONDS - ORDERS_AT_ONCE))
    weight = 1 if asked < ORDERS_AT_ONCE else paced
    return HttpCall("GET", "/api/v5/trade/order", (("instId", symbol), ("ordId", order_id)), weight, auth="signed")


def decode(reply: HttpReply, row: type[T], what: str) -> list[T]:
    """`data` of an OK reply. Raises ConnectionFailed if it is something else: tried again later."""
    try:
        raw = decoding.decode(reply.body, _Envelope).data
        return decoding.decode(raw, list[row])  # type: ignore[valid-type]
    except UNREADABLE as error:
        raise ConnectionFailed(f"{what}: unreadable reply") from error


class _Envelope(msgspec.Struct):
    data: msgspec.Raw


def fill(row: wire.FillRow, account_id: str, now_ms: int) -> Fill:
    trade = ids.trade_id(row.trade_id, row.bill_id)
    return Fill(
        id=ids.fill_id(account_id, row.symbol, trade, row.order_id), exchange=EXCHANGE, market=MARKET, symbol=row.symbol,
        ts_event=row.at_ms, ts_recv=now_ms, source="rest", account_id=account_id, trade_id=trade, order_id=row.order_id,
        client_order_id=row.client_id, side=row.side, position_side=row.position_side or "net", price=row.price, qty=row.qty,
        fee=negated(row.fee), fee_asset=row.fee_asset, liquidity="maker" if row.execution == "M" else "taker",
        realized_pnl=row.pnl or "0",
    )  # fmt: skip
