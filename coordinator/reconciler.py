"""The control path on one screen: read desired, read observed, plan, dispatch, report.

In: the accounts' snapshot (desired.py), Redis (observed.py). Out: ownership changes (dispatch.py). Runs in the coordinator;
one pass per tick or wake-up. The leader acts, standbys only observe. Every store may be away: then nothing changes, and
streams go on without us.
"""

from __future__ import annotations

import threading
import time

from coordinator.assignments import Assignments
from coordinator.desired import Desired, Snapshot
from coordinator.dispatch import Dispatch
from coordinator.lease import Leadership
from coordinator.observed import Observed
from coordinator.rebuild import Rebuild
from fleet.core import observe
from fleet.core.errors import StoreUnavailable
from fleet.core.model import AccountSpec, Ownership
from fleet.core.names import HOT_RELOAD_NEW
from fleet.core.observe import Standing, Timing
from fleet.core.placement import AT_MOST_PER_MINUTE, IN_FLIGHT
from fleet.core.plan import Limits, Plan, plan
from fleet.core.wire import Generation
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.redis_store import NotLeader, RedisStore
from fleet.runtime.settings import Settings

SETTLE_S = 5.0  # a young leader waits this long for all of its host's workers before it moves orphans between them
ACK_WITHIN_S = 30.0  # a worker that does not release a moving account for this long is fenced (R7)
FORGET_AFTER_S = 600.0
FULL_PLAN_S = 5.0  # plan at least this often, changed or not (R15)


