"""One account's stream against the simulated exchange: real sockets and REST, Kafka replaced by a list that acknowledges.

What is judged is what reached that list, against the simulator's ledger.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fleet import exchanges
from fleet.core.backoff import Patience
from fleet.core.breaker import Breaker
from fleet.core.errors import StoreUnavailable
from fleet.core.exchange import Exchange, Rate
from fleet.core.model import AccountSpec, Credentials, StreamState
from fleet.core.recovery import Watermark
from fleet.runtime.http import Http
from fleet.runtime.metrics import Metrics
from fleet.runtime.settings import Settings
from tests.support.simulator import Simulator
from workers import stream as stream_module
from workers.accounts import Loaded
from workers.connection import Connection
from workers.credentials import CredentialDesk
from workers.publish import Headers, Publisher
from workers.readback import ReadBack
from workers.rest import VenueRest
from workers.stream import AccountStream, Worker

KEY, SECRET = "component".ljust(64, "k"), "s" * 64


class ListKafka:
    """Acknowledges at once; `away` keeps records back as a broker that does not answer would."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.away = False
        self.kept: list[tuple[bytes, Callable[[Exception | None], None]]] = []

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: Headers,
        done: Callable[[Exception | None], None],
        valid: Callable[[], bool],
    ) -> None:
        if self.away:
            self.kept.append((value, done))
        else:
            self.records.append({"topic": topic, **json.loads(value)})
            done(None)

    def come_back(self) -> None:
        self.away = False
        for value, done in self.kept:
            self.records.append(json.loads(value))
            done(None)
        self.kept.clear()

    def flush(self, timeout_s: float) -> bool:
        return True

    def abort(self) -> None:
        kept, self.kept = self.kept, []
        for _, done in kept:
            done(StoreUnavailable("aborted"))

    def close(self, timeout_s: float) -> None:
        self.come_back()


class Open:
    def valid(self) -> bool:
        return True


class NoLimit:
    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        return 0.0

    def block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        return None

    def observed(self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, sent_s: float) -> None:
        return None


class OneAccount:
    """Stands for the Postgres rows: always the same account, watermarks kept."""

    def __init__(self, exchange: str, market: str, credentials: Credentials) -> None:
        self.mark = Watermark(proven_ms=int(time.time() * 1000))
        self.spec = AccountSpec("acc-1", "u1", exchange, market, "main", False, 1, self.mark.proven_ms)
        self.credentials = credentials
        self.deactivated: list[str] = []

    def load(self, account_id: str) -> Loaded:
        return Loaded(self.spec, self.credentials, self.mark, False)

    def deactivate(self, spec: AccountSpec, reason: str, text: str) -> bool:
        self.deactivated.append(reason)
        return True

    def save(self, progresses: object) -> None:
        return None

    def save_last(self, token: int, progress: object) -> None:
        return None


class Bench:
    """The parts of a worker around one stream; of Binance unless told otherwise."""

    exchange, market, credentials = "binance", "usdm", Credentials(KEY, SECRET)

    def __init__(self, simulator: Simulator, buffer_bytes: int = 1 << 24) -> None:
        self.simulator, self.kafka, self.stop = simulator, ListKafka(), threading.Event()
        self.since = max((row["seq"] for row in simulator.ledger(type="fill")), default=0)
        settings = Settings.from_env({**simulator.env, "FLEET_SECOND_READ_S": "1", "FLEET_RECOVER_MARGIN_S": "3"})
        self.metrics = Metrics()
        self.publisher = Publisher(lambda: self.kafka, Open(), buffer_bytes, self.metrics).start()
        self.readback = ReadBack(margin_s=3.0, second_read_s=1.0, random=random.random, stop=self.stop).start()
        self.accounts = accounts = OneAccount(self.exchange, self.market, self.credentials)
        venue = exchanges.for_account(self.exchange, self.market)
        hosts = exchanges.hosts(venue, False, settings.endpoints)
        rest = VenueRest(venue, False, Http(hosts.rest), NoLimit(), "default", self.metrics, self.stop)

        def user_url(exchange: Exchange, is_testnet: bool, ticket: str) -> str:
            return exchange.user_url(hosts, ticket)

        self.stream = AccountStream(
            "acc-1",
            1,
            Worker(
                settings=settings,
                slot="test:0",
                incarnation=lambda: "inc",
                gate=Open(),
                publisher=self.publisher,
                readback=self.readback,
                accounts=accounts,  # type: ignore[arg-type]
                desk=CredentialDesk(accounts, lambda spec: 1),  # type: ignore[arg-type]
                metrics=self.metrics,
                venue=lambda spec: rest,
                user_url=user_url,
                connect=lambda rest, url, account_id, cancelled: Connection.open(url, cancelled=cancelled),
                shares=lambda exchange: False,
                random=random.random,
            ),
        )
        self.stream.start()

    def close(self) -> None:
        self.stream.stop()
        assert self.stream.join(10.0)
        self.kafka.come_back()
        self.publisher.close(3.0)
        self.stop.set()
        self.readback.join(3.0)

    def order(self, fills: int = 1, symbol: str = "BTCUSDT") -> None:
        self.simulator.order(KEY, symbol, "buy", "0.1", "50000", fills=fills)

    def fills(self) -> list[dict[str, Any]]:
        return [r for r in self.kafka.records if r["type"] == "fill"]

    def missing(self) -> set[str]:
        told = {row["trade_id"] for row in self.simulator.ledger(self.since, type="fill")}
        return {str(t) for t in told} - {f["trade_id"] for f in self.fills()}

    def opened(self) -> int:
        return sum(row.get("api_key") == KEY for row in self.simulator.connections())

    def live(self) -> None:
        until(lambda: self.stream.state is StreamState.LIVE and self.stream.progress.mark.base is not None, 10.0)


