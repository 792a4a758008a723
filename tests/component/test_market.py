"""A lane of market data against a small venue on real sockets: faults of the transport, of the data, of the books."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fleet.core.errors import DialRefused
from fleet.core.exchange import Exchange, Hosts, Rate, Topic
from fleet.core.model import StreamState
from fleet.exchanges import exchanges
from fleet.runtime.http import Http
from fleet.runtime.metrics import Metrics
from tests.component.market_venue import Venue, venue
from workers import market_stream
from workers.connection import Connection
from workers.market_plan import Lane, lanes
from workers.market_publish import MarketPublisher
from workers.market_reader import MarketReader
from workers.market_stream import MarketStream
from workers.rest import VenueRest

EXPECT_S = 0.6  # longest believable silence of every topic here; the venue ticks each 0.02 s


class Kafka:
    """Keeps every line by topic, in order."""

    def __init__(self) -> None:
        self.lines: dict[str, list[dict[str, Any]]] = {}

    def send(
        self, topic: str, key: bytes, value: bytes, headers: object, done: Callable[[Exception | None], None]
    ) -> None:
        self.lines.setdefault(topic, []).extend(json.loads(line) for line in value.split(b"\n"))
        done(None)

    def flush(self, timeout_s: float) -> bool:
        return True

    def close(self, timeout_s: float) -> None:
        pass

    def of(self, topic: str) -> list[dict[str, Any]]:
        return list(self.lines.get(topic, ()))

    def stream_events(self, name: str) -> list[dict[str, Any]]:
        return [e for e in self.of("fleet.streams") if e["event"] == name]


class NoBudget:
    def __init__(self) -> None:
        self.blocked: list[tuple[str, float]] = []

    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        return 0.0

    def block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        self.blocked.append((kind, seconds))

    def observed(self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, sent_s: float) -> None:
        return None


class Running:
    """One lane over both kinds of paths, with everything behind it."""

    def __init__(
        self, place: Venue, kinds: list[str], *, rotate_after_s: float = 3600.0, expect_s: float = EXPECT_S
    ) -> None:
        self.place, self.kafka, self.metrics, self.budget = place, Kafka(), Metrics(), NoBudget()
        self.stop = threading.Event()
        exchange = _fast(exchanges()["binance_usdm"], rotate_after_s)
        found = lanes(exchange, ["BTCUSDT", "ETHUSDT"], kinds)
        topics: list[Topic] = [msgspec.structs.replace(t, expect_s=expect_s) for lane in found for t in lane.topics]
        self.lane = Lane("binance_usdm:test:0", exchange.name, "/market", tuple(topics))
        self.publisher = MarketPublisher(self.kafka, 50_000_000, self.metrics).start()
        rest = VenueRest(
            exchange, False, Http(place.rest_url, timeout_s=2.0), self.budget, "default", self.metrics, self.stop
        )
        self.reader = MarketReader(exchange, rest, self.stop)
        self.reader.start()
        url = exchange.market_data.url(Hosts(rest=place.rest_url, ws=place.ws_url), "/market")
        self.stream = MarketStream(
            self.lane, exchange, url, rest, self.reader, self.publisher, self.metrics, self.stop, tls=None
        )
        self.stream.start()

    def close(self) -> None:
        self.stop.set()
        self.stream.abort()
        assert self.stream.join(5.0)
        self.publisher.close(2.0)

    def reconnects(self, status: str) -> float:
        line = f'prometheus_marketdata_reconnects_total{{status="{status}"}} '
        return next(
            (float(x[len(line) :]) for x in self.metrics.render().decode().splitlines() if x.startswith(line)), 0.0
        )


def _fast(exchange: Exchange, rotate_after_s: float) -> Exchange:
    market = replace(
        exchange.market_data,
        liveness=msgspec.structs.replace(exchange.market_data.liveness, interval_s=0.2, timeout_s=0.8),
    )
    limits = msgspec.structs.replace(exchange.limits, subscribe_interval_s=0.01, rotate_after_s=rotate_after_s)
    return replace(exchange, market_data=market, limits=limits)


@pytest.fixture
def place() -> Iterator[Venue]:
    with venue() as running:
        yield running


@pytest.fixture
def run(place: Venue, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    monkeypatch.setattr(market_stream, "CHECK_S", 0.05)
    running: list[Running] = []

    def start(*kinds: str, **options: Any) -> Running:
        running.append(Running(place, list(kinds), **options))
        return running[-1]

    yield start
    for one in running:
        one.close()


def wait_for(what: Callable[[], object], timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, "not within the deadline"
        time.sleep(0.01)


def trade_ids(lane: Running, symbol: str = "BTCUSDT") -> list[int]:
    return [int(e["trade_id"]) for e in lane.kafka.of("market.trades") if e["symbol"] == symbol]


def assert_book_is_whole(lane: Running, symbol: str = "BTCUSDT") -> None:
    """What Kafka holds of a book: after each snapshot the updates link up, and they stop linking only where book_invalid
    was announced. Updates before the first snapshot, or between a break and the next one, belong to no valid book."""
    last: int | None = None
    met, breaks, snapshots = False, 0, 0
    for event in lane.kafka.of("market.depth"):
        if event["symbol"] != symbol:
            continue
        if event["kind"] == "snapshot":
            last, met, snapshots = event["last_seq"], False, snapshots + 1
        elif last is not None and event["last_seq"] > last:
            links = event["prev_seq"] == last or (not met and event["first_seq"] <= last <= event["last_seq"])
            last, met, breaks = (event["last_seq"], True, breaks) if links else (None, False, breaks + 1)
    assert breaks <= len([e for e in lane.kafka.stream_events("book_invalid") if e["symbol"] == symbol])
    assert snapshots >= len([e for e in lane.kafka.stream_events("book_valid") if e["symbol"] == symbol]) > 0


def test_events_flow_and_books_become_valid(run: Callable[..., Running], place: Venue) -> None:
    lane = run("trade", "mark_price", "depth")
    wait_for(lambda: len(lane.kafka.stream_events("book_valid")) == 2)
    wait_for(lambda: len(trade_ids(lane)) > 20)
    kinds = [e["kind"] for e in lane.kafka.of("market.depth") if e["symbol"] == "BTCUSDT"]
    assert kinds.count("snapshot") == 1
    assert lane.stream.unhealthy() == ""
    ids = trade_ids(lane)
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert len(place.open_clients()) == 1


def test_a_cut_socket_is_replaced_and_books_are_synchronised_again(run: Callable[..., Running], place: Venue) -> None:
    lane = run("trade", "depth")
    wait_for(lambda: len(lane.kafka.stream_events("book_valid")) == 2)
    place.cut()
    wait_for(lambda: lane.reconnects("success") == 1)
    wait_for(lambda: len(lane.kafka.stream_events("book_valid")) == 4)
    assert len(lane.kafka.stream_events("book_invalid")) == 2
    assert [e["event"] for e in lane.kafka.of("fleet.streams") if not e["event"].startswith("book")] == [
        "connected",
        "disconnected",
        "connected",
    ]
    assert_book_is_whole(lane)


def test_a_stall_under_live_pongs_is_replaced(run: Callable[..., Running], place: Venue) -> None:
    lane = run("trade", "mark_price")
    wait_for(lambda: len(trade_ids(lane)) > 5)
    place.stall()
    started = time.monotonic()
    wait_for(lambda: lane.reconnects("success") == 1)
    assert time.monotonic() - started < 12.0
    wait_for(lambda: len(lane.kafka.of("fleet.streams")) == 4)
    assert lane.kafka.stream_events("stalled")[0]["reason"] == "socket"
    assert [e["event"] for e in lane.kafka.of("fleet.streams")] == ["connected", "stalled", "disconnected", "connected"]
    seen = len(trade_ids(lane))
    wait_for(lambda: len(trade_ids(lane)) > seen + 5)
    wait_for(lambda: len(place.open_clients()) == 1)


def test_a_name_the_venue_does_not_know_is_found_from_birth_and_costs_the_others_nothing(
    run: Callable[..., Running], place: Venue
) -> None:
    place.unknown = frozenset({"ethusdt@markPrice@1s"})
    lane = run("trade", "mark_price")
    wait_for(lambda: lane.kafka.stream_events("stalled"))
    assert lane.kafka.stream_events("stalled")[0]["data"]["topics"] == ["ethusdt@markPrice@1s"]
    wait_for(lambda: lane.kafka.stream_events("rotated"), 15.0)
    wait_for(lambda: len(lane.kafka.stream_events("stalled")) >= 2, 15.0)  # still silent: told again, later each time
    ids = trade_ids(lane)
    assert ids == list(range(ids[0], ids[0] + len(ids))), "make-before-break lost or repeated a trade"
    assert lane.kafka.stream_events("disconnected") == []


def test_rotation_before_the_lifetime_loses_and_repeats_nothing(run: Callable[..., Running], place: Venue) -> None:
    lane = run("trade", "depth", rotate_after_s=1.0)
    wait_for(lambda: len(lane.kafka.stream_events("rotated")) >= 3)
    ids = trade_ids(lane)
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    assert len(lane.kafka.stream_events("book_valid")) == 2
    assert lane.kafka.stream_events("book_invalid") == []
    assert_book_is_whole(lane)
    updates = [e["id"] for e in lane.kafka.of("market.depth")]
    assert len(updates) == len(set(updates))
    wait_for(lambda: len(place.open_clients()) <= 2)


def test_the_servers_goodbye_rotates_at_once(run: Callable[..., Running], place: Venue) -> None:
    lane = run("trade")
    wait_for(lambda: len(trade_ids(lane)) > 5)
    place.open_clients()[0].send({"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": 1}})
    wait_for(lambda: lane.kafka.stream_events("rotated"))
    assert lane.kafka.stream_events("rotated")[0]["reason"] == "serverShutdown"


def test_a_rotation_whose_dial_hangs_reads_the_old_socket_meanwhile(
    run: Callable[..., Running], place: Venue, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = run("trade")
    wait_for(lambda: len(trade_ids(lane)) > 5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes the connection, and never answers the handshake
        monkeypatch.setattr(lane.stream._dialer, "_url", f"ws://127.0.0.1:{deaf.getsockname()[1]}/ws")
        place.open_clients()[0].send({"stream": "!serverShutdown", "data": {"e": "serverShutdown", "E": 1}})
        wait_for(lambda: lane.stream.state is StreamState.ROTATING)
        told = len(trade_ids(lane))
        wait_for(lambda: len(trade_ids(lane)) > told + 5)
        assert lane.stream.state is StreamState.ROTATING, "the dial hangs still"
        wait_for(lambda: lane.stream.state is not StreamState.ROTATING)
    ids = trade_ids(lane)
    assert ids == list(range(ids[0], ids[0] + len(ids))) and lane.kafka.stream_events("disconnected") == []


def test_a_gap_in_a_book_is_told_at_once_and_no_update_passes_until_a_snapshot(
    run: Callable[..., Running], place: Venue
) -> None:
    lane = run("depth")
    wait_for(lambda: len(lane.kafka.stream_events("book_valid")) == 2)
    place.skip_depth = 2
    wait_for(lambda: len(lane.kafka.stream_events("book_invalid")) >= 1)
    wait_for(lambda: len(lane.kafka.stream_events("book_valid")) >= 3)
    assert_book_is_whole(lane)
    assert lane.kafka.stream_events("disconnected") == []


def test_a_snapshot_that_fails_or_is_too_old_is_asked_for_again(run: Callable[..., Running], place: Venue) -> None:
    place.snapshot_status = 503
    lane = run("depth")
    wait_for(lambda: place.snapshots >= 3)
    assert [e for e in lane.kafka.of("market.depth") if e["kind"] == "snapshot"] == []
    place.snapshot_lag, place.snapshot_status = 10_000, 200
    asked = place.snapshots
    wait_for(lambda: place.snapshots >= asked + 2)
    assert lane.kafka.stream_events("book_valid") == []
    place.snapshot_lag = 0
    wait_for(lambda: len(lane.kafka.stream_events("book_valid")) == 2, 20.0)
    assert_book_is_whole(lane)


def test_a_refused_dial_blocks_the_budget_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, place: Venue, run: Callable[..., Running]
) -> None:
    refusals = iter([DialRefused(429, 0.1), DialRefused(503)])
    really = Connection.open

    def open_or_refuse(*arguments: Any, **options: Any) -> Any:
        refusal = next(refusals, None)
        if refusal is not None:
            raise refusal
        return really(*arguments, **options)

    monkeypatch.setattr(Connection, "open", open_or_refuse)
    lane = run("trade")
    wait_for(lambda: len(trade_ids(lane)) > 5)
    assert lane.budget.blocked == [("dial", 0.1)]
    assert lane.reconnects("failed") == 2
    assert lane.reconnects("success") == 0  # it was the first connection, not a reconnect


def test_stopping_does_not_wait_for_a_dial_that_is_not_answered(run: Callable[..., Running], place: Venue) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:  # its backlog takes the connection, nobody answers
        place.ws_override = f"ws://127.0.0.1:{mute.getsockname()[1]}"
        lane = run("trade")
        wait_for(lambda: lane.stream.state == "connecting")
        started = time.monotonic()
        lane.stop.set()
        assert lane.stream.join(5.0)
        assert time.monotonic() - started < 4.0


def test_stopping_is_quick_and_closes_the_socket(run: Callable[..., Running], place: Venue) -> None:
    lane = run("trade")
    wait_for(lambda: len(trade_ids(lane)) > 5)
    started = time.monotonic()
    lane.stop.set()
    assert lane.stream.join(5.0)
    assert time.monotonic() - started < 4.0
    wait_for(lambda: not place.open_clients())
