"""User events of a worker while its broker is stopped, killed, without the topic, or refuses a record: each has its outcome.

Real broker, real sockets against the simulator; the worker runs in this process.
"""

from __future__ import annotations

import os
import resource
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient, NewTopic
from kafka.producer.transaction_manager import ProducerIdAndEpoch

from fleet.core.model import Credentials
from fleet.core.names import TOPIC_STREAMS, USER_TOPICS
from fleet.runtime.kafka_io import Consumer, Producer, create_topics
from fleet.services import Kafka, ServiceMissing, Services, Tansu
from tests.campaigns.kafka.killed import Killed, verdict
from tests.campaigns.loss.judge import Verdict, compare, of_events, of_ledger
from tests.support.bench import Always, Rows, WorkerBench
from tests.support.records import wait_until
from tests.support.services import missing
from tests.support.simulator import Simulator
from workers.publish import Publisher

pytestmark = pytest.mark.integration
ACCOUNTS = 8
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka | Tansu]:
    """A broker of this module alone: to stop and to kill."""
    try:
        own = Services.start(tmp_path_factory.mktemp("trouble"), only=("kafka",))
    except ServiceMissing as error:
        missing(error)
    with own:
        if own.kafka.kind != "kafka":
            pytest.skip("Tansu keeps records in memory only")
        create_topics(own.kafka.bootstrap, 4)
        yield own.kafka