def until(condition: Callable[[], object], within_s: float, what: str = "") -> None:
    end = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end, f"not within {within_s} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(plain=True) as simulator:
        simulator.account(KEY, SECRET)
        yield simulator


@pytest.fixture
def bench(simulator: Simulator) -> Iterator[Bench]:
    made = Bench(simulator)
    yield made
    made.close()


def test_fills_arrive_once_and_the_fill_comes_before_its_order(bench: Bench) -> None:
    bench.live()
    socket = bench.stream.socket
    assert socket is not None  # both reads of the start are over: whatever comes now is the socket's to tell
    until(lambda: bench.stream.progress.mark.proven_ms >= socket.subscribed_ms, 10.0, "the second read")
    bench.order(fills=3)
    until(lambda: not bench.missing(), 5.0, "fills")
    records = [r for r in bench.kafka.records if r["type"] in ("fill", "order")]
    last = records[-1]
    assert last["type"] == "order" and last["status"] == "filled"
    assert len({r["id"] for r in records}) == len(records)
    assert {r["source"] for r in records} == {"stream"}


def test_what_a_cut_missed_is_read_back_once(bench: Bench) -> None:
    bench.live()
    before = len(bench.fills())
    bench.simulator.fault("reject", path="/private", status=503, seconds=2)
    bench.simulator.fault("cut", api_key=KEY, count=1)
    until(lambda: bench.stream.state is not StreamState.LIVE, 5.0)
    bench.order(fills=2)
    bench.order(fills=1, symbol="ETHUSDT")
    until(lambda: not bench.missing(), 15.0, "recovered fills")
    until(lambda: bench.stream.progress.gap is None, 10.0, "the gap closes")
    fresh = bench.fills()[before:]
    assert len(fresh) == 3 and {f["source"] for f in fresh} == {"rest"}
    until(lambda: any(r.get("event") == "gap_closed" for r in bench.kafka.records), 5.0, "its record")
    closed = [r for r in bench.kafka.records if r.get("event") == "gap_closed"][-1]
    assert closed["data"]["recovered_events"] >= 3 and closed["data"]["recoverable"]
    bench.order()
    until(lambda: not bench.missing(), 5.0, "live again")
    assert bench.fills()[-1]["source"] == "stream"
    assert len({f["id"] for f in bench.fills()}) == len(bench.fills())


def test_an_account_cut_again_before_the_proof_has_two_gaps_and_each_closes(bench: Bench) -> None:
    bench.live()
    until(lambda: bench.stream.known_here, 10.0, "the first proof")
    since = len(bench.kafka.records)
    for _ in range(2):
        opened = bench.opened()
        bench.simulator.fault("cut", api_key=KEY, count=1)
        until(lambda: bench.opened() > opened and bench.stream.socket is not None, 10.0, "a new socket")  # noqa: B023
        until(lambda: bench.stream.progress.gap is not None and bench.stream.progress.gap.until_ms, 5.0, "taken over")
        bench.order()
    until(lambda: bench.stream.progress.gap is None, 10.0, "all gaps close")
    until(lambda: not bench.missing(), 5.0, "fills")
    gaps = [r for r in bench.kafka.records[since:] if r.get("event") in ("gap_opened", "gap_closed")]
    assert [r["event"] for r in gaps] == ["gap_opened", "gap_opened", "gap_closed", "gap_closed"]
    assert [r["data"]["gap_id"] for r in gaps[:2]] == [r["data"]["gap_id"] for r in gaps[2:]]
    assert len({f["id"] for f in bench.fills()}) == len(bench.fills())


