"""One virtual fleet: stores, worker slots with their supervisor, coordinators, accounts, and what may be done to them.

In: a World, how many of each. Out: operations (`kill`, `pause`, `cut`, `add_account`, …) used by the histories of faults.py,
and a record of every trouble, by which judge.py decides what may be forgiven.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from fleet.runtime.settings import Settings
from tests.proof.judge import Judge
from tests.proof.postgres_db import PostgresServer, Row
from tests.proof.programs import CoordinatorProgram, Nothing, WorkerProgram, installed
from tests.proof.redis_client import RedisServer
from tests.proof.virtual import Process, World

__all__ = ["Fleet", "Nothing", "Trouble", "installed"]


@dataclass
class Trouble:
    """Something done to a process or a slot; `end` None = still going on."""

    kind: str
    start: float
    end: float | None = None
    mass: bool = False  # it met at least three workers, and more than half: the mass guard's case (R11)

    def covers(self, now: float, slack_s: float) -> bool:
        return self.start <= now <= (now if self.end is None else self.end + slack_s)

    def length(self, now: float) -> float:
        return (now if self.end is None else self.end) - self.start


class Fleet:
    def __init__(
        self, world: World, *, slots: int, coordinators: int, accounts: int, isolation_max_s: float, verbose: bool
    ) -> None:
        self.world, self.verbose = world, verbose
        self.redis, self.postgres = RedisServer(world), PostgresServer(world)
        self.connections_per_ip = 1000
        self.settings = Settings(
            fleet="proof", postgres_dsn="virtual", workers=max(1, slots // 2), isolation_max_s=isolation_max_s,
            reconcile_interval_s=20.0,
        )  # fmt: skip
        self.judge = Judge(self)
        self.redis.written = self.judge.written
        self.counts: Counter[str] = Counter()
        self.workers: dict[str, WorkerProgram] = {}  # by slot; a dead one until its successor starts
        self.wanted: set[str] = set()  # slots that the supervisor keeps alive
        self.coordinators: list[CoordinatorProgram] = []
        self.coordinators_wanted = True
        self.poison: set[str] = set()
        self.stuck: set[str] = set()
        self.troubles: dict[str, list[Trouble]] = {}
        self._made = 0
        for _ in range(accounts):
            self.add_account()
        for n in range(coordinators):
            world.after(world.rng.random() * 0.5, lambda n=n: self.start_coordinator(n))
        for n in range(slots):
            self.want(f"h{n % 2}:{n // 2}", world.rng.random() * 1.5)

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────
    def add_account(self) -> str:
        self._made += 1
        account = f"a{self._made:02d}"
        self.postgres.tables.accounts[account] = Row(account)
        self.changed(account, "added")
        return account

    def changed(self, account: str, what: str) -> None:
        self.note(f"account {account} {what}")
        self.postgres.changed(account)

    def active(self) -> list[str]:
        return [row.id for row in self.postgres.tables.accounts.values() if row.active]

    # ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────
    def want(self, slot: str, delay_s: float = 0.0) -> None:
        self.wanted.add(slot)
        self.world.after(delay_s, lambda: self._start_worker(slot))

    def _start_worker(self, slot: str) -> None:
        former = self.workers.get(slot)
        if slot not in self.wanted or (former is not None and former.process.alive):
            return  # the slot's flock: a successor starts only once the former process is dead (R8)
        process = Process(self.world, slot, "worker")
        self.workers[slot] = WorkerProgram(self, process, slot, self.settings)
        self.note(f"worker {slot} starts")

    def kill(self, process: Process, why: str, restart_s: float | None = 0.6) -> None:
        if not process.alive:
            return
        self.note(f"{process.name} killed: {why}")
        process.kill()
        self.judge.killed(process)
        if process.kind == "worker" and restart_s is not None:
            self.world.after(restart_s, lambda: self._start_worker(process.name))

    def terminate(self, slot: str, *, come_back: bool) -> None:
        """SIGTERM by supervisorctl: drains; a plain restart comes back."""
        worker = self.workers.get(slot)
        if not come_back:
            self.wanted.discard(slot)
        if worker is not None and worker.process.alive and worker.ready:
            self.trouble(slot, "exit")
            worker.stop.set()

    def exited(self, program: Any) -> None:
        process = program.process
        self.note(f"{process.name} exits")
        process.kill()
        self.judge.killed(process)
        if process.kind == "worker":
            self.world.after(0.3, lambda: self._start_worker(process.name))
        elif self.coordinators_wanted:
            self.world.after(0.5, lambda: self.start_coordinator(int(process.name[1:])))

    def alive_workers(self) -> list[WorkerProgram]:
        return [w for w in self.workers.values() if w.process.alive and w.ready]

    # ── coordinators ─────────────────────────────────────────────────────────────────────────────────────────────
    def start_coordinator(self, n: int) -> None:
        if not self.coordinators_wanted:
            return
        while len(self.coordinators) <= n:
            self.coordinators.append(None)  # type: ignore[arg-type]
        if self.coordinators[n] is not None and self.coordinators[n].process.alive:
            return
        process = Process(self.world, f"c{n}", "coordinator")
        self.coordinators[n] = CoordinatorProgram(self, process, self.settings)
        self.note(f"coordinator c{n} starts")

    def leader(self) -> CoordinatorProgram | None:
        return next((c for c in self.coordinators if c is not None and c.leads), None)

    # ── records ──────────────────────────────────────────────────────────────────────────────────────────────────
    def trouble(self, name: str, kind: str) -> Trouble:
        trouble = Trouble(kind, self.world.now)
        self.troubles.setdefault(name, []).append(trouble)
        return trouble

    def note(self, text: str) -> None:
        if self.verbose:
            print(f"{self.world.now:8.3f}  {text}")

    def said(self, module: str, event: str, fields: dict[str, Any]) -> None:
        self.counts[event] += 1
        self.judge.heard(event, fields)
        if self.verbose:
            process = self.world.process
            rest = " ".join(f"{k}={v}" for k, v in fields.items() if k != "action")
            print(f"{self.world.now:8.3f}  [{process.name if process else '?':5}] {module}: {event}  {rest}")
