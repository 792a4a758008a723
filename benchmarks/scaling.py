"""What the control plane costs, and what it would at 1,000,000 accounts on 1,000 workers: `python -m benchmarks scaling`, or

    python -m benchmarks.scaling [planner ticks steady churn reading] [--accounts N] [--workers N] [--seconds S] [--cycles N]

In: nothing; own Redis and Postgres are started where they are needed. Out: one JSON object. Planner and ticks are pure
(processor time); steady is read from Redis' and Postgres' own counters with a real coordinator and workers' real control
threads, whose streams are pretended; churn compares Redis before and after; reading (records_read.py) takes all ownership
records from Redis, at once and by pages. docs/scaling.md explains the figures.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.records_read import name_of, reading, records
from fleet.core import observe, wire
from fleet.core.model import AccountSpec, Desired, StreamStatus, WorkerView
from fleet.core.names import Keys
from fleet.core.observe import Standing
from fleet.core.plan import Limits, Plan, Worker, plan
from fleet.runtime.postgres import Postgres, migrate
from fleet.runtime.redis_store import RedisStore, connect
from fleet.runtime.settings import Settings
from fleet.services import Services
from tests.support.churn import Churn, footprint
from tests.support.control import Accounts, ControlledWorker, start_coordinator, wait_for
from tests.support.fleet import fresh_env

PARTS = ("planner", "ticks", "steady", "churn", "reading")
ACCOUNTS, WORKERS, TARGET_S = 1_000_000, 1_000, 3.0
SETTLE_S = 6.0  # of a steady fleet before it is measured: reports of the start have been sent
SIZES = ((200, 2), (1000, 2), (200, 6))  # accounts, workers: so that each one's share can be told


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call, without the garbage collector's."""
    gc.collect()
    gc.disable()
    began = time.process_time()
    call()
    took_s = time.process_time() - began
    gc.enable()
    return round(took_s, 3)


