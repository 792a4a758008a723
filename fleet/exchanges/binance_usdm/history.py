"""Binance USDⓈ-M public history: which REST calls read back trades and closed candles, and the events they become. Pure.

In: a query, or the reply to its call. Out: HttpCall, or events with the stream's own ids and `source=rest`.
Sources: exchanges/binance.md 3.1, 3.6. Aggregate ids count by one per symbol.
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
from fleet.exchanges.binance_usdm import ids
from fleet.exchanges.binance_usdm.limits import EXCHANGE, MARKET

PAGE = 1000
CANDLE_PAGE = 499  # weight 2; from 500 on 5

CandleRow = tuple[int, str, str, str, str, str, int]
"""[open time, open, high, low, close, volume, close time, …]: the rest is not ours."""


class _Row(msgspec.Struct, gc=False):
    agg_id: int = field(name="a")
    price: str = field(name="p")
    qty: str = field(name="q")
    trade_ms: int = field(name="T")
    buyer_is_maker: bool = field(name="m")


def trades_call(query: TradeQuery) -> HttpCall:
    """From `after` on, itself included: where the reply begins with it, what is not in the rest never was."""
    where = (("fromId", query.after),) if query.after else ()
    return HttpCall("GET", "/fapi/v1/aggTrades", (("symbol", query.symbol), *where, ("limit", str(PAGE))), weight=20)


def trades(reply: HttpReply, query: TradeQuery, now_ms: int) -> list[Trade]:
    """Rows of aggTrades, oldest first. Raises ConnectionFailed."""
    return [
        Trade(
            id=f"{ids.VENUE}:trade:{query.symbol}:{r.agg_id}", exchange=EXCHANGE, market=MARKET, symbol=query.symbol,
            ts_event=r.trade_ms, ts_recv=now_ms, source="rest", trade_id=str(r.agg_id), price=r.price, qty=r.qty,
            side="sell" if r.buyer_is_maker else "buy",
        ) for r in decode(reply, list[_Row], "trades")
    ]  # fmt: skip


def candles_call(query: CandleQuery) -> HttpCall:
    """Of the candle after the span, too: that there is one shows that the others are final."""
    params = (
        ("symbol", query.symbol), ("interval", query.interval), ("startTime", str(query.since_ms)),
        ("endTime", str(query.until_ms + 1)), ("limit", str(CANDLE_PAGE)),
    )  # fmt: skip
    return HttpCall("GET", "/fapi/v1/klines", params, weight=2)


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
