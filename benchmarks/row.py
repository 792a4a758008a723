"""From the exchange's write of a user event to its row in Postgres: `python -m benchmarks row`, or alone with options:

    python -m benchmarks.row --rate 500 --accounts 100 --seconds 60

In: the simulator's load on a whole supervised fleet (market data and both sinks included). Out: percentiles in ms, and of each
stage. A row counts from the event time, which the simulator takes as it writes the frame, to the commit of the row's transaction
(`track_commit_timestamp`, to the microsecond, not the insert and not a poll). Postgres writes through to the disk here
(fsync on). Looked at are fills and order_history: their rows are never overwritten, so every event of theirs is in the figure.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fleet.core.names import TOPIC_FILLS, TOPIC_ORDERS
from fleet.runtime.kafka_io import Consumer
from fleet.runtime.postgres import Postgres
from fleet.services import Services
from tests.support.fleet import Fleet, eventually, fresh_env

RATE, ACCOUNTS, SECONDS, WARM_UP_S = 500.0, 100, 60.0, 10.0
TARGET_P99_MS = 250.0
ROWS = """
SELECT id, ts_event, ts_recv, extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000 AS committed_ms
FROM {table} WHERE ts_event BETWEEN %s AND %s AND source = 'stream'"""
SERVER = {"track_commit_timestamp": "on", "fsync": "on", "full_page_writes": "on"}
Stages = dict[str, list[float]]


class Sent(msgspec.Struct):
    """What identifies an event in its topic."""

    id: str


def measure(rate: float = RATE, accounts: int = ACCOUNTS, seconds: float = SECONDS) -> dict[str, Any]:
    """Percentiles in ms of event → row, and of the stages it is made of."""
    with tempfile.TemporaryDirectory(prefix="bench-row-") as folder:
        directory = Path(folder)
        with Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services:
            _restart_postgres(services)
            with fresh_env(services, directory) as env:  # type: ignore[arg-type]  # the same attributes as SharedServices
                with Fleet(env, directory, workers=2, accounts=accounts) as fleet:
                    fleet.wait_live(accounts, within_s=90.0)
                    stages = _run(fleet, services.kafka.bootstrap, rate, seconds)
    whole = stages["event_to_row"]
    p99 = _percentile(whole, 0.99)
    return {
        "what": f"exchange's event to committed row in Postgres, ms p99 at {rate:g} user events/s over {accounts} accounts",
        "value": p99,
        "p50": _percentile(whole, 0.5),
        "max": round(max(whole), 1),
        "rows": len(whole),
        "stages": {name: _summary(values) for name, values in stages.items()},
        "load_average": [round(x, 1) for x in os.getloadavg()],
        "baseline": 0,
        "baseline_is": "none",
        "target": TARGET_P99_MS,
        "met": p99 <= TARGET_P99_MS,
    }


def _restart_postgres(services: Services) -> None:
    services.postgres.stop()
    services.postgres.settings |= SERVER
    services.postgres.start()


def _run(fleet: Fleet, bootstrap: str, rate: float, seconds: float) -> Stages:
    fleet.control.load(rate, WARM_UP_S + seconds)
    time.sleep(WARM_UP_S)
    began_ms, until_ms = int(time.time() * 1000), int((time.time() + seconds) * 1000)
    time.sleep(seconds)
    eventually(lambda: _newest_ms(fleet.pg) >= until_ms - 2000, 60.0, "the last rows")
    time.sleep(2.0)
    rows = [row for table in ("fills", "order_history") for row in fleet.pg.fetch(
        ROWS.format(table=table), (began_ms, until_ms))]  # fmt: skip
    sent_ms = _sent(bootstrap)
    stages: Stages = {"event_to_row": [], "event_to_socket": [], "socket_to_kafka": [], "kafka_to_row": []}
    for row in rows:
        committed_ms, produced_ms = float(row["committed_ms"]), sent_ms[row["id"]]
        stages["event_to_row"].append(committed_ms - row["ts_event"])
        stages["event_to_socket"].append(row["ts_recv"] - row["ts_event"])
        stages["socket_to_kafka"].append(produced_ms - row["ts_recv"])
        stages["kafka_to_row"].append(committed_ms - produced_ms)
    return stages


def _newest_ms(pg: Postgres) -> int:
    return int(pg.fetch("SELECT coalesce(max(ts_event), 0) AS ms FROM fills")[0]["ms"])


def _sent(bootstrap: str) -> dict[str, int]:
    """Event id → when its first record was handed to the Kafka client."""
    decode = msgspec.json.Decoder(Sent).decode
    found: dict[str, int] = {}
    consumer = Consumer(bootstrap, None, [TOPIC_FILLS, TOPIC_ORDERS])
    while page := consumer.poll(2.0, 10_000):
        for record in page:
            found.setdefault(decode(record.value or b"{}").id, record.timestamp_ms)
    consumer.close()
    return found


def _percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(len(ordered) * share))], 1)


def _summary(values: Sequence[float]) -> dict[str, float]:
    return {"p50": _percentile(values, 0.5), "p99": _percentile(values, 0.99), "max": round(max(values), 1)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rate", type=float, default=RATE, help="user events a second, all accounts")
    parser.add_argument("--accounts", type=int, default=ACCOUNTS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    given = parser.parse_args()
    result = measure(given.rate, given.accounts, given.seconds)
    print(json.dumps(result, indent=1))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
