"""Everything the demo looks at while the fleet runs: ledger, Kafka, Redis, Postgres, processes. Called by one thread.

In: open stores. Out: counts, the picture for the display, what is still outstanding. It is also what chaos acts upon.
"""

from __future__ import annotations

import signal
import time
from typing import Any

from fleet.core.errors import StoreUnavailable
from fleet.core.names import MARKET_TOPICS, TOPIC_STREAMS, USER_TOPICS
from fleet.demo import children
from fleet.demo.display import Picture, Row
from fleet.demo.ledger import FillKey, Ledger
from fleet.demo.simulated import Control
from fleet.demo.supervised import Supervised
from fleet.demo.tally import Tally
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.kafka_io import Consumer
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.settings import Settings

SLOW_EVERY_S = 1.0
POLL_RECORDS = 5000
DRAIN_S = 30.0
LAG_GROUPS = {"postgres": (*USER_TOPICS, TOPIC_STREAMS), "clickhouse": MARKET_TOPICS}
OPEN_GAPS = "SELECT count(*) AS n FROM stream_gaps WHERE closed_at IS NULL"
FILLS = "SELECT exchange, market, account_id::text AS account_id, symbol, trade_id, order_id FROM fills"


class Watch:
    """Feed it by `step()`; it does the expensive things once a SLOW_EVERY_S."""

    def __init__(
        self,
        settings: Settings,
        control: Control,
        fleet: Supervised,
        store: RedisStore,
        pg: Postgres,
        keys: dict[str, str],
    ) -> None:
        self.settings = settings
        self.control = control
        self.keys = keys  # API key → account id
        self.ledger = Ledger()
        self.tally = Tally()
        self.faults: dict[str, int] = {}
        self.replay: dict[str, int] = {}  # frames in the captures, by topic
        self.live = 0
        self.reconnects = 0
        self.connections: list[dict[str, Any]] = []
        self.calls: dict[str, Any] = {}
        self._fleet = fleet
        self._view = FleetView(store, settings.dead_after_s)
        self._pg = pg
        self._consumer = Consumer(settings.kafka_bootstrap, None, (*USER_TOPICS, TOPIC_STREAMS, *MARKET_TOPICS))
        self._next_slow = 0.0
        self._open_gaps = 0
        self._shards: list[dict[str, Any]] = []
        self._rates: dict[str, float] = {}
        self._rated: tuple[float, dict[str, int]] = (time.monotonic(), {})

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────
    def step(self) -> None:
        """Take in what is new. A store that is away for a moment is looked at again next time."""
        try:
            for record in self._consumer.poll(0.05, POLL_RECORDS):
                self.tally.add(record)
            if time.monotonic() >= self._next_slow:
                self._next_slow = time.monotonic() + SLOW_EVERY_S
                self.ledger.add(self.control.ledger(self.ledger.seq))
                self._shards = self._view.shards()
                self.live = len(self._view.live())
                self._open_gaps = int(self._pg.fetch(OPEN_GAPS)[0]["n"])
                self._rate()
        except StoreUnavailable:
            self._next_slow = time.monotonic() + SLOW_EVERY_S

    def picture(self, elapsed_s: float, length_s: float | None) -> Picture:
        p50, p99, _ = percentiles(self.tally.latencies_ms[-5000:])
        return Picture(
            elapsed_s=elapsed_s,
            length_s=length_s,
            accounts=len(self.keys),
            live=self.live,
            events=dict(self.tally.events),
            rates=self._rates,
            fills_ledger=len(self.ledger.fills),
            fills_kafka=len(self.tally.fills),
            latency_p50_ms=p50,
            latency_p99_ms=p99,
            open_gaps=self._open_gaps,
            rows=self._rows(),
            console=f"http://127.0.0.1:{self.settings.console_port}",
        )

    def outstanding(self) -> list[str]:
        """What is not where it should end up, in words; empty when all is."""
        self.ledger.add(self.control.ledger(self.ledger.seq))
        open_gaps = int(self._pg.fetch(OPEN_GAPS)[0]["n"])
        fills = self.fills_expected()
        waiting = {
            "fills not in Kafka": len(fills - self.tally.fills.keys()),
            "accounts not live": len(self.keys) - len(self._view.live()),
            "open gaps": open_gaps,
            "recorded frames not replayed": max(0, sum(self.replay.values()) - self.ledger.market_rows()),
        }
        if not any(waiting.values()):
            waiting["fills not in Postgres"] = len(fills - self.fills_in_postgres())
            waiting["records the Postgres sink has not committed"] = self.lag("postgres")
        return [f"{count} {what}" for what, count in waiting.items() if count]

    def fills_expected(self) -> set[FillKey]:
        """The ledger's fills, by account id."""
        return {
            (venue, self.keys[key], symbol, ids) for venue, key, symbol, ids in self.ledger.fills if key in self.keys
        }

    def fills_in_postgres(self) -> set[FillKey]:
        rows = self._pg.fetch(FILLS)
        return {
            (f"{r['exchange']}:{r['market']}", r["account_id"], r["symbol"], f"{r['trade_id']}/{r['order_id']}")
            for r in rows
        }

    def gaps(self) -> list[dict[str, Any]]:
        return self._pg.fetch("SELECT opened_at, closed_at, recoverable FROM stream_gaps")

    def lag(self, sink: str) -> int:
        """Records that a sink has not committed yet."""
        consumer = Consumer(self.settings.kafka_bootstrap, group_of(self.settings, sink), LAG_GROUPS[sink])
        try:
            return sum(consumer.lag().values())
        finally:
            consumer.close()

    def before_stop(self) -> None:
        """What only a running fleet can tell."""
        self.reconnects = sum(report.reconnects for report in self._view.live().values())

    def drain(self) -> None:
        """After the fleet has stopped: the rest of the ledger and of Kafka, and the simulator's own books."""
        self.ledger.add(self.control.ledger(self.ledger.seq))
        self.connections = self.control.connections()
        self.calls = self.control.calls()
        end = time.monotonic() + DRAIN_S
        while time.monotonic() < end and (records := self._consumer.poll(1.0, POLL_RECORDS)):
            for record in records:
                self.tally.add(record)

    def close(self) -> None:
        self._consumer.close()

    # ── what chaos acts upon ─────────────────────────────────────────────────────────────────────────────────────
    def fault(self, body: dict[str, Any]) -> str:
        return self.control.fault(body)

    def heal(self, fault_id: str) -> None:
        self.control.heal(fault_id)

    def api_keys(self) -> list[str]:
        return list(self.keys)

    def pids(self, program: str) -> list[int]:
        return self._fleet.pids(program)

    def signal(self, pid: int, signum: signal.Signals) -> bool:
        return children.send(pid, signum)

    # ── for the picture ──────────────────────────────────────────────────────────────────────────────────────────
    def _rate(self) -> None:
        then, before = self._rated
        now = time.monotonic()
        events = dict(self.tally.events)
        self._rates = {kind: (count - before.get(kind, 0)) / max(now - then, 0.001) for kind, count in events.items()}
        self._rated = (now, events)

    def _rows(self) -> list[Row]:
        accounts = {int(shard["pid"]): f"{shard['live']}/{shard['accounts']}" for shard in self._shards}
        return [
            Row(usage.program, usage.pid, accounts.get(usage.pid, ""), usage.rss_mb) for usage in self._fleet.usage()
        ]


def group_of(settings: Settings, sink: str) -> str:
    """The consumer group of a sink (workers/sinks)."""
    return f"{settings.fleet}.sink_{sink}"


def percentiles(values: list[int]) -> tuple[float, float, float]:
    """(p50, p99, max), zeros for no values."""
    if not values:
        return 0.0, 0.0, 0.0
    ordered = sorted(values)
    return (
        float(ordered[len(ordered) // 2]),
        float(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]),
        float(ordered[-1]),
    )