# ── pure ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def planner(accounts: int, workers: int) -> dict[str, Any]:
    """One worker of all is lost."""
    specs = {name_of(n): AccountSpec(name_of(n), "u", "binance", "usdm", "l", False, 1, 0) for n in range(accounts)}
    own = records(accounts, workers)
    room = -(-accounts * 5 // (workers * 4))
    fleet = {f"h{n}:0": Worker(f"h{n}:0", "i1", Standing.UP, f"h{n}", room) for n in range(workers)}
    settled_s = seconds(lambda: plan(specs, own, fleet, Limits()))
    lost = fleet["h0:0"]
    fleet["h0:0"] = Worker(lost.slot, lost.incarnation, Standing.DEAD, lost.host, lost.capacity)
    orphans = sum(record.slot == "h0:0" for record in own.values())
    results: list[Plan] = []
    took_s = seconds(lambda: results.append(plan(specs, own, fleet, Limits())))
    moves = len(results[0].assigns) + len(results[0].releases)
    return {
        "accounts": accounts, "workers": workers, "settled_s": settled_s, "one_lost_s": took_s, "moves": moves,
        "orphans": orphans, "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }  # fmt: skip


def ticks(workers: int) -> list[dict[str, Any]]:
    """The parts of a leader's tick. Each tick: `observe`. After a write to `own`: `read_own` and `plan`."""
    views = {
        f"h{n}:0": wire.pack_worker(WorkerView(f"h{n}:0", "i1", 7, wire.UP, f"h{n}", 1, 1250, 1000.0, 3))
        for n in range(workers)
    }
    rows = []
    for accounts in (10_000, 100_000, 1_000_000):
        own = records(accounts, workers)
        packed = {account: wire.pack_own(record) for account, record in own.items()}
        entry = [Desired(record.token, record.state) for record in own.values()]

        def see() -> None:
            parsed = {slot: wire.parse_worker(slot, fields) for slot, fields in views.items()}
            observe.see({}, parsed, {record.slot for record in own.values()}, 1.0)  # noqa: B023

        rows.append(
            {
                "accounts": accounts,
                "observe_s": seconds(see),
                "read_own_s": seconds(lambda: [wire.parse_own(text) for text in packed.values()]),  # noqa: B023
                "plan_s": planner(accounts, workers)["settled_s"],
                "rebuild_pack_s": seconds(lambda: [(wire.pack_own(o), wire.pack_desired(e)) for o, e in zip(own.values(), entry, strict=True)]),  # noqa: B023, E501
                "own_on_the_wire_bytes": sum(len(a) + len(t) + 12 for a, t in packed.items()),
            }
        )  # fmt: skip
    return rows


# ── on real stores ───────────────────────────────────────────────────────────────────────────────────────────────
def steady(measured_s: float) -> list[dict[str, Any]]:
    """A coordinator and workers that have nothing to do; accounts quiet, or all with an event every second."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        with Services.start(Path(name) / "services", only=("postgres", "redis")) as services:
            for accounts, workers in SIZES:
                with fresh_env(services, Path(name)) as env:  # type: ignore[arg-type]
                    rows += _steady(env, accounts, workers, measured_s)
    return rows


def _steady(env: dict[str, str], accounts: int, slots: int, measured_s: float) -> list[dict[str, Any]]:
    env = os.environ | env | {"FLEET_WORKERS": str(slots)}
    settings = Settings.from_env(env)
    rows = Accounts(settings.postgres_dsn)
    migrate(rows.pg)
    rows.add(accounts)
    workers = [ControlledWorker(settings, f"h:{n}") for n in range(slots)]
    coordinator = start_coordinator(env)
    found = []
    try:
        wait_for(lambda: sum(len(w.running) for w in workers) == accounts, 60.0, f"{accounts} accounts run")
        for talking in (False, True):
            if talking:
                for worker in workers:
                    _talk(worker)
            time.sleep(SETTLE_S)
            found.append({"accounts": accounts, "workers": slots, "talking": talking, **_rates(settings, measured_s)})
    finally:
        for worker in workers:
            worker.kill()
        coordinator.terminate()
        coordinator.wait(20)
        rows.pg.close()
    return found


def _talk(worker: ControlledWorker) -> None:
    """Every account has had an event just now, whenever it is asked."""
    silent = worker.shard.statuses

    def statuses() -> list[StreamStatus]:
        now_ms = int(time.time() * 1000)
        return [msgspec.structs.replace(status, last_event_ms=now_ms) for status in silent()]

    worker.shard.statuses = statuses  # type: ignore[method-assign]


def _rates(settings: Settings, measured_s: float) -> dict[str, Any]:
    keys = Keys(settings.fleet)
    client: Any = connect(settings.redis_url, 5.0, keys.gen)
    pg = Postgres(settings.postgres_dsn, application="scaling")
    before, began = _counters(client, pg), time.monotonic()
    time.sleep(measured_s)
    after, took_s = _counters(client, pg), time.monotonic() - began
    per_s = {name: round((after[name] - before.get(name, 0)) / took_s, 2) for name in after}
    memory = {
        name: client.memory_usage(key, samples=0) or 0
        for name, key in (("own", keys.own), ("desired", keys.desired("h:0")), ("report", keys.report("h:0")),
                          ("worker", keys.worker("h:0")))
    }  # fmt: skip
    client.close()
    pg.close()
    calls = {name: rate for name, rate in per_s.items() if name.startswith("cmd ") and rate and name != "cmd info"}
    return {
        "scripts_per_s": calls.get("cmd evalsha", 0.0), "commands_per_s": calls, "redis_in_bytes_per_s": per_s["in"],
        "redis_out_bytes_per_s": per_s["out"], "postgres_transactions_per_s": per_s["transactions"],
        "memory_bytes": memory,
    }  # fmt: skip


def _counters(client: Any, pg: Postgres) -> dict[str, float]:
    found = {f"cmd {name[len('cmdstat_') :]}": float(row["calls"]) for name, row in client.info("commandstats").items()}
    stats = client.info("stats")
    found |= {"in": float(stats["total_net_input_bytes"]), "out": float(stats["total_net_output_bytes"])}
    row = pg.fetch("SELECT xact_commit + xact_rollback AS n FROM pg_stat_database WHERE datname = current_database()")[
        0
    ]
    return found | {"transactions": float(row["n"])}


def churn(cycles: int) -> dict[str, Any]:
    """Add, remove, move, restart, lose: what Redis holds after `cycles` of each, against the first hundred."""
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        with Services.start(Path(name), only=("redis",)) as services:
            store = RedisStore(services.redis.url, Keys(f"t{uuid.uuid4().hex[:8]}"), 5.0)
            work = Churn(store, accounts=200, workers=10)
            found = []
            for count in (100, cycles):
                for _ in range(count):
                    work.cycle()
                work.level()
                found.append(footprint(store, services.redis.url))
            store.close()
    first, last = found
    growth = last.memory_bytes / first.memory_bytes
    return {
        "cycles": cycles, "keys": [first.keys, last.keys], "fields": [first.fields, last.fields],
        "memory_bytes": [first.memory_bytes, last.memory_bytes], "memory_ratio": round(growth, 3),
    }  # fmt: skip


def measure(
    parts: tuple[str, ...] = PARTS,
    accounts: int = ACCOUNTS,
    workers: int = WORKERS,
    measured_s: float = 20.0,
    cycles: int = 2000,
) -> dict[str, Any]:
    """The figures of the parts wanted; `value` is the planner's, with its target."""
    runs: dict[str, Callable[[], Any]] = {
        "planner": lambda: planner(accounts, workers),
        "ticks": lambda: ticks(workers),
        "steady": lambda: steady(measured_s),
        "churn": lambda: churn(cycles),
        "reading": lambda: reading(workers),
    }
    found: dict[str, Any] = {name: runs[name]() for name in PARTS if name in parts}
    value = found["planner"]["one_lost_s"] if "planner" in found else 0.0
    steady_memory = "churn" not in found or found["churn"]["memory_ratio"] < 1.05
    return {
        "what": "a plan for 1,000,000 accounts, one of 1,000 workers lost, s of processor time",
        "value": value, "baseline": 0, "baseline_is": "none", "target": TARGET_S,
        "met": value <= TARGET_S and steady_memory, "load_average": [round(x, 1) for x in os.getloadavg()], **found,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all if none is named")
    parser.add_argument("--accounts", type=int, default=ACCOUNTS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--seconds", type=float, default=20.0, help="each measurement of the steady fleet")
    parser.add_argument("--cycles", type=int, default=2000)
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}")
    result = measure(tuple(given.parts) or PARTS, given.accounts, given.workers, given.seconds, given.cycles)
    print(json.dumps(result, indent=1))
    return 0 if result["met"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
