"""A whole fleet with its broker stopped for minutes, then ledger against Kafka against Postgres.

In: options. Out: figures. Feasible on the documented limits is what the exchange lets be read back: what an account did while
Kafka was away costs weight by pages, and what it costs at least, it costs per account. `recovery` shows how it goes.
"""

from __future__ import annotations

import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from typing import Any

import msgspec

from fleet.core.errors import StoreUnavailable
from fleet.core.names import USER_TOPICS
from fleet.demo.options import Options
from fleet.demo.place import METRICS_OFFSET_OF_WORKERS
from fleet.demo.run import Demo
from fleet.runtime.kafka_io import Consumer
from tests.campaigns.loss.campaign import GAPS, Campaign
from tests.campaigns.loss.judge import compare, of_events, of_ledger

MIB = 1024 * 1024
BEFORE_S, AFTER_S = 10.0, 5.0
SAY_EVERY_S = 10.0


class SmallBuffers(Demo):
    """A demo's surroundings, and settings of the campaign's own."""

    buffer_bytes = 0

    def patience(self) -> dict[str, str]:
        return {"FLEET_BUFFER_BYTES": str(self.buffer_bytes)}


class Away(Campaign):
    """One outage. Everything it starts is put on `stack`."""

    def __init__(self, options: Options, buffer_bytes: int, recover_s: float, stack: ExitStack) -> None:
        super().__init__(options, 0.0, stack)
        demo = SmallBuffers(options, self.screen, self.demo.interrupts, stack)
        demo.buffer_bytes = buffer_bytes
        self.demo = demo
        self.buffer_bytes, self.recover_s = buffer_bytes, recover_s
        self.rss_mb: dict[str, dict[str, float]] = {"before": {}, "away": {}, "after": {}}
        self.buffered = 0  # most bytes waiting in one worker
        self._said_s = 0.0

    def outage(self) -> dict[str, Any]:
        self.start()
        try:
            self.control.load(self.options.rate, BEFORE_S + self.length_s + AFTER_S)
            self._watch("before", BEFORE_S)
            before = self._user_rows()
            began = time.monotonic()
            self.services.kafka.stop()
            self.screen.note("Kafka is stopped")
            self._watch("away", self.length_s)
            made = self._user_rows() - before
            away_s = time.monotonic() - began
            weight, calls = self._weight_in_all(), self._calls()
            self.services.kafka.start(60.0)
            self.screen.note(f"Kafka is back after {away_s:.0f} s")
            self._watch("after", AFTER_S)
            recovered_s = self._recover()
            spent = {
                "weight_to_recover": self._weight_in_all() - weight,
                "calls_to_recover": dict(self._calls() - calls),
            }
            return {"away_s": round(away_s, 1), "recovered_s": recovered_s, **spent, **self._figures(made, away_s)}
        finally:
            self.control.load(0.0, 0.0)

    # ── while it is away, and afterwards ─────────────────────────────────────────────────────────────────────────
    def _watch(self, phase: str, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._sample(phase)
            self._say(phase, f"at most {self.buffered / MIB:.1f} MiB wait in a worker")
            time.sleep(min(1.0, max(0.0, end - time.monotonic())))

    def _sample(self, phase: str) -> None:
        most = self.rss_mb[phase]
        for row in self.fleet.usage():
            most[row.program] = max(most.get(row.program, 0.0), row.rss_mb)
        self.buffered = max([self.buffered, *map(int, self._gauges("fleet_buffer_bytes"))])

    def _recover(self) -> float:
        """Until nothing is outstanding, or `recover_s` passed; the seconds it took."""
        began = time.monotonic()
        while (waiting := self.outstanding()) and (took := time.monotonic() - began) < self.recover_s:
            self._sample("after")
            self._say("recovery", f"{', '.join(waiting)}; {self._weight()} weight this minute; {self._expected(took)}")
            time.sleep(2.0)
        return round(time.monotonic() - began, 1)

    def _expected(self, took_s: float) -> str:
        """How long the rest will take, by the gaps closed so far."""
        with suppress(StoreUnavailable):
            gaps = [gap["closed_at"] is not None for gap in self.pg.fetch(GAPS) if gap["reason"] == "kafka"]
            if any(gaps):
                return f"{sum(gaps)} of {len(gaps)} gaps closed, the rest in about {took_s * gaps.count(False) / sum(gaps):.0f} s"
        return "no gap closed yet"

    def _say(self, phase: str, text: str) -> None:
        if time.monotonic() - self._said_s >= SAY_EVERY_S:
            self._said_s = time.monotonic()
            self.screen.note(f"{phase}: {text}")

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _gauges(self, name: str) -> list[float]:
        """Of each worker that answers."""
        found = []
        for number in range(self.options.workers):
            port = self.settings.metrics_base_port + METRICS_OFFSET_OF_WORKERS + number
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
                lines = reply.read().decode().splitlines()
                found.append(sum(float(x.rpartition(" ")[2]) for x in lines if x.startswith((f"{name} ", f"{name}{{"))))
        return found

    def _weight(self) -> int:
        """Spent in the latest minute, the most of one address."""
        rows = self.control.calls()["weight_per_minute"]
        newest = max((row["minute"] for row in rows), default=0)
        return max((row["weight"] for row in rows if row["minute"] == newest), default=0)

    def _weight_in_all(self) -> int:
        return sum(row["weight"] for row in self.control.calls()["weight_per_minute"])

    def _calls(self) -> Counter[str]:
        """REST calls so far, by path."""
        calls: Counter[str] = Counter()
        for row in self.control.calls()["rest"]:
            calls[row["path"]] += row["count"]
        return calls

    def _user_rows(self) -> Counter[str]:
        """The ledger's rows of accounts, by type."""
        self.rows += self.control.ledger(self.rows[-1]["seq"] if self.rows else 0, market=False)
        return Counter(row["type"] for row in self.rows)

    def _figures(self, made: Counter[str], away_s: float) -> dict[str, Any]:
        calls, gaps = self.control.calls(), self.pg.fetch(GAPS)
        in_kafka = compare(of_ledger(self.rows, self.keys), of_events(self._events()))
        verdict = self.verdict()
        spent: dict[str, int] = {}
        for row in calls["weight_per_minute"]:
            name = f"{row['exchange']}:{row['market']} {row['ip']}"
            spent[name] = max(spent.get(name, 0), row["weight"])
        return {
            "accounts": len(self.keys), "workers": self.options.workers, "made_while_away": dict(made),
            "user_rows_per_s": round(made.total() / away_s, 1), "buffer_limit_bytes": self.buffer_bytes,
            "buffer_bytes_max": self.buffered, "rss_mb": self.rss_mb,
            "fills": {"ledger": verdict.fills.ledger, "kafka": in_kafka.fills.stored, "postgres": verdict.fills.stored},
            "outstanding_in_kafka": in_kafka.outstanding(), "outstanding_in_postgres": verdict.outstanding(),
            "still_waiting": self.outstanding(),
            "examples": [*in_kafka.fills.examples, *verdict.fills.examples][:5],
            "gaps": {"kafka": sum(g["reason"] == "kafka" for g in gaps), "all": len(gaps),
                     "unrecoverable": sum(not g["recoverable"] for g in gaps)},
            "weight_per_min_max": spent,
            "refused": sum(row["count"] for row in calls["rest"] if row["status"] in (418, 429)),
        }  # fmt: skip

    def _events(self) -> list[dict[str, Any]]:
        consumer = Consumer(self.settings.kafka_bootstrap, None, USER_TOPICS)
        found: list[dict[str, Any]] = []
        while page := consumer.poll(2.0, 20_000):
            found += [msgspec.json.decode(record.value) for record in page if record.value]
        consumer.close()
        return found


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    most = figures["buffer_limit_bytes"] + 64 * 1024
    wrong = [figures["outstanding_in_kafka"] and f"Kafka: {figures['outstanding_in_kafka']}"]
    wrong += [figures["outstanding_in_postgres"] and f"Postgres: {figures['outstanding_in_postgres']}"]
    wrong += figures["still_waiting"]
    wrong += (
        [f"{figures['buffer_bytes_max']} bytes in a buffer of {most}"] if figures["buffer_bytes_max"] > most else []
    )
    overflowed = figures["buffer_bytes_max"] >= figures["buffer_limit_bytes"]
    wrong += ["events were dropped and no gap was told"] if overflowed and not figures["gaps"]["kafka"] else []
    wrong += ["nothing happened while Kafka was away"] if not figures["made_while_away"].get("fill") else []
    wrong += [f"{figures['refused']} calls beyond the weight limit"] if figures["refused"] else []
    for program, after in figures["rss_mb"]["away"].items():
        before = figures["rss_mb"]["before"].get(program, after)
        if after - before > bound_mb(figures["buffer_limit_bytes"]):
            wrong.append(f"{program} grew by {after - before:.0f} MiB")
    return [what for what in wrong if what]


def bound_mb(buffer_bytes: int) -> float:
    """What a process may grow by while Kafka is away: its buffer as Python objects, and the client's batches of it."""
    return 40.0 + 6.0 * buffer_bytes / MIB


def run(options: Options, buffer_bytes: int, recover_s: float) -> dict[str, Any]:
    with ExitStack() as stack:
        campaign = Away(options, buffer_bytes, recover_s, stack)
        figures = campaign.outage()
        problems = campaign.fleet.stop()
    found = [*verdict(figures), *problems]
    return {**figures, "wrong": found}
