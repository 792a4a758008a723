"""An owner that lost its lease: a record that was on its way into the Kafka client when `abort` came is not written later."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kafka import errors as kafka_errors

from fleet.core.errors import StoreUnavailable
from fleet.runtime import kafka_io
from fleet.runtime.kafka_io import Producer


class Library:
    """Stands for KafkaProducer: connected at once, notes what it is given."""

    written: list[bytes] = []

    def __init__(self, **config: Any) -> None:
        self.given = Library.written

    def partitions_for(self, topic: str) -> set[int]:
        return {0}

    def send(self, topic: str, *, value: bytes, **where: Any) -> Any:
        self.given.append(value)
        return self

    def add_callback(self, *_: Any) -> None: ...
    def add_errback(self, *_: Any) -> None: ...


def test_an_abort_while_it_connects_is_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    Library.written = []
    owned = True

    class Slow(Library):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config)
            nonlocal owned
            owned = False
            producer.abort()  # the heartbeat's thread, meanwhile

    monkeypatch.setattr(kafka_io, "KafkaProducer", Slow)
    producer = Producer("nowhere:9", "test")
    told: list[Exception | None] = []
    producer.send("t", b"k", b"old", [], told.append, lambda: owned)
    assert Library.written == [] and len(told) == 1 and told[0] is not None
    assert producer.pending() == 0


def test_a_record_that_is_given_back_costs_the_others_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Library] = []

    class Counted(Library):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config)
            made.append(self)

    monkeypatch.setattr(kafka_io, "KafkaProducer", Counted)
    Library.written = []
    producer = Producer("nowhere:9", "test")
    told: list[Exception | None] = []
    producer.send("t", b"k", b"old", [], told.append, lambda: False)
    producer.send("t", b"k", b"new", [], told.append)
    assert Library.written == [b"new"] and len(made) == 1
    assert isinstance(told[0], StoreUnavailable)


def test_a_topic_that_lost_a_partition_costs_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library calls that a wrong value, also where its metadata has just been exchanged under it: a fill would be given up."""

    class Shrunk(Library):
        count = 12

        def partitions_for(self, topic: str) -> set[int]:
            return set(range(self.count))

        def send(self, topic: str, *, value: bytes, **where: Any) -> Any:
            if where["partition"] >= self.count:
                raise ValueError(f"Unrecognized partition {where['partition']} for topic {topic}")
            return super().send(topic, value=value, **where)

    monkeypatch.setattr(kafka_io, "KafkaProducer", Shrunk)
    Library.written = []
    producer = Producer("nowhere:9", "test").prepare(["t"])
    told: list[Exception | None] = []
    keys = [b"account%d" % n for n in range(20)]
    for key in keys:
        producer.send("t", key, b"first", [], told.append)
    monkeypatch.setattr(Shrunk, "count", 1)
    for _ in range(2):
        for key in keys:
            producer.send("t", key, key, [], told.append)
    assert set(keys) <= set(Library.written)
    assert told and all(isinstance(error, StoreUnavailable) for error in told)


def test_what_a_client_says_of_others_after_its_own_end_is_no_verdict_on_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """One record was too large for the topic. The library then reports the same of each that waited behind it, and of any later
    one: every fill of the worker would have been given up as too large."""

    class Told(Library):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config)
            self.reports: list[Any] = []
            clients.append(self)

        def add_errback(self, *told: Any) -> None:
            self.reports.append(told)

    clients: list[Any] = []
    monkeypatch.setattr(kafka_io, "KafkaProducer", Told)
    monkeypatch.setattr(Producer, "_drop", lambda self, timeout_s: None)
    Library.written = []
    producer = Producer("nowhere:9", "test")
    told: dict[bytes, Exception | None] = {}
    for value in (b"large", b"fill1", b"fill2"):
        producer.send("t", b"k", value, [], lambda error, value=value: told.__setitem__(value, error))
    (old,) = clients
    for call, *values in old.reports[:2]:
        call(*values, kafka_errors.MessageSizeTooLargeError())
    producer.send("t", b"k", b"fill3", [], lambda error: None)
    call, *values = old.reports[2]
    call(*values, kafka_errors.MessageSizeTooLargeError())  # late
    assert isinstance(told[b"large"], kafka_io.RecordRefused)
    assert isinstance(told[b"fill1"], StoreUnavailable) and isinstance(told[b"fill2"], StoreUnavailable)
    producer.send("t", b"k", b"fill4", [], lambda error: None)
    assert len(clients) == 2, "a new client, once"


def test_an_abort_is_not_forgotten_for_what_an_older_client_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """They come from different threads: what the sender of an older client reports says nothing about the new one."""

    class Told(Library):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config)
            clients.append(self)
            self._sender = SimpleNamespace(force_close=lambda: None)

        def add_errback(self, *told: Any) -> None:
            reports.append(told)

    class Watched(Producer):
        """Aborted, by another thread, between the old sender's look at `_broken` and whatever it makes of it."""

        between = False

        @property
        def _broken(self) -> bool:
            seen = self.__dict__.get("_is_broken", False)
            if self.between:
                self.between = False
                self.abort()
            return bool(seen)

        @_broken.setter
        def _broken(self, value: bool) -> None:
            self.__dict__["_is_broken"] = value

    clients: list[Any] = []
    reports: list[Any] = []
    monkeypatch.setattr(kafka_io, "KafkaProducer", Told)
    monkeypatch.setattr(Producer, "_drop", lambda self, timeout_s: None)
    producer = Watched("nowhere:9", "test")
    producer.send("t", b"k", b"1", [], lambda error: None)
    producer.abort()
    producer.send("t", b"k", b"2", [], lambda error: None)
    producer.between = True
    call, *values = reports[0]
    call(*values, kafka_errors.IllegalStateError("closed forcefully"))
    assert producer.between or producer.__dict__["_is_broken"], "never looked at, or kept"
