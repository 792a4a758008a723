"""The hand-over to Kafka: bounded in bytes, silent without a lease, nothing forgotten when Kafka fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fleet.core.errors import FleetError, StoreUnavailable
from workers.publish import RECORD_OVERHEAD_BYTES, Headers, Publisher


class FakeKafka:
    """Accepts records and acknowledges them when told; `fail` says whose first send fails."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.waiting: list[Callable[[Exception | None], None]] = []
        self.hold = False
        self.connecting: Callable[[], None] = lambda: None  # what happens while a send waits for a connection
        self.fail: dict[bytes, Exception] = {}  # value -> how its first send fails

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: Headers,
        done: Callable[[Exception | None], None],
        valid: Callable[[], bool],
    ) -> None:
        self.connecting()
        if not valid():
            done(StoreUnavailable("aborted"))
            return
        if value in self.fail:
            done(self.fail.pop(value))
            return
        self.sent.append(value)
        if self.hold:
            self.waiting.append(done)
        else:
            done(None)

    def flush(self, timeout_s: float) -> bool:
        return True

    def abort(self) -> None:
        for done in self.waiting:
            done(StoreUnavailable("aborted"))
        self.waiting.clear()

    def close(self, timeout_s: float) -> None:
        self.hold = False


class Lease:
    def __init__(self) -> None:
        self.open = True

    def valid(self) -> bool:
        return self.open


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "condition not reached in time"
        time.sleep(0.005)


@pytest.fixture
def parts() -> Iterator[tuple[Publisher, FakeKafka, Lease]]:
    kafka, lease = FakeKafka(), Lease()
    publisher = Publisher(lambda: kafka, lease, limit_bytes=10 * (RECORD_OVERHEAD_BYTES + 10)).start()
    yield publisher, kafka, lease
    lease.open = True
    publisher.clear()
    publisher.close(2.0)


def offer(publisher: Publisher, text: bytes, acked: Callable[[], None] | None = None) -> bool:
    return publisher.offer("user.fills", b"account1", text, [], acked)


def test_order_holds_and_acks_come_after_kafka(parts: tuple[Publisher, FakeKafka, Lease]) -> None:
    publisher, kafka, _ = parts
    kafka.hold = True
    acked: list[int] = []
    for n in range(5):
        assert offer(publisher, b"%d" % n, lambda n=n: acked.append(n))
    until(lambda: len(kafka.waiting) == 5)
    assert kafka.sent == [b"0", b"1", b"2", b"3", b"4"] and acked == []
    for done in kafka.waiting:
        done(None)
    until(lambda: acked == [0, 1, 2, 3, 4])
    assert publisher.flush(1.0) and publisher.pending_bytes() == 0


def test_the_buffer_is_bounded_and_takes_again_when_half_empty(parts: tuple[Publisher, FakeKafka, Lease]) -> None:
    publisher, kafka, _ = parts
    kafka.hold = True
    taken = 0
    while offer(publisher, b"x"):
        taken += 1
    assert 9 <= taken <= 12 and not publisher.has_room()
    until(lambda: len(kafka.waiting) == taken)
    kafka.waiting[0](None)
    until(lambda: publisher.pending_bytes() < taken * (RECORD_OVERHEAD_BYTES + 9))
    assert not publisher.has_room()  # hysteresis: one free place is not room
    for done in kafka.waiting[1:]:
        done(None)
    until(publisher.has_room)
    assert offer(publisher, b"y")


def test_failed_records_are_sent_again_and_refused_ones_are_not(parts: tuple[Publisher, FakeKafka, Lease]) -> None:
    publisher, kafka, _ = parts
    kafka.fail = {b"again": StoreUnavailable("broker away"), b"never": FleetError("too large")}
    acked: list[str] = []
    offer(publisher, b"again", lambda: acked.append("again"))
    offer(publisher, b"never", lambda: acked.append("never"))
    until(lambda: acked == ["again"])
    until(lambda: publisher.pending_bytes() == 0)
    assert kafka.sent == [b"again"]


def test_a_record_does_not_overtake_one_that_fails_again(parts: tuple[Publisher, FakeKafka, Lease]) -> None:
    """Kafka comes back in the midst of a round of records that are sent again: the rest of the round waits for the next one."""
    publisher, kafka, _ = parts
    away = StoreUnavailable("broker away")
    kafka.fail = {b"1": away}

    def once_more() -> None:
        if not kafka.fail and not again:
            again.append(True)
            kafka.fail[b"1"] = away

    again: list[bool] = []
    kafka.connecting = once_more
    for text in (b"1", b"2", b"3"):
        offer(publisher, text)
    until(lambda: publisher.pending_bytes() == 0)
    assert again and kafka.sent == [b"1", b"2", b"3"]


