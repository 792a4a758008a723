"""The only door to Kafka (kafka-python): a bounded idempotent producer, a consumer with manual commit, topic creation.

In: topic, key, value, headers. Out: acknowledgements by callback; records by `poll`. Used by workers (producer) and sinks
(consumer), `fleet migrate` (topics), demo and tests. Every error leaves as StoreUnavailable (try again, same ids) or
RecordRefused (this record will never be accepted).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka import errors as kafka_errors
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.partitioner.default import murmur2
from kafka.protocol.producer import ProduceRequest
from kafka.structs import OffsetAndMetadata

from fleet.core.errors import FleetError, StoreUnavailable
from fleet.core.names import MARKET_TOPICS, TOPIC_STREAMS, USER_TOPICS
from fleet.runtime.logs import get

Done = Callable[[Exception | None], None]
Headers = list[tuple[str, bytes]]

MAX_BLOCK_S = 3.0  # longest time one call of ours may spend on a broker that is away
DELIVERY_TIMEOUT_S = (
    3600.0  # an accepted record waits this long for its broker: in order, in bounded memory, under one id
)
MAX_PENDING_BYTES = 32 * 1024 * 1024  # accepted and not acknowledged; kafka-python itself has no bound
RECORD_OVERHEAD_BYTES = 512  # what one pending record costs besides its key and value
MISSING_TOPIC_RETRY_S = 1.0
PARTITION_CACHE_SIZE = 100_000
COMMIT_TIMEOUT_S = 3.0
LAG_TIMEOUT_S = 5.0
ENDS_EVERY_S = 30.0
NEW_PARTITIONS_CHECK_S = 30.0
DEFAULT_PARTITIONS = 12

# Payloads at DEBUG, a line per retry at WARNING: callers log transitions instead.
logging.getLogger("kafka").propagate = False
logging.getLogger("kafka").setLevel(logging.CRITICAL)

# Not "invalid" ones: so Kafka calls records that this machine's clock dates over an hour ahead of it. The clock can be set.
_REFUSED = (
    kafka_errors.MessageSizeTooLargeError,
    kafka_errors.RecordListTooLargeError,
)
_FATAL = (  # the KafkaProducer that raised one of these never works again
    kafka_errors.ProducerFencedError,
    kafka_errors.InvalidProducerEpochError,
    kafka_errors.OutOfOrderSequenceNumberError,
    kafka_errors.UnknownProducerIdError,
    kafka_errors.InvalidProducerIdMappingError,
    kafka_errors.AuthorizationError,
    kafka_errors.UnsupportedVersionError,
    kafka_errors.IllegalStateError,
)


class RecordRefused(FleetError):
    """Kafka will never accept this record (too large)."""


class KafkaRecord(NamedTuple):
    """One consumed record; `headers` values are decoded as UTF-8."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: dict[str, str]
    timestamp_ms: int


def _translate(error: BaseException, what: str) -> FleetError:
    if isinstance(error, _REFUSED):
        return RecordRefused(f"{what}: {type(error).__name__}")
    return StoreUnavailable(f"{what}: {type(error).__name__}")


class _GatedClient(KafkaNetClient):  # type: ignore[misc]  # the library has no types
    """Writes no record while `may_send` says no; its batches wait in the KafkaProducer, and go in order once it says yes.

    The gate is asked when a request is about to be written, because what was accepted before a SIGSTOP is written after it."""

    def __init__(self, may_send: Callable[[], bool], **config: Any) -> None:
        super().__init__(**config)
        self._may_send = may_send

    def send(self, node_id: int, request: Any, **kwargs: Any) -> Any:
        if isinstance(request, ProduceRequest) and not self._may_send():
            return Future().failure(kafka_errors.NodeNotReadyError("no lease"))
        return super().send(node_id, request, **kwargs)


