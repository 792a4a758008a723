"""Public history of every venue: the calls that read back trades and candles, and the events their replies become."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from fleet.core.errors import ConnectionFailed
from fleet.core.events import Trade
from fleet.core.exchange import CandleHistory, CandleQuery, HttpReply, Market, TradeHistory, TradeQuery
from fleet.exchanges import exchanges
from fleet.exchanges.bybit.history import close_ms

OPEN = 1_789_999_980_000  # a whole minute
MINUTE = 60_000
GARBAGE = (b"", b"<html>", b"\xff", b"{}", b'[{"a":1}]', b'{"data":[["x"]],"result":{"list":[["x"]]}}', b'[["x"]]')


def told(kind: str, rows: list[Any]) -> bytes:
    shapes = {
        "list": rows,
        "okx": {"code": "0", "msg": "", "data": rows},
        "bybit": {"retCode": 0, "result": {"list": rows}},
    }
    return json.dumps(shapes[kind]).encode()


def candle(opened: int) -> list[Any]:
    return [opened, "1", "3", "0.5", "2", "9.5", opened + MINUTE - 1, "19", 5]


@dataclass(frozen=True)
class Case:
    """`trades`: as REST gives them, of the ids 11 (bought) and 12 (sold); `candles`: of two minutes, the second not over."""

    name: str
    symbol: str
    market: str
    trades: bytes
    candles: bytes
    ids: list[str]
    candle_id: str


CASES = [
    Case(
        "binance_usdm", "BTCUSDT", "usdm",
        told("list", [
            {"a": 11, "p": "1.5", "q": "2", "f": 1, "l": 2, "T": OPEN, "m": False},
            {"a": 12, "p": "1.4", "q": "3", "f": 3, "l": 3, "T": OPEN + 1, "m": True},
        ]),
        told("list", [candle(OPEN), candle(OPEN + MINUTE)]), ["11", "12"], f"kline:BTCUSDT:1m:{OPEN}:closed",
    ),
    Case(
        "binance_spot", "BTCUSDT", "spot",
        told("list", [
            {"id": 11, "price": "1.5", "qty": "2", "time": OPEN, "isBuyerMaker": False},
            {"id": 12, "price": "1.4", "qty": "3", "time": OPEN + 1, "isBuyerMaker": True},
        ]),
        told("list", [candle(OPEN), candle(OPEN + MINUTE)]), ["11", "12"], f"kline:BTCUSDT:1m:{OPEN}:closed",
    ),
    Case(
        "bybit", "BTCUSDT", "linear",
        told("bybit", [
            {"execId": "twelve", "price": "1.4", "size": "3", "side": "Sell", "time": str(OPEN + 1)},
            {"execId": "eleven", "price": "1.5", "size": "2", "side": "Buy", "time": str(OPEN)},
        ]),
        told("bybit", [[str(opened), "1", "3", "0.5", "2", "9.5", "19"] for opened in (OPEN + MINUTE, OPEN)]),
        ["eleven", "twelve"], f"kline:BTCUSDT:1m:{OPEN}:closed",
    ),
    Case(
        "okx", "BTC-USDT", "unified",
        told("okx", [
            {"instId": "BTC-USDT", "tradeId": "12", "px": "1.4", "sz": "3", "side": "sell", "ts": str(OPEN + 1)},
            {"instId": "BTC-USDT", "tradeId": "11", "px": "1.5", "sz": "2", "side": "buy", "ts": str(OPEN)},
        ]),
        told("okx", [
            [str(OPEN + MINUTE), "1", "3", "0.5", "2", "9.5", "19", "19", "0"],
            [str(OPEN), "1", "3", "0.5", "2", "9.5", "19", "19", "1"],
        ]),
        ["11", "12"], f"kline:BTC-USDT:1m:{OPEN}:closed",
    ),
]  # fmt: skip
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def market_of(name: str) -> Market:
    return exchanges()[name].market_data


def histories(name: str) -> tuple[TradeHistory, CandleHistory]:
    market = market_of(name)
    assert market.trade_history is not None and market.candle_history is not None
    return market.trade_history, market.candle_history


def candles_of(case: Case) -> CandleQuery:
    return CandleQuery(case.symbol, case.market, "1m", OPEN, OPEN + 2 * MINUTE)


def test_every_venue_has_a_case() -> None:
    assert {case.name for case in CASES} == exchanges().keys()


@each
def test_trades_come_oldest_first_with_the_streams_ids(case: Case) -> None:
    history, _ = histories(case.name)
    found = history.rows(HttpReply(200, {}, case.trades), TradeQuery(case.symbol, case.market, "10"), 77)
    assert [(t.trade_id, t.price, t.qty, t.side, t.ts_event) for t in found] == [
        (case.ids[0], "1.5", "2", "buy", OPEN),
        (case.ids[1], "1.4", "3", "sell", OPEN + 1),
    ]
    assert all((t.source, t.ts_recv, t.symbol, t.market) == ("rest", 77, case.symbol, case.market) for t in found)
    assert [t.id.rpartition(":trade:")[2] for t in found] == [f"{case.symbol}:{ident}" for ident in case.ids]


@each
def test_only_closed_candles_are_told(case: Case) -> None:
    _, history = histories(case.name)
    reply = HttpReply(200, {}, case.candles, at_ms=OPEN + MINUTE + 30_000)
    (found,) = history.rows(reply, candles_of(case), 77)
    assert found.id.endswith(case.candle_id) and found.closed and found.source == "rest"
    assert (found.open_time, found.close_time, found.ts_event) == (OPEN, OPEN + MINUTE - 1, OPEN + MINUTE - 1)
    assert (found.open, found.high, found.low, found.close, found.volume) == ("1", "3", "0.5", "2", "9.5")


@pytest.mark.parametrize("case", [c for c in CASES if c.name != "okx"], ids=lambda case: case.name)
def test_a_candle_that_an_old_reply_may_tell_unfinished_is_not_told_as_closed(case: Case) -> None:
    """OKX's rows say whether they are final, the others' do not: where REST lags by seconds, the volume is not the last one."""
    _, history = histories(case.name)
    body = json.loads(case.candles)
    rows = body if isinstance(body, list) else body["result"]["list"]
    rows[:] = [row for row in rows if int(row[0]) == OPEN]
    query = CandleQuery(case.symbol, case.market, "1m", OPEN, OPEN + MINUTE - 1)
    early, late = (HttpReply(200, {}, json.dumps(body).encode(), at_ms=OPEN + MINUTE + ms) for ms in (20_000, 61_000))
    assert not history.rows(early, query, 77)
    assert len(history.rows(late, query, 77)) == 1, "there may never be one after it"
    until = {key: value for key, value in history.call(query).params if key in ("endTime", "end")}
    assert set(until.values()) == {str(OPEN + MINUTE)}, "the next one is asked for too"


@each
@pytest.mark.parametrize("body", GARBAGE)
def test_what_is_no_reply_is_tried_again(case: Case, body: bytes) -> None:
    trades, candles = histories(case.name)
    with pytest.raises(ConnectionFailed):
        trades.rows(HttpReply(200, {}, body), TradeQuery(case.symbol, case.market, "10"), 77)
    with pytest.raises(ConnectionFailed):
        candles.rows(HttpReply(200, {}, body), candles_of(case), 77)


@each
def test_calls_name_the_symbol_and_need_no_key(case: Case) -> None:
    trades, candles = histories(case.name)
    for call in (trades.call(TradeQuery(case.symbol, case.market, "10", "20")), candles.call(candles_of(case))):
        assert (call.method, call.auth) == ("GET", "none") and call.weight >= 1
        assert case.symbol in dict(call.params).values()


def asked(name: str, query: TradeQuery) -> str:
    call = histories(name)[0].call(query)
    return f"{call.path.rpartition('/')[2]} {' '.join(f'{key}={value}' for key, value in call.params)}"


def test_where_each_venue_begins_to_read_trades() -> None:
    assert asked("binance_usdm", TradeQuery("B", "usdm", "10")) == "aggTrades symbol=B fromId=10 limit=1000"
    assert asked("binance_usdm", TradeQuery("B", "usdm", "")) == "aggTrades symbol=B limit=1000"
    assert asked("bybit", TradeQuery("B", "linear", "x")) == "recent-trade category=linear symbol=B limit=1000"
    assert asked("bybit", TradeQuery("B", "spot", "x")) == "recent-trade category=spot symbol=B limit=60"
    assert asked("okx", TradeQuery("B", "unified", "10", "50")) == "history-trades instId=B type=1 after=70 limit=100"
    assert asked("okx", TradeQuery("B", "unified", "10")) == "history-trades instId=B type=1 limit=100"


def test_spot_asks_for_the_newest_first_and_by_id_for_what_lies_further_back() -> None:
    assert asked("binance_spot", TradeQuery("B", "spot", "10")) == "trades symbol=B limit=1000"
    assert asked("binance_spot", TradeQuery("B", "spot", "10", "710")) == "trades symbol=B limit=1000"
    assert (
        asked("binance_spot", TradeQuery("B", "spot", "10", "711")) == "historicalTrades symbol=B fromId=10 limit=1000"
    )
    assert asked("binance_spot", TradeQuery("B", "spot", "10", "20", page=1)).startswith("historicalTrades")


def okx_trades(rows: list[tuple[int, str, str, str, int]], query: TradeQuery) -> list[Trade]:
    """`rows` oldest first: id, price, size, side, time."""
    names = ("tradeId", "px", "sz", "side", "ts")
    body = [{"instId": "B", **dict(zip(names, (str(field) for field in row), strict=True))} for row in reversed(rows)]
    return histories("okx")[0].rows(HttpReply(200, {}, told("okx", body)), query, 77)


def test_okx_puts_matches_together_as_its_stream_does() -> None:
    rows = [
        (11, "1.5", "2", "buy", OPEN),
        (12, "1.5", "0.5", "buy", OPEN),
        (14, "1.5", "1", "buy", OPEN),
        (15, "1.6", "1", "buy", OPEN),
    ]
    assert [t.count for t in okx_trades(rows, TradeQuery("B", "unified", "10", aggregated=False))] == [1] * 4, (
        "it never aggregated"
    )
    found = okx_trades(rows, TradeQuery("B", "unified", "10"))
    assert [(t.trade_id, t.count, t.qty) for t in found] == [("12", 2, "2.5"), ("14", 1, "1"), ("15", 1, "1")]


def test_a_full_page_of_okx_keeps_back_a_group_that_may_have_begun_before_it() -> None:
    rows = [(n, "1.5" if n < 3 else "1.6", "1", "buy", OPEN) for n in range(1, 101)]
    found = okx_trades(rows, TradeQuery("B", "unified", "0"))
    assert [(t.trade_id, t.count) for t in found] == [("100", 98)]


def test_a_month_of_bybit_ends_with_its_last_day() -> None:
    february, march, december, january = 1_706_745_600_000, 1_709_251_200_000, 1_733_011_200_000, 1_735_689_600_000
    assert close_ms(february, "1M") == march - 1  # 29 days
    assert close_ms(december, "1M") == january - 1
    assert close_ms(OPEN, "1w") - OPEN == 7 * 86_400_000 - 1 and close_ms(OPEN, "1h") - OPEN == 3_599_999
    query = CandleQuery("B", "linear", "1M", OPEN, OPEN)
    reply = HttpReply(200, {}, told("bybit", [["9" * 30, "1", "1", "1", "1", "1", "1"]]))
    with pytest.raises(ConnectionFailed):
        histories("bybit")[1].rows(reply, query, 77)


def test_recent_trades_of_bybit_come_from_either_end() -> None:
    rows = [{"execId": str(n), "price": "1", "size": "1", "side": "Buy", "time": str(OPEN + n)} for n in range(3)]
    for page in (rows, rows[::-1]):
        reply = HttpReply(200, {}, told("bybit", page))
        found = histories("bybit")[0].rows(reply, TradeQuery("B", "linear", "0"), 77)
        assert [t.id.rpartition(":")[2] for t in found if isinstance(t, Trade)] == ["0", "1", "2"]


@pytest.mark.parametrize("name", ["binance_usdm", "binance_spot"])
def test_an_order_book_read_twice_in_one_state_is_not_a_repetition(name: str) -> None:
    """REST lags: a book that broke twice within that time is told from the same state twice, and consumers drop repeated ids."""
    parse = market_of(name).parse_snapshot
    assert parse is not None
    body = json.dumps({"lastUpdateId": 5, "bids": [["1", "2"]], "asks": [["3", "4"]]}).encode()
    first, second = (parse(HttpReply(200, {}, body), "BTCUSDT", now_ms) for now_ms in (1_000, 3_000))
    assert first.last_seq == second.last_seq and first.id != second.id
