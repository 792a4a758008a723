"""Everything that reached Kafka, as far as ownership shows in it. In: a broker; out: who published which account, in which order.

One thread reads every user topic and `fleet.streams` and keeps, per record, its place (topic, partition, offset), its headers
(token, incarnation, shard), when the producer made it, and when it arrived here. Runs in the campaign's process.
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from fleet.core.errors import StoreUnavailable
from fleet.core.names import HEADER_INCARNATION, HEADER_SHARD, HEADER_TOKEN, TOPIC_STREAMS, USER_TOPICS
from fleet.runtime.kafka_io import Consumer

POLL_S = 0.05
POLL_RECORDS = 2000


class Line(NamedTuple):
    """One record. `made_ms`: the producer's clock; `seen_ms`: ours, when it was read back. `order` grows with every record."""

    account: str
    topic: str
    partition: int
    offset: int
    token: int
    incarnation: str
    shard: str
    made_ms: int
    seen_ms: int
    event: str  # of fleet.streams; "" for user data
    source: str


class _Body(msgspec.Struct):
    source: str = "stream"
    event: str = ""


class Journal:
    """A context manager; `lines` may be read by anybody, it only grows."""

    def __init__(self, bootstrap: str) -> None:
        self.lines: list[Line] = []
        self.latest: dict[str, Line] = {}  # account → its newest user record
        self._consumer = Consumer(bootstrap, None, (*USER_TOPICS, TOPIC_STREAMS), from_beginning=True)
        self._body = msgspec.json.Decoder(_Body)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                records = self._consumer.poll(POLL_S, POLL_RECORDS)
            except StoreUnavailable:
                self._stop.wait(1.0)
                continue
            seen_ms = int(time.time() * 1000)
            for record in records:
                body = self._body.decode(record.value or b"{}")
                line = Line(
                    (record.key or b"").decode(),
                    record.topic,
                    record.partition,
                    record.offset,
                    int(record.headers.get(HEADER_TOKEN) or 0),
                    record.headers.get(HEADER_INCARNATION, ""),
                    record.headers.get(HEADER_SHARD, ""),
                    record.timestamp_ms,
                    seen_ms,
                    body.event,
                    body.source,
                )
                self.lines.append(line)
                if line.topic != TOPIC_STREAMS:
                    self.latest[line.account] = line
        self._consumer.close()