class Producer:
    """acks=all, idempotent, lz4; keeps each key's order. `send` and `close` belong to one thread, `flush` to any. Nothing is
    written to Kafka while `may_send` is false (R4); asked per request, in the sender thread.

    A broker that is away, a fenced epoch or a restart makes `done` report StoreUnavailable for what was not acknowledged;
    the caller sends it again under the same event ids. The underlying KafkaProducer is made on the first send, and anew
    after an error that it does not survive.
    """

    def __init__(
        self,
        bootstrap: str,
        client_id: str,
        *,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        may_send: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_send = may_send
        self._bootstrap = bootstrap
        self._client_id = client_id
        self._max_pending_bytes = max_pending_bytes
        self._kafka: Any = None
        self._broken = False  # set by the sender thread: make a new KafkaProducer before the next send
        self._dead: object = None  # the last KafkaProducer that met an error which it does not survive
        self._partitions: dict[tuple[str, bytes], int] = {}
        self._missing_until: dict[str, float] = {}  # topic -> time.monotonic() before which it is not asked for again
        self._closed = False
        self._use = threading.Lock()  # guards sending through _kafka against abort()
        self._changed = threading.Condition()  # guards the next three fields
        self._pending_bytes = 0
        self._round = 0  # every flush starts a round; it waits for the records of earlier rounds only
        self._pending: dict[int, int] = {}  # round -> records not reported yet

    def prepare(self, topics: Sequence[str]) -> Producer:
        """Connect and learn the partitions of `topics`, so that the first record does not wait for it (0.2 s). Raises
        StoreUnavailable."""
        try:
            if self._kafka is None or self._broken:
                self._connect()
            for topic in topics:
                self._partition_count(topic)
        except (kafka_errors.KafkaError, OSError) as error:
            raise StoreUnavailable(f"Kafka: {type(error).__name__}") from error
        return self

    def send(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: Headers,
        done: Done,
        valid: Callable[[], bool] = lambda: True,
    ) -> None:
        """Hand over one record; may block up to MAX_BLOCK_S while Kafka is away. Never raises for Kafka's sake.

        `done(None)` = acknowledged by all replicas; `done(error)` = RecordRefused, or StoreUnavailable (effect unknown).
        It runs in the sender thread (or here, when refused at once) and must only count or enqueue. `valid` is asked last,
        where no `abort` can come between: an abort while this call connects or waits would find nothing to take back.
        """
        try:
            partition = self._partition(topic, key)
        except (kafka_errors.KafkaError, StoreUnavailable, OSError) as error:
            done(error if isinstance(error, StoreUnavailable) else _chained(_translate(error, topic), error))
            return
        size = len(key) + len(value) + RECORD_OVERHEAD_BYTES
        entry = self._enter(size)
        if entry is None:
            done(StoreUnavailable(f"{topic}: {self._max_pending_bytes} bytes are waiting for Kafka"))
            return
        try:
            with self._use:
                if self._broken:  # aborted a moment ago: its thread reports nothing any more
                    raise kafka_errors.IllegalStateError("aborted")
                if not valid():
                    raise kafka_errors.KafkaError("given back")
                kafka = self._kafka
                future = kafka.send(topic, value=value, key=key, headers=headers, partition=partition)
        except (kafka_errors.KafkaError, ValueError, TypeError, AssertionError) as error:
            refused = isinstance(error, TypeError)
            if isinstance(error, ValueError):  # the topic, or this partition of it, is gone from what the client knows
                self._partitions.pop((topic, key), None)
            self._leave(entry, size)
            done(_chained(RecordRefused(f"{topic}: {error}") if refused else self._failed(topic, error), error))
            return
        future.add_callback(self._acknowledged, entry, size, done)
        future.add_errback(self._not_acknowledged, entry, size, done, topic, kafka)

    def pending(self) -> int:
        """Records accepted and neither acknowledged nor reported failed."""
        with self._changed:
            return sum(self._pending.values())

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything sent before this call was acknowledged or reported failed; False after `timeout_s`."""
        with self._changed:
            before = self._round
            self._round += 1
            return self._changed.wait_for(lambda: all(r > before for r in self._pending), timeout_s)

    def abort(self) -> None:
        """Report everything not acknowledged as failed, now; sending goes on over a new KafkaProducer. From any thread.

        For an owner that lost its lease: nothing of it may reach Kafka later. What is on the wire already still may.
        """
        with self._use:
            self._broken = True
            kafka = self._kafka  # the sending thread may be about to drop it
            if kafka is not None:
                kafka._sender.force_close()

    def close(self, timeout_s: float) -> None:
        """Flush, then stop; what is left after `timeout_s` is reported failed."""
        if self._closed:
            return
        self._closed = True
        until = time.monotonic() + timeout_s
        self.flush(max(0.0, timeout_s - 0.5))
        self._drop(max(0.1, until - time.monotonic()))

    # ── below: the sending thread, except where said ─────────────────────────────────────────────────────────────
    def _partition(self, topic: str, key: bytes) -> int:
        if self._kafka is None or self._broken:
            self._connect()
        partition = self._partitions.get((topic, key))
        if partition is None:
            partition = (murmur2(key) & 0x7FFFFFFF) % self._partition_count(topic)  # as Kafka's own default partitioner
            if len(self._partitions) >= PARTITION_CACHE_SIZE:
                self._partitions.clear()
            self._partitions[(topic, key)] = partition
        return partition

    def _partition_count(self, topic: str) -> int:
        now = time.monotonic()
        if self._missing_until.get(topic, 0.0) > now:
            raise StoreUnavailable(f"topic {topic} is missing, or Kafka is away")
        try:
            count = len(self._kafka.partitions_for(topic))
        except kafka_errors.KafkaError as error:
            self._missing_until[topic] = time.monotonic() + MISSING_TOPIC_RETRY_S
            raise StoreUnavailable(f"topic {topic} is missing, or Kafka is away") from error
        self._missing_until.pop(topic, None)
        return count

    def _connect(self) -> None:
        if self._closed:
            raise StoreUnavailable("the producer is closed")
        if self._kafka is not None:
            self._drop(0.5)
        self._kafka = KafkaProducer(
            bootstrap_servers=self._bootstrap.split(","),
            client_id=self._client_id,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
            linger_ms=5,
            batch_size=256 * 1024,
            max_request_size=1024 * 1024,
            max_in_flight_requests_per_connection=5,
            delivery_timeout_ms=int(DELIVERY_TIMEOUT_S * 1000),
            request_timeout_ms=10_000,
            max_block_ms=int(MAX_BLOCK_S * 1000),
            bootstrap_timeout_ms=int(MAX_BLOCK_S * 1000),
            reconnect_backoff_max_ms=1000,
            metadata_max_age_ms=60_000,
            allow_auto_create_topics=False,
            metrics_enabled=False,
            kafka_client=partial(_GatedClient, self._may_send),
        )
        self._broken = False

    def _drop(self, timeout_s: float) -> None:
        """Stop the KafkaProducer and its thread; its unacknowledged records are reported failed."""
        kafka, self._kafka = self._kafka, None
        if kafka is None:
            return
        until = time.monotonic() + timeout_s
        try:
            kafka.close(timeout=timeout_s if self.pending() == 0 else 0)
        except kafka_errors.KafkaError:  # its flush ran out of time and left the sender thread alive
            kafka._sender.force_close()
            kafka._closed = True
        kafka._sender.join(max(0.1, until - time.monotonic()))

    def _enter(self, size: int) -> int | None:
        """Count one record in, waiting for room; its round, or None when there is none within MAX_BLOCK_S."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._has_room(size), MAX_BLOCK_S):
                return None
            self._pending_bytes += size
            self._pending[self._round] = self._pending.get(self._round, 0) + 1
            return self._round

    def _has_room(self, size: int) -> bool:
        return self._pending_bytes == 0 or self._pending_bytes + size <= self._max_pending_bytes

    def _leave(self, entry: int, size: int) -> None:
        """Count one record out (sender thread, or `send` when it was refused at once)."""
        with self._changed:
            self._pending_bytes -= size
            self._pending[entry] -= 1
            if not self._pending[entry]:
                del self._pending[entry]
            self._changed.notify_all()

    def _acknowledged(self, entry: int, size: int, done: Done, _metadata: object) -> None:  # sender thread
        self._leave(entry, size)
        done(None)

    def _not_acknowledged(
        self, entry: int, size: int, done: Done, topic: str, kafka: object, error: Exception
    ) -> None:  # sender thread
        """An idempotent KafkaProducer that met an error which it may not repeat the batch after never works again: it reports
        that error of every other record too, as if those were to blame."""
        self._leave(entry, size)
        if kafka is self._dead:
            done(_chained(StoreUnavailable(f"{topic}: {type(error).__name__} before"), error))
            return
        if not isinstance(error, kafka_errors.RetriableError):
            self._dead = kafka
            if kafka is self._kafka:  # nothing is written else: an abort may come at any time
                self._broken = True
        done(_chained(_translate(error, topic), error))

    def _failed(self, topic: str, error: BaseException) -> FleetError:
        if isinstance(error, _FATAL):
            self._broken = True
        return _translate(error, topic)


def _chained(error: FleetError, cause: BaseException) -> FleetError:
    error.__cause__ = cause
    return error


class Consumer:
    """All partitions of `topics`, for one process; offsets are kept under `group`. Belongs to one thread.

    Partitions are assigned here, not by the group protocol: there is one process per group, so it reads on at once after
    a kill −9 instead of waiting for the dead member's session, and is never thrown out while its store is away. Two of
    them by mistake read the same records twice, which the sinks' idempotency absorbs.
    """

    def __init__(
        self, bootstrap: str, group: str | None, topics: Sequence[str], *, from_beginning: bool = True
    ) -> None:
        """Raises StoreUnavailable while Kafka is away or a topic is missing."""
        self._group = group
        self._topics = tuple(topics)
        self._assigned: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}  # next offset to deliver
        self._uncommitted: dict[TopicPartition, int] = {}  # first offset delivered since the last commit
        self._checked = 0.0
        self._heard = False  # records came since the last look at the lag
        self._asked = 0.0  # time.monotonic() when the brokers were asked for the ends last
        try:
            self._kafka = KafkaConsumer(
                bootstrap_servers=bootstrap.split(","),
                group_id=group,
                enable_auto_commit=False,
                auto_offset_reset="earliest" if from_beginning else "latest",
                fetch_max_wait_ms=100,
                max_partition_fetch_bytes=2 * 1024 * 1024,
                fetch_max_bytes=16 * 1024 * 1024,
                request_timeout_ms=10_000,
                bootstrap_timeout_ms=int(MAX_BLOCK_S * 1000),
                reconnect_backoff_max_ms=1000,
                metadata_max_age_ms=int(NEW_PARTITIONS_CHECK_S * 1000),
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except kafka_errors.KafkaError as error:
            raise _translate(error, "kafka") from error
        try:
            self._assign()
        except FleetError:
            self.close()
            raise

    def poll(self, timeout_s: float, max_records: int) -> list[KafkaRecord]:
        """Next records, in order per partition; [] after `timeout_s`, also while Kafka is away. Raises StoreUnavailable."""
        if time.monotonic() - self._checked > NEW_PARTITIONS_CHECK_S:
            self._assign()
        try:
            batches = self._kafka.poll(timeout_ms=int(timeout_s * 1000), max_records=max_records)
        except kafka_errors.KafkaError as error:
            raise _translate(error, "kafka") from error
        records: list[KafkaRecord] = []
        self._heard = self._heard or bool(batches)
        for partition, batch in batches.items():
            self._look_for_a_hole(partition, batch[0].offset)
            self._uncommitted.setdefault(partition, batch[0].offset)
            self._positions[partition] = batch[-1].offset + 1
            records += [
                KafkaRecord(r.topic, r.partition, r.offset, r.key, r.value, _headers(r.headers), r.timestamp)
                for r in batch
            ]
        return records

    def commit(self) -> None:
        """Commit everything delivered so far. Raises StoreUnavailable; the records then may come again."""
        offsets = {p: OffsetAndMetadata(self._positions[p], "", -1) for p in self._uncommitted}
        if self._group is not None and offsets:
            try:
                self._kafka.commit(offsets, timeout_ms=int(COMMIT_TIMEOUT_S * 1000))
            except kafka_errors.KafkaError as error:
                raise _translate(error, "kafka commit") from error
        self._uncommitted.clear()

    def rewind(self) -> None:
        """Go back to the committed offsets: everything delivered since comes again. Needs no broker."""
        for partition, offset in self._uncommitted.items():
            self._kafka.seek(partition, offset)
            self._positions[partition] = offset
        self._uncommitted.clear()

    def lag(self) -> dict[str, int]:
        """Records per topic not committed yet. Raises StoreUnavailable. While records come, the ends are those the last answers
        told; asking for them, which holds up the records, is left to quiet times and every ENDS_EVERY_S."""
        try:
            ends = self._ends()
            behind = dict.fromkeys(self._topics, 0)
            for partition, end in ends.items():
                position = self._uncommitted.get(partition)
                if position is None:
                    position = self._kafka.position(partition, timeout_ms=int(LAG_TIMEOUT_S * 1000))
                behind[partition.topic] += max(0, end - (end if position is None else position))
        except (kafka_errors.KafkaError, KeyError) as error:  # the library's KeyError: a topic was deleted
            raise _translate(error, "kafka lag") from error
        return behind

    def _ends(self) -> dict[TopicPartition, int]:
        """Partition → offset of its next record."""
        heard, self._heard = self._heard, False
        told = {p: self._kafka.highwater(p) for p in self._assigned} if heard else {}
        if heard and None not in told.values() and time.monotonic() - self._asked < ENDS_EVERY_S:
            return told
        ends: dict[TopicPartition, int] = self._kafka.end_offsets(
            list(self._assigned), timeout_ms=int(LAG_TIMEOUT_S * 1000)
        )
        self._asked = time.monotonic()
        return ends

    def close(self) -> None:
        """Leave without committing."""
        try:
            self._kafka.close(autocommit=False, timeout_ms=1000)
        except kafka_errors.KafkaError as error:
            raise _translate(error, "kafka close") from error

    def _look_for_a_hole(self, partition: TopicPartition, first: int) -> None:
        """Kafka's retention does not ask who has read: after a long stop it goes on at the oldest record, without a word."""
        gone = first - self._positions.get(partition, first)
        if gone > 0:
            get(__name__).error(
                "Kafka removed records before they were read",
                action="lost",
                topic=partition.topic,
                partition=partition.partition,
                offset=first - gone,
                count=gone,
            )

    def _assign(self) -> None:
        """Take every partition of the topics, new ones included; positions of the known ones stay."""
        try:
            found: set[TopicPartition] = set()
            for topic in self._topics:
                partitions = self._kafka.partitions_for_topic(topic)
                if not partitions:
                    raise StoreUnavailable(
                        f"topic {topic} is missing, or Kafka is away (fleet migrate creates the topics)"
                    )
                found |= {TopicPartition(topic, p) for p in partitions}
            if found != self._assigned:
                self._kafka.assign(sorted(found))
                for partition, offset in self._positions.items():
                    self._kafka.seek(partition, offset)
                for partition in found - self._assigned if self._group is not None else ():
                    committed = self._kafka.position(partition, timeout_ms=int(LAG_TIMEOUT_S * 1000))
                    if committed is not None:
                        self._positions[partition] = committed
                self._assigned = found
        except kafka_errors.KafkaError as error:
            raise _translate(error, "kafka") from error
        self._checked = time.monotonic()


def _headers(headers: Sequence[tuple[str, bytes | None]] | None) -> dict[str, str]:
    return {key: (value or b"").decode("utf-8", "replace") for key, value in headers or ()}


def create_topics(bootstrap: str, partitions: int = DEFAULT_PARTITIONS, *, timeout_s: float = 15.0) -> list[str]:
    """Create the topics that do not exist yet, with up to three replicas; returns their names. Raises StoreUnavailable."""
    try:
        admin = KafkaAdminClient(
            bootstrap_servers=bootstrap.split(","),
            client_id="fleet-migrate",
            bootstrap_timeout_ms=int(timeout_s * 1000),
        )
    except kafka_errors.KafkaError as error:
        raise _translate(error, "kafka") from error
    try:
        existing = set(admin.list_topics())
        missing = [t for t in (*USER_TOPICS, TOPIC_STREAMS, *MARKET_TOPICS) if t not in existing]
        if not missing:
            return []
        replicas = min(3, len(admin.describe_cluster()["brokers"]))
        # by Kafka's default of 1 a leader that is left alone acknowledges for "all", and takes what it alone has with it
        kept = {"min.insync.replicas": "2"} if replicas > 2 else {}
        wanted = {t: {"num_partitions": partitions, "replication_factor": replicas, "configs": kept} for t in missing}
        answer = admin.create_topics(wanted, timeout_ms=int(timeout_s * 1000), raise_errors=False)
        for topic in answer["topics"]:
            error_type = kafka_errors.for_code(topic["error_code"])
            if error_type not in (kafka_errors.NoError, kafka_errors.TopicAlreadyExistsError):
                raise StoreUnavailable(f"topic {topic['name']} could not be created: {error_type.__name__}")
        admin.wait_for_topics(missing, timeout_ms=int(timeout_s * 1000))
        return missing
    except kafka_errors.KafkaError as error:
        raise _translate(error, "kafka topics") from error
    finally:
        admin.close()
