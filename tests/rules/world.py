"""One history of a simulated fleet: random faults for a while, then everything heals; the invariants hold throughout.

I1, I2  a message is published only under the highest token of its account so far, by one incarnation of that token
        (outside the documented window: a worker cut off from both stores goes on in isolation)
I4      some time after the last fault each active account has exactly one producer, and no other has any
I5      faults of the control plane alone stop no stream
I6      ... and move nothing
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

from fleet.core.model import AccountSpec
from fleet.core.plan import Assign
from fleet.runtime.settings import Settings
from tests.rules.nodes import CoordinatorNode, WorkerNode
from tests.rules.stores import Clock, Postgres, Redis

STEP_S = 0.1
FAULTS_S = 60.0
HEAL_S = 70.0
WORKERS = 4
WORKER_FAULTS = ("kill_restart", "kill_stay", "pause", "cut_redis", "cut_both", "exit")
CONTROL_FAULTS = (
    "redis_down", "postgres_down", "both_down", "flushall", "failover", "leader_kill", "leader_pause",
    "coordinators_down", "flaky", "churn",
)  # fmt: skip


class Violation(AssertionError):
    """An invariant does not hold."""


class World:
    """Run with `run()`; raises Violation."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.clock = Clock()
        self.redis, self.postgres = Redis(self.clock), Postgres(self.clock)
        self.settings = Settings(workers=WORKERS, isolation_max_s=600.0)
        self.control_only = seed % 3 == 0
        self.workers: dict[str, WorkerNode] = {}
        self.retired: list[WorkerNode] = []
        self.coordinators: dict[str, CoordinatorNode] = {}
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.highest: dict[str, tuple[int, str]] = {}
        self.last: dict[str, float] = {}
        self.exempt: dict[str, float] = {}  # slots in the documented window, until when
        self.moves: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.expected_starts = 0
        self.history: list[str] = []
        for _ in range(self.rng.randint(3, 12)):
            self._add_account()
        for n in range(2):
            self._start_coordinator(f"c{n}")
        for n in range(WORKERS):
            self._start_worker(f"h{n % 2}:{n}")

    # ── the run ──────────────────────────────────────────────────────────────────────────────────────────────────
    def run(self) -> None:
        self._until(self.clock.now + 12.0)
        settled = self.moves.copy()
        end = self.clock.now + FAULTS_S
        while self.clock.now < end:
            self._until(self.clock.now + self.rng.uniform(0.5, 9.0))
            self._fault()
        self._heal()
        self._until(self.clock.now + HEAL_S)
        self._check_producers()
        if self.control_only:
            self._check_untouched(settled)

    def _until(self, end: float) -> None:
        while self.clock.now < end:
            self.clock.now = round(self.clock.now + STEP_S, 3)
            for due in [job for job in self.later if job[0] <= self.clock.now]:
                self.later.remove(due)
                due[1]()
            self.redis.replicate() if int(self.clock.now * 10) % 3 == 0 else None
            nodes = [*self.workers.values(), *self.coordinators.values()]
            self.rng.shuffle(nodes)
            for node in nodes:
                if node.paused:
                    continue
                if isinstance(node, WorkerNode) and self.rng.random() < 0.5:
                    self._publish(node)
                node.run()
                if isinstance(node, WorkerNode):
                    self._publish(node)

    def _publish(self, worker: WorkerNode) -> None:
        for account, token, incarnation in worker.published():
            self.last[account] = self.clock.now
            known = self.highest.get(account)
            if known is None or token > known[0]:
                self.highest[account] = (token, incarnation)
            elif (token, incarnation) != known and self.exempt.get(worker.slot, 0.0) < self.clock.now:
                raise self._violation(
                    f"I1: {worker.slot} {incarnation} publishes {account} under {token}, {known[1]} did under {known[0]}"
                )

    def moved(self, assign: Assign) -> None:
        self.moves[assign.reason] += 1

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _fault(self) -> None:
        kinds = CONTROL_FAULTS if self.control_only else WORKER_FAULTS + CONTROL_FAULTS
        kind = self.rng.choice(kinds)
        self.history.append(f"{self.clock.now:.1f} {kind}")
        getattr(self, "_" + kind)()
        self.seen[kind] += 1

    def _after(self, delay_s: float, job: Callable[[], None]) -> None:
        self.later.append((self.clock.now + delay_s, job))

    def _victim(self) -> WorkerNode | None:
        running = [w for w in self.workers.values() if not w.paused]
        return self.rng.choice(running) if len(running) > 1 else None

    def _kill_restart(self) -> None:
        if worker := self._victim():
            self._kill(worker)
            self._after(self.rng.uniform(0.3, 4.0), lambda: self._start_worker(worker.slot))

    def _kill_stay(self) -> None:
        if worker := self._victim():
            self._kill(worker)
            self._after(self.rng.uniform(10.0, 40.0), lambda: self._start_worker(worker.slot))

    def _exit(self) -> None:
        """SIGTERM: the streams end, the worker says gone."""
        if worker := self._victim():
            worker.shard.running.clear()
            worker.heartbeat._state = "gone"
            worker.heartbeat.beat()
            self._kill(worker)
            self._after(self.rng.choice((0.5, 1.5, 8.0)), lambda: self._start_worker(worker.slot))

    def _pause(self) -> None:
        if worker := self._victim():
            worker.paused = True
            self.history[-1] += f" {worker.slot}"
            self._after(self.rng.choice((1.0, 3.0, 5.0, 9.0, 20.0)), lambda: self._wake(worker))

    def _wake(self, worker: WorkerNode) -> None:
        worker.paused = False
        self.history.append(f"{self.clock.now:.1f} woken {worker.slot}")

    def _cut_redis(self) -> None:
        if worker := self._victim():
            self.redis.cut.add(worker.slot)
            self._after(self.rng.choice((3.0, 9.0, 30.0)), lambda: self.redis.cut.discard(worker.slot))

    def _cut_both(self) -> None:
        if worker := self._victim():
            self.redis.cut.add(worker.slot)
            self.postgres.cut.add(worker.slot)
            self.exempt[worker.slot] = float("inf")

            def heal() -> None:
                self.redis.cut.discard(worker.slot)
                self.postgres.cut.discard(worker.slot)
                self._heard(worker.slot)

            self._after(self.rng.choice((3.0, 9.0, 30.0)), heal)

    def _heard(self, slot: str) -> None:
        """Its isolation ends once a store answers it."""
        if self.redis.up or self.postgres.up:
            self.exempt[slot] = self.clock.now + 3.0
        else:
            self._after(0.5, lambda: self._heard(slot))

    def _redis_down(self) -> None:
        self.redis.up = False
        self._after(self.rng.choice((0.4, 2.0, 6.0, 15.0)), self._redis_back)

    def _redis_back(self) -> None:
        self.redis.up = True

    def _postgres_down(self) -> None:
        self.postgres.up = False
        self._after(self.rng.choice((1.0, 6.0, 15.0)), self._postgres_back)

    def _postgres_back(self) -> None:
        self.postgres.up = True

    def _both_down(self) -> None:
        self._redis_down()
        self._postgres_down()

    def _flushall(self) -> None:
        self.redis.flush()

    def _failover(self) -> None:
        """A replica up to 1 s behind takes over after some seconds without any Redis."""
        self.redis.up = False
        lag_s = self.rng.uniform(0.0, 1.0)
        self.redis.fail_over(lag_s)
        self._after(self.rng.uniform(1.0, 4.0), self._redis_back)

    def _leader_kill(self) -> None:
        name = self.rng.choice(sorted(self.coordinators)) if self.coordinators else None
        if name:
            del self.coordinators[name]
            self._after(self.rng.uniform(0.5, 10.0), lambda: self._start_coordinator(name))

    def _leader_pause(self) -> None:
        name = self.rng.choice(sorted(self.coordinators)) if self.coordinators else None
        if name:
            node = self.coordinators[name]
            node.paused = True

            def wake() -> None:
                node.paused = False

            self._after(self.rng.choice((1.0, 5.0, 15.0)), wake)

    def _coordinators_down(self) -> None:
        for name in sorted(self.coordinators):
            del self.coordinators[name]
            self._after(self.rng.uniform(3.0, 20.0), lambda name=name: self._start_coordinator(name))  # type: ignore[misc]

    def _flaky(self) -> None:
        """For a while answers are lost after the call took effect."""
        nodes = [*self.workers.values(), *self.coordinators.values()]
        node = self.rng.choice(nodes)
        node.store.flaky = 0.3

        def heal() -> None:
            node.store.flaky = 0.0

        self._after(self.rng.uniform(1.0, 8.0), heal)

    def _churn(self) -> None:
        accounts = self.postgres.accounts
        if not self.postgres.up or self.rng.random() < 0.5 or len(accounts) < 2:
            self._add_account()
        else:
            del accounts[self.rng.choice(sorted(accounts))]
            self.postgres.version += 1

    def _heal(self) -> None:
        self.history.append(f"{self.clock.now:.1f} heal")
        self.redis.up = self.postgres.up = True
        while self.later:
            due, self.later = self.later, []
            for _, job in sorted(due, key=lambda each: each[0]):
                job()

    # ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _kill(self, worker: WorkerNode) -> None:
        self.history[-1] += f" {worker.slot}"
        worker.shard.running.clear()
        self.retired.append(self.workers.pop(worker.slot))

    def _start_worker(self, slot: str) -> None:
        if slot not in self.workers:  # the slot's lock
            self.workers[slot] = WorkerNode(slot, self.clock, self.redis, self.postgres, self.settings, self.rng)

    def _start_coordinator(self, name: str) -> None:
        if name not in self.coordinators:
            self.coordinators[name] = CoordinatorNode(
                name, self.clock, self.redis, self.postgres, self.settings, self.rng, self
            )

    def _add_account(self) -> None:
        name = f"a{self.postgres.version}"
        self.postgres.accounts[name] = AccountSpec(name, "u", "binance", "usdm", name, False, 1, 0)
        self.postgres.version += 1
        self.expected_starts += 1

    # ── invariants ───────────────────────────────────────────────────────────────────────────────────────────────
    def _check_producers(self) -> None:
        now = self.clock.now
        for account in self.postgres.accounts:
            producers = [w.slot for w in self.workers.values() if account in w.shard.running and w.gate.valid()]
            if len(producers) != 1 or now - self.last.get(account, 0.0) > 1.0:
                raise self._violation(f"I4: active {account} has producers {producers}, owner {self._owner(account)}")
        for worker in self.workers.values():
            for account in worker.shard.running:
                if account not in self.postgres.accounts:
                    raise self._violation(f"I4: {account} is not active, {worker.slot} runs it, {self._owner(account)}")

    def _check_untouched(self, settled: Counter[str]) -> None:
        moved = {reason: n for reason, n in (self.moves - settled).items() if reason not in ("new", "rebalance")}
        if moved:
            raise self._violation(f"I6: moves by faults of the control plane alone: {moved}")
        for worker in self.workers.values():
            if worker.shard.aborted:
                raise self._violation(f"I5: {worker.slot} stopped its streams: {worker.shard.aborted}")
            again = Counter(account for account, _ in worker.shard.starts)
            if self.moves["rebalance"] == 0 and any(n > 1 for n in again.values()):
                raise self._violation(f"I5: {worker.slot} started accounts again: {again.most_common(3)}")

    def _owner(self, account: str) -> object:
        return self.redis.model.own.get(account)

    def _violation(self, what: str) -> Violation:
        last = "\n  ".join(self.history[-25:])
        return Violation(
            f"seed {self.seed} at {self.clock.now:.1f}: {what}\n  {last}\nreplay: python -m tests.rules --seed {self.seed}"
        )
