"""The door to Kafka on a real broker: acknowledgements, bounds, outages, restarts, offsets."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition
from kafka.errors import OutOfOrderSequenceNumberError
from kafka.record.default_records import DefaultRecordBatchBuilder
from structlog.testing import capture_logs

from fleet.core.errors import StoreUnavailable
from fleet.core.names import MARKET_TOPICS, TOPIC_STREAMS, USER_TOPICS
from fleet.runtime.kafka_io import Consumer, KafkaRecord, Producer, RecordRefused, create_topics
from fleet.services import Kafka, ServiceMissing, Services, Tansu
from tests.support.records import wait_until
from tests.support.services import SharedServices, missing

pytestmark = pytest.mark.integration
TOPIC = "user.account"


class Results:
    """Collects what `done` reported, per record."""

    def __init__(self) -> None:
        self.of: dict[int, Exception | None] = {}

    def done(self, number: int) -> Callable[[Exception | None], None]:
        def done(error: Exception | None) -> None:
            assert number not in self.of, "reported twice"
            self.of[number] = error

        return done

    def failed(self) -> list[Exception]:
        return [error for error in self.of.values() if error is not None]


@pytest.fixture
def bootstrap(services: SharedServices) -> str:
    create_topics(services.kafka.bootstrap)
    return str(services.kafka.bootstrap)


@pytest.fixture(scope="module")
def own_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka | Tansu]:
    """A broker of this module alone: to kill and to freeze."""
    try:
        own = Services.start(tmp_path_factory.mktemp("broker"), only=("kafka",))
    except ServiceMissing as error:
        missing(error)
    with own:
        create_topics(own.kafka.bootstrap, 4)
        yield own.kafka


def read(bootstrap: str, prefix: bytes, count: int, timeout_s: float = 20.0) -> list[KafkaRecord]:
    consumer, found, until = Consumer(bootstrap, None, [TOPIC]), [], time.monotonic() + timeout_s
    try:
        while len(found) < count and time.monotonic() < until:
            found += [r for r in consumer.poll(0.2, 5000) if r.key and r.key.startswith(prefix)]
    finally:
        consumer.close()
    return found


def test_topics_are_created_once(bootstrap: str) -> None:
    assert create_topics(bootstrap) == []
    consumer = Consumer(bootstrap, None, [*USER_TOPICS, TOPIC_STREAMS, *MARKET_TOPICS])
    assert set(consumer.lag()) == {*USER_TOPICS, TOPIC_STREAMS, *MARKET_TOPICS}
    consumer.close()


def test_records_arrive_in_order_per_key_with_headers(bootstrap: str) -> None:
    prefix, results = uuid.uuid4().hex[:8].encode(), Results()
    producer = Producer(bootstrap, "test")
    for n in range(3000):
        producer.send(
            TOPIC, prefix + b"%d" % (n % 7), b"%d" % n, [("token", b"17"), ("shard", b"h:0")], results.done(n)
        )
    assert producer.flush(10)
    assert len(results.of) == 3000 and not results.failed() and producer.pending() == 0
    producer.close(5)
    records = read(bootstrap, prefix, 3000)
    assert records[0].headers == {"token": "17", "shard": "h:0"}
    for key in {r.key for r in records}:
        numbers = [int(r.value or b"") for r in records if r.key == key]
        assert numbers == sorted(numbers)
        assert len({r.partition for r in records if r.key == key}) == 1


def test_what_was_accepted_waits_for_the_lease(bootstrap: str) -> None:
    """A process that was stopped between `send` and the socket wakes without a lease: its records wait, and go in order under
    the same lease, or never (abort)."""
    prefix, results, lease = uuid.uuid4().hex[:8].encode(), Results(), threading.Event()
    producer = Producer(bootstrap, "test", may_send=lease.is_set).prepare([TOPIC])
    for n in range(2000):
        producer.send(TOPIC, prefix + b"%d" % (n % 7), b"%d" % n + b" " * 1000, [], results.done(n))
    assert not producer.flush(1.0) and not results.of
    lease.set()
    assert producer.flush(10) and not results.failed()
    lease.clear()
    producer.send(TOPIC, prefix + b"late", b"-1", [], results.done(-1))
    assert not producer.flush(0.3)
    producer.abort()
    wait_until(lambda: -1 in results.of, 5, "the late one is reported")
    lease.set()
    producer.send(TOPIC, prefix + b"next", b"-2", [], results.done(-2))
    assert producer.flush(10) and results.of[-2] is None
    producer.close(5)
    records = read(bootstrap, prefix, 2002, timeout_s=3.0)
    assert [r.key for r in records if r.key in (prefix + b"late", prefix + b"next")] == [prefix + b"next"]
    for key in {r.key for r in records}:
        numbers = [int(r.value or b"") for r in records if r.key == key]
        assert numbers == sorted(numbers)
    assert len(records) == 2001


def test_a_record_too_large_fails_alone(bootstrap: str) -> None:
    results, producer = Results(), Producer(bootstrap, "test")
    for n, size in enumerate((10, 2_000_000, 10)):
        producer.send(TOPIC, b"size", b"x" * size, [], results.done(n))
    assert producer.flush(10)
    producer.close(5)
    assert isinstance(results.of[1], RecordRefused) and not results.of[1].retryable
    assert results.of[0] is None and results.of[2] is None


def test_a_missing_topic_is_named_and_holds_up_nobody(services: SharedServices, bootstrap: str) -> None:
    if services.kafka.kind != "kafka":
        pytest.skip("Tansu creates every topic it is asked for")
    results, producer = Results(), Producer(bootstrap, "test")
    for n in range(20):
        producer.send("no.such.topic", b"k", b"v", [], results.done(n))
    started = time.monotonic()
    producer.send(TOPIC, b"k", b"v", [], results.done(99))
    assert producer.flush(5) and time.monotonic() - started < 4.5
    producer.close(5)
    assert results.of[99] is None
    assert all(isinstance(e, StoreUnavailable) and "no.such.topic" in str(e) for e in results.failed())
    assert len(results.failed()) == 20
    with pytest.raises(StoreUnavailable, match=r"no\.such\.topic"):
        Consumer(bootstrap, None, ["no.such.topic"])


def test_a_broker_that_was_never_there(services: SharedServices) -> None:
    results, producer = Results(), Producer("127.0.0.1:1", "test")
    started = time.monotonic()
    producer.send(TOPIC, b"k", b"v", [], results.done(0))
    assert time.monotonic() - started < 12
    assert isinstance(results.of[0], StoreUnavailable)
    producer.close(1)
    for refuse in (lambda: Consumer("127.0.0.1:1", None, [TOPIC]), lambda: create_topics("127.0.0.1:1", timeout_s=1)):
        with pytest.raises(StoreUnavailable):
            refuse()


def test_an_error_the_client_does_not_survive_makes_a_new_one(bootstrap: str) -> None:
    results, producer = Results(), Producer(bootstrap, "test")
    producer.send(TOPIC, b"k", b"1", [], results.done(1))
    assert producer.flush(10)
    first = producer._kafka
    assert isinstance(producer._failed(TOPIC, OutOfOrderSequenceNumberError()), StoreUnavailable)
    producer.send(TOPIC, b"k", b"2", [], results.done(2))
    assert producer.flush(10)
    assert producer._kafka is not first and not first._sender.is_alive()
    assert results.of == {1: None, 2: None}
    producer.close(5)


def test_a_broker_stopped_and_started_loses_nothing_and_memory_stays_bounded(own_broker: Kafka) -> None:
    if own_broker.kind != "kafka":
        pytest.skip("Tansu keeps records in memory only")
    broker = own_broker
    results, producer = Results(), Producer(broker.bootstrap, "test", max_pending_bytes=300_000)
    prefix, sent = b"restart", 0

    def send(count: int) -> None:
        nonlocal sent
        for _ in range(count):
            producer.send(TOPIC, prefix + b"%d" % (sent % 5), b"%d" % sent, [], results.done(sent))
            sent += 1

    send(500)
    assert producer.flush(10)
    consumer = Consumer(broker.bootstrap, "restart", [TOPIC])
    assert wait_until(lambda: consumer.poll(0.2, 1000), 10, "the consumer reads")
    consumer.commit()
    broker.stop()
    send(500)  # fits
    assert producer.pending() == 500
    started = time.monotonic()
    producer.send(TOPIC, prefix, b"x" * 200_000, [], results.done(-1))  # does not fit
    assert isinstance(results.of[-1], StoreUnavailable) and time.monotonic() - started < 12
    assert not producer.flush(0.2)
    assert consumer.poll(0.1, 100) == []
    with pytest.raises(StoreUnavailable):
        consumer.lag()
    broker.start()
    assert producer.flush(30)
    send(100)
    assert producer.flush(10)
    lost = [n for n in range(sent) if results.of.get(n, 1) is not None]
    assert not lost
    again = wait_until(lambda: sum(len(consumer.poll(0.2, 5000)) for _ in range(3)), 20, "the consumer reads on")
    assert again <= 600
    consumer.close()
    producer.close(5)
    numbers = [int(r.value or b"") for r in read(broker.bootstrap, prefix, sent)]
    assert sorted(numbers) == list(range(sent))


def test_closing_while_the_broker_is_frozen_reports_what_is_left(own_broker: Kafka) -> None:
    broker = own_broker
    results, producer = Results(), Producer(broker.bootstrap, "test")
    producer.send(TOPIC, b"k", b"0", [], results.done(0))
    assert producer.flush(10)
    broker.pause()
    try:
        for n in range(1, 50):
            producer.send(TOPIC, b"k", b"%d" % n, [], results.done(n))
        started = time.monotonic()
        producer.close(1.5)
        assert time.monotonic() - started < 10
    finally:
        broker.resume()
    wait_until(lambda: len(results.of) == 50, 5, "every record is reported")
    assert all(isinstance(e, StoreUnavailable) for e in results.failed()) and len(results.failed()) == 49
    assert not any("network-thread" in t.name for t in threading.enumerate() if t.name.startswith("test"))


def test_commit_and_rewind(bootstrap: str) -> None:
    prefix, group = uuid.uuid4().hex[:8].encode(), uuid.uuid4().hex
    producer = Producer(bootstrap, "test")
    late = Consumer(bootstrap, group + "-late", [TOPIC], from_beginning=False)
    late.lag()  # settles its positions at the end
    for n in range(300):
        producer.send(TOPIC, prefix + b"%d" % (n % 3), b"%d" % n, [], lambda error: None)
    assert producer.flush(10)
    producer.close(5)

    def take(consumer: Consumer, count: int) -> list[int]:
        found: list[int] = []
        until = time.monotonic() + 20
        while len(found) < count and time.monotonic() < until:
            found += [int(r.value or b"") for r in consumer.poll(0.2, 50) if r.key and r.key.startswith(prefix)]
        return sorted(found)

    assert take(late, 300) == list(range(300))
    late.rewind()
    assert take(late, 300) == list(range(300))
    assert late.lag()[TOPIC] >= 300
    late.commit()
    assert late.lag()[TOPIC] == 0
    late.close()
    again = Consumer(bootstrap, group + "-late", [TOPIC], from_beginning=False)
    assert again.lag()[TOPIC] == 0
    again.close()


def test_what_retention_took_before_it_was_read_is_told(own_broker: Kafka) -> None:
    producer, group, key = Producer(own_broker.bootstrap, "test"), uuid.uuid4().hex, uuid.uuid4().hex.encode()

    def send(count: int) -> None:
        for _ in range(count):
            producer.send("user.balances", key, b"x", [], lambda error: None)
        assert producer.flush(10)

    def read_on() -> tuple[list[int], list[int]]:
        """What a sink's next life reads, and how many records it says are gone."""
        consumer, found = Consumer(own_broker.bootstrap, group, ["user.balances"]), []
        with capture_logs() as told:
            while not found or consumer.lag()["user.balances"]:
                found += [r.offset for r in consumer.poll(0.2, 100)]
                consumer.commit()
        consumer.close()
        return found, [line["count"] for line in told if line.get("action") == "lost"]

    send(5)
    first, told = read_on()
    assert len(first) == 5 and not told
    send(10)
    client = KafkaConsumer(bootstrap_servers=own_broker.bootstrap)
    ends = client.end_offsets(
        [TopicPartition("user.balances", n) for n in client.partitions_for_topic("user.balances")]
    )
    client.close()
    admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap)
    admin.delete_records({partition: end - 3 for partition, end in ends.items() if end})
    admin.close()
    assert read_on() == ([first[-1] + n for n in (8, 9, 10)], [7])
    producer.close(5)


