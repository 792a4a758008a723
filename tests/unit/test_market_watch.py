"""Lanes and stalls: which topics share a socket, and when silence means death."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core.errors import SettingsError
from fleet.core.exchange import Topic
from fleet.exchanges import exchanges
from workers.market_plan import chunks, lanes, plan, spread
from workers.market_watch import LEARN_AFTER, LEARNED_LIMIT_S, MAX_LIMIT_S, TRADES, TopicWatch

BINANCE = exchanges()["binance_usdm"]


def topic(name: str, expect_s: float | None) -> Topic:
    return Topic(name, "/market", "ticker", name.upper(), expect_s)


# ── plan ─────────────────────────────────────────────────────────────────────────────────────────────────────────
@given(st.integers(0, 5000), st.integers(1, 1024))
def test_topics_are_spread_over_as_few_sockets_as_the_limit_allows(count: int, limit: int) -> None:
    topics = [topic(str(n), 1.0) for n in range(count)]
    parts = spread(topics, limit)
    assert [t for part in parts for t in part] == topics
    assert len(parts) == -(-count // limit)
    sizes = [len(part) for part in parts] or [0]
    assert max(sizes) <= limit
    assert max(sizes) - min(sizes) <= 1
    assert [t for part in chunks(topics, 100) for t in part] == topics


def test_one_socket_per_path_while_limits_allow() -> None:
    found = lanes(BINANCE, ["BTCUSDT", "ETHUSDT"], ["kline_1m", "ticker", "depth", "trade"])
    assert {lane.path for lane in found} == {"/public", "/market"}
    assert len(found) == 2
    assert len({lane.name for lane in found}) == 2
    small = replace(BINANCE, limits=msgspec.structs.replace(BINANCE.limits, streams_per_connection=3))
    assert [
        len(lane.topics) for lane in lanes(small, ["BTCUSDT", "ETHUSDT"], ["kline_1m", "ticker", "depth", "trade"])
    ] == [3, 3, 2]


def test_kinds_a_venue_does_not_have_are_left_out() -> None:
    assert lanes(BINANCE, ["BTCUSDT"], ["kline_1s", "nonsense"]) == []


@pytest.mark.parametrize("symbol", ["liner/BTCUSDT", "option/BTCUSDT", "spot/"])
def test_a_category_that_bybit_does_not_have_is_a_settings_error(symbol: str) -> None:
    """It was passed over in silence: no data and no word of it."""
    with pytest.raises(SettingsError, match="FLEET_MARKET_SYMBOLS"):
        lanes(exchanges()["bybit"], ["BTCUSDT", symbol], ["trade"])


def test_an_unknown_venue_and_too_many_sockets_are_settings_errors() -> None:
    with pytest.raises(SettingsError, match="unknown venue 'mars'.*binance_usdm"):
        plan(exchanges(), {"mars": ["X"]}, ["depth"])
    tight = replace(
        BINANCE, limits=msgspec.structs.replace(BINANCE.limits, streams_per_connection=1, connections_per_ip=3)
    )
    with pytest.raises(SettingsError, match="needs 4 sockets"):
        lanes(tight, ["A", "B", "C", "D"], ["depth"])


# ── watch ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_topic_silent_from_its_first_second_is_found() -> None:
    watch = TopicWatch([topic("alive", 5.0), topic("dead", 5.0), topic("rare", None)], 0.0)
    for second in range(1, 6):
        watch.note("alive", float(second))
    assert watch.stalled(4.9) == []
    assert watch.stalled(5.1) == ["dead"]
    assert not watch.whole(["dead"], 5.1)
    assert watch.stalled(10.2) == ["alive", "dead"]
    assert watch.whole(["alive", "dead"], 10.2)


def test_silence_of_rare_topics_is_normal() -> None:
    watch = TopicWatch([topic("rare", None)], 0.0)
    assert watch.stalled(1e6) == []


def test_a_whole_socket_is_dead_only_if_rare_topics_are_silent_too() -> None:
    watch = TopicWatch([topic("mark", 5.0), topic("trades", None)], 0.0)
    watch.note("mark", 1.0)
    watch.note("trades", 5.5)
    assert watch.stalled(6.5) == ["mark"]
    assert not watch.whole(["mark"], 6.5)
    assert watch.whole(["mark"], 8.5)


def test_a_wrong_name_does_not_become_a_reconnect_loop() -> None:
    watch = TopicWatch([topic("wrong", 5.0)], 0.0)
    now_s, replacements = 0.0, 0
    while now_s < 3600.0:
        now_s += 0.5
        if watch.stalled(now_s):
            watch.strike(watch.stalled(now_s))
            watch.restart(now_s, ())
            replacements += 1
    assert 5 <= replacements <= 14
    assert watch.stalled(now_s + MAX_LIMIT_S + 1) == ["wrong"]
    watch.note("wrong", now_s)
    assert watch.stalled(now_s + 5.1) == ["wrong"]  # it spoke: its own limit holds again


def test_a_rhythm_is_learned_and_forgotten_with_the_socket() -> None:
    watch = TopicWatch([topic("kline", 60.0), topic("trades", None)], 0.0)
    for second in range(LEARN_AFTER + 5):
        watch.note("kline", float(second))
        watch.note("trades", float(second))
    last_s = float(LEARN_AFTER + 4)
    assert watch.stalled(last_s + LEARNED_LIMIT_S - 0.1) == []
    assert watch.stalled(last_s + LEARNED_LIMIT_S + 0.1) == ["kline", "trades"]
    watch.restart(last_s + 13, ())
    assert watch.stalled(last_s + 13 + 30) == []
    assert watch.stalled(last_s + 13 + 61) == ["kline"]


def test_a_topic_with_pauses_is_not_held_to_a_rhythm() -> None:
    watch = TopicWatch([topic("trades", None)], 0.0)
    now_s = 0.0
    for n in range(200):
        now_s += 0.2 if n % 50 else 4.0
        watch.note("trades", now_s)
    assert watch.stalled(now_s + 500) == []


def test_a_silence_that_was_real_ends_the_rhythm_for_good() -> None:
    watch = TopicWatch([topic("trades", None)], 0.0)
    for second in range(LEARN_AFTER + 5):
        watch.note("trades", float(second))
    alarm_s = float(LEARN_AFTER + 4) + LEARNED_LIMIT_S + 1
    watch.strike(watch.stalled(alarm_s))
    watch.restart(alarm_s, ())
    for second in range(LEARN_AFTER + 5):
        watch.note("trades", alarm_s + 30 + second)
    assert watch.stalled(alarm_s + 1000) == []


def test_a_topic_that_stalled_is_held_to_its_rhythm_on_the_next_socket_too() -> None:
    """The new socket speaks while the old one is still read, before `restart`: the second stall took 30 to 75 s to be found."""
    watch, now_s = TopicWatch([topic("book", 30.0)], 0.0), 0.0
    for _ in range(3):
        for _ in range(LEARN_AFTER + 5):
            now_s += 1.0
            watch.note("book", now_s)
        now_s += LEARNED_LIMIT_S + 0.1
        assert watch.stalled(now_s) == ["book"]
        watch.strike(["book"])
        watch.note("book", now_s + 0.5)
        now_s += 1.0
        watch.restart(now_s, {"book"}, carried_on=True)


@pytest.mark.parametrize("every_s", [12.0, 15.0, 45.0])
def test_a_book_that_changes_rarely_does_not_cost_its_neighbours_a_socket_each_time(every_s: float) -> None:
    watch = TopicWatch([topic("thin", 10.0), topic("busy", 10.0)], 0.0)
    now_s, replacements = 0.0, 0
    while now_s < 1800.0:
        now_s += 0.5
        watch.note("busy", now_s)
        if now_s % every_s == 0:
            watch.note("thin", now_s)
        if stalled := watch.stalled(now_s):
            replacements += 1
            watch.strike(stalled)
            watch.restart(now_s, {"busy"}, carried_on=True)
    assert replacements <= 12
    for _ in range(2 * LEARN_AFTER):
        now_s += 1.0
        watch.note("thin", now_s)
    watch.restart(now_s, {"thin"})
    for _ in range(2 * LEARN_AFTER):
        now_s += 1.0
        watch.note("thin", now_s)
    assert "thin" in watch.stalled(now_s + 10.1), "it ticks now"


def test_a_topic_the_exchange_refuses_costs_no_sockets() -> None:
    """A wrong or delisted symbol (OKX 60018, Bybit "handler not found") must not replace the socket of its neighbours."""
    watch = TopicWatch([topic("wrong", 5.0), topic("fine", 5.0)], 0.0)
    watch.refused(["wrong"])
    watch.note("fine", MAX_LIMIT_S - 1)
    assert watch.stalled(MAX_LIMIT_S - 1) == []
    watch.note("fine", MAX_LIMIT_S)
    assert watch.stalled(MAX_LIMIT_S + 1) == ["wrong"]


def test_a_topic_that_should_begin_with_a_snapshot_is_missed_at_once() -> None:
    books = Topic("books", "/public", "depth", "X", 75.0, first_s=10.0)
    watch = TopicWatch([books], 0.0)
    assert watch.stalled(9.9) == [] and watch.stalled(10.1) == ["books"]
    watch.restart(20.0, {"books"})  # it came while the socket was subscribing
    assert watch.stalled(90.0) == [] and watch.stalled(96.0) == ["books"]


def test_a_quiet_topic_that_begins_with_a_snapshot_costs_ever_fewer_sockets() -> None:
    watch = TopicWatch([Topic("ticker", "/public", "ticker", "X", 12.0, first_s=10.0)], 0.0)
    now_s, replacements = 0.0, 0
    while now_s < 600.0:
        now_s += 1.0
        if stalled := watch.stalled(now_s):
            replacements += 1
            watch.strike(stalled)
            watch.note("ticker", now_s, first=True)
            watch.restart(now_s, {"ticker"}, carried_on=True)
    assert replacements <= 6
    watch.note("ticker", now_s)
    assert watch.stalled(now_s + 12.1) == ["ticker"], "it speaks again: its silence counts again"


def test_a_candle_that_never_comes_while_its_symbol_trades_is_found() -> None:
    kline = Topic("kline", "/market", "kline_1m", "X", 60.0, traded_s=10.0)
    trades = Topic("trades", "/market", "trade", "X", None, traded_s=10.0)
    watch = TopicWatch([kline, trades, replaced(kline, "other", "Y")], 0.0)
    for second in range(12):
        watch.note("trades", second)
        watch.traded("trades", "X")
    assert watch.stalled(11.0) == ["kline"]
    watch.note("kline", 11.0)
    for _ in range(12):
        watch.traded("trades", "X")
    assert watch.stalled(40.0) == [], "it has spoken: its own limit counts"
    watch.restart(50.0, {"kline"})
    for _ in range(12):
        watch.traded("kline", "X")
    assert watch.stalled(61.0) == ["trades"]


def test_a_neighbour_that_gets_a_new_socket_does_not_hide_a_silent_topic() -> None:
    watch = TopicWatch([topic("mark", 5.0), topic("ticker", 10.0), topic("fine", 10.0)], 0.0)
    watch.note("fine", 5.0)
    watch.strike(watch.stalled(5.1))
    watch.restart(6.0, {"fine"}, carried_on=True)
    assert watch.stalled(10.1) == ["ticker"]
    watch.restart(40.0, ())  # after an outage all begin anew
    assert watch.stalled(49.0) == []


def replaced(topic: Topic, name: str, symbol: str) -> Topic:
    return msgspec.structs.replace(topic, name=name, symbol=symbol)


def test_trades_that_stop_while_the_candle_goes_on_are_missed() -> None:
    """A thin symbol has no rhythm; its candle tells that it trades."""
    topics = exchanges()["binance_usdm"].market_data.topics(["AUSDT"], ["trade", "kline_1m"])
    watch, trade, candle = TopicWatch(topics, 0.0), topics[0].name, topics[1].name
    now_s = 0.0
    for _ in range(30):
        now_s += 4.0
        for name in (trade, candle):
            watch.note(name, now_s)
            watch.traded(name, "AUSDT")
        assert watch.stalled(now_s) == []
    for _ in range(TRADES - 1):
        now_s += 4.0
        assert watch.stalled(now_s) == [], "a candle may be told anew for other reasons"
        watch.note(candle, now_s)
        watch.traded(candle, "AUSDT")
    assert watch.stalled(now_s) == [trade]


@pytest.mark.parametrize(
    ("venue", "symbol"), [("binance_usdm", "AUSDT"), ("binance_spot", "AUSDT"), ("bybit", "AUSDT")]
)
def test_one_trade_that_changes_the_candles_of_many_intervals_is_one(venue: str, symbol: str) -> None:
    """A thin symbol of more than nine intervals had its socket replaced after each trade."""
    market = exchanges()[venue].market_data
    topics = market.topics([symbol], [k for k in market.kinds if k == "trade" or k.startswith("kline_")])
    watch, trade = TopicWatch(topics, 0.0), next(t.name for t in topics if t.kind == "trade")
    candles = [t.name for t in topics if t.kind != "trade"]
    assert len(candles) > TRADES
    watch.note(trade, 1.0)
    watch.traded(trade, symbol)
    for name in candles:
        watch.note(name, 1.5)
        watch.traded(name, symbol)
    assert watch.stalled(20.0) == []