class Reconciler:
    """The leader's loop. `wake()` from any thread shortens its wait."""

    def __init__(
        self,
        settings: Settings,
        timing: Timing,
        store: RedisStore,
        leadership: Leadership,
        desired: Desired,
        observed: Observed,
        assignments: Assignments,
        dispatch: Dispatch,
        metrics: Metrics,
        connections_per_ip: dict[str, int],
        leading: threading.Event,
        wake: threading.Event,
    ) -> None:
        self._settings, self._timing, self._store = settings, timing, store
        self._leadership, self._desired, self._observed = leadership, desired, observed
        self._assignments, self._dispatch, self._metrics = assignments, dispatch, metrics
        self._connections_per_ip = connections_per_ip
        self._leading, self._wake = leading, wake
        self._generation: Generation | None = None  # the one this leader works on
        self._rebuild: Rebuild | None = None
        self._mirror: dict[str, Ownership] = {}  # ownership as it was while the generation was sound
        self._version = 0  # highest write counter seen in it: one that falls means an older copy of the data (failover)
        self._cut: dict[str, float] = {}
        self._since = 0.0  # when leadership began
        self._planned: tuple[object, ...] = ()
        self._planned_at = 0.0
        self._known: dict[str, AccountSpec] | None = None  # active accounts as of the last plan
        self._unplaced: dict[str, str] = {}
        self._budget = _Allowance()
        self._silent = False
        self._log = get("reconciler")

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            started = time.monotonic()
            self.tick(started)
            self._wake.wait(max(0.0, self._settings.leader_tick_s - (time.monotonic() - started)))
            self._wake.clear()
        self._leadership.resign()

    def tick(self, now: float) -> None:
        """One pass; a store that is away ends it."""
        try:
            if self._lead(now):
                self._reconcile(now)
            if self._silent:
                self._silent = False
                self._log.warning("redis answers again", action="redis")
        except NotLeader as error:
            self._log.warning("write refused", action="lead", error=str(error))
            self._planned, self._rebuild = (), None
        except StoreUnavailable as error:
            self._observed.forget("redis did not answer")
            self._planned, self._rebuild = (), None
            if not self._silent:
                self._silent = True
                self._log.warning("redis silent: nothing changes, streams go on", action="redis", error=str(error))

    def _lead(self, now: float) -> bool:
        led = self._leading.is_set()
        leads = self._leadership.hold()
        if leads and not led:
            self._since, self._generation, self._rebuild, self._version = now, None, None, 0
            self._planned, self._observed.own_version = (), -1
            self._leading.set()
        elif led and not leads:
            self._leading.clear()
        self._metrics.leader().set(1 if leads else 0)
        observation = self._observed.read(now)
        lost = self._generation is not None and (
            self._generation != observation.generation or observation.version < self._version
        )
        if (
            leads
            and self._rebuild is None
            and (lost or observation.generation is None or not observation.generation.ready)
        ):
            self._observed.forget("new generation")
            mirror = self._mirror if lost else {}
            self._rebuild = Rebuild(
                self._store, self._leadership, self._assignments, mirror, self._timing.dead_after_s, _now_ms
            )
        if not lost and observation.generation is not None and observation.generation.ready and self._rebuild is None:
            self._generation = observation.generation
            self._mirror, self._version = self._observed.own, observation.version
            self._assignments.record({}, self._observed.take_released())
        return leads

    def _reconcile(self, now: float) -> None:
        if self._rebuild is not None:
            ready = self._rebuild.step(self._observed, now)
            if ready is None:
                return
            self._rebuild, self._generation, self._planned, self._version = None, ready, (), 0
            self._observed.read(now)
        self._verdicts(now)
        snapshot = self._desired.snapshot
        self._budget.refill(now, len(self._observed.own))
        state = self._state(snapshot)
        if state == self._planned and now - self._planned_at < FULL_PLAN_S:
            return
        result = self._plan(now, snapshot)
        self._report(snapshot, result)
        for slot, incarnation in result.overdue.items():
            self._dispatch.fence(slot, incarnation, "accounts not released in time")
        assert self._generation is not None
        self._dispatch.carry_out(result, self._generation, snapshot.accounts if snapshot else {})
        self._budget.spend(sum(1 for r in result.releases if r.reason == "rebalance"))
        self._planned, self._planned_at = self._state(snapshot) if result.empty else (), now
        self._forget_dead(now)

    def _plan(self, now: float, snapshot: Snapshot | None) -> Plan:
        up = sum(1 for worker in self._observed.workers.values() if worker.standing is Standing.UP)
        settling = now - self._since < SETTLE_S and up < self._settings.workers
        limits = Limits(
            connections_per_ip=self._connections_per_ip,
            rebalance=self._budget.allowed if not settling else 0,
            hold="waiting for workers to register" if settling else "",
            ack_before_ms=_now_ms() - int(ACK_WITHIN_S * 1000),
        )
        return plan(snapshot.accounts if snapshot else None, self._observed.own, self._observed.workers, limits)

    def _verdicts(self, now: float) -> None:
        """R9, R11: ask the witness about workers that are silent, fence those nobody has seen."""
        suspects = self._observed.suspects(now)
        read = self._assignments.witness(suspects)
        fresh = read is not None and now - read[0] < self._timing.witness_lease_s
        up_since = self._assignments.up_since
        verdicts = observe.judge(
            suspects,
            self._observed.watched(),
            read[1] if read is not None and fresh else None,
            self._cut,
            now - up_since if up_since is not None else 0.0,
            now,
            self._timing,
        )
        for slot in verdicts.cut.keys() - self._cut.keys():
            self._log.warning("worker is cut off from redis, left alone", action="verdict", shard=slot)
        self._cut = verdicts.cut
        if verdicts.held:
            self._log.error("too many workers silent at once: verdicts held", action="alert", silent=len(suspects))
        for slot, incarnation in verdicts.fence.items():
            if self._dispatch.fence(slot, incarnation, "silent"):
                self._planned = ()
        if verdicts.fence:
            self._observed.read(now)

    def _report(self, snapshot: Snapshot | None, result: Plan) -> None:
        """What changed since the last plan, for people: hot reloads, unplaced accounts, one line per plan that acts."""
        if snapshot is not None:
            known = self._known
            if known is None:
                known = {a: spec for a, spec in snapshot.accounts.items() if a in self._observed.own}
            for account in snapshot.accounts.keys() - known.keys():
                spec = snapshot.accounts[account]
                self._metrics.hotreload_operations("add", spec.exchange).inc()
                self._log.info(
                    HOT_RELOAD_NEW, action="hot_reload", stream=account, exchange=spec.exchange, label=spec.label
                )
            for account in known.keys() - snapshot.accounts.keys():
                self._metrics.hotreload_operations("remove", known[account].exchange).inc()
                self._log.info("HOT RELOAD: account is no longer active", action="hot_reload", stream=account)
            self._known = snapshot.accounts
        for account, why in result.unplaced.items():
            if self._unplaced.get(account) != why:
                self._log.warning("account unplaced", action="alert", stream=account, reason=why)
        self._unplaced = result.unplaced
        self._metrics.accounts("unplaced").set(len(result.unplaced))
        self._metrics.accounts("owned").set(len(self._observed.own))
        if not result.empty:
            self._log.info(
                "reconciliation",
                action="reconcile",
                assign=len(result.assigns),
                release=len(result.releases),
                unplaced=len(result.unplaced),
            )

    def _state(self, snapshot: Snapshot | None) -> tuple[object, ...]:
        """Everything a plan depends on, in short: if it is the same, so is the plan."""
        workers = tuple((w.slot, w.incarnation, w.standing, w.capacity) for w in self._observed.workers.values())
        return (snapshot.version if snapshot else -1, self._observed.own_version, workers)

    def _forget_dead(self, now: float) -> None:
        for slot, incarnation in self._observed.expired(now, FORGET_AFTER_S).items():
            if self._store.forget(self._leadership.leader, slot, incarnation):
                self._log.info("worker forgotten", action="forget", shard=slot)


class _Allowance:
    """Pace of rebalancing: 1 % of the accounts a minute (at least one), 20 at a time."""

    def __init__(self) -> None:
        self._at = 0.0
        self._tokens = 0.0

    def refill(self, now: float, accounts: int) -> None:
        per_s = max(1.0, accounts * AT_MOST_PER_MINUTE) / 60.0
        self._tokens = min(float(IN_FLIGHT), self._tokens + (now - self._at) * per_s if self._at else 1.0)
        self._at = now

    @property
    def allowed(self) -> int:
        return int(self._tokens)

    def spend(self, n: int) -> None:
        self._tokens -= n


def _now_ms() -> int:
    return int(time.time() * 1000)
