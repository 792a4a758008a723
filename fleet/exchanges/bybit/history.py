"""Bybit public history: which REST calls read back trades and closed candles, and the events they become. Pure.

In: a query, or the reply to its call. Out: HttpCall, or events with the stream's own ids and `source=rest`. A trade's id only
tells it apart; REST has the newest 1000 of a derivative, 60 of a spot pair, and no cursor.
Sources: exchanges/bybit.md 4.1, 4.4, 6.3.
"""

from __future__ import annotations

import email.utils
from typing import Generic, TypeVar

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
from fleet.core.replies import closed
from fleet.core.series import interval_ms
from fleet.exchanges.bybit import ids, rows
from fleet.exchanges.bybit.limits import DAY_MS, EXCHANGE
from fleet.exchanges.bybit.subscribe import INTERVALS

SPOT_PAGE, PAGE = 60, 1000
T = TypeVar("T")


class _Row(msgspec.Struct, gc=False, rename="camel"):
    exec_id: str
    price: str
    size: str
    side: str
    time: str


class _List(msgspec.Struct, Generic[T]):
    rows: list[T] = field(name="list")


class _Reply(msgspec.Struct, Generic[T]):
    result: _List[T]


def trades_call(query: TradeQuery) -> HttpCall:
    limit = SPOT_PAGE if query.market == "spot" else PAGE
    params = (("category", query.market), ("symbol", query.symbol), ("limit", str(limit)))
    return HttpCall("GET", "/v5/market/recent-trade", params)


def trades(reply: HttpReply, query: TradeQuery, now_ms: int) -> list[Trade]:
    """Rows of recent-trade, oldest first; the sheet does not say which end comes first. Raises ConnectionFailed."""
    try:
        newest_first = decoding.decode(reply.body, _Reply[_Row]).result.rows
        if newest_first and int(newest_first[0].time) < int(newest_first[-1].time):
            newest_first.reverse()
        return [
            Trade(
                id=ids.market_id(query.market, "trade", query.symbol, r.exec_id), exchange=EXCHANGE, market=query.market,
                symbol=query.symbol, ts_event=int(r.time), ts_recv=now_ms, source="rest", trade_id=r.exec_id, price=r.price,
                qty=r.size, side=rows.SIDES[r.side],
            ) for r in reversed(newest_first)
        ]  # fmt: skip
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, LookupError) as error:
        raise ConnectionFailed("trades: unreadable reply") from error


def candles_call(query: CandleQuery) -> HttpCall:
    """The newest PAGE of the span: what is older is asked for next. Of the candle after the span, too: that there is one shows
    that the others are final."""
    params = (
        ("category", query.market), ("symbol", query.symbol), ("interval", INTERVALS[query.interval]),
        ("start", str(query.since_ms)), ("end", str(query.until_ms + 1)), ("limit", str(PAGE)),
    )  # fmt: skip
    return HttpCall("GET", "/v5/market/kline", params)


def candles(reply: HttpReply, query: CandleQuery, now_ms: int) -> list[Kline]:
    """Closed candles of kline, oldest first; nothing tells that one is closed but the time. Raises ConnectionFailed."""
    try:
        found = [
            _candle(row, query, now_ms) for row in reversed(decoding.decode(reply.body, _Reply[list[str]]).result.rows)
        ]
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, LookupError, OverflowError) as error:
        raise ConnectionFailed("candles: unreadable reply") from error
    return closed(found, reply, now_ms)


def _candle(row: list[str], query: CandleQuery, now_ms: int) -> Kline:
    """[start, open, high, low, close, volume, turnover]."""
    opened = int(row[0])
    closed = close_ms(opened, query.interval)
    return Kline(
        id=ids.market_id(query.market, "kline", query.symbol, query.interval, opened, "closed"), exchange=EXCHANGE,
        market=query.market, symbol=query.symbol, ts_event=closed, ts_recv=now_ms, source="rest", interval=query.interval,
        open_time=opened, close_time=closed, open=row[1], high=row[2], low=row[3], close=row[4], volume=row[5], closed=True,
    )  # fmt: skip


def close_ms(open_ms: int, interval: str) -> int:
    """Last millisecond of a candle: a month's opens on its first day."""
    if interval == "1M":
        later = open_ms + 31 * DAY_MS  # the first to the fourth day of the next month
        day = int(email.utils.formatdate(later // 1000, usegmt=True).split()[1])
        return later - (day - 1) * DAY_MS - 1
    return open_ms + interval_ms(interval) - 1


TRADES = TradeHistory(ids="opaque", call=trades_call, rows=trades)
CANDLES = CandleHistory(call=candles_call, rows=candles)
