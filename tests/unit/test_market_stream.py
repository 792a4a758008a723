"""One lane without a network: sockets are scripts of what they bring, and the lane's thread is called by hand."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, Literal

import pytest

from fleet.core.errors import ConnectionFailed
from fleet.core.events import Depth, Kline, MarketRecord, StreamEvent, Ticker, Trade
from fleet.core.exchange import Exchange
from fleet.exchanges import exchanges
from fleet.runtime.metrics import Metrics
from workers import market_rotation, market_stream
from workers.market_plan import lanes
from workers.market_reader import Answer, Read
from workers.market_rotation import overlap
from workers.market_socket import MarketSocket
from workers.market_stream import MarketStream
from workers.market_tracks import TRADE_GRACE_S, Mark, Name


class Published:
    """What went to Kafka."""

    def __init__(self) -> None:
        self.events: list[MarketRecord] = []
        self.said: list[StreamEvent] = []

    def offer(self, events: Iterable[MarketRecord]) -> None:
        self.events += events

    def announce(self, event: StreamEvent) -> None:
        self.said.append(event)

    def broken_books(self, *_: object) -> set[str]:
        return set()

    def dropped(self, *_: object) -> dict[Any, Any]:
        return {}


class Reader:
    """Keeps the questions."""

    def __init__(self, venue: Exchange) -> None:
        self.venue = venue
        self.reads: list[Read] = []

    def read(self, read: Read) -> None:
        self.reads.append(read)

    def ask(self, *_: object) -> None:
        pass


class Socket:
    """Brings its batches one a read; an error among them ends it."""

    def __init__(
        self, *batches: list[MarketRecord] | ConnectionFailed | Callable[[], None], subscribed: int = 0
    ) -> None:
        self._batches, self._subscribed = list(batches), subscribed
        self.topics_seen: set[str] = set()
        self.refused: list[Any] = []
        self.goodbye = ""
        self.connection = SimpleNamespace(abort=lambda: None)
        self.steps = 0

    @property
    def subscribed(self) -> bool:
        return self.steps >= self._subscribed

    def step(self, timeout_s: float) -> list[MarketRecord]:
        self.steps += 1
        batch = self._batches.pop(0) if self._batches else []
        if isinstance(batch, ConnectionFailed):
            raise batch
        if callable(batch):
            batch()
            return []
        return batch

    def again(self, topics: object) -> None:
        pass

    def close(self) -> None:
        pass


class Dialer:
    def __init__(self, *sockets: Socket | ConnectionFailed) -> None:
        self._sockets = list(sockets)
        self.dials = 0

    def open(self, cancelled: Callable[[], bool]) -> Socket:
        self.dials += 1
        found = self._sockets.pop(0) if self._sockets else ConnectionFailed("refused")
        if isinstance(found, ConnectionFailed):
            raise found
        return found


def stream(name: str, kinds: str, dialer: Dialer, stop: threading.Event) -> tuple[MarketStream, Published, Reader]:
    venue, out = exchanges()[name], Published()
    (lane,) = lanes(venue, ["BTCUSDT"], kinds.split())
    reader = Reader(venue)
    nothing: Any = None
    made = MarketStream(lane, venue, "ws://x", nothing, reader, out, Metrics(), stop, tls=None)  # type: ignore[arg-type]
    made._dialer = dialer  # type: ignore[assignment]
    return made, out, reader


def trade(ident: str, at_ms: int = 1) -> Trade:
    return Trade(
        id=f"t{ident}", exchange="bybit", market="linear", symbol="BTCUSDT", ts_event=at_ms, ts_recv=at_ms, trade_id=ident,
        price="1", qty="1", side="buy",
    )  # fmt: skip


def test_trades_flow_although_the_first_socket_died_while_it_subscribed(monkeypatch: pytest.MonkeyPatch) -> None:
    """They waited for a question that nobody asked, because the lane had never been live."""
    monkeypatch.setattr(market_stream, "delay_s", lambda *_, **__: 0.0)
    stop = threading.Event()
    first = Socket([trade("a", 1)], ConnectionFailed("cut"), subscribed=9)
    waited = lambda: time.sleep(0.6)  # noqa: E731 - the grace, before the question
    second = Socket([trade("c", 3)], waited, [], stop.set)
    lane, out, reader = stream("bybit", "trade", Dialer(first, second), stop)
    lane._run()
    assert [event.id for event in out.events] == ["ta", "tc"]
    assert len(reader.reads) == 1, "what was missed between the two is asked for"
    assert [s.event for s in out.said] == ["connected"]


def test_a_server_that_shuts_down_and_refuses_dials_is_not_dialled_each_half_second() -> None:
    """The permits are the whole fleet's."""
    stop = threading.Event()
    dialer = Dialer()
    lane, _, _ = stream("binance_spot", "ticker", dialer, stop)
    socket: Any = Socket()
    socket.goodbye = "serverShutdown"
    lane._socket, lane._rotate_at_s = socket, 1e12
    for n in range(20):  # ten seconds
        lane._check(socket, 1000.0 + n * 0.5)
    assert 2 <= dialer.dials <= 4