def test_a_record_that_waits_for_a_new_connection_does_not_overtake_what_failed_with_the_old_one(
    parts: tuple[Publisher, FakeKafka, Lease],
) -> None:
    publisher, kafka, _ = parts
    kafka.hold = True
    offer(publisher, b"1")
    until(lambda: len(kafka.waiting) == 1)

    def reconnect() -> None:
        kafka.abort()
        kafka.hold = False

    kafka.connecting = reconnect
    kafka.sent.clear()
    offer(publisher, b"2")
    until(lambda: publisher.pending_bytes() == 0)
    assert kafka.sent == [b"1", b"2"]


@pytest.mark.parametrize("where", ["sending", "acknowledging"])
def test_a_thread_that_dies_of_something_unforeseen_shows(
    parts: tuple[Publisher, FakeKafka, Lease], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends then and is started anew; else it would beat on, and publish nothing."""
    publisher, kafka, _ = parts
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def unforeseen() -> None:
        raise RuntimeError("can't start new thread")

    assert publisher.alive()
    if where == "sending":
        kafka.connecting = unforeseen
    offer(publisher, b"x", unforeseen)
    until(lambda: not publisher.alive())


def test_a_record_refused_for_good_is_told(parts: tuple[Publisher, FakeKafka, Lease]) -> None:
    publisher, kafka, _ = parts
    kafka.fail = {b"never": FleetError("too large")}
    told: list[str] = []
    publisher.offer("t", b"k", b"never", [], lambda: told.append("acked"), told.append)
    until(lambda: told == ["too large"])
    assert publisher.pending_bytes() == 0


def test_nothing_leaves_without_the_lease(parts: tuple[Publisher, FakeKafka, Lease]) -> None:
    publisher, kafka, lease = parts
    lease.open = False
    offer(publisher, b"late")
    assert not publisher.flush(0.3) and kafka.sent == []
    publisher.clear()  # the incarnation is given up
    until(lambda: publisher.pending_bytes() == 0)
    lease.open = True
    offer(publisher, b"new")
    until(lambda: kafka.sent == [b"new"])


def test_a_token_lost_between_the_callers_look_and_the_offer_is_not_sent(
    parts: tuple[Publisher, FakeKafka, Lease],
) -> None:
    """A reader that was preempted between the two while its worker was fenced and had a lease again a moment later."""
    publisher, kafka, _ = parts
    publisher.clear()
    publisher.offer("t", b"k", b"old", [], valid=lambda: False)
    offer(publisher, b"new")
    until(lambda: publisher.pending_bytes() == 0)
    assert kafka.sent == [b"new"]


def test_an_incarnation_given_up_while_a_send_connects_sends_no_more(
    parts: tuple[Publisher, FakeKafka, Lease],
) -> None:
    publisher, kafka, _ = parts
    kafka.connecting = publisher.clear
    offer(publisher, b"old")
    until(lambda: publisher.pending_bytes() == 0)
    kafka.connecting = lambda: None
    offer(publisher, b"new")
    until(lambda: publisher.pending_bytes() == 0)
    assert kafka.sent == [b"new"]


def test_records_wait_for_a_lease_that_comes_back(parts: tuple[Publisher, FakeKafka, Lease]) -> None:
    publisher, kafka, lease = parts
    lease.open = False
    offer(publisher, b"patient")
    threading.Timer(0.1, lambda: setattr(lease, "open", True)).start()
    until(lambda: kafka.sent == [b"patient"])


def test_a_given_up_incarnation_takes_back_what_kafka_has_not_acknowledged(
    parts: tuple[Publisher, FakeKafka, Lease],
) -> None:
    publisher, kafka, _ = parts
    kafka.hold = True
    acked: list[str] = []
    offer(publisher, b"old", lambda: acked.append("old"))
    until(lambda: len(kafka.waiting) == 1)
    publisher.clear()
    kafka.hold = False
    offer(publisher, b"new", lambda: acked.append("new"))
    until(lambda: acked == ["new"])
    until(lambda: publisher.pending_bytes() == 0)
    assert kafka.sent == [b"old", b"new"]  # "old" was on the wire already, and is not sent again
