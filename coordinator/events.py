"""One `fleet.streams` record per ownership move, and per quarantine that begins or ends.

In: moves from the leader's loop. Out: Kafka, key = account id. Runs on its own thread of the coordinator: while Kafka is
away the newest moves wait in a bounded queue; older ones are dropped and counted. Nothing depends on these records.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import msgspec

from coordinator.background import Background
from fleet.core.errors import FleetError
from fleet.core.events import StreamEvent
from fleet.core.model import AccountSpec, Ownership, format_token
from fleet.core.names import HEADER_INCARNATION, HEADER_SHARD, HEADER_TOKEN, TOPIC_STREAMS
from fleet.core.plan import Assign
from fleet.runtime.kafka_io import Producer
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics

WAITING = 20_000
RETRY_S = 1.0

Record = tuple[bytes, bytes, list[tuple[str, bytes]]]


class Moves(Background):
    """Call `start()`; `put()` never blocks."""

    def __init__(self, producer: Callable[[], Producer], metrics: Metrics) -> None:
        super().__init__("moves")
        self._factory, self._metrics = producer, metrics
        self._queue: queue.Queue[Record | None] = queue.Queue(WAITING)
        self._log = get("events")

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        self._offer(None)  # it may be waiting for something to send
        super().stop(timeout_s)

    def put(self, assign: Assign, record: Ownership, spec: AccountSpec | None, now_ms: int) -> None:
        self._offer(encode(assign, record, spec, now_ms))

    def told(
        self, account_id: str, event: str, reason: str, spec: AccountSpec | None, now_ms: int, incident: str
    ) -> None:
        """Something else about an account that people and programs should hear of."""
        told = _event(account_id, event, incident, reason, spec, now_ms)
        self._offer((account_id.encode(), msgspec.json.encode(told), []))

    def _offer(self, record: Record | None) -> None:
        while True:
            try:
                self._queue.put_nowait(record)
                return
            except queue.Full:
                self._drop_oldest()

    def _drop_oldest(self) -> None:
        try:
            self._queue.get_nowait()
            self._metrics.dropped("moved").inc()
        except queue.Empty:
            return

    def _run(self) -> None:
        producer: Producer | None = None
        while (record := self._queue.get()) is not None:
            while not self._stop.is_set():
                try:
                    producer = producer or self._factory()
                    key, value, headers = record
                    producer.send(TOPIC_STREAMS, key, value, headers, self._sent)
                    break
                except FleetError as error:
                    self._log.warning("move not announced yet", action="kafka", error=str(error))
                    self._stop.wait(RETRY_S)
        if producer is not None:
            try:
                producer.close(1.0)
            except FleetError as error:
                self._log.warning("moves left unannounced", action="kafka", error=str(error))

    def _sent(self, error: Exception | None) -> None:
        if error is not None:
            self._metrics.dropped("moved").inc()


def encode(assign: Assign, record: Ownership, spec: AccountSpec | None, now_ms: int) -> Record:
    """(key, value, headers) of one move; the id follows from account and token, so a repeat is recognised."""
    account_id = assign.account_id
    data = {
        "from": assign.expected.slot if assign.expected else "",
        "to": record.slot,
        "incarnation": record.incarnation,
        "token": format_token(record.token),
        "egress_ip": record.egress_ip,
    }
    event = _event(account_id, "moved", f"{account_id}:{record.token}", assign.reason, spec, now_ms, data)
    headers = [
        (HEADER_TOKEN, format_token(record.token).encode()),
        (HEADER_SHARD, record.slot.encode()),
        (HEADER_INCARNATION, record.incarnation.encode()),
    ]
    return account_id.encode(), msgspec.json.encode(event), headers


def _event(
    account_id: str,
    event: str,
    incident: str,
    reason: str,
    spec: AccountSpec | None,
    now_ms: int,
    data: dict[str, Any] | None = None,
) -> StreamEvent:
    """What happened to an account; `incident` tells it from the same event of another time."""
    return StreamEvent(
        id=f"{event}:{incident}",
        exchange=spec.exchange if spec else "",
        market=spec.market if spec else "",
        symbol="",
        ts_event=now_ms,
        ts_recv=now_ms,
        stream=account_id,
        event=event,
        reason=reason,
        account_id=account_id,
        data=data or {},
    )