def depth(kind: Literal["snapshot", "update"], seq: int) -> Depth:
    return Depth(
        id=f"{kind}{seq}", exchange="bybit", market="linear", symbol="BTCUSDT", ts_event=seq, ts_recv=seq, kind=kind,
        bids=[("10", "1")], asks=[("11", "1")], first_seq=seq, last_seq=seq,
    )  # fmt: skip


def test_the_book_of_a_topic_that_fell_silent_begins_anew_on_the_new_socket() -> None:
    """The venue's service restarted and counts from lower down: its snapshot is not an older one."""
    lane, out, _ = stream("bybit", "depth", Dialer(), threading.Event())
    feed, old = lane.feed, Socket()
    feed.take([depth("snapshot", 100), depth("update", 101)], old)  # type: ignore[arg-type]
    new = Socket([depth("snapshot", 40)], [depth("update", 41)])
    topics = lane.lane.topics
    overlap(feed, old, new, topics, frozenset(t.name for t in topics), threading.Event())  # type: ignore[arg-type]
    feed.take([depth("update", 41), depth("update", 42)], new)  # type: ignore[arg-type]
    assert [e.id for e in out.events] == ["snapshot100", "update101", "snapshot40", "update41", "update42"]
    assert feed.books._books["BTCUSDT"].last_seq == 42


def test_a_new_socket_that_says_nothing_does_not_replace_one_that_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exchange acknowledges, answers pings and sends nothing: the old socket is the better one."""
    monkeypatch.setattr(market_rotation, "PROVE_S", 0.5)
    monkeypatch.setattr(market_rotation, "SLACK_S", 0.05, raising=False)
    lane, out, _ = stream("bybit", "depth", Dialer(), threading.Event())
    numbers = iter(range(1, 10_000))

    class Speaking(Socket):
        def step(self, timeout_s: float) -> list[MarketRecord]:
            time.sleep(0.005)
            return [depth("update", next(numbers))]

    old = Speaking()
    lane.feed.take([depth("snapshot", 0)], old)  # type: ignore[arg-type]
    with pytest.raises(ConnectionFailed):
        overlap(lane.feed, old, Socket(), lane.lane.topics, frozenset(), threading.Event())  # type: ignore[arg-type]
    assert len(out.events) > 20


def test_what_was_on_its_way_when_the_new_socket_subscribed_does_not_keep_it_from_taking_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thin symbol's candle that only the old one told, and then nothing happened: with hundreds of them no rotation came off."""
    monkeypatch.setattr(market_rotation, "PROVE_S", 0.5)
    monkeypatch.setattr(market_rotation, "SLACK_S", 0.2)
    lane, _, _ = stream("bybit", "kline_1m", Dialer(), threading.Event())
    old = Socket([], [], [candle(2, "2")])
    lane.feed.take([candle(1, "1")], old)  # type: ignore[arg-type]
    overlap(lane.feed, old, Socket(subscribed=1), lane.lane.topics, frozenset(), threading.Event())  # type: ignore[arg-type]


def test_a_quiet_old_socket_does_not_slow_the_subscription_of_its_successor() -> None:
    """Hundreds of requests go out one a turn, and each turn waited for the old one: a full lane of Bybit was not ready in time."""
    waited: list[float] = []

    class Quiet(Socket):
        def step(self, timeout_s: float) -> list[MarketRecord]:
            waited.append(timeout_s)
            return []

    lane, _, _ = stream("bybit", "trade", Dialer(), threading.Event())
    overlap(lane.feed, Quiet(), Socket(subscribed=5), lane.lane.topics, frozenset(), threading.Event())  # type: ignore[arg-type]
    assert waited == [0.0] * 5


def test_books_of_bybit_spot_that_break_together_are_subscribed_anew_in_requests_it_takes() -> None:
    """More than ten arguments are refused as a whole: the books stayed invalid until the socket was replaced."""
    venue = exchanges()["bybit"]
    (lane,) = lanes(venue, [f"spot/C{n}USDT" for n in range(25)], ["depth"])
    sent: list[dict[str, Any]] = []
    connection: Any = SimpleNamespace(send=lambda frame: sent.append(json.loads(frame)), last_rx=0.0)
    socket = MarketSocket(connection, venue, lane, Metrics())
    socket.again(lane.topics)
    assert all(len(request["args"]) <= 10 for request in sent)
    for op in ("unsubscribe", "subscribe"):
        assert [arg for request in sent if request["op"] == op for arg in request["args"]] == [
            t.name for t in lane.topics
        ]