def test_a_fill_dropped_from_a_living_socket_is_noticed_and_read_back(bench: Bench) -> None:
    bench.live()
    opened = bench.opened()
    bench.simulator.fault("drop_event", api_key=KEY, count=4)  # new, trade lite, account update, trade
    bench.order(fills=1)
    bench.order(fills=1)
    until(lambda: len(bench.missing()) == 1, 5.0, "one fill of two")
    until(lambda: not bench.missing(), 25.0, "the dropped fill")
    assert bench.opened() == opened, "no reconnect"
    assert len({f["id"] for f in bench.fills()}) == len(bench.fills())


def test_an_expired_listen_key_is_replaced_within_two_seconds(bench: Bench) -> None:
    bench.live()
    opened, began = bench.opened(), time.monotonic()
    bench.simulator.fault("expire_listen_key", api_key=KEY)
    until(lambda: bench.opened() > opened and bench.stream.state is StreamState.LIVE, 5.0, "a new socket")
    assert time.monotonic() - began < 3.0
    bench.order()
    until(lambda: not bench.missing(), 5.0)


def test_a_half_open_socket_is_replaced(bench: Bench) -> None:
    bench.live()
    opened = bench.opened()
    bench.simulator.fault("half_open", api_key=KEY, seconds=60)
    bench.order(fills=2)
    until(lambda: bench.opened() > opened, 15.0, "a replacement")
    until(lambda: not bench.missing(), 15.0, "what the dead socket did not deliver")


def test_garbage_and_repeated_frames_change_nothing(bench: Bench) -> None:
    bench.live()
    bench.simulator.fault("duplicate_event", api_key=KEY, count=5)
    bench.simulator.fault("garbage", api_key=KEY, count=2)
    bench.order(fills=4)
    until(lambda: not bench.missing(), 15.0)
    assert len({f["id"] for f in bench.fills()}) == len(bench.fills())


def test_a_rotation_waits_for_its_permit_with_the_old_socket_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.live()
    opened, spent = bench.opened(), [True, True]
    monkeypatch.setattr(stream_module, "PERMIT_RETRY_S", 0.5)
    monkeypatch.setattr(NoLimit, "take", lambda self, kind, *_, **__: 60.0 if kind == "dial" and spent else 0.0)
    bench.stream.rotate()
    bench.order()
    until(lambda: not bench.missing(), 5.0, "fills of the old socket")
    assert bench.opened() == opened and bench.stream.rotating
    spent.clear()
    until(lambda: bench.opened() == opened + 1 and not bench.stream.rotating, 10.0, "the new socket")
    assert bench.stream.reconnects == 0


