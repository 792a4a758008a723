"""Binance Spot public history: which REST calls read back trades and closed candles, and the events they become. Pure.

In: a query, or the reply to its call. Out: HttpCall, or events with the stream's own ids and `source=rest`.
Trade ids count by one per symbol. The newest thousand are had without an id; what lies further back by historicalTrades.
Sources: exchanges/binance.md 2.2, 3.1, 3.6.
"""

from __future__ import annotations

import msgspec
from msgspec import field

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.events import Kline, Trade
from fleet.core.exchange import (
    CandleHistory,
    CandleQuery,
    HttpCall,
    HttpReply,
    TradeHistory,
    TradeQuery,
)
from fleet.core.replies import closed, decode
from fleet.exchanges.binance_spot import ids
from fleet.exchanges.binance_spot.limits import EXCHANGE, MARKET

PAGE = 1000
NEAR = 700  # a gap of so many trades is likely to be among the newest PAGE when the question arrives

CandleRow = tuple[int, str, str, str, str, str, int]
"""[open time, open, high, low, close, volume, close time, …]: the rest is not ours."""


class _Row(msgspec.Struct, gc=False):
    id: int
    price: str
    qty: str
    time: int
    buyer_is_maker: bool = field(name="isBuyerMaker")


def trades_call(query: TradeQuery) -> HttpCall:
    """The newest ones if they are likely to reach back to `after`, else from `after` on, itself included."""
    near = not query.before or int(query.before) - int(query.after or 0) <= NEAR
    symbol, limit = ("symbol", query.symbol), ("limit", str(PAGE))
    if query.page == 0 and near:
        return HttpCall("GET", "/api/v3/trades", (symbol, limit), weight=25)
    return HttpCall("GET", "/api/v3/historicalTrades", (symbol, ("fromId", query.after), limit), weight=25)


def trades(reply: HttpReply, query: TradeQuery, now_ms: int) -> list[Trade]:
    """Rows of trades or historicalTrades, oldest first. Raises ConnectionFailed."""
    return [
        Trade(
            id=f"{ids.VENUE}:trade:{query.symbol}:{r.id}", exchange=EXCHANGE, market=MARKET, symbol=query.symbol,
            ts_event=r.time, ts_recv=now_ms, source="rest", trade_id=str(r.id), price=r.price, qty=r.qty,
            side="sell" if r.buyer_is_maker else "buy",
        ) for r in decode(reply, list[_Row], "trades")
    ]  # fmt: skip


def candles_call(query: CandleQuery) -> HttpCall:
    """Of the candle after the span, too: that there is one shows that the others are final."""
    params = (
        ("symbol", query.symbol), ("interval", query.interval), ("startTime", str(query.since_ms)),
        ("endTime", str(query.until_ms + 1)), ("limit", str(PAGE)),
    )  # fmt: skip
    return HttpCall("GET", "/api/v3/klines", params, weight=2)


def candles(reply: HttpReply, query: CandleQuery, now_ms: int) -> list[Kline]:
    """Closed candles of klines, oldest first. Raises ConnectionFailed."""
    found = [_candle(row, query, now_ms) for row in decode(reply, list[list[str | int]], "candles")]
    return closed(found, reply, now_ms)


def _candle(row: list[str | int], query: CandleQuery, now_ms: int) -> Kline:
    try:
        opened, o, h, low, c, volume, ended = decoding.convert(row[:7], CandleRow)
    except msgspec.MsgspecError as error:
        raise ConnectionFailed("candles: unreadable reply") from error
    return Kline(
        id=f"{ids.VENUE}:kline:{query.symbol}:{query.interval}:{opened}:closed", exchange=EXCHANGE, market=MARKET,
        symbol=query.symbol, ts_event=ended, ts_recv=now_ms, source="rest", interval=query.interval, open_time=opened,
        close_time=ended, open=o, high=h, low=low, close=c, volume=volume, closed=True,
    )  # fmt: skip


TRADES = TradeHistory(ids="contiguous", call=trades_call, rows=trades)
CANDLES = CandleHistory(call=candles_call, rows=candles)