def test_marks_that_are_read_late_are_not_overtaken_before_the_lane_knows_them() -> None:
    """They are put on record with what the lane misses; until it took them up nothing was missing, and they were overwritten."""
    lane, _, _ = stream("bybit", "trade", Dialer(), threading.Event())
    lane.feed.take([trade("e", 5)], Socket())  # type: ignore[arg-type]
    name = Name("trade", "BTCUSDT")
    lane.feed.backfill.resume({name: Mark("a", 1), Name("trade", "OTHER"): Mark("z", 1)})
    assert lane.feed.backfill.floors(0.0) == {name: Mark("a", 1)}
    lane.feed.settle()
    assert lane.feed.backfill.floors(0.0) == {name: Mark("a", 1)}, "and then it asks for what is between"


def test_a_new_life_tells_what_no_history_has_of_the_time_before_it() -> None:
    """Liquidations between two lives are as lost as those of a disconnect."""
    lane, out, _ = stream("bybit", "trade liquidation", Dialer(), threading.Event())
    lane.feed.backfill.resume({Name("trade", "BTCUSDT"): Mark("a", 5), Name("trade", "OTHER"): Mark("z", 7)})
    lane.feed.settle()
    (gap,) = [said for said in out.said if said.event == "gap"]
    assert (gap.data["class"], gap.data["since_ms"]) == ("liquidation", 7) and gap.data["until_ms"] >= BEGUN_MS


BEGUN_MS = int(time.time() * 1000)


def candle(at_ms: int, volume: str) -> Kline:
    return Kline(
        id=f"k{at_ms}", exchange="bybit", market="linear", symbol="BTCUSDT", ts_event=at_ms, ts_recv=at_ms, interval="1m",
        open_time=BEGUN_MS, close_time=BEGUN_MS + 59_999, open="1", high="1", low="1", close="1", volume=volume, closed=False,
    )  # fmt: skip


def test_trades_that_a_silent_topic_did_not_tell_are_asked_for() -> None:
    """Their ids show no jump, and what the exchange's last page holds is gone within the minute."""
    new = Socket([], [trade("c", 3)], [candle(9, "9")])
    lane, out, reader = stream("bybit", "trade kline_1m", Dialer(new), threading.Event())
    old: Any = Socket()
    lane._socket = old
    for n in range(12):
        lane.feed.take([candle(n, str(n)), *([trade("a", 1)] if n == 0 else [])], old)
    now_s = time.monotonic() + 11.0
    for topic in lane.feed.watch._topics.values():
        topic.last_s = now_s - (11.0 if "Trade" in topic.topic.name else 0.0)
    lane._check(old, now_s)
    assert [s.event for s in out.said] == ["stalled", "rotated"]
    time.sleep(TRADE_GRACE_S + 0.05)
    lane.feed.settle()
    (asked,) = [read for read in reader.reads if read.name.kind == "trade"]  # a full minute asks for a candle, too
    rows = [trade("a", 1), trade("b", 2), trade("c", 3)]
    asked.inbox.put(Answer(asked.name, rows, 9))
    time.sleep(0.03)
    lane.feed.settle()
    assert [e.id for e in out.events if isinstance(e, Trade)] == ["ta", "tb", "tc"]


def test_trades_of_okx_that_stop_while_the_price_moves_on_are_missed() -> None:
    """Candles come on another socket there: nothing else on this one tells that a thin symbol trades."""
    lane, _, _ = stream("okx", "trade ticker", Dialer(), threading.Event())
    socket: Any = Socket()
    for n in range(12):
        lane.feed.take(
            [Ticker(id=str(n), exchange="okx", market="unified", symbol="BTCUSDT", ts_event=n, ts_recv=n, last=str(n))],
            socket,
        )
    now_s = time.monotonic()
    assert lane.feed.watch.stalled(now_s + 9.0) == []
    assert lane.feed.watch.stalled(now_s + 11.0) == ["trades:BTCUSDT"]


def test_what_was_missed_is_asked_for_where_the_old_socket_died_before_the_new_one_was_subscribed() -> None:
    new = Socket([], [], [trade("c", 3)], subscribed=2)
    lane, _, reader = stream("bybit", "trade", Dialer(new), threading.Event())
    old: Any = Socket(ConnectionFailed("cut"))
    lane.feed.take([trade("a", 1)], old)
    assert lane._replace(old, "lifetime")
    time.sleep(TRADE_GRACE_S + 0.05)
    lane.feed.settle()
    assert len(reader.reads) == 1
