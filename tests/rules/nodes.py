"""Processes of a simulated fleet: the real heartbeat, inbox and reconciler, driven one step at a time.

A node can be killed, paused and woken. A worker's shard publishes while its gate lets it, as streams do.
"""

from __future__ import annotations

import dataclasses
import random
import threading
from typing import Any

from coordinator.desired import Snapshot
from coordinator.dispatch import Dispatch
from coordinator.lease import Leadership
from coordinator.observed import Observed
from coordinator.reconciler import Reconciler
from fleet.core.errors import StoreUnavailable
from fleet.core.observe import Timing
from fleet.core.plan import Assign
from fleet.runtime.settings import Settings
from tests.rules.stores import Assignments, Clock, Postgres, Redis, Store, Terms, Witness
from tests.support.control import Remembering
from workers.heartbeat import Heartbeat, LeaseGate
from workers.inbox import Inbox

CALL_S = 0.5


class Quiet:
    """Stands for logs and metrics: takes anything, says nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: self


QUIET: Any = Quiet()


class Gate(LeaseGate):
    """The lease gate under the virtual clock."""

    __slots__ = ("clock",)

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def valid(self) -> bool:
        return self.clock.now < self.deadline


class Node:
    """When a process runs next; `lag` is what blocking calls cost it within one step."""

    def __init__(self, name: str, clock: Clock) -> None:
        self.name, self.clock = name, clock
        self.paused = False
        self.lag = 0.0
        self.store: Any = None

    def run(self) -> None:
        """Do what is due at the clock's present instant."""
        raise NotImplementedError

    def time(self) -> float:
        return self.clock.now + self.lag

    def timed_out(self) -> None:
        self.lag += CALL_S


class WorkerNode(Node):
    """One life of a worker process."""

    def __init__(
        self, slot: str, clock: Clock, redis: Redis, postgres: Postgres, settings: Settings, rng: random.Random
    ) -> None:
        super().__init__(slot, clock)
        self.slot, self.rng = slot, rng
        self.shard = Remembering()
        self.gate = Gate(clock)
        self.store = Store(redis, slot, rng, self.timed_out)
        store: Any = self.store
        settings = dataclasses.replace(settings, slot=slot)
        self.heartbeat = Heartbeat(
            settings,
            lambda: store,
            None,
            self.shard,
            slot,
            gate=self.gate,
            clock=self.time,
        )
        self.heartbeat._witness = Witness(postgres, slot, slot)  # type: ignore[assignment]
        self.heartbeat._log = QUIET
        self.inbox = Inbox(lambda: store, None, self.shard, slot, self.heartbeat)  # type: ignore[arg-type]
        self.inbox._log = QUIET
        self.next_beat = clock.now + rng.random() * 0.2
        self.next_pull = self.next_beat + rng.random() * 0.1
        self.next_publish = clock.now

    def run(self) -> None:
        now = self.clock.now
        jobs = [self._beat, self._pull]
        self.rng.shuffle(jobs)  # a woken process runs its threads in any order
        for job in jobs:
            job(now)

    def _beat(self, now: float) -> None:
        if now < self.next_beat and not self.heartbeat._wake.is_set():
            return
        self.heartbeat._wake.clear()
        self.lag = 0.0
        self.heartbeat.beat()
        self.next_beat = now + max(self.lag, self.heartbeat._settings.heartbeat_s) + self.rng.random() * 0.02
        self.lag = 0.0

    def _pull(self, now: float) -> None:
        if now < self.next_pull:
            return
        self.lag = 0.0
        try:
            self.inbox.step(self.store)
        except StoreUnavailable:
            pass
        self.next_pull = now + min(1.0, self.inbox._wait_s()) * (0.3 + self.rng.random() * 0.7) + self.lag
        self.lag = 0.0

    def published(self) -> list[tuple[str, int, str]]:
        """(account, token, incarnation) of the messages this process publishes now. A closed gate ends a stream for good."""
        now = self.clock.now
        if now < self.next_publish:
            return []
        self.next_publish = now + 0.2
        if not self.gate.valid():
            self.shard.running.clear()
            return []
        incarnation = self.shard.incarnation
        return [(account, token, incarnation) for account, token in self.shard.running.items()]


class CoordinatorNode(Node):
    """One life of a coordinator process."""

    def __init__(
        self,
        name: str,
        clock: Clock,
        redis: Redis,
        postgres: Postgres,
        settings: Settings,
        rng: random.Random,
        world: Any,
    ) -> None:
        super().__init__(name, clock)
        self.rng, self._postgres = rng, postgres
        store: Any = Store(redis, name, rng, self.timed_out)
        self.store = store
        terms: Any = Terms(postgres, name)
        leadership = Leadership(store, terms, settings.leader_lease_s)
        leadership.holder = f"{name}:{rng.getrandbits(24):06x}"
        leadership._log = QUIET
        timing = Timing(
            dead_after_s=settings.dead_after_s, witness_lease_s=settings.worker_lease_s, partitioned_grace_s=15.0
        )
        observed = Observed(store, timing)
        observed._log = QUIET
        assignments: Any = Assignments(postgres, name)
        self.assignments = assignments
        moves: Any = Moves(world)
        dispatch = Dispatch(store, leadership, observed, assignments, moves, QUIET, clock.now_ms)
        dispatch._log = QUIET
        desired: Any = DesiredNow()
        self.desired = desired
        self.reconciler = Reconciler(
            settings, timing, store, leadership, desired, observed, assignments, dispatch, QUIET, {},
            threading.Event(), threading.Event(), clock=lambda: clock.now, now_ms=clock.now_ms,
        )  # fmt: skip
        self.reconciler._log = self.reconciler._verdicts._log = QUIET
        self.tick_s = settings.leader_tick_s
        self.next_tick = clock.now + rng.random() * self.tick_s

    def run(self) -> None:
        now = self.clock.now
        postgres = self._postgres
        if postgres.reachable(self.name) and (
            self.desired.snapshot is None or self.desired.snapshot.version != postgres.version
        ):
            self.desired.snapshot = Snapshot(dict(postgres.accounts), {}, postgres.version)
            self.next_tick = min(self.next_tick, now)
        if now < self.next_tick:
            return
        self.assignments.work()
        self.lag = 0.0
        self.reconciler.tick(now)
        if self.reconciler._rebuild is not None:
            self.reconciler._rebuild._log = QUIET
        self.assignments.work()
        self.next_tick = now + max(self.tick_s, self.lag) + self.rng.random() * 0.02
        self.lag = 0.0


class DesiredNow:
    """What coordinator/desired.py is to the reconciler."""

    snapshot: Snapshot | None = None


class Moves:
    """What coordinator/events.py is to the dispatch: it counts."""

    def __init__(self, world: Any) -> None:
        self._world = world

    def put(self, assign: Assign, *_: Any) -> None:
        self._world.moved(assign)
