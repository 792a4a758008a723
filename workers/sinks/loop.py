"""The one loop of all sinks: poll → store a batch → commit its offsets. Runs in each sink process, on its main thread.

In: records of the sink's topics. Out: rows in its store, dead letters, committed offsets. Offsets are committed only after
the store has the batch, so a crash anywhere repeats a batch; stores are idempotent by event id, so a repeat changes nothing.

Two kinds of trouble are kept apart. The store (or Kafka) being away is waited out with growing pauses, for ever: the loop
goes back to the committed offsets and reads on from there. A record at fault (undecodable, against the schema, against a
constraint) goes to `dead_letter` with the reason and never stops the sink; where the store only says that something in a
batch is at fault, the batch is halved until it is found.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from threading import Event
from typing import Generic, NamedTuple, Protocol, TypeVar

from fleet.core.backoff import delay_s
from fleet.core.errors import FleetError, SettingsError, StoreUnavailable
from fleet.runtime.kafka_io import KafkaRecord
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics

POLL_S = 0.5
LAG_EVERY_S = 2.0
DRAIN_S = 4.0
BACKOFF_FIRST_S = 0.2
BACKOFF_CAP_S = 5.0
REGAINED_IN = 16  # batches after which a batch may be whole again

Item = TypeVar("Item")


class DataRefused(FleetError):
    """The store could not take a batch because of what is in it."""


class DeadLetter(NamedTuple):
    """A record to put aside; `value` is the whole of it, or those of its lines that are at fault."""

    record: KafkaRecord
    value: bytes | None
    reason: str


class Sink(Protocol[Item]):
    """What one store provides. A batch is at most `max_records`, gathered for at most `linger_s`; offsets of stored batches are
    committed every `commit_every_s`, and when nothing more comes."""

    name: str
    topics: tuple[str, ...]
    max_records: int
    linger_s: float
    commit_every_s: float

    def decode(self, record: KafkaRecord) -> tuple[list[Item], DeadLetter | None]:
        """What to store of one record, and what of it is at fault. Raises nothing."""

    def store(self, items: Sequence[Item]) -> dict[str, int]:
        """Store a batch so that a repeat changes nothing; rows per table. Raises DataRefused, or another FleetError to wait."""

    def refused(self, item: Item, reason: str) -> DeadLetter:
        """The dead letter of an item that the store refused alone."""

    def put_aside(self, letters: Sequence[DeadLetter]) -> None:
        """Keep dead letters, idempotently. Raises StoreUnavailable."""

    def rewound(self) -> None:
        """The next records may have been stored before."""

    def close(self) -> None:
        """Let the store go. Raises nothing."""


class Source(Protocol):
    """What of fleet.runtime.kafka_io.Consumer is used here."""

    def poll(self, timeout_s: float, max_records: int) -> list[KafkaRecord]: ...
    def commit(self) -> None: ...
    def lag(self) -> dict[str, int]: ...
    def rewind(self) -> None: ...
    def close(self) -> None: ...


class Loop(Generic[Item]):
    """Runs one sink until `stop` is set; it is looked at between two calls of the store, each of which has a deadline."""

    def __init__(self, sink: Sink[Item], connect: Callable[[], Source], stop: Event, metrics: Metrics) -> None:
        self._sink, self._connect, self._stop, self._metrics = sink, connect, stop, metrics
        self._source: Source | None = None
        self._log = get(__name__).bind(sink=sink.name)
        self._trouble = ""  # the failure being waited out, "" = none
        self._said, self._failed_s = "", 0.0  # the one that the log told of, and when there was one last
        self._attempt = 0
        self._most = (
            sink.max_records
        )  # of a batch: less after a failure, which may have been a deadline that it was too much for
        self._lag_at_s = time.monotonic()  # of the last look; the first records do not wait for the first one
        self._committed_s = 0.0  # time.monotonic() of the last commit

    def run(self) -> None:
        """Until `stop`. A failure that can pass is logged once, waited out, and logged as over. Raises SettingsError."""
        try:
            while not self._stop.is_set():
                try:
                    source = self._source = self._source or self._connect()
                    behind = self._observe_lag(source)
                    if self.step(source) or behind == 0:
                        self._over()
                except SettingsError:
                    raise  # waiting mends none
                except FleetError as error:
                    self._wait_out(error)
            self._drain()
        finally:
            self._close()

    def step(self, source: Source) -> int:
        """One batch: poll, store, put aside, commit if it is time; the number of records. Raises what the store or Kafka raised."""
        records = self._gather(source)
        if not records:
            self._commit(source)
            return 0
        items: list[Item] = []
        letters: list[DeadLetter] = []
        for record in records:
            good, letter = self._sink.decode(record)
            items += good
            if letter is not None:
                letters.append(letter)
        self._store(items, letters)
        if letters:
            self._put_aside(_one_per_record(letters))
        if time.monotonic() - self._committed_s >= self._sink.commit_every_s:
            self._commit(source)
        self._most = min(self._sink.max_records, self._most + max(1, self._sink.max_records // REGAINED_IN))
        return len(records)

    def _commit(self, source: Source) -> None:
        """Everything delivered so far is stored."""
        source.commit()
        self._committed_s = time.monotonic()

    def _drain(self) -> None:
        """Stopping: what the publishers sent before they stopped is stored too, while it flows and for DRAIN_S at most. What
        is left after that, or when the store is away, waits in Kafka for the next start."""
        until_s = time.monotonic() + DRAIN_S
        try:
            while not self._trouble and self._source and time.monotonic() < until_s and self.step(self._source):
                pass
            if not self._trouble and self._source:
                self._commit(self._source)
        except FleetError as error:
            self._log.warning("sink stops before it has caught up", action="drain", error=str(error))

    def _gather(self, source: Source) -> list[KafkaRecord]:
        records = source.poll(POLL_S, self._most)
        linger_s = (
            self._sink.linger_s if self._committed_s else 0.0
        )  # a process that is killed all the time gets somewhere
        until_s = time.monotonic() + linger_s
        while records and len(records) < self._most and not self._stop.is_set():
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            records += source.poll(min(left_s, 0.2), self._most - len(records))
        return records

    def _store(self, items: Sequence[Item], letters: list[DeadLetter]) -> None:
        """Store the batch; halve it where something in it is at fault, until the letters name every item that is."""
        if not items:
            return
        try:
            for table, rows in self._sink.store(items).items():
                self._metrics.sink_rows(self._sink.name, table).inc(rows)
        except DataRefused as error:
            if self._stop.is_set():
                raise StoreUnavailable("stopping while a batch at fault is being halved") from error
            if len(items) == 1:
                letters.append(self._sink.refused(items[0], str(error)))
                return
            half = len(items) // 2
            self._store(items[:half], letters)
            self._store(items[half:], letters)

    def _put_aside(self, letters: Sequence[DeadLetter]) -> None:
        self._sink.put_aside(letters)
        self._metrics.dead_letters(self._sink.name).inc(len(letters))
        first = letters[0]
        self._log.error(
            "records put aside in dead_letter",
            action="dead_letter",
            count=len(letters),
            topic=first.record.topic,
            partition=first.record.partition,
            offset=first.record.offset,
            reason=first.reason,
        )

    def _observe_lag(self, source: Source) -> int | None:
        """Set the lag gauges every LAG_EVERY_S; records behind in all, None between two looks. Raises StoreUnavailable."""
        now_s = time.monotonic()
        if now_s - self._lag_at_s < LAG_EVERY_S:
            return None
        self._lag_at_s = now_s
        self._commit(source)
        behind = source.lag()
        for topic, records in behind.items():
            self._metrics.sink_lag(topic).set(records)
        return sum(behind.values())

    def _wait_out(self, error: FleetError) -> None:
        self._attempt += 1
        self._most = max(1, self._most // 2)
        if str(error) != self._said:
            self._log.warning("sink waits and tries again", action="wait", attempt=self._attempt, error=str(error))
        self._trouble = self._said = str(error)
        self._failed_s = time.monotonic()
        if self._source is not None:
            self._source.rewind()
        self._sink.rewound()
        self._stop.wait(delay_s(self._attempt, random.random, first_s=BACKOFF_FIRST_S, cap_s=BACKOFF_CAP_S))

    def _over(self) -> None:
        """One batch went through. The log says so once all of them do: of a store that refuses one table others still go on."""
        self._trouble, self._attempt = "", 0
        if self._said and time.monotonic() - self._failed_s > LAG_EVERY_S:
            self._log.info("sink goes on", action="resume", after=self._said)
            self._said = ""

    def _close(self) -> None:
        source, self._source = self._source, None
        try:
            if source is not None:
                source.close()
        except FleetError as error:
            self._log.warning("Kafka did not close cleanly", action="close", error=str(error))
        self._sink.close()


def _one_per_record(letters: Sequence[DeadLetter]) -> list[DeadLetter]:
    """Join the letters of one record (several of its lines are at fault): its place in the topic identifies a dead letter."""
    joined: dict[tuple[str, int, int], DeadLetter] = {}
    for letter in letters:
        place = (letter.record.topic, letter.record.partition, letter.record.offset)
        before = joined.get(place)
        if before is not None and before.value is not None and letter.value is not None:
            letter = before._replace(value=before.value + b"\n" + letter.value)
        joined[place] = letter
    return list(joined.values())
