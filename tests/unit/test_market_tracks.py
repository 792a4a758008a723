"""Trades and candles of one symbol, made complete: what waits, what is asked, what is told, in which order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from fleet.core.events import Kline, MarketRecord, Trade
from fleet.core.exchange import CandleQuery, TradeQuery
from fleet.exchanges import exchanges
from workers import market_tracks
from workers.market_marks import Told, mark_of
from workers.market_opaque import AUDIT_S, OpaqueTrack
from workers.market_reader import Answer
from workers.market_tracks import (
    CANDLE_GRACE_S,
    DOUBTS,
    EQUALS,
    HOLD_S,
    QUIET_AGAIN_S,
    QUIET_S,
    TRADE_GRACE_S,
    TRIES,
    CandleTrack,
    CountedTrack,
    Mark,
    Name,
    TradeTrack,
)

NAME = Name("trade", "BTCUSDT")
USDM, BYBIT = exchanges()["binance_usdm"].market_data, exchanges()["bybit"].market_data
MINUTE = 60_000
NOW_MS = int(time.time() * 1000)
OPEN = NOW_MS - NOW_MS % MINUTE


def trade(ident: str | int, at_ms: int = 0, *, rest: bool = False, count: int = 1, price: str = "") -> Trade:
    return Trade(
        id=f"t{ident}", exchange="x", market="m", symbol="BTCUSDT", ts_event=at_ms or NOW_MS, ts_recv=0, trade_id=str(ident),
        source="rest" if rest else "stream", price=price or f"1.{ident}", qty="1", side="buy", count=count,
    )  # fmt: skip


def candle(minute: int, *, closed: bool = True) -> Kline:
    opened = OPEN + minute * MINUTE
    return Kline(
        id=f"k{minute}{closed}", exchange="x", market="m", symbol="BTCUSDT", ts_event=opened, ts_recv=0, interval="1m",
        open_time=opened, close_time=opened + MINUTE - 1, open="1", high="1", low="1", close="1", volume="1", closed=closed,
    )  # fmt: skip


def trades() -> TradeTrack:
    assert USDM.trade_history is not None
    return TradeTrack(NAME, "usdm", USDM.trade_history)


def candles() -> CandleTrack:
    assert USDM.candle_history is not None
    return CandleTrack(Name("kline", "BTCUSDT", "1m"), "usdm", USDM.candle_history)


def opaque() -> OpaqueTrack:
    assert BYBIT.trade_history is not None
    return OpaqueTrack(NAME, "linear", BYBIT.trade_history)


def told(events: Sequence[MarketRecord]) -> list[str]:
    return [event.id for event in events]


def answer(*rows: Any, at_ms: int = NOW_MS + 10 * MINUTE, failure: str = "", final: bool = False) -> Answer:
    return Answer(NAME, rows, at_ms, failure, final)


def feed(track: Any, *events: Any, now_s: float = 0.0) -> list[str]:
    return [ident for event in events for ident in told(track.accept(event, now_s))]


# ── trades whose ids count ───────────────────────────────────────────────────────────────────────────────────────
def test_a_jump_holds_what_is_newer_until_the_answer_and_keeps_the_order() -> None:
    track = trades()
    assert feed(track, trade(1), trade(2), trade(5), trade(6)) == ["t1", "t2"]
    assert track.question(0.0) is None, "events may only have changed places"
    assert track.question(TRADE_GRACE_S) == TradeQuery("BTCUSDT", "usdm", "2", "5")
    assert track.question(TRADE_GRACE_S) is None, "asked already"
    rows = [trade(n, rest=True) for n in range(2, 8)]
    assert told(track.answer(answer(*rows), 1.0)) == ["t3", "t4", "t5", "t6"]
    assert track.gap is None
    (notice,) = track.notices
    assert (notice.event, notice.reason, notice.data["events"]) == ("backfilled", "jump", 2)
    assert feed(track, trade(7)) == ["t7"]


def aggregated(*events: Trade) -> bool:
    """What the venue is told of the socket once it told these and then jumped."""
    track = trades()
    feed(track, *events, trade(100))
    query = track.question(TRADE_GRACE_S)
    assert isinstance(query, TradeQuery)
    return query.aggregated


def test_the_venue_is_told_whether_the_socket_aggregates() -> None:
    alike = [trade(n, price="1") for n in range(1, EQUALS + 2)]  # EQUALS pairs of neighbours
    assert aggregated(trade(1)), "unknown yet, as in a process that has just begun: as the venue documents it"
    assert aggregated(*alike[:-1]), "orders of one instant happen"
    assert not aggregated(*alike)
    assert aggregated(trade(90, count=2)) and aggregated(*alike, trade(90, count=2)), "seen"
    assert aggregated(*(trade(n) for n in range(1, 9))), "one after the other is no sign"


def test_rest_that_lags_by_half_a_minute_loses_nothing() -> None:
    track = trades()
    feed(track, trade(1), trade(5))
    now_s = 0.0
    while now_s < 30.0:
        now_s += 0.1
        if track.question(now_s) is not None:
            track.answer(answer(trade(1, rest=True)), now_s)
        track.settle(now_s)
    assert track.gap is not None and track.notices == []
    while track.question(now_s) is None:
        now_s += 0.1
    assert told(track.answer(answer(*(trade(n, rest=True) for n in (5, 4, 3, 2, 1))), now_s)) == ["t2", "t3", "t4"]


def test_events_that_changed_places_cost_no_call() -> None:
    track = trades()
    assert feed(track, trade(1), trade(3), trade(2)) == ["t1", "t2", "t3"]
    assert track.question(9.0) is None
    assert track.notices == []
    assert feed(track, trade(2), trade(3)) == [], "told once"


def test_nothing_waits_longer_than_the_hold_and_the_rest_comes_late() -> None:
    track = trades()
    feed(track, trade(1), trade(4))
    assert track.question(TRADE_GRACE_S) is not None
    assert told(track.settle(TRADE_GRACE_S + HOLD_S)) == ["t4"]
    assert feed(track, trade(5)) == ["t5"]
    assert track.floor(0.0) == Mark("1", 0)
    assert told(track.answer(answer(trade(1), trade(2), trade(3), trade(4)), 5.0)) == ["t2", "t3"]
    assert track.floor(5.0) == Mark("1", 0), "what came late may not be in Kafka yet"
    assert track.floor(5.0 + market_tracks.LATE_S) is None


def test_pages_are_asked_for_until_the_gap_is_closed() -> None:
    track = trades()
    feed(track, trade(1), trade(8))
    track.question(1.0)
    assert track.answer(answer(*(trade(n) for n in (1, 2, 3, 4))), 1.0) == []
    assert track.question(1.0) == TradeQuery("BTCUSDT", "usdm", "4", "8", 1)
    assert told(track.answer(answer(*(trade(n) for n in (4, 5, 6, 7, 8))), 1.0)) == [f"t{n}" for n in range(2, 9)]


def test_pages_may_also_go_back() -> None:
    track = trades()
    feed(track, trade(1), trade(8))
    track.question(1.0)
    assert track.answer(answer(*(trade(n) for n in (5, 6, 7, 8))), 1.0) == []
    assert track.question(1.0) == TradeQuery("BTCUSDT", "usdm", "1", "5", 1)
    assert told(track.answer(answer(*(trade(n) for n in (1, 2, 3, 4))), 1.0)) == [f"t{n}" for n in range(2, 9)]


def test_ids_that_never_were_are_no_loss() -> None:
    track = trades()
    feed(track, trade(1), trade(5))
    track.question(1.0)
    assert told(track.answer(answer(trade(1), trade(5)), 1.0)) == ["t5"]
    assert track.notices == []


def test_a_venue_whose_ids_do_not_count_by_one_is_asked_rarely_and_nothing_waits() -> None:
    track = trades()
    feed(track, trade(0))
    for n in range(1, DOUBTS + 1):
        feed(track, trade(10 * n))
        track.question(9.0)
        track.answer(answer(trade(10 * n - 10), trade(10 * n)), 9.0)
    assert feed(track, trade(100), now_s=10.0) == ["t100"]
    assert track.question(10.0 + HOLD_S) is None
    assert track.question(10.0 + market_tracks.PATIENCE_S) is not None
    track.answer(answer(trade(30), trade(50), trade(100)), 90.0)
    feed(track, trade(103))
    assert track.gap is not None and not track.gap.late, "it has ids after all: believed again"


def test_what_rest_does_not_have_yet_is_asked_again_and_then_told_as_lost() -> None:
    track = trades()
    feed(track, trade(1), trade(4))
    now_s = 1.0
    for _ in range(TRIES + 1):
        assert track.question(now_s) is not None
        out = track.answer(answer(trade(1)), now_s)
        now_s += 60
    assert told(out) == ["t4"]
    (notice,) = track.notices
    assert notice.event == "gap"
    assert (notice.data["events"], notice.data["first"], notice.data["last"]) == (2, 2, 3)
    assert track.gap is None and track.series.missing == []


def test_a_refusal_for_good_is_told_at_once_a_failure_is_tried_for_ever() -> None:
    track = trades()
    feed(track, trade(1), trade(3))
    for n in range(50):
        assert track.question(100.0 * n + 1) is not None
        assert track.answer(answer(failure="timeout"), 100.0 * n + 1) == []
    track.question(9_999.0)
    assert told(track.answer(answer(failure="-4166", final=True), 9_999.0)) == ["t3"]
    assert [n.reason for n in track.notices] == ["-4166"]


def test_a_quiet_symbol_is_asked_about_after_a_reconnect() -> None:
    track = trades()
    feed(track, trade(1))
    track.disconnected(9.0)
    track.reconnected(10.0)
    assert track.question(10.0 + QUIET_S) == TradeQuery("BTCUSDT", "usdm", "1", "")
    assert told(track.answer(answer(trade(1), trade(2), trade(3)), 14.0)) == ["t2", "t3"]
    assert [(n.event, n.reason) for n in track.notices] == [("backfilled", "disconnected")]
    track.reconnected(20.0)
    assert feed(track, trade(4), now_s=20.5) == ["t4"]
    assert track.question(30.0) is None, "its first trade followed the last one"


def test_a_quiet_symbol_is_asked_about_twice_because_rest_may_lag() -> None:
    track = trades()
    feed(track, trade(1))
    track.reconnected(10.0)
    assert track.question(10.0 + QUIET_S) is not None
    assert track.answer(answer(trade(1)), 14.0) == []
    assert track.question(14.0 + QUIET_AGAIN_S - 0.1) is None
    assert track.question(14.0 + QUIET_AGAIN_S) is not None
    assert told(track.answer(answer(trade(1), trade(2)), 25.0)) == ["t2"]
    assert track.question(999.0) is None, "twice is enough"


def test_a_former_life_goes_on_where_kafka_had_it() -> None:
    track = trades()
    track.resume(Mark("5", NOW_MS), 0.0)
    assert feed(track, trade(8)) == []
    track.question(1.0)
    assert told(track.answer(answer(*(trade(n) for n in (5, 6, 7, 8))), 1.0)) == ["t6", "t7", "t8"]
    late = trades()
    assert feed(late, trade(8)) == ["t8"]
    late.resume(Mark("5", NOW_MS), 0.0)
    late.question(1.0)
    assert told(late.answer(answer(*(trade(n) for n in (5, 6, 7, 8))), 1.0)) == ["t6", "t7"]


def test_a_venue_that_counts_anew_is_followed() -> None:
    track = trades()
    feed(track, trade(1_000))
    assert feed(track, trade(3, NOW_MS + market_tracks.RESTART_MS + 1), trade(4, NOW_MS + MINUTE)) == ["t3", "t4"]
    assert [n.reason for n in track.notices] == ["ids began anew"]
    assert feed(track, trade("not-a-number")) == ["tnot-a-number"]


def test_aggregates_count_for_all_their_ids() -> None:
    track = trades()
    assert feed(track, trade(10), trade(13, count=3)) == ["t10", "t13"]
    assert feed(track, trade(18, count=2)) == []
    track.question(1.0)
    assert told(track.answer(answer(trade(13), trade(14), trade(15), trade(16), trade(17), trade(18)), 1.0)) == [
        "t14", "t15", "t16", "t18",
    ]  # fmt: skip


def test_what_was_dropped_is_read_again() -> None:
    track = trades()
    feed(track, *(trade(n) for n in range(10)))
    track.reopen("3", "5", 1.0)
    assert track.question(1.0 + TRADE_GRACE_S) == TradeQuery("BTCUSDT", "usdm", "2", "6")
    assert told(track.answer(answer(*(trade(n) for n in range(2, 7))), 2.0)) == ["t3", "t4", "t5"]
    assert [(n.event, n.reason) for n in track.notices] == [("backfilled", "kafka")]


def test_too_much_is_read_back_from_its_newer_end() -> None:
    track = trades()
    feed(track, trade(1), trade(market_tracks.MAX_TRADES + 102))
    assert [(n.event, n.data["events"]) for n in track.notices] == [("gap", 100)]
    assert track.series.missing == [(102, market_tracks.MAX_TRADES + 101)]


# ── candles ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_candle_whose_end_was_not_seen_is_read_back_before_the_next() -> None:
    track = candles()
    assert feed(track, candle(-3, closed=False), candle(-3), candle(-2, closed=False)) == [
        "k-3False",
        "k-3True",
        "k-2False",
    ]
    assert feed(track, candle(-1, closed=False), now_s=5.0) == []
    assert track.question(5.0) is None
    query = track.question(5.0 + CANDLE_GRACE_S)
    assert query == CandleQuery("BTCUSDT", "usdm", "1m", OPEN - 2 * MINUTE, OPEN - MINUTE - 1)
    assert told(track.answer(answer(candle(-2)), 7.0)) == ["k-2True", "k-1False"]
    assert feed(track, candle(-2)) == [], "closed once"


def test_a_closed_candle_that_comes_after_its_successor_costs_no_call() -> None:
    track = candles()
    feed(track, candle(-2, closed=False))
    assert feed(track, candle(-1, closed=False), candle(-2)) == ["k-2True", "k-1False"]
    assert track.question(99.0) is None


def test_a_candle_of_which_nothing_is_heard_is_asked_for_when_its_time_is_over() -> None:
    track = candles()
    feed(track, candle(-3), now_s=1.0)
    assert track.settle(2.0) == []
    assert track.question(2.0) == CandleQuery("BTCUSDT", "usdm", "1m", OPEN - 2 * MINUTE, OPEN - MINUTE - 1)
    assert told(track.answer(answer(candle(-2)), 2.0)) == ["k-2True"]


def test_a_resumed_track_knows_before_the_first_candle_when_one_is_over() -> None:
    assert USDM.candle_history is not None
    for minutes, query in (
        (10, None),
        (61, CandleQuery("BTCUSDT", "usdm", "1h", NOW_MS - 61 * MINUTE + 1, NOW_MS - MINUTE)),
    ):
        track = CandleTrack(Name("kline", "BTCUSDT", "1h"), "usdm", USDM.candle_history)
        end_ms = NOW_MS - minutes * MINUTE
        track.resume(Mark(str(end_ms), end_ms), 1.0)
        assert track.settle(2.0) == []
        assert track.question(2.0) == query


def test_a_month_is_over_when_its_successor_tells() -> None:
    assert USDM.candle_history is not None
    track = CandleTrack(Name("kline", "BTCUSDT", "1M"), "usdm", USDM.candle_history)
    track.resume(Mark("1", 1), 1.0)
    assert track.settle(2.0) == []
    assert track.question(2.0) is None


def test_a_candle_that_is_not_over_at_the_exchange_is_waited_for() -> None:
    track = candles()
    feed(track, candle(-3), now_s=1.0)
    track.settle(2.0)
    for n in range(3 * TRIES):
        assert track.question(5.0 * n + 2) is not None
        track.answer(answer(at_ms=OPEN - MINUTE), 5.0 * n + 2)
    assert track.gap is not None and track.notices == []


def test_a_clock_that_is_an_hour_ahead_does_not_ask_twice_a_second() -> None:
    track = candles()
    feed(track, candle(-3), now_s=1.0)
    track.settle(2.0)
    asked = 0
    for n in range(240):  # two minutes
        if track.question(2.0 + n / 2) is not None:
            asked += 1
            track.answer(answer(at_ms=OPEN - 60 * MINUTE), 2.0 + n / 2)
    assert asked <= 5


def test_what_the_newest_candles_of_okx_do_not_reach_is_asked_for_elsewhere() -> None:
    okx = exchanges()["okx"].market_data
    assert okx.candle_history is not None
    track = CandleTrack(Name("kline", "BTC-USDT", "1m"), "unified", okx.candle_history)
    feed(track, candle(-3000))
    feed(track, candle(0, closed=False), now_s=5.0)
    found, now_s = [], 10.0
    for _ in range(40):
        query = track.question(now_s)
        if query is None:
            break
        assert isinstance(query, CandleQuery)
        call = okx.candle_history.call(query)
        newest = (query.until_ms + 1 - OPEN) // MINUTE - 1
        reach = -1440 if call.path.endswith("/market/candles") else -9999
        rows = [candle(n) for n in range(max(newest - 299, reach), newest + 1)]
        found += track.answer(answer(*rows), now_s)
        now_s += 40.0
    assert track.gap is None
    assert [n.event for n in track.notices] == ["backfilled"]
    assert sum(1 for event in found if isinstance(event, Kline) and event.closed) == 2999


def test_a_candle_that_does_not_exist_is_told_and_its_successors_asked_for_rarely() -> None:
    track = candles()
    feed(track, candle(-4), now_s=1.0)
    track.settle(2.0)
    for n in range(TRIES + 1):
        track.question(60.0 * n + 2)
        track.answer(answer(), 60.0 * n + 2)
    assert [(n.event, n.data["events"]) for n in track.notices] == [("gap", 1)]
    track.settle(70.0 * TRIES)
    assert track.gap is None


# ── trades whose ids only tell them apart ────────────────────────────────────────────────────────────────────────
def test_recent_trades_are_compared_with_those_known() -> None:
    track = opaque()
    assert feed(track, trade("a", 1), trade("b", 2), trade("b", 2)) == ["ta", "tb"]
    track.reconnected(1.0)
    assert feed(track, trade("e", 5)) == []
    assert track.question(1.0 + TRADE_GRACE_S) == TradeQuery("BTCUSDT", "linear", "b")
    assert track.floor(1.0) == Mark("b", 2)
    rows = [trade(ident, at_ms) for at_ms, ident in enumerate("abcdef", start=1)]
    assert told(track.answer(answer(*rows), 2.0)) == ["tc", "td", "te", "tf"]
    assert feed(track, trade("f", 6), trade("g", 7)) == ["tg"]
    assert [(n.event, n.data["events"]) for n in track.notices] == [("backfilled", 3)]


def test_what_comes_before_the_lane_says_it_is_live_is_after_the_gap_too() -> None:
    track = opaque()
    feed(track, trade("a", 1))
    track.disconnected(1.0)
    assert feed(track, trade("c", 3)) == []
    assert track.question(99.0) is None, "there is no socket that it could be compared with"
    track.reconnected(100.0)
    assert track.question(100.0 + TRADE_GRACE_S) is not None
    assert told(track.answer(answer(trade("a", 1), trade("b", 2), trade("c", 3)), 101.0)) == ["tb", "tc"]


def test_recent_trades_that_lag_are_asked_for_again() -> None:
    track = opaque()
    feed(track, trade("a", 1))
    track.reconnected(1.0)
    feed(track, trade("c", 3))
    track.question(2.0)
    assert track.answer(answer(trade("a", 1)), 2.0) == []
    track.question(9.0)
    assert told(track.answer(answer(trade("a", 1), trade("b", 2), trade("c", 3)), 9.0)) == ["tb", "tc"]


def test_a_quiet_symbol_is_asked_about_again_because_rest_may_lag() -> None:
    track = opaque()
    feed(track, trade("a", 1))
    track.reconnected(1.0)
    track.question(1.0 + TRADE_GRACE_S)
    assert track.answer(answer(trade("a", 1)), 2.0) == [], "nothing new yet, and nothing proves that this is all"
    track.settle(9.0)
    track.question(9.0)
    assert told(track.answer(answer(trade("a", 1), trade("b", 2)), 9.0)) == ["tb"], "told at once, late as it is"
    track.question(19.0)
    assert told(track.answer(answer(trade("a", 1), trade("b", 2), trade("c", 3)), 19.0)) == ["tc"]
    for now_s in (29.0, 39.0, 49.0):
        track.question(now_s)
        track.answer(answer(trade("b", 2), trade("c", 3)), now_s)
    assert track.gap is None
    assert [(n.event, n.data["events"]) for n in track.notices] == [("backfilled", 2)]


def test_a_trade_lost_on_a_living_socket_is_found_by_the_audit() -> None:
    track = opaque()
    feed(track, trade("b", 2), trade("d", 4))
    assert track.question(1.0) is None
    assert track.question(AUDIT_S) == TradeQuery("BTCUSDT", "linear", "d")
    assert track.question(AUDIT_S) is None, "asked already"
    rows = [trade(ident, at_ms) for at_ms, ident in enumerate("abcde", start=1)]
    assert told(track.answer(answer(*rows), AUDIT_S)) == ["tc"], (
        "older than the first one, newer than the last one: not ours"
    )
    assert [(n.event, n.reason, n.data["events"]) for n in track.notices] == [("backfilled", "audit", 1)]
    assert feed(track, trade("c", 3), trade("e", 5)) == ["te"]
    assert track.question(2 * AUDIT_S) is not None
    track.disconnected(2 * AUDIT_S)
    assert track.answer(answer(*rows), 2 * AUDIT_S) == [], "the gap asks for itself"
    track.reconnected(2 * AUDIT_S)
    assert track.question(2 * AUDIT_S + TRADE_GRACE_S) is not None


def test_recent_trades_that_never_show_what_came_live_are_told_as_a_gap() -> None:
    track = opaque()
    feed(track, trade("a", 1))
    track.reconnected(1.0)
    feed(track, trade("c", 3))
    for turn in range(TRIES + 1):
        track.question(100.0 * turn + 2.0)
        track.answer(answer(trade("a", 1)), 100.0 * turn + 2.0)
    assert track.gap is None and [n.event for n in track.notices] == ["gap"]


def test_what_recent_trades_do_not_reach_is_told() -> None:
    track = opaque()
    track.resume(Mark("z", 1), 0.0)
    track.reconnected(0.0)
    assert feed(track, trade("e", 5)) == []
    assert track.floor(0.0) == Mark("z", 1)
    track.question(1.0)
    assert told(track.answer(answer(trade("d", 4), trade("e", 5)), 1.0)) == ["td", "te"]
    assert [(n.event, n.data["since_ms"], n.data["until_ms"]) for n in track.notices[:1]] == [("gap", 1, 4)]
    assert track.floor(1.0) is None


def test_every_track_lets_go_at_the_end() -> None:
    for track, first, second in ((trades(), trade(1), trade(3)), (candles(), candle(-3), candle(-1))):
        assert isinstance(track, CountedTrack)
        feed(track, first, second)
        assert len(track.finish()) == 1


def test_what_kafka_dropped_waits_for_the_gap_that_is_open() -> None:
    """A network that fails takes the exchange and Kafka at once: what the gap holds must not be forgotten."""
    track = opaque()
    assert feed(track, trade("a", 1), trade("b", 2), trade("c", 3)) == ["ta", "tb", "tc"]
    track.disconnected(1.0)
    track.reconnected(2.0)
    assert feed(track, trade("e", 5)) == []
    track.reopen("b", "c", 2.0)
    assert track.floor(2.0) == Mark("a", 0), "where a later life must begin"
    rows = [trade(ident, at_ms) for at_ms, ident in enumerate("abcde", start=1)]
    track.question(2.0 + TRADE_GRACE_S)
    out = told(track.answer(answer(*rows), 3.0))
    track.question(3.0 + TRADE_GRACE_S)
    out += told(track.answer(answer(*rows), 4.0))
    assert sorted(out) == ["tb", "tc", "td", "te"]
    assert track.gap is None and track.floor(9.0) is None
    assert [(n.event, n.reason) for n in track.notices] == [("backfilled", "disconnected"), ("backfilled", "kafka")]


def test_dropped_trades_are_known_in_the_order_in_which_they_went_out() -> None:
    track = opaque()
    feed(track, trade("a", 1))
    track.reconnected(1.0)
    assert feed(track, trade("d", 4)) == []
    rows = [trade(ident, at_ms) for at_ms, ident in enumerate("abcd", start=1)]
    track.question(2.0)
    assert told(track.answer(answer(*rows), 2.0)) == ["tb", "tc", "td"]
    feed(track, trade("e", 5))
    track.reopen("b", "d", 3.0)
    track.question(4.0)
    assert told(track.answer(answer(*rows, trade("e", 5)), 4.0)) == ["tb", "tc", "td"]


def test_marks_that_come_after_the_first_socket_died_are_read_from_all_the_same() -> None:
    """What this life had told by then passed for told by the former one: what was between the two was lost without a word."""
    track = opaque()
    feed(track, trade("d", 4), trade("e", 5))
    track.disconnected(1.0)
    track.resume(Mark("a", 1), 2.0)
    track.reconnected(3.0)
    assert track.question(4.0) is not None
    rows = [trade(ident, at, rest=True) for at, ident in enumerate("abcdef", 1)]
    assert told(track.answer(answer(*rows), 4.1)) == ["tb", "tc", "tf"]
    assert [n.event for n in track.notices] == ["backfilled"]


def test_late_and_new_trades_that_kafka_dropped_in_turn_are_not_everything_between_them() -> None:
    """Millions that had arrived were asked for again, and all but the newest of them told as lost for good."""
    track, queue = trades(), Told()
    feed(track, trade(1), trade(5_000_003, count=5_000_002))
    late, new = [trade(n, n) for n in (2_000, 2_001, 2_002)], [trade(n, n) for n in (5_000_000, 5_000_001, 5_000_002)]
    queue.drop([mark_of(event) for pair in zip(late, new, strict=True) for event in pair])
    for first, last in queue.dropped[""]:
        track.reopen(first, last, 1.0)
    assert track.notices == []
    assert track.series.missing == [(n, n) for n in (2_000, 2_001, 2_002, 5_000_000, 5_000_001, 5_000_002)]


def test_candles_that_kafka_dropped_late_are_not_those_since_then() -> None:
    queue = Told()
    queue.drop([mark_of(candle(n)) for n in (-9000, -8999, -1)])
    spans = [(str(candle(a).open_time), str(candle(b).close_time)) for a, b in ((-9000, -8999), (-1, -1))]
    assert queue.dropped["1m"] == spans
