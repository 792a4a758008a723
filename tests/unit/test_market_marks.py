"""Marks of public series: what a candle, open or closed, tells a later life of its track."""

from __future__ import annotations

from fleet.core.events import Kline
from workers.market_marks import EventMark, Told, mark_of
from workers.market_tracks import Mark

MINUTE_MS = 60_000


def candle(minute: int, *, closed: bool) -> Kline:
    opened = minute * MINUTE_MS
    return Kline(
        id=f"c{minute}", exchange="binance", market="usdm", symbol="BTCUSDT", ts_event=opened, ts_recv=opened, interval="1m",
        open_time=opened, close_time=opened + MINUTE_MS - 1, open="1", high="1", low="1", close="1", volume="1", closed=closed,
    )  # fmt: skip


def test_a_life_that_saw_no_candle_close_leaves_a_mark_before_the_one_it_saw_begin() -> None:
    told = Told()
    told.arrive(told.send([mark_of(candle(5, closed=False))]))
    assert told.acked == {"1m": Mark(str(5 * MINUTE_MS - 1), 5 * MINUTE_MS - 1)}


def test_an_open_candle_takes_back_nothing_that_a_closed_one_told() -> None:
    told = Told()
    for event in (candle(5, closed=False), candle(5, closed=True), candle(5, closed=False)):
        told.arrive(told.send([mark_of(event)]))
    assert told.acked["1m"].id == str(6 * MINUTE_MS - 1)
    told.arrive(told.send([mark_of(candle(6, closed=False))]))
    assert told.acked["1m"].id == str(6 * MINUTE_MS - 1), "its own minute is not told yet"


def test_only_closed_candles_are_to_be_read_again_when_dropped() -> None:
    told = Told()
    told.drop([mark_of(candle(5, closed=False))])
    assert told.dropped == {}
    told.drop([mark_of(candle(5, closed=True)), mark_of(candle(6, closed=False))])
    assert told.dropped == {"1m": [(str(5 * MINUTE_MS), str(6 * MINUTE_MS - 1))]}


def test_what_was_read_back_late_and_dropped_too_is_a_span_of_its_own() -> None:
    """As one span it would begin after its end, and nothing of it would be read again."""
    told = Told()
    told.drop([EventMark("", str(n), str(n), n) for n in (100, 101, 103, 50, 51, 104)])
    assert told.dropped == {"": [("100", "103"), ("50", "104")]}
    told.drop([EventMark("1m", ident, ident, 1) for ident in "xab"])
    assert told.dropped["1m"] == [("x", "b")], "ids that do not count are in the order of their publication"


def test_a_mark_waits_for_what_was_read_back_and_is_still_on_its_way() -> None:
    """A life that ended then would leave a mark beyond trades that nobody has: the next one would not ask for them."""
    told = Told()
    marks = {n: EventMark("", str(n), str(n), n) for n in (1, 2, 3, 4)}
    told.arrive(told.send([marks[1], marks[4]]))
    assert told.overtaken([]) == told.overtaken([EventMark("", "5", "5", 5)]) == set()
    assert told.overtaken([marks[2]]) == {""}, "it waits in the queue"
    sent = told.send([marks[3]])
    assert told.overtaken([]) == {""}, "it is on its way"
    told.arrive(sent)
    assert told.overtaken([]) == set() and told.acked[""].id == "4"
    told.arrive(told.send([mark_of(candle(5, closed=True))]))
    assert told.overtaken([mark_of(candle(5, closed=False))]) == set(), "an open candle stands for nothing"
