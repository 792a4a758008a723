"""The demo's report: what contracts.md calls "Demo report (JSON)". In: numbers; out: JSON and the demo's exit code."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Fills(msgspec.Struct):
    """`ledger`: fills the simulator made. `kafka_unique`, `postgres`: how many of them arrived there. `missing`: those absent
    from either. `from_rest`: those that a read-back told first."""

    ledger: int = 0
    kafka_unique: int = 0
    postgres: int = 0
    missing: int = 0
    from_rest: int = 0


class MarketTopic(msgspec.Struct):
    """`sent`: events the simulator wrote to a market socket that lived long enough to be read. `kafka`, `clickhouse`: distinct
    events there. `missing`: those sent but not in Kafka, plus those in Kafka but not in ClickHouse. `with_socket`: events
    written in a socket's last moments, which went down with it (not in `sent`; reported for honesty)."""

    sent: int = 0
    kafka: int = 0
    clickhouse: int = 0
    missing: int = 0
    with_socket: int = 0


class Percentiles(msgspec.Struct):
    """Milliseconds."""

    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


class Latency(msgspec.Struct):
    """`event_to_kafka`: from the exchange's event time to the Kafka record's timestamp, of user events told by a socket."""

    event_to_kafka: Percentiles = msgspec.field(default_factory=Percentiles)


class Gaps(msgspec.Struct):
    """Rows of stream_gaps; `max_s` is the longest closed one."""

    opened: int = 0
    closed: int = 0
    unrecoverable: int = 0
    max_s: float = 0.0


class Dials(msgspec.Struct):
    """WebSocket handshakes the simulator saw; everything comes from one loopback address."""

    total: int = 0
    max_per_5min_per_ip: int = 0


class Process(msgspec.Struct):
    """One process of the fleet just before it was told to stop."""

    program: str
    pid: int
    rss_mb: float
    cpu_s: float


class Report(msgspec.Struct):
    """Everything the demo has to say. `problems` explains in words whatever makes it fail."""

    seconds: float
    accounts: int
    workers: int
    exchanges: list[str]
    broker: str
    events: dict[str, int] = {}
    fills: Fills = msgspec.field(default_factory=Fills)
    double_streamed: int = 0
    market: dict[str, MarketTopic] = {}
    latency_ms: Latency = msgspec.field(default_factory=Latency)
    gaps: Gaps = msgspec.field(default_factory=Gaps)
    reconnects: int = 0
    dials: Dials = msgspec.field(default_factory=Dials)
    faults: dict[str, int] = {}
    replay: dict[str, int] = {}  # with --replay: frames in the captures, by topic
    processes: list[Process] = []
    clean_shutdown: bool = False
    problems: list[str] = []

    @property
    def exit_code(self) -> int:
        """1 if anything is missing or was streamed twice, else 0 (contracts.md)."""
        missing = self.fills.missing or any(topic.missing for topic in self.market.values())
        return 1 if missing or self.double_streamed else 0

    def write(self, path: Path) -> None:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")