class Flow:
    """User events of some accounts through a worker into the broker, and what of them arrived."""

    def __init__(self, simulator: Simulator, broker: Kafka | Tansu, buffer_bytes: int) -> None:
        self.simulator, self.broker, self.rows = simulator, broker, Rows()
        self.accounts: dict[str, str] = {}  # API key → account id
        for n in range(ACCOUNTS):
            key, account_id = f"trouble{n}".ljust(64, "k"), uuid.uuid4().hex
            simulator.account(key, "s" * 64)
            self.accounts[key] = account_id
            self.rows.add(account_id, Credentials(key, "s" * 64), "binance", "usdm")
        settings = {"FLEET_BUFFER_BYTES": str(buffer_bytes), "FLEET_SECOND_READ_S": "3"}
        self.worker = WorkerBench(simulator, broker.bootstrap, self.rows, "trouble", settings)
        wait_until(self.worker.settled, 30, "everybody is live")

    def settle(self, within_s: float) -> None:
        """No load any more: until no gap is open and everything is acknowledged."""
        self.simulator.load(0)
        wait_until(self.worker.settled, within_s, "no gap open, everything in Kafka")

    def verdict(self) -> tuple[Verdict, list[dict[str, Any]]]:
        """Ledger against Kafka, and the records of fleet.streams."""
        records, streams = self.read()
        return compare(of_ledger(self.simulator.ledger(market="0"), self.accounts), of_events(records)), streams

    def read(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        mine = set(self.accounts.values())
        consumer = Consumer(self.broker.bootstrap, None, [*USER_TOPICS, TOPIC_STREAMS])
        found: list[dict[str, Any]] = []
        try:
            while page := consumer.poll(2.0, 5000):
                found += [msgspec.json.decode(r.value) for r in page if r.value and r.key and r.key.decode() in mine]
        finally:
            consumer.close()
        return [r for r in found if r["type"] != "stream"], [r for r in found if r["type"] == "stream"]


@contextmanager
def flow(broker: Kafka | Tansu, buffer_bytes: int) -> Iterator[Flow]:
    with Simulator(plain=True, rate=1) as simulator:
        made = Flow(simulator, broker, buffer_bytes)
        try:
            yield made
        finally:
            made.worker.kill()


def watch(seconds: float, look: Callable[[], None]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        look()
        time.sleep(0.1)


@pytest.mark.timeout(180)
def test_kafka_stopped_while_events_flow_bounds_memory_and_loses_nothing(broker: Kafka) -> None:
    """30 s at 500 events a second are about 10 MB: far more than the buffer takes."""
    limit = 3 * MIB
    with flow(broker, limit) as events:
        events.simulator.load(500)
        process, most = psutil.Process(os.getpid()), 0
        time.sleep(2.0)  # a little history before
        rss_before = process.memory_info().rss
        broker.stop()

        def look() -> None:
            nonlocal most
            most = max(most, events.worker.publisher.pending_bytes())

        watch(30.0, look)
        overflowed = sum(s.progress.overflowed for s in events.worker.streams.values())
        rss_grown = process.memory_info().rss - rss_before
        broker.start()
        events.settle(90)
        verdict, streams = events.verdict()
        print(f"buffer at most {most} of {limit} bytes, RSS +{rss_grown / MIB:.0f} MiB, {verdict.fills.ledger} fills")
        assert verdict.complete, verdict
        assert overflowed == ACCOUNTS and limit <= most <= limit + 64 * 1024
        assert rss_grown < 60 * MIB
        assert verdict.fills.ledger > 1000
        closed = [s for s in streams if s["event"] == "gap_closed" and s["data"]["reason"] == "kafka"]
        assert {s["account_id"] for s in closed} == set(events.accounts.values())
        assert all(s["data"]["recoverable"] for s in closed)


@pytest.mark.timeout(120)
def test_a_broker_killed_twice_under_load_loses_nothing(broker: Kafka) -> None:
    with flow(broker, 64 * MIB) as events:
        events.simulator.load(300)
        for _ in range(2):
            time.sleep(2.0)
            broker.kill()
            time.sleep(1.0)
            broker.start()
        time.sleep(1.0)
        events.settle(60)
        verdict, _ = events.verdict()
        assert verdict.complete, verdict
        assert all(stream.reconnects == 0 for stream in events.worker.streams.values())


def test_a_record_too_large_is_told_and_holds_up_nobody(broker: Kafka) -> None:
    publisher = Publisher(lambda: Producer(broker.bootstrap, "large"), Always(), 64 * MIB).start()
    told: list[str] = []
    arrived = threading.Event()
    try:
        publisher.offer("user.account", b"large", b"x" * 2 * MIB, [], lambda: told.append("acked"), told.append)
        publisher.offer("user.account", b"large", b"small", [], arrived.set)
        assert arrived.wait(10)
        wait_until(lambda: told and publisher.pending_bytes() == 0, 5, "the refusal")
        assert len(told) == 1 and told[0] != "acked"
    finally:
        publisher.close(5)


def test_records_wait_for_a_topic_that_is_not_there_yet(broker: Kafka) -> None:
    """And those of other topics do not wait for them."""
    topic = f"late.{uuid.uuid4().hex[:8]}"
    publisher = Publisher(lambda: Producer(broker.bootstrap, "late"), Always(), MIB).start()
    acked: list[int] = []
    other = threading.Event()
    try:
        for n in range(20):
            publisher.offer(topic, b"k", b"%d" % n, [], lambda n=n: acked.append(n))  # type: ignore[misc]
        publisher.offer("user.account", b"k", b"other", [], other.set)
        assert other.wait(20)
        assert not acked and publisher.pending_bytes() > 0
        admin = KafkaAdminClient(bootstrap_servers=broker.bootstrap)
        admin.create_topics([NewTopic(topic, 1, 1)])
        admin.close()
        wait_until(lambda: len(acked) == 20, 30, "everything arrives once the topic is there")
        assert publisher.flush(5)
    finally:
        publisher.close(5)


@pytest.mark.timeout(120)
def test_a_disk_that_is_full_ends_the_broker_and_loses_nothing(broker: Kafka, tmp_path: Path) -> None:
    """The kernel refuses the broker's writes (a limit on file sizes is a full disk for it alone); later there is room again."""
    publisher = Publisher(lambda: Producer(broker.bootstrap, "full"), Always(), 64 * MIB).start()
    acked: list[int] = []

    def offer(first: int, count: int) -> None:
        for n in range(first, first + count):
            assert publisher.offer(
                "user.account", b"full", b"%d " % n + os.urandom(4096), [], lambda n=n: acked.append(n)
            )  # type: ignore[misc]

    try:
        offer(0, 50)
        assert publisher.flush(20)
        largest = max(f.stat().st_size for f in (broker.directory / "kafka").rglob("*.log"))
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (largest + 128 * 1024, largest + 128 * 1024))
        offer(50, 500)
        wait_until(lambda: not broker.running, 30, "the broker gives up its disk")
        written = len(acked)
        assert 50 <= written < 550 and publisher.pending_bytes() > 0
        broker.start()
        assert publisher.flush(60)
        assert sorted(acked) == list(range(550))
    finally:
        publisher.close(5)
    consumer, found = Consumer(broker.bootstrap, None, ["user.account"]), []
    while page := consumer.poll(2.0, 5000):
        found += [int(r.value.split(b" ", 1)[0]) for r in page if r.key == b"full" and r.value]
    consumer.close()
    assert list(dict.fromkeys(found)) == list(range(550))  # all there, in order


def test_a_fenced_producer_sends_again_as_another(broker: Kafka) -> None:
    """Somebody writes under our producer id and the next epoch: the broker fences us, for real."""
    made: list[Producer] = []

    def connect() -> Producer:
        made.append(Producer(broker.bootstrap, "fenced"))
        return made[-1]

    publisher = Publisher(connect, Always(), MIB).start()
    acked: list[int] = []
    try:
        publisher.offer("user.account", b"fenced", b"0", [], lambda: acked.append(0))
        wait_until(lambda: acked == [0], 20, "the first record")
        ours = made[0]._kafka
        partition = made[0]._partitions["user.account", b"fenced"]
        other = KafkaProducer(bootstrap_servers=broker.bootstrap, enable_idempotence=True, acks="all")
        other.send("user.balances", b"x", key=b"x").get(10)  # it has an id of its own now
        mine = ours._transaction_manager.producer_id_and_epoch
        other._transaction_manager.set_producer_id_and_epoch(ProducerIdAndEpoch(mine.producer_id, mine.epoch + 1))
        other.send("user.account", b"usurper", key=b"fenced", partition=partition).get(10)
        other.close()
        for n in range(1, 20):
            publisher.offer("user.account", b"fenced", b"%d" % n, [], lambda n=n: acked.append(n))  # type: ignore[misc]
        wait_until(lambda: len(acked) == 20, 30, "all of them arrive")
        assert made[0]._kafka is not ours and publisher.flush(5)
    finally:
        publisher.close(5)


@pytest.mark.timeout(300)
def test_killed_at_any_line_nothing_is_missing_and_repeats_have_the_same_id(broker: Kafka, tmp_path: Path) -> None:
    """A short run of `python -m tests.campaigns.kafka killed`."""
    with Simulator(plain=True, rate=1) as simulator:
        lives = Killed(simulator, broker.bootstrap, tmp_path, seed=3)
        try:
            figures = lives.run(times=3, rate=200)
        finally:
            lives.kill()
    assert not verdict(figures), figures
