"""Metrics: counts in, the Prometheus text format out, on one loopback port per process. Used by every process.

The six original metrics keep their names under `namespace`; everything new is `fleet_…`. A method returns the child for
its labels, resolved once and kept. `fleet.console` gathers the ports and re-exports everything with a `shard` label, so
no series here names the process.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TypeVar
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)

from fleet.runtime import logs
from fleet.runtime.settings import WORKER_OFFSET

LOOPBACK = "127.0.0.1"
MAX_CHILDREN = 300  # of one metric; label values beyond it (an exchange inventing event types) become "other"
BIND_RETRY_S = 1.0
GAP_BUCKETS_S = (0.25, 0.5, 1, 2, 3, 5, 10, 15, 30, 60, 120, 300, 900, 3600)
LATENCY_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)

disable_created_metrics()  # type: ignore[no-untyped-call]

AnyMetric = Counter | Gauge | Histogram
Metric = TypeVar("Metric", Counter, Gauge, Histogram)
Family = TypeVar("Family", Counter, Gauge, Histogram)

OFFSETS = {"coordinator": 0, "marketdata": 1, "sink_postgres": 2, "sink_clickhouse": 3, "console": 4}


def port_of(base_port: int, program: str) -> int:
    """The loopback port of a program: its fixed offset, `worker_<n>` = base + 10 + n. Raises KeyError."""
    name, _, number = program.rpartition("_")
    if name == "worker":
        return base_port + WORKER_OFFSET + int(number)
    return base_port + OFFSETS[program]


class Metrics:
    """The metrics of one process, in a registry of their own."""

    def __init__(self, namespace: str = "prometheus") -> None:
        self._namespace = namespace
        self._registry = CollectorRegistry()
        self._children: dict[AnyMetric, dict[tuple[str, ...], AnyMetric]] = {}  # dict calls are atomic: no lock
        ProcessCollector(registry=self._registry)
        own, fleet = self._original, self._fleet
        self._marketdata_reconnects = own(Counter, "marketdata_reconnects", "Market data reconnects", "status")
        self._userdata_connections = own(Gauge, "userdata_connections", "Live user data connections", "exchange")
        self._userdata_reconnects = own(Counter, "userdata_reconnects", "User data reconnects", "exchange", "reason")
        self._hotreload_operations = own(
            Counter,
            "userdata_hotreload_operations",
            "Accounts added and removed while running",
            "operation",
            "exchange",
        )
        self._listenkey_renewals = own(
            Counter, "userdata_listenkey_renewals", "Listen key renewals", "exchange", "status"
        )
        self._reconciliations = own(Counter, "userdata_reconciliations", "Full reloads of accounts", "status")
        self._events = fleet(Counter, "events", "Normalised events published", "type")
        self._frames_unknown = fleet(Counter, "frames_unknown", "Frames of an unknown type", "exchange", "type")
        self._frames_malformed = fleet(Counter, "frames_malformed", "Frames that could not be read", "exchange")
        self._gap_seconds = self._histogram("gap_seconds", "Length of closed gaps", GAP_BUCKETS_S, "exchange")
        self._recovered = fleet(
            Counter, "recovered_events", "Events read back by REST, by gap or audit", "exchange", "by"
        )
        self._open_gaps = fleet(Gauge, "open_gaps", "Streams with an open gap", "exchange")
        self._streams = fleet(Gauge, "streams", "Streams by state", "exchange", "state")
        self._buffer_bytes = fleet(Gauge, "buffer_bytes", "Bytes waiting for Kafka")
        self._dropped = fleet(Counter, "dropped", "Market data events dropped because Kafka was away", "cls")
        self._publish_latency = self._histogram(
            "publish_latency_seconds", "From receipt to Kafka's acknowledgement", LATENCY_BUCKETS_S
        )
        self._rest_calls = fleet(Counter, "rest_calls", "REST calls", "exchange", "status")
        self._weight_used = fleet(
            Gauge, "weight_used", "What the venue last told of request weight used in its window", "exchange"
        )
        self._sink_rows = fleet(Counter, "sink_rows", "Rows written", "sink", "table")
        self._sink_lag = fleet(Gauge, "sink_lag", "Records not yet consumed", "topic")
        self._dead_letters = fleet(Counter, "dead_letters", "Records put aside as unreadable", "sink")
        self._dials = fleet(Counter, "dials", "Attempts to open a socket", "exchange", "outcome")
        self._leader = fleet(Gauge, "leader", "1 where this coordinator leads")
        self._accounts = fleet(Gauge, "accounts", "Accounts by state", "state")
        self._notices = fleet(Counter, "notices", "Notices to users", "status")

    def _original(self, kind: type[Family], name: str, text: str, *labels: str) -> Family:
        return kind(name, text, labels, namespace=self._namespace, registry=self._registry)

    def _fleet(self, kind: type[Family], name: str, text: str, *labels: str) -> Family:
        return kind(name, text, labels, namespace="fleet", registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, namespace="fleet", registry=self._registry, buckets=buckets)

    def _child(self, metric: Metric, *values: str) -> Metric:
        family = self._children.get(metric)
        if family is None:
            family = self._children.setdefault(metric, {})
        child = family.get(values)
        if child is None:
            if len(family) >= MAX_CHILDREN:
                values = ("other",) * len(values)
            child = family.setdefault(values, metric.labels(*values))
        return child  # type: ignore[return-value]  # a family holds children of its own kind

    # ── the six originals ────────────────────────────────────────────────────────────────────────────────────────
    def marketdata_reconnects(self, status: str) -> Counter:
        """status: success | failed."""
        return self._child(self._marketdata_reconnects, status)

    def userdata_connections(self, exchange: str) -> Gauge:
        """Equals the live sockets at all times: set it from the streams' states, or inc and dec in one place."""
        return self._child(self._userdata_connections, exchange)

    def userdata_reconnects(self, exchange: str, reason: str) -> Counter:
        """reason: a word from a fixed set (cut, timeout, rotation, …), never a message."""
        return self._child(self._userdata_reconnects, exchange, reason)

    def hotreload_operations(self, operation: str, exchange: str) -> Counter:
        """operation: add | remove."""
        return self._child(self._hotreload_operations, operation, exchange)

    def listenkey_renewals(self, exchange: str, status: str) -> Counter:
        """status: success | error."""
        return self._child(self._listenkey_renewals, exchange, status)

    def reconciliations(self, status: str) -> Counter:
        """status: success | error."""
        return self._child(self._reconciliations, status)

    # ── fleet_… ──────────────────────────────────────────────────────────────────────────────────────────────────
    def events(self, type: str) -> Counter:
        return self._child(self._events, type)

    def frames_unknown(self, exchange: str, type: str) -> Counter:
        return self._child(self._frames_unknown, exchange, type)

    def frames_malformed(self, exchange: str) -> Counter:
        return self._child(self._frames_malformed, exchange)

    def gap_seconds(self, exchange: str) -> Histogram:
        return self._child(self._gap_seconds, exchange)

    def recovered(self, exchange: str, by: str) -> Counter:
        return self._child(self._recovered, exchange, by)

    def open_gaps(self, exchange: str) -> Gauge:
        return self._child(self._open_gaps, exchange)

    def streams(self, exchange: str, state: str) -> Gauge:
        return self._child(self._streams, exchange, state)

    def buffer_bytes(self) -> Gauge:
        return self._buffer_bytes

    def dropped(self, cls: str) -> Counter:
        """cls: the class of market data (ticker, depth, kline, trade, …)."""
        return self._child(self._dropped, cls)

    def publish_latency(self) -> Histogram:
        return self._publish_latency

    def rest_calls(self, exchange: str, status: str) -> Counter:
        """status: the HTTP status, or `failed` where there was none."""
        return self._child(self._rest_calls, exchange, status)

    def weight_used(self, exchange: str) -> Gauge:
        """By whomever behind this address; of the addresses of one process the one that called last."""
        return self._child(self._weight_used, exchange)

    def sink_rows(self, sink: str, table: str) -> Counter:
        return self._child(self._sink_rows, sink, table)

    def sink_lag(self, topic: str) -> Gauge:
        return self._child(self._sink_lag, topic)

    def dead_letters(self, sink: str) -> Counter:
        return self._child(self._dead_letters, sink)

    def dials(self, exchange: str, outcome: str) -> Counter:
        """outcome: opened | refused | failed."""
        return self._child(self._dials, exchange, outcome)

    def leader(self) -> Gauge:
        return self._leader

    def accounts(self, state: str) -> Gauge:
        return self._child(self._accounts, state)

    def notices(self, status: str) -> Counter:
        """status: sent | skipped | failed."""
        return self._child(self._notices, status)

    # ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────
    def render(self) -> bytes:
        """The Prometheus text format."""
        return generate_latest(self._registry)

    def serve(self, port: int) -> Callable[[], None]:
        """Serve /metrics on 127.0.0.1:`port`; the function that stops it.

        A port still held by a dying predecessor never keeps a process from starting: binding is tried again every second
        by a thread of its own.
        """
        stop = threading.Event()
        opened: list[tuple[WSGIServer, threading.Thread]] = []

        def bind() -> bool:
            try:
                opened.append(start_http_server(port, LOOPBACK, self._registry))
            except OSError as error:
                if not stop.is_set():
                    logs.get(__name__).warning("metrics port is not free yet", port=port, error=error.strerror)
                return False
            return True

        def keep_trying() -> None:
            while not stop.wait(BIND_RETRY_S) and not bind():
                pass

        retry = threading.Thread(target=keep_trying, name="metrics-bind", daemon=True)
        if not bind():
            retry.start()

        def close() -> None:
            stop.set()
            if retry.ident is not None:
                retry.join(BIND_RETRY_S * 2)
            for server, thread in opened:
                server.socket.shutdown(socket.SHUT_RDWR)  # wakes its loop, which looks only every 0.5 s whether to stop
                server.shutdown()
                server.server_close()
                thread.join(1)

        return close
