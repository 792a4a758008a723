"""The judge of the market campaign finds what is wrong, and nothing else. In: events and ledger rows by hand."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.campaigns.market.books import Book
from tests.campaigns.market.judge import Judge
from tests.campaigns.market.numbers import Numbers

OWNER = {"exchange": "okx", "market": "unified", "symbol": "X"}
LEVELS = [("10", "1")]


def judge() -> Judge:
    return Judge({"okx:unified": True, "bybit:linear": False})


def trade(ident: int | str, price: str = "1", qty: str = "2", count: int = 1, **more: Any) -> dict[str, Any]:
    """As Kafka tells it."""
    told = {"type": "trade", "trade_id": str(ident), "price": price, "qty": qty, "side": "buy", "count": count}
    return {**OWNER, **told, "ts_event": 1000, **more}


def row(ident: int | str, price: str = "1", qty: str = "2", ts: int = 1000, **more: Any) -> dict[str, Any]:
    """As the ledger tells it."""
    return {
        **OWNER,
        "type": "trade",
        "trade_id": str(ident),
        "price": price,
        "qty": qty,
        "side": "buy",
        "ts": ts,
        **more,
    }


def candle(opened: int, close: str = "1") -> dict[str, Any]:
    values = dict.fromkeys(("open", "high", "low", "close", "volume"), "1") | {"close": close}
    return {**OWNER, "type": "kline", "interval": "1m", "closed": True, "open_time": opened, **values}


def test_whichever_side_speaks_first_an_agreed_trade_is_forgotten() -> None:
    told = judge()
    told.record(trade(1))
    told.ledger(row(1), 0.0)
    told.ledger(row(2), 0.0)
    assert told.outstanding(10.0) == ["trade 2 of okx/unified/X, 10 s ago"]
    told.record(trade(2))
    (series,) = told.series.values()
    assert (told.outstanding(10.0), told.wrong, series.compared) == ([], [], 2)
    assert not series.truth and not series.told


def test_a_trade_that_differs_is_named() -> None:
    told = judge()
    told.ledger(row(1), 0.0)
    told.record(trade(1, price="1.5"))
    assert len(told.wrong) == 1 and "1.5" in told.wrong[0]


def test_one_event_may_tell_several_trades_of_one_order() -> None:
    told = judge()
    told.record(trade(1))
    told.ledger(row(3), 0.0)
    told.ledger(row(4), 0.0)
    told.record(trade(4, qty="4", count=3))
    assert (told.wrong, told.outstanding(9.0), told.holes()) == ([], [], 0)
    told.record(trade(7, qty="4", count=3))
    told.ledger(row(5), 0.0)
    told.ledger(row(7), 0.0)
    (series,) = told.series.values()
    assert (told.wrong, series.covers, series.truth) == ([], {}, {})


def test_holes_and_repeats() -> None:
    told = judge()
    for ident in (1, 2, 5, 2):
        told.record(trade(ident))
    (series,) = told.series.values()
    assert (told.holes(), series.repeated, series.disorder) == (2, 1, 1)


def test_what_was_announced_as_lost_is_not_outstanding_but_needless_where_ids_count() -> None:
    told = judge()
    told.ledger(row(7), 0.0)
    loss = {"class": "trade", "events": 1, "first": 6, "last": 8}
    told.record({**OWNER, "type": "stream", "event": "gap", "reason": "r", "data": loss})
    assert (told.outstanding(9.0), len(told.needless_losses())) == ([], 1)
    bybit = {"exchange": "bybit", "market": "linear"}
    for ident, ts in (("a", 1500), ("b", 2500)):
        told.ledger(row(ident, ts=ts, **bybit), 0.0)
    gap = {"class": "trade", "events": None, "since_ms": 1000, "until_ms": 2000}
    told.record({**OWNER, **bybit, "type": "stream", "event": "gap", "reason": "r", "data": gap})
    assert told.outstanding(9.0) == ["trade b of bybit/linear/X, 9 s ago"]
    assert len(told.needless_losses()) == 1


def test_candles() -> None:
    told = judge()
    told.ledger({**candle(60_000), "ts": 0}, 0.0)
    assert told.outstanding(5.0, 3.0) == ["candle 60000 of okx/unified/X, 5 s ago"]
    told.record(candle(60_000))
    told.record(candle(180_000, close="2"))
    told.record(candle(180_000, close="2"))
    assert (told.outstanding(5.0), told.missing_candles(), told.repeated_candles()) == ([], 1, 1)
    key = ("okx", "unified", "X")
    told.candle(key, 60_000, (Decimal(1),) * 5)
    assert not told.wrong
    told.candle(key, 180_000, (Decimal(1),) * 5)
    assert len(told.wrong) == 1


def depth(kind: str, first: int, last: int, bids: list[tuple[str, str]]) -> dict[str, Any]:
    return {"kind": kind, "first_seq": first, "last_seq": last, "prev_seq": None, "bids": bids, "asks": [("11", "1")]}


def test_a_book_that_is_whole_by_its_numbers_and_wrong_is_a_complaint() -> None:
    said: list[str] = []
    book = Book(said.append)
    book.sample(2, LEVELS, [("11", "1")])
    book.feed(depth("snapshot", 1, 1, LEVELS))
    book.feed(depth("update", 2, 2, [("9", "1")]))
    assert book.compared == 1 and len(said) == 1
    book.feed(depth("update", 4, 4, []))
    assert (book.last, book.breaks, book.broken_s() > 0) == (None, 1, True)
    book.feed(depth("snapshot", 5, 5, LEVELS))
    book.sample(6, LEVELS, [("11", "1")])
    book.feed(depth("update", 6, 6, []))
    assert (book.compared, len(said), book.broken_s()) == (2, 1, 0.0)


def test_numbers_are_kept_as_ranges() -> None:
    numbers = Numbers()
    assert [numbers.add(n) for n in (5, 1, 3, 2, 4, 3)] == [True] * 5 + [False]
    assert (numbers.begins, numbers.ends, numbers.missing, numbers.has(5), numbers.has(6)) == ([1], [5], 0, True, False)