def test_a_topic_that_is_deleted_under_its_reader_is_waited_for(own_broker: Kafka) -> None:
    topics = ["user.orders", "user.positions"]
    consumer = Consumer(own_broker.bootstrap, uuid.uuid4().hex, topics)
    assert set(consumer.lag()) == set(topics)
    admin = KafkaAdminClient(bootstrap_servers=own_broker.bootstrap)
    admin.delete_topics(topics[1:])
    wait_until(lambda: topics[1] not in admin.list_topics(), 10, "the topic is gone")
    admin.close()
    for _ in range(20):
        consumer.poll(0.1, 1)  # and the client has heard of it
    consumer._asked = 0.0  # lag asks the broker, as every ENDS_EVERY_S
    with pytest.raises(StoreUnavailable):
        consumer.lag()
    create_topics(own_broker.bootstrap, 4)
    consumer.close()


def test_abort_fails_what_is_pending_and_sending_goes_on(own_broker: Kafka) -> None:
    results, producer = Results(), Producer(own_broker.bootstrap, "test")
    producer.send(TOPIC, b"k", b"0", [], results.done(0))
    assert producer.flush(10)
    own_broker.pause()
    try:
        for n in range(1, 20):
            producer.send(TOPIC, b"k", b"%d" % n, [], results.done(n))
        producer.abort()
        wait_until(lambda: len(results.of) == 20, 5, "every record is reported")
    finally:
        own_broker.resume()
    assert len(results.failed()) == 19
    producer.send(TOPIC, b"k", b"20", [], results.done(20))
    assert producer.flush(10) and results.of[20] is None
    producer.close(5)