def test_a_rotation_does_not_wait_for_the_weight_of_its_listen_key(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exchange may ban REST for days; the old socket has to be read meanwhile, its pings answered."""
    bench.live()
    opened = bench.opened()
    monkeypatch.setattr(NoLimit, "take", lambda self, kind, *_, **__: 60.0 if kind == "weight" else 0.0)
    bench.stream.rotate()
    until(lambda: bench.stream.state is StreamState.ROTATING or not bench.stream.rotating, 5.0, "the rotation to begin")
    bench.order()
    until(lambda: not bench.missing(), 5.0, "fills of the old socket")
    assert bench.opened() == opened and bench.stream.reconnects == 0


def test_a_rotation_whose_dial_hangs_reads_the_old_socket_meanwhile(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.live()
    opened = bench.opened()
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # takes the connection, and never answers the handshake
        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}/ws"
        monkeypatch.setattr(bench.stream._dialler, "_user_url", lambda *_: url)
        bench.stream.rotate()
        until(lambda: bench.stream.state is StreamState.ROTATING, 5.0, "the rotation to begin")
        for _ in range(5):
            bench.order()
        until(lambda: not bench.missing(), 5.0, "fills of the old socket")
        assert bench.stream.state is StreamState.ROTATING, "the dial hangs still"
        bench.simulator.fault("cut", api_key=KEY)
        until(lambda: bench.stream.state is not StreamState.ROTATING, 15.0, "the dial to be given up")
    monkeypatch.undo()
    bench.order()
    until(lambda: not bench.missing() and bench.stream.state is StreamState.LIVE, 15.0, "the next life")
    assert bench.opened() == opened + 1 and bench.stream.reconnects == 1


def test_rotation_overlaps_and_loses_nothing(bench: Bench) -> None:
    bench.live()
    opened = bench.opened()
    bench.stream.rotate()
    until(lambda: bench.opened() > opened, 5.0, "the new socket")
    for _ in range(10):
        bench.order()
        time.sleep(0.1)
    until(lambda: bench.stream.state is StreamState.LIVE and not bench.missing(), 8.0)
    assert bench.stream.reconnects == 0 and bench.stream.progress.gap is None
    assert len({f["id"] for f in bench.fills()}) == len(bench.fills())


def test_kafka_away_until_the_buffer_is_full_loses_nothing(simulator: Simulator) -> None:
    bench = Bench(simulator, buffer_bytes=20_000)
    try:
        bench.live()
        bench.kafka.away = True
        for _ in range(12):
            bench.order(fills=3)
        until(lambda: bench.stream.progress.overflowed, 10.0, "the buffer to fill")
        assert bench.publisher.pending_bytes() < 40_000
        bench.kafka.come_back()
        until(lambda: not bench.missing(), 20.0, "everything after all")
        until(lambda: bench.stream.progress.gap is None, 10.0)
    finally:
        bench.close()


def test_a_quiet_account_s_gap_begins_with_the_event_that_found_the_buffer_full(simulator: Simulator) -> None:
    """Not with the last one before it, which may be older than what the exchange keeps: that gap would be called unrecoverable."""
    bench = Bench(simulator, buffer_bytes=20_000)
    try:
        bench.live()
        until(lambda: bench.stream.progress.gap is None and bench.publisher.pending_bytes() == 0, 10.0)
        bench.stream.progress.last_event_ms -= 90 * 86_400_000
        bench.kafka.away = True
        while bench.publisher.offer("user.fills", b"other", b'{"type":"other"}', []):
            pass
        began_ms = int(time.time() * 1000)
        bench.order()
        until(lambda: bench.stream.progress.gap is not None, 10.0, "the gap")
        gap = bench.stream.progress.gap
        assert gap is not None and abs(gap.opened_ms - began_ms) < 5_000
    finally:
        bench.close()


def test_what_kafka_did_not_take_by_the_end_is_left_to_the_next_owner(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The account is moved while Kafka is away: its records under the old token may not come after those of the new one."""
    monkeypatch.setattr("workers.stream.FLUSH_ON_STOP_S", 0.5)
    bench.live()
    bench.kafka.away = True
    told = len(bench.kafka.records)
    bench.order(fills=3)
    until(lambda: len(bench.kafka.kept) >= 3, 10.0, "records that wait at the client")
    bench.stream.stop()
    assert bench.stream.join(5.0) and not bench.stream.progress.flushed()
    bench.kafka.come_back()
    until(lambda: bench.publisher.pending_bytes() == 0, 5.0, "the publisher to forget them")
    assert bench.kafka.records[told:] == []
    assert bench.stream.progress.mark.filled_qty("BTCUSDT", "1") == 0, "the watermark did not move"


def test_a_stream_that_ends_was_alive_until_its_socket_closed_and_not_until_kafka_had_everything(bench: Bench) -> None:
    """The next owner's gap begins there: it has to hold what happens meanwhile."""
    bench.live()
    until(lambda: bench.stream.progress.gap is None and bench.stream.progress.flushed(), 10.0)
    bench.kafka.away = True
    bench.order()
    until(lambda: len(bench.kafka.kept) >= 1, 5.0, "records that wait at the client")
    bench.stream.stop()
    stopped_ms = int(time.time() * 1000)
    time.sleep(1.5)
    bench.kafka.come_back()
    assert bench.stream.join(5.0) and bench.stream.progress.flushed()
    assert bench.stream.progress.mark.alive_ms <= stopped_ms + 1_000


def test_a_stream_that_has_ended_is_counted_nowhere(bench: Bench) -> None:
    """Streams end with each move. Counted as stopped for good, they would soon outnumber those that run, and a rule about the
    share of streams that are not live would never speak again."""
    bench.live()
    bench.stream.stop()
    assert bench.stream.join(10.0)
    text = bench.metrics.render().decode().splitlines()
    counted = [line for line in text if line.startswith(("fleet_streams{", "prometheus_userdata_connections{"))]
    assert counted and all(line.endswith(" 0.0") for line in counted), counted


def test_a_long_outage_suspends_the_stream_and_never_ends_it(bench: Bench) -> None:
    bench.live()
    bench.stream.patience = Patience(breaker=Breaker(threshold=2, cool_down_s=1.0))
    fault = bench.simulator.fault("reject", path="/private", status=503, seconds=60)
    bench.simulator.fault("cut", api_key=KEY, count=1)
    until(lambda: bench.stream.state is StreamState.SUSPENDED, 20.0, "the breaker to open")
    bench.order()
    bench.simulator.end_fault(fault)
    until(lambda: bench.stream.state is StreamState.LIVE and not bench.missing(), 30.0, "live again, nothing missing")
