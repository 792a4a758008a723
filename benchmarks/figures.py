"""The operational figures of the fleet, measured on real services and real processes: `python -m benchmarks.figures [NAME…]`.

In: nothing, or the names of the figures wanted. Out: one JSON object a line. Times come from the simulator's own record of
sockets (opened_at, closed_at) and from the row's commit, never from polling. Minutes long; needs a machine that is not busy.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from fleet.services import Services
from tests.support.fleet import Fleet, eventually, fresh_env

ACCOUNTS = 200
SEED = 7


def now_ms() -> int:
    return int(time.time() * 1000)


def percentiles(values_ms: list[float]) -> dict[str, float]:
    ordered = sorted(values_ms)
    return {
        "n": len(ordered),
        "p50_s": round(median(ordered) / 1000, 3),
        "p99_s": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] / 1000, 3),
        "max_s": round(ordered[-1] / 1000, 3),
    }


class Figures:
    """One fleet with ACCOUNTS live accounts, and what is measured on it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.random = random.Random(SEED)

    def sockets(self) -> dict[str, list[dict[str, Any]]]:
        """api key → its sockets, oldest first."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self.fleet.control.connections():
            if row.get("api_key"):
                found.setdefault(row["api_key"], []).append(row)
        return found

    def open_count(self) -> int:
        return sum(row.get("closed_at") is None for rows in self.sockets().values() for row in rows)

    def gauge(self) -> float:
        """Sum of userdata_connections over the workers, from the aggregated /metrics."""
        port = self.fleet.env["FLEET_CONSOLE_PORT"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        lines = [line for line in text.splitlines() if line.startswith("prometheus_userdata_connections{")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def reopened_ms(self, api_key: str, after_ms: int, within_s: float = 30.0) -> float:
        """When the account's next socket was opened after `after_ms`."""

        def opened() -> float:
            rows = self.sockets().get(api_key, [])
            return max(
                (r["opened_at"] for r in rows if r["opened_at"] >= after_ms and r.get("closed_at") is None), default=0
            )

        return eventually(opened, within_s, "a new socket", every_s=0.02)

    # ── the figures ──────────────────────────────────────────────────────────────────────────────────────────────
    def inserted(self) -> dict[str, Any]:
        """100 rows inserted one by one: commit → private socket open."""
        took = []
        for _ in range(100):
            account_id = self.fleet.add_account()
            committed = now_ms()
            took.append(self.reopened_ms(self.fleet.credentials[account_id].api_key, 0) - committed)
        return percentiles(took)

    def cuts(self) -> dict[str, Any]:
        """50 sockets cut: closed → next one open; after each the gauge must equal the open sockets."""
        took, wrong = [], 0
        for key in self.random.sample(sorted(self.sockets()), 50):
            cut = now_ms()
            self.fleet.control.fault({"kind": "cut", "api_key": key, "count": 1})
            took.append(self.reopened_ms(key, cut) - cut)
            try:
                eventually(lambda: self.gauge() == self.open_count(), 2.0, "gauge", every_s=0.05)
            except AssertionError:
                wrong += 1
        return {**percentiles(took), "gauge_wrong": wrong}

    def listen_key(self) -> dict[str, Any]:
        """Listen keys expired by the exchange → next socket open."""
        took = []
        for key in self.random.sample(sorted(self.sockets()), 10):
            at = now_ms()
            self.fleet.control.fault({"kind": "expire_listen_key", "api_key": key})
            took.append(self.reopened_ms(key, at) - at)
        return percentiles(took)

    def market(self) -> dict[str, Any]:
        """A half-open market socket, then a stall under live pongs: fault → replacement open."""
        result = {}
        for kind in ("half_open", "stall"):
            at = now_ms()
            fault = self.fleet.control.fault({"kind": kind, "path": "/market", "seconds": 60})

            def replaced(at: int = at) -> float:
                rows = self.fleet.control.connections()
                return max((r["opened_at"] for r in rows if "/market" in r["path"] and r["opened_at"] >= at), default=0)

            result[f"{kind}_s"] = round((eventually(replaced, 30.0, "a new market socket") - at) / 1000, 3)
            self.fleet.control.heal(fault)
            time.sleep(2.0)
        return result

    def killed(self) -> dict[str, Any]:
        """kill −9 of one of two workers: kill → last of its accounts open again; then with its restart prevented."""
        restarted = self._kill(prevent=False)
        eventually(lambda: len(self.fleet.view.live()) >= ACCOUNTS, 30.0, "all live")
        time.sleep(5.0)
        return {"restarted_s": restarted, "restart_prevented_s": self._kill(prevent=True)}

    def _kill(self, *, prevent: bool) -> float:
        victim = self.fleet.processes.pids("worker")[0]
        supervisord = psutil.Process(self.fleet.processes.pid)
        open_before = self.open_count()
        if prevent:
            supervisord.suspend()
        at = now_ms()
        os.kill(victim, signal.SIGKILL)
        try:
            eventually(lambda: self.open_count() < open_before, 5.0, "sockets to close", every_s=0.01)
            eventually(lambda: self.open_count() == open_before, 40.0, "every account's socket", every_s=0.05)
        finally:
            supervisord.resume()
        newest = max(rows[-1]["opened_at"] for rows in self.sockets().values())
        return float(round((newest - at) / 1000, 3))

    def notify_broken(self) -> dict[str, Any]:
        """Rows inserted without NOTIFY → streaming at the next reconcile tick (here 20 s)."""
        self.fleet.pg.execute("ALTER TABLE exchange_accounts DISABLE TRIGGER USER")
        try:
            account_id = self.fleet.add_account()
            at = now_ms()
            took = self.reopened_ms(self.fleet.credentials[account_id].api_key, 0, 60.0) - at
        finally:
            self.fleet.pg.execute("ALTER TABLE exchange_accounts ENABLE TRIGGER USER")
        return {"s": round(took / 1000, 3), "tick_s": 20}

    def stopped(self) -> dict[str, Any]:
        """SIGTERM to supervisord with every account live, while events flow."""
        self.fleet.control.load(100.0, 30.0)
        time.sleep(2.0)
        began = time.monotonic()
        late = self.fleet.processes.stop()
        return {"s": round(time.monotonic() - began, 3), "late": late, "left": len(self.fleet.processes.left())}


ORDER = ("inserted", "cuts", "listen_key", "market", "killed", "notify_broken", "stopped")


def main(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="figures-") as folder:
        directory = Path(folder)
        with Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services:
            with fresh_env(services, directory) as env:  # type: ignore[arg-type]  # the same attributes as SharedServices
                env["FLEET_RECONCILE_INTERVAL_S"] = "20"
                with Fleet(env, directory, workers=2, accounts=ACCOUNTS) as fleet:
                    fleet.wait_live(ACCOUNTS, within_s=90.0)
                    figures = Figures(fleet)
                    for name in names or ORDER:
                        measure: Callable[[], dict[str, Any]] = getattr(figures, name)
                        say(name, measure)


def say(name: str, measure: Callable[[], dict[str, Any]]) -> None:
    try:
        result: dict[str, Any] = measure()
    except AssertionError as error:
        result = {"failed": str(error)}
    print(json.dumps({"figure": name, **result}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
