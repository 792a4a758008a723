"""Both sinks killed again and again under load, then the comparison.

In: how long, how fast, how often. Out: figures. The sinks are real processes on real Kafka, Postgres and the embedded engine of
ClickHouse.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fleet.core.names import MARKET_TOPICS, TOPIC_STREAMS, USER_TOPICS
from fleet.runtime import clickhouse
from fleet.runtime.kafka_io import Consumer, KafkaRecord, create_topics
from fleet.runtime.metrics import port_of
from fleet.runtime.postgres import Postgres, migrate
from fleet.services import Services
from tests.campaigns.sinks import reader
from tests.campaigns.sinks.traffic import Traffic
from tests.support.records import wait_until
from tests.support.services import free_ports

SINKS = ("postgres", "clickhouse")
TOPICS = (*USER_TOPICS, TOPIC_STREAMS, *MARKET_TOPICS)
CATCH_UP_S = 120.0
STORED = re.compile(r"^\w*sink_rows_total\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE)
GAPS = """
SELECT id, round(extract(epoch FROM opened_at) * 1000)::bigint AS opened,
       round(extract(epoch FROM closed_at) * 1000)::bigint AS closed, reason, recovered_events, recoverable, stream
FROM stream_gaps"""
SHOWN = 3
Say = Callable[[str], None]


class Sink:
    """One sink process after another."""

    def __init__(self, name: str, env: dict[str, str]) -> None:
        self.name, self._env = name, env
        self.lives = self.fruitless = 0  # fruitless: killed before it stored anything
        self._log = Path(env["FLEET_LOG_DIR"]) / f"sink_{name}.out"
        self._spawn()

    def _spawn(self) -> None:
        self.lives += 1
        with self._log.open("ab") as log:
            command = [sys.executable, "-m", "workers", "sink", self.name]
            self._process = subprocess.Popen(command, env=self._env, stdout=log, stderr=log)

    def kill_and_start(self) -> None:
        """kill -9, and the next one at once, as supervisord would."""
        self.fruitless += not self.stored()
        self._process.kill()
        self._process.wait()
        self._spawn()

    def stored(self) -> float:
        """Rows that this life has stored, 0 while it does not answer yet."""
        port = port_of(int(self._env["FLEET_METRICS_BASE_PORT"]), f"sink_{self.name}")
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=1) as reply:
            return sum(float(n) for n in STORED.findall(reply.read().decode()))
        return 0.0

    def stop(self) -> int:
        self._process.terminate()
        return self._process.wait(30)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


class Campaign:
    """One run on services of its own."""

    def __init__(self, services: Services, directory: Path, say: Say) -> None:
        self.services, self.say = services, say
        (directory / "logs").mkdir()
        self.env = {
            **os.environ, **services.env, "FLEET_NAME": f"sinks{os.getpid()}", "FLEET_LOG_DIR": str(directory / "logs"),
            "FLEET_CLICKHOUSE_DSN": str(directory / "clickhouse"), "FLEET_METRICS_BASE_PORT": str(free_ports(8)),
        }  # fmt: skip
        self.pg = Postgres(services.postgres.dsn, application="campaign", statement_timeout_s=60.0)
        migrate(self.pg)
        create_topics(services.kafka.bootstrap, 4)

    def run(self, seconds: float, every_s: float, rate: float, market_rate: float, seed: int) -> dict[str, Any]:
        traffic = Traffic(self.services.kafka.bootstrap, rate, market_rate, seed)
        sinks: list[Sink] = []
        try:
            traffic.start()
            try:
                first_rows_s = {name: self._first_rows(name, sinks) for name in SINKS}
                self.say(f"from a start to the first rows: {first_rows_s}")
                self._kill(sinks, seconds, every_s, random.Random(seed))
            finally:
                traffic.stop()
            began = time.monotonic()
            behind = self._catch_up()
            caught_up_s = time.monotonic() - began
            codes = {sink.name: sink.stop() for sink in sinks}
        finally:
            for sink in sinks:
                sink.kill()
        return {
            "seconds": seconds, "records": traffic.sent, "not_sent": traffic.failures[:SHOWN],
            "lives": {s.name: s.lives for s in sinks}, "first_rows_s": first_rows_s,
            "fruitless_lives": {s.name: s.fruitless for s in sinks},
            "caught_up_s": round(caught_up_s, 1), "behind": behind, "exit_codes": codes, "tables": self.compare(),
            "dead_letters": self.pg.fetch("SELECT count(*) AS n FROM dead_letter")[0]["n"],
        }  # fmt: skip

    def _first_rows(self, name: str, sinks: list[Sink]) -> float:
        """Start a sink; seconds until it has stored something. A life shorter than that gets nothing done."""
        began = time.monotonic()
        sinks.append(Sink(name, self.env))
        wait_until(sinks[-1].stored, 60.0, f"sink {name} stores", 0.02)
        return round(time.monotonic() - began, 2)

    def _kill(self, sinks: list[Sink], seconds: float, every_s: float, draw: random.Random) -> None:
        """Each sink every `every_s`, at moments that wander."""
        began = time.monotonic()
        due = {sink.name: began + every_s * draw.uniform(0.5, 1.5) for sink in sinks}
        said_s = began
        while (now_s := time.monotonic()) < began + seconds:
            for sink in sinks:
                if now_s >= due[sink.name]:
                    sink.kill_and_start()
                    due[sink.name] = now_s + every_s * draw.uniform(0.7, 1.3)
            if now_s - said_s >= 10.0:
                said_s = now_s
                lives = ", ".join(f"{s.name} {s.lives} lives, {s.fruitless} fruitless" for s in sinks)
                self.say(f"{now_s - began:6.0f} s  {lives}")
            time.sleep(0.02)

    def _catch_up(self) -> int:
        """Until both groups have committed everything; records left after CATCH_UP_S."""
        end = time.monotonic() + CATCH_UP_S
        while (behind := sum(map(self._lag, SINKS))) and time.monotonic() < end:
            time.sleep(0.5)
        return behind

    def _lag(self, name: str) -> int:
        topics = MARKET_TOPICS if name == "clickhouse" else (*USER_TOPICS, TOPIC_STREAMS)
        consumer = Consumer(self.services.kafka.bootstrap, f"{self.env['FLEET_NAME']}.sink_{name}", topics)
        try:
            return sum(consumer.lag().values())
        finally:
            consumer.close()

    # ── comparing ────────────────────────────────────────────────────────────────────────────────────────────────
    def compare(self) -> dict[str, dict[str, Any]]:
        """Per table: rows due, missing, extra, wrong, repeated (ClickHouse: not merged yet), examples."""
        due = reader.replay(self._records())
        found = {**self._user_tables(), **self._market_tables()}
        return {table: difference(due[table], found[table]) for table in due}

    def _records(self) -> list[KafkaRecord]:
        consumer = Consumer(self.services.kafka.bootstrap, None, TOPICS)
        records: list[KafkaRecord] = []
        while page := consumer.poll(2.0, 50_000):
            records += page
        consumer.close()
        return records

    def _user_tables(self) -> dict[str, list[tuple[reader.Row, reader.Row]]]:
        found: dict[str, list[tuple[reader.Row, reader.Row]]] = {}
        for table, names in reader.KEYS.items():
            rows = self.pg.fetch(f"SELECT * FROM {table}")
            for row in rows:
                row["account_id"] = str(row["account_id"])
            found[table] = [(tuple(row[n] for n in names), reader.row_of(table, row)) for row in rows]
        gaps = [tuple(row.values()) for row in self.pg.fetch(GAPS)]
        return {**found, "stream_gaps": [(gap[:1], gap[1:]) for gap in gaps]}

    def _market_tables(self) -> dict[str, list[tuple[reader.Row, reader.Row]]]:
        store = clickhouse.open(self.env["FLEET_CLICKHOUSE_DSN"])
        store.create()
        found = {}
        for table, names in reader.MARKET.items():
            named = ", ".join(f"`{n}`" for n in ("id", *reader.MARKET_OWNER, *names))
            rows = [tuple(map(reader.plain, row.values())) for row in store.query(f"SELECT {named} FROM {table}")]
            found[table] = [(row[:1], row[1:]) for row in rows]
        store.close()
        return found


def difference(due: dict[reader.Row, reader.Row], found: list[tuple[reader.Row, reader.Row]]) -> dict[str, Any]:
    """What differs between the topics' rows and the table's."""
    there = dict(found)
    missing = [key for key in due if key not in there]
    extra = [key for key in there if key not in due]
    wrong = [key for key in due if key in there and due[key] != there[key]]
    examples = [f"missing {due[k]}" for k in missing[:SHOWN]] + [f"extra {there[k]}" for k in extra[:SHOWN]]
    examples += [f"wrong {there[k]}, due {due[k]}" for k in wrong[:SHOWN]]
    counts = {"rows": len(due), "missing": len(missing), "extra": len(extra), "wrong": len(wrong)}
    return {**counts, "repeated": len(found) - len(there), **({"examples": examples} if examples else {})}


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    wrong = [
        f"{table}: {counts[what]} {what}" for table, counts in figures["tables"].items()
        for what in ("missing", "extra", "wrong", "repeated") if counts[what]
    ]  # fmt: skip
    wrong += [f"{table} is empty" for table, counts in figures["tables"].items() if not counts["rows"]]
    wrong += [f"sink {name} exited with {code}" for name, code in figures["exit_codes"].items() if code]
    wrong += [f"{figures['behind']} records behind"] if figures["behind"] else []
    wrong += [f"{figures['dead_letters']} dead letters"] if figures["dead_letters"] else []
    return wrong + [f"not sent: {why}" for why in figures["not_sent"]]
