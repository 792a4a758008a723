"""OKX public history: which REST calls read back trades and closed candles, and the events they become. Pure.

In: a query, or the reply to its call. Out: HttpCall, or events with the stream's own ids and `source=rest`. Trade ids count by
one per instrument; the stream aggregates (its trade covers `count` ids, the last of them its own), REST tells each match.
Both pages go back from the newest row (6.3: `before` alone is no cursor). Sources: exchanges/okx.md 4.1, 4.3, 6.3.
"""

from __future__ import annotations

import msgspec

from fleet.core.errors import ConnectionFailed
from fleet.core.events import Kline, Trade
from fleet.core.exchange import CandleHistory, CandleQuery, HttpCall, HttpReply, TradeHistory, TradeQuery
from fleet.exchanges.okx import ids, wire
from fleet.exchanges.okx.limits import EXCHANGE, MARKET
from fleet.exchanges.okx.parse import close_ms, ms
from fleet.exchanges.okx.session import UNREADABLE
from fleet.exchanges.okx.subscribe import BARS

PAGE, CANDLE_PAGE = 100, 300
OVERLAP = 20  # ids past the end of the gap: they prove that nothing lies between it and what came live


class _Trades(msgspec.Struct):
    data: list[wire.TradeRow]


class _Candles(msgspec.Struct):
    data: list[list[str]]


def trades_call(query: TradeQuery) -> HttpCall:
    """One page back from `before`: 20 calls in 2 s are allowed, a tenth of the budget's second each."""
    where = (("after", str(int(query.before) + OVERLAP)),) if query.before else ()
    params = (("instId", query.symbol), ("type", "1"), *where, ("limit", str(PAGE)))
    return HttpCall("GET", "/api/v5/market/history-trades", params, weight=10)


def trades(reply: HttpReply, query: TradeQuery, now_ms: int) -> list[Trade]:
    """Rows of history-trades, oldest first. Raises ConnectionFailed."""
    try:
        return [
            Trade(
                id=f"{ids.VENUE}:trade:{r.symbol}:{r.trade_id}", exchange=EXCHANGE, market=MARKET, symbol=r.symbol,
                ts_event=ms(r.ts), ts_recv=now_ms, source="rest", trade_id=str(int(r.trade_id)), price=r.price, qty=r.qty,
                side=r.side,
            ) for r in reversed(msgspec.json.decode(reply.body, type=_Trades).data)
        ]  # fmt: skip
    except (*UNREADABLE, LookupError) as error:
        raise ConnectionFailed("trades: unreadable reply") from error


def candles_call(query: CandleQuery) -> HttpCall:
    """One page back from the end of the span; the newest 1440 candles are served."""
    params = (
        ("instId", query.symbol), ("bar", BARS[query.interval]), ("after", str(query.until_ms + 1)), ("limit", str(CANDLE_PAGE)),
    )  # fmt: skip
    return HttpCall("GET", "/api/v5/market/candles", params, weight=5)


def candles(reply: HttpReply, query: CandleQuery, now_ms: int) -> list[Kline]:
    """Confirmed candles, oldest first. Raises ConnectionFailed."""
    try:
        found = reversed(msgspec.json.decode(reply.body, type=_Candles).data)
        return [_candle(row, query, now_ms) for row in found if row[8] == "1"]
    except (*UNREADABLE, LookupError) as error:
        raise ConnectionFailed("candles: unreadable reply") from error


def _candle(row: list[str], query: CandleQuery, now_ms: int) -> Kline:
    opened = int(row[0])
    end = close_ms(opened, query.interval)
    return Kline(
        id=f"{ids.VENUE}:kline:{query.symbol}:{query.interval}:{opened}:closed", exchange=EXCHANGE, market=MARKET,
        symbol=query.symbol, ts_event=end, ts_recv=now_ms, source="rest", interval=query.interval, open_time=opened,
        close_time=end, open=row[1], high=row[2], low=row[3], close=row[4], volume=row[5], closed=True,
    )  # fmt: skip


TRADES = TradeHistory(ids="contiguous", call=trades_call, rows=trades)
CANDLES = CandleHistory(call=candles_call, rows=candles)
