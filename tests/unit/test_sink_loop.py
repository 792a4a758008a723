"""The sinks' loop over a fake store and a fake topic: order of store and commit, halving, waiting, stopping."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from fleet.core.errors import FleetError, SettingsError, StoreUnavailable
from fleet.runtime.kafka_io import KafkaRecord
from fleet.runtime.metrics import Metrics
from workers.sinks.loop import DataRefused, DeadLetter, Loop

PER_POLL = 8


class Topic:
    """Records 0 … n-1; remembers what was committed."""

    def __init__(self, values: Sequence[bytes], stop: threading.Event) -> None:
        self.records = [KafkaRecord("t", 0, n, b"k", value, {}, 0) for n, value in enumerate(values)]
        self.position = self.committed = 0
        self.commit_fails = self.commits = 0
        self._stop = stop

    def poll(self, timeout_s: float, max_records: int) -> list[KafkaRecord]:
        batch = self.records[self.position : self.position + min(max_records, PER_POLL)]
        self.position += len(batch)
        if not batch:
            self._stop.set()
        return batch

    def commit(self) -> None:
        self.commits += self.position > self.committed
        if self.commit_fails and self.position > self.committed:
            self.commit_fails -= 1
            raise StoreUnavailable("commit")
        self.committed = self.position

    def rewind(self) -> None:
        self.position = self.committed

    def lag(self) -> dict[str, int]:
        return {"t": len(self.records) - self.committed}

    def close(self) -> None:
        pass


class Store:
    """Takes values; refuses batches that contain one of `bad`; fails with each of `failures` first."""

    name, topics, max_records, linger_s, commit_every_s = "fake", ("t",), PER_POLL, 0.0, 0.0

    def __init__(self, bad: frozenset[bytes] = frozenset(), failures: Sequence[FleetError] = ()) -> None:
        self.bad, self.failures = bad, list(failures)
        self.rows: list[bytes] = []
        self.letters: list[DeadLetter] = []
        self.calls = self.rewinds = 0
        self.closed = False

    def decode(self, record: KafkaRecord) -> tuple[list[KafkaRecord], DeadLetter | None]:
        if record.value == b"unreadable":
            return [], DeadLetter(record, record.value, "unreadable")
        return [record], None

    def store(self, items: Sequence[KafkaRecord]) -> dict[str, int]:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        if self.bad & {item.value for item in items}:
            raise DataRefused("bad value")
        self.rows += [item.value or b"" for item in items]
        return {"rows": len(items)}

    def refused(self, item: KafkaRecord, reason: str) -> DeadLetter:
        return DeadLetter(item, item.value, reason)

    def put_aside(self, letters: Sequence[DeadLetter]) -> None:
        self.letters += letters

    def rewound(self) -> None:
        self.rewinds += 1

    def close(self) -> None:
        self.closed = True


def run(values: Sequence[bytes], store: Store, commit_fails: int = 0) -> Topic:
    stop = threading.Event()
    topic = Topic(values, stop)
    topic.commit_fails = commit_fails
    Loop(store, lambda: topic, stop, Metrics()).run()
    assert store.closed
    return topic


def test_everything_is_stored_in_order_then_committed() -> None:
    values, store = [b"%d" % n for n in range(50)], Store()
    topic = run(values, store)
    assert store.rows == values
    assert topic.committed == 50


def test_each_record_at_fault_is_found_and_the_rest_is_stored_in_order() -> None:
    values = [b"%d" % n for n in range(32)]
    values[5] = b"unreadable"
    store = Store(bad=frozenset({b"0", b"9", b"10", b"31"}))
    topic = run(values, store)
    at_fault = {b"0", b"9", b"10", b"31", b"unreadable"}
    assert store.rows == [v for v in values if v not in at_fault]
    assert {letter.value for letter in store.letters} == at_fault
    assert all(letter.reason for letter in store.letters)
    assert topic.committed == 32


def test_a_store_too_slow_for_a_whole_batch_gets_smaller_ones() -> None:
    """Its deadline is of one call: the same batch again would end as the first did, for ever."""

    class Slow(Store):
        def store(self, items: Sequence[KafkaRecord]) -> dict[str, int]:
            if len(items) > 2 and self.calls < 30:
                self.calls += 1
                raise StoreUnavailable("postgres: canceling statement due to statement timeout")
            return super().store(items)

    values, store = [b"%d" % n for n in range(12)], Slow()
    topic = run(values, store)
    assert store.rows == values
    assert topic.committed == 12
    assert store.calls < 20


def test_a_wrong_setting_that_only_the_store_can_tell_ends_the_sink() -> None:
    """It was waited out, for ever."""
    store = Store(failures=[SettingsError("FLEET_CLICKHOUSE_DSN=/proc/x: Permission denied")])
    with pytest.raises(SettingsError):
        run([b"1"], store)
    assert store.closed


def test_a_store_that_is_away_is_waited_for_and_nothing_is_put_aside() -> None:
    values = [b"%d" % n for n in range(10)]
    store = Store(failures=[StoreUnavailable("away"), StoreUnavailable("away"), FleetError("no such table")])
    topic = run(values, store)
    assert store.rows == values
    assert not store.letters and store.rewinds == 3 and topic.committed == 10


class Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, **fields: object) -> None:
        self.lines.append(text)

    info = error = warning


def test_a_store_that_refuses_now_and_then_is_told_of_once_and_as_over_once_it_does_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One table may be refused while the others go on: two lines a batch would fill the log."""
    values = [b"%d" % n for n in range(10)]
    stop, store, now_s = threading.Event(), Store(), [100.0]
    topic, log = Topic(values, stop), Log()
    loop = Loop(store, lambda: topic, stop, Metrics())
    monkeypatch.setattr(loop, "_log", log)
    monkeypatch.setattr("workers.sinks.loop.time.monotonic", lambda: now_s[0])
    for _ in range(5):
        loop._wait_out(StoreUnavailable("refused"))
        loop._over()
    assert log.lines == ["sink waits and tries again"]
    now_s[0] += 2.5
    loop._over()
    loop._over()
    assert log.lines == ["sink waits and tries again", "sink goes on"]


