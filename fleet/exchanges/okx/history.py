"""OKX public history: which REST calls read back trades and closed candles, and the events they become. Pure.

In: a query, or the reply to its call. Out: HttpCall, or events with the stream's own ids and `source=rest`. Trade ids count by
one per instrument; the stream aggregates the matches of a taker order at one price (its trade covers `count` ids, the last of
them its own), REST tells each match: they are put together again, so that one trade has one id. Where the stream was
seen not to (`query.aggregated` is False), each stays a trade of its own: equal neighbours are then different orders.
Both pages go back from the newest row (6.3: `before` alone is no cursor). Sources: exchanges/okx.md 4.1, 4.3, 6.3.
"""

from __future__ import annotations

from decimal import Decimal
from itertools import groupby

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.events import Kline, Trade
from fleet.core.exchange import CandleHistory, CandleQuery, HttpCall, HttpReply, TradeHistory, TradeQuery
from fleet.exchanges.okx import ids, wire
from fleet.exchanges.okx.limits import EXCHANGE, IN_TWO_SECONDS, MARKET
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
    """One page back from `before`: 20 calls in 2 s are allowed (6.3)."""
    where = (("after", str(int(query.before) + OVERLAP)),) if query.before else ()
    params = (("instId", query.symbol), ("type", "1"), *where, ("limit", str(PAGE)))
    return HttpCall("GET", "/api/v5/market/history-trades", params, weight=IN_TWO_SECONDS // 20)


def trades(reply: HttpReply, query: TradeQuery, now_ms: int) -> list[Trade]:
    """Rows of history-trades, oldest first, put together as the stream does. Raises ConnectionFailed."""
    try:
        rows = list(reversed(decoding.decode(reply.body, _Trades).data))
        if not query.aggregated:
            return [_trade([row], now_ms) for row in rows]
        groups = [list(rows) for _, rows in groupby(_numbered(rows), key=lambda row: _together(row, query))]
        if len(groups) > 1 and len(rows) >= PAGE:
            del groups[0]  # it may have begun on the next page
        return [_trade([row for _, row in group], now_ms) for group in groups]
    except (*UNREADABLE, ArithmeticError) as error:
        raise ConnectionFailed("trades: unreadable reply") from error


def _numbered(rows: list[wire.TradeRow]) -> list[tuple[int, wire.TradeRow]]:
    """Each with its id less its place: the same number as long as the ids count by one."""
    return [(int(row.trade_id) - place, row) for place, row in enumerate(rows)]


def _together(numbered: tuple[int, wire.TradeRow], query: TradeQuery) -> tuple[object, ...]:
    """What matches of one taker order at one price have in common (4.3); nothing that was told live is taken in."""
    run, row = numbered
    ident = int(row.trade_id)
    told = (bool(query.after) and ident <= int(query.after), bool(query.before) and ident >= int(query.before))
    return (run, row.price, row.side, row.ts, told)


def _trade(rows: list[wire.TradeRow], now_ms: int) -> Trade:
    last = rows[-1]
    qty = last.qty if len(rows) == 1 else format(sum((Decimal(row.qty) for row in rows), Decimal(0)), "f")
    return Trade(
        id=f"{ids.VENUE}:trade:{last.symbol}:{last.trade_id}", exchange=EXCHANGE, market=MARKET, symbol=last.symbol,
        ts_event=ms(last.ts), ts_recv=now_ms, source="rest", trade_id=last.trade_id, price=last.price, qty=qty, side=last.side,
        count=len(rows),
    )  # fmt: skip


def candles_call(query: CandleQuery) -> HttpCall:
    """One page back from the end of the span. `candles` has the newest 1440 (24 minutes of 1s), 40 calls in 2 s; what it does not
    have is in `history-candles`, 20 calls in 2 s."""
    older = query.tries % 2 == 1
    params = (
        ("instId", query.symbol), ("bar", BARS[query.interval]), ("after", str(query.until_ms + 1)), ("limit", str(CANDLE_PAGE)),
    )  # fmt: skip
    path, calls = ("history-candles", 20) if older else ("candles", 40)
    return HttpCall("GET", f"/api/v5/market/{path}", params, weight=IN_TWO_SECONDS // calls)


def candles(reply: HttpReply, query: CandleQuery, now_ms: int) -> list[Kline]:
    """Confirmed candles, oldest first. Raises ConnectionFailed."""
    try:
        found = reversed(decoding.decode(reply.body, _Candles).data)
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