def test_a_clock_that_is_hours_ahead_costs_no_record(
    services: SharedServices, bootstrap: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka takes no record that is dated over an hour ahead of it. Sent again once the clock is right, it does."""
    if services.kafka.kind != "kafka":
        pytest.skip("Tansu takes any time")
    results, producer, right = Results(), Producer(bootstrap, "test"), DefaultRecordBatchBuilder.append.__defaults__
    wrong = tuple((lambda: time.time() + 7200) if value is time.time else value for value in right)
    monkeypatch.setattr(DefaultRecordBatchBuilder.append, "__defaults__", wrong)
    for n in range(5):
        producer.send(TOPIC, b"clock", b"%d" % n, [], results.done(n))
    assert producer.flush(10)
    assert len(results.failed()) == 5 and all(isinstance(e, StoreUnavailable) for e in results.failed()), results.of
    monkeypatch.setattr(DefaultRecordBatchBuilder.append, "__defaults__", right)
    again = Results()
    for n in range(5):
        producer.send(TOPIC, b"clock", b"%d" % n, [], again.done(n))
    assert producer.flush(10) and len(again.of) == 5 and not again.failed()
    producer.close(5)


def test_a_record_that_only_its_topic_finds_too_large_costs_no_other(services: SharedServices, bootstrap: str) -> None:
    """A limit of the topic's own, below ours: the client reaches it at the broker, and does not survive that."""
    if services.kafka.kind != "kafka":
        pytest.skip("Tansu has no such limit")
    admin, topic = KafkaAdminClient(bootstrap_servers=bootstrap), f"small.{uuid.uuid4().hex[:8]}"
    admin.create_topics(
        {topic: {"num_partitions": 1, "replication_factor": 1, "configs": {"max.message.bytes": "2000"}}}
    )
    admin.wait_for_topics([topic])
    admin.close()
    results, producer = Results(), Producer(bootstrap, "test")
    producer.send(topic, b"k", os.urandom(5_000), [], results.done(0))
    for n in range(1, 20):
        producer.send(TOPIC, b"k", b"%d" % n, [], results.done(n))
        time.sleep(0.02)
    assert producer.flush(10)
    refused = [n for n, error in results.of.items() if isinstance(error, RecordRefused)]
    assert refused == [0], results.of
    again = Results()
    producer.send(TOPIC, b"k", b"again", [], again.done(0))
    assert producer.flush(10) and again.of == {0: None}
    producer.close(5)