def test_a_failed_commit_repeats_the_batch() -> None:
    store = Store()
    topic = run([b"%d" % n for n in range(4)], store, commit_fails=1)
    assert store.rows == [b"0", b"1", b"2", b"3"] * 2
    assert topic.committed == 4


def test_several_lines_of_one_record_make_one_dead_letter() -> None:
    class Lines(Store):
        def decode(self, record: KafkaRecord) -> tuple[list[KafkaRecord], DeadLetter | None]:
            return [record._replace(value=line) for line in (record.value or b"").split(b"\n")], None

    store = Lines(bad=frozenset({b"x", b"y"}))
    run([b"a\nx\nb\ny\nc"], store)
    assert store.rows == [b"a", b"b", b"c"]
    assert [letter.value for letter in store.letters] == [b"x\ny"]


def test_a_stop_while_halving_commits_nothing() -> None:
    stop = threading.Event()

    class Stops(Store):
        def store(self, items: Sequence[KafkaRecord]) -> dict[str, int]:
            stop.set()
            return super().store(items)

    topic, store = Topic([b"bad", b"good"], stop), Stops(bad=frozenset({b"bad"}))
    Loop(store, lambda: topic, stop, Metrics()).run()
    assert topic.committed == 0 and not store.letters


def test_kafka_away_at_the_start_is_waited_for() -> None:
    stop, store, attempts = threading.Event(), Store(), []
    topic = Topic([b"1"], stop)

    def connect() -> Topic:
        attempts.append(1)
        if len(attempts) < 3:
            raise StoreUnavailable("no broker")
        return topic

    Loop(store, connect, stop, Metrics()).run()
    assert store.rows == [b"1"] and len(attempts) == 3


def test_commits_are_apart_and_the_last_one_comes_when_nothing_more_does() -> None:
    values, store = [b"%d" % n for n in range(80)], Store()
    store.commit_every_s = 3600.0
    topic = run(values, store)
    assert store.rows == values
    assert topic.committed == 80 and topic.commits <= 2 < 80 / PER_POLL


def test_what_was_stored_and_not_committed_is_repeated_after_trouble() -> None:
    values, store = [b"%d" % n for n in range(24)], Store()
    store.commit_every_s = 3600.0
    stored = store.store

    def third_fails(items: Sequence[KafkaRecord]) -> dict[str, int]:
        if store.calls == 2 and not store.failures and store.rewinds == 0:
            store.failures.append(StoreUnavailable("away"))
        return stored(items)

    store.store = third_fails  # type: ignore[method-assign]
    topic = run(values, store)
    assert set(store.rows) == set(values) and len(store.rows) > len(values) - PER_POLL and topic.committed == 24
