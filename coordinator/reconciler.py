"""The control path on one screen: read desired, read observed, plan, dispatch, report.

In: the accounts' snapshot (desired.py), Redis (observed.py). Out: ownership changes (dispatch.py). Runs in the coordinator;
one pass per tick or wake-up. The leader acts, standbys only observe. Every store may be away: then nothing changes, and
streams go on without us.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from coordinator.assignments import Assignments
from coordinator.desired import Desired, Snapshot
from coordinator.dispatch import Dispatch
from coordinator.events import Moves
from coordinator.lease import Leadership
from coordinator.observed import Observed
from coordinator.quarantine import Quarantine
from coordinator.rebuild import Rebuild
from coordinator.verdicts import Verdicts
from fleet.core import wire
from fleet.core.errors import StoreUnavailable
from fleet.core.model import AccountSpec, Ownership
from fleet.core.names import HOT_RELOAD_NEW
from fleet.core.observe import Standing, Timing
from fleet.core.placement import IN_FLIGHT, Allowance
from fleet.core.plan import Limits, Plan, plan
from fleet.core.wire import Generation
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.redis_store import NotLeader, RedisStore
from fleet.runtime.settings import Settings

SETTLE_S = 5.0  # a young leader, or fleet, waits this long for all of its host's workers before it deals accounts out
JOIN_S = 1.0  # ... and a fleet that owns nothing yet, until nobody has joined for this long
CALM_S = 60.0  # load is evened out only when nothing has happened to leader, stores and workers for this long
PLACE = 10_000  # accounts without an owner that one plan places: more than a tick carries out
ACK_WITHIN_S = 30.0  # a worker that does not release a moving account for this long is fenced (R7)
FORGET_AFTER_S = 600.0
FULL_PLAN_S = 5.0  # plan at least this often, changed or not (R15) ...
PLAN_SHARE = 20  # ... but spend no more than a twentieth of the time on it


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
        moves: Moves,
        metrics: Metrics,
        connections_per_ip: dict[str, int],
        leading: threading.Event,
        wake: threading.Event,
        *,
        clock: Callable[[], float] = lambda: time.monotonic(),
        now_ms: Callable[[], int] = lambda: int(time.time() * 1000),
    ) -> None:
        self._settings, self._timing, self._store = settings, timing, store
        self._leadership, self._desired, self._observed = leadership, desired, observed
        self._assignments, self._dispatch, self._metrics = assignments, dispatch, metrics
        self._connections_per_ip = connections_per_ip
        self._leading, self._wake, self._clock, self._now_ms = leading, wake, clock, now_ms
        self._verdicts = Verdicts(observed, assignments, dispatch, timing)
        self._quarantine = Quarantine(store, observed, assignments, moves, metrics, now_ms)
        self._generation: Generation | None = None  # the one this leader works on
        self._rebuild: Rebuild | None = None
        self._compared = False  # is what Redis holds known to be at least as new as the durable copy?
        self._trusted = False  # ... or taken to be so, because Postgres does not answer
        self._revoking: dict[str, float] = {}  # accounts whose owner has not released them, and since when we see that
        self._mirror: dict[str, Ownership] = {}  # ownership as it was while the generation was sound
        self._since = 0.0  # when leadership began
        self._first_up = 0.0  # when the first worker was there, after there was none
        self._joined_at = 0.0  # when a worker came up last
        self._calm_since = 0.0  # when something happened last
        self._up: set[tuple[str, str]] = set()
        self._planned: tuple[object, ...] = ()
        self._plan_again_at = 0.0
        self._known: dict[str, AccountSpec] | None = None  # active accounts as of the last plan
        self._unplaced: dict[str, str] = {}
        self._staying: dict[str, str] = {}  # drained slots whose accounts have nowhere to go, and why
        self._evened: str | None = None  # how the last wish to even out the load ended; None = not yet
        self._shown: tuple[object, ...] = ()  # leader, generation, unplaced accounts and answers as Redis has them
        self._budget = Allowance()
        self._silent = False
        self._log = get("reconciler")

    def run(self, stop: threading.Event, sound: Callable[[], bool]) -> None:
        """Until `stop`, or until the process is not `sound` any more (a thread died): then somebody else should lead."""
        while not stop.is_set() and sound():
            started = self._clock()
            self.tick(started)
            self._wake.wait(max(0.0, self._settings.leader_tick_s - (self._clock() - started)))
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
            self._planned, self._rebuild, self._calm_since = (), None, now
            self._revoking = {}  # nobody could acknowledge while Redis was away
            self._observed.read_again()  # a write may be lost, and another have brought the counter to the same number
            if not self._silent:
                self._silent = True
                self._log.warning("redis silent: nothing changes, streams go on", action="redis", error=str(error))

    def _lead(self, now: float) -> bool:
        led = self._leading.is_set()
        leads = self._leadership.hold()
        if leads and not led:
            self._since = self._calm_since = now
            self._generation, self._rebuild, self._observed.version = None, None, 0
            self._compared, self._trusted, self._revoking = False, False, {}
            self._planned, self._known, self._mirror, self._evened = (), None, {}, None
            self._observed.read_again()
            self._verdicts.begin()
            self._quarantine.begin()
            self._leading.set()
        elif led and not leads:
            self._leading.clear()
            self._assignments.drop()
        self._metrics.leader().set(1 if leads else 0)
        observation = self._observed.read(now, leads and self._rebuild is None)
        lost = self._generation is not None and (
            self._generation != observation.generation or observation.version < self._observed.version
        )
        if (
            leads
            and self._rebuild is None
            and (lost or observation.generation is None or not observation.generation.ready)
        ):
            self._begin_rebuild(self._mirror if lost else {})
        if not lost and observation.generation is not None and observation.generation.ready and self._rebuild is None:
            self._generation = observation.generation
            self._observed.version = observation.version
            if self._observed.own_known:
                self._mirror = self._observed.own
            appeared, released = self._observed.take_changes()
            if (
                leads and self._trusted
            ):  # before that, the records may be an older copy: the durable ones are compared first
                self._assignments.record(appeared, released)
        return leads

    def _reconcile(self, now: float) -> None:
        if self._rebuild is not None:
            ready = self._rebuild.step(self._observed, now)
            if ready is None:
                return
            self._rebuild, self._generation, self._planned = None, ready, ()
            self._observed.version, self._calm_since = 0, now
            self._compared = self._trusted = True
            self._observed.read(now, True)
        if not self._compared and not (self._observed.own_known and self._compare(now)):
            return
        fenced = self._verdicts.pass_on(now)
        if fenced:
            self._observed.read(now, True)
        self._watch(now)
        snapshot = self._desired.snapshot
        self._quarantine.look(fenced, snapshot, now)
        if not self._observed.own_known:
            return
        self._budget.refill(now, len(self._observed.own))
        state = self._state(snapshot, now)
        if state == self._planned and now < self._plan_again_at:
            return
        result = self._plan(now, snapshot)
        self._revoking = {a: self._revoking.get(a, now) for a in result.revoking}
        self._report(snapshot, result)
        for slot, incarnation in result.overdue.items():
            self._dispatch.fence(slot, incarnation, "accounts not released in time")
        assert self._generation is not None
        for moved in self._dispatch.carry_out(result, self._generation, snapshot.accounts if snapshot else {}):
            self._quarantine.assigned(moved, now)
        self._note_rebalance(result, now)
        self._planned = self._state(snapshot, now) if result.empty and not self._settling(now) else ()
        self._plan_again_at = now + max(FULL_PLAN_S, PLAN_SHARE * (self._clock() - now))
        self._forget_dead(now)

    def _compare(self, now: float) -> bool:
        """A new leader cannot see a write counter fall: it compares the records with the durable copy. A record that is
        missing, or older there, may be a copy of before a failover: rebuild, which moves nothing (R10). What the former
        leader had not written yet is written. False = wait; without Postgres we go on, and compare when it is back."""
        durable = self._assignments.restore()
        if durable is None:
            self._trusted = now - self._since > self._timing.dead_after_s
            return self._trusted
        own = self._observed.own
        if any(a not in own or own[a].token < record.token for a, record in durable.items()):
            self._begin_rebuild(own)
            return False
        self._assignments.record({a: r for a, r in own.items() if a not in durable or durable[a].token < r.token}, {})
        self._compared = self._trusted = True
        return True

    def _begin_rebuild(self, mirror: dict[str, Ownership]) -> None:
        self._observed.forget("new generation")
        self._observed.read_again()
        self._observed.take_changes()
        self._rebuild = Rebuild(
            self._store, self._leadership, self._assignments, mirror, self._timing.dead_after_s, self._now_ms
        )

    def _watch(self, now: float) -> None:
        """Take note of workers that came and went."""
        up = {(w.slot, w.incarnation) for w in self._observed.workers.values() if w.standing is Standing.UP}
        if up and not self._up:
            self._first_up = now
        if up - self._up:
            self._joined_at = now
        if up != self._up:
            self._calm_since = now
        self._up = up

    def _settling(self, now: float) -> bool:
        """Whoever registers first would get every account, and load is evened out slowly on purpose."""
        young = now - max(self._since, self._first_up) < SETTLE_S
        few = len(self._up) < self._settings.workers
        joining = not self._observed.own and now - self._joined_at < JOIN_S
        return young and (few or joining)

    def _plan(self, now: float, snapshot: Snapshot | None) -> Plan:
        settling = self._settling(now)
        limits = Limits(
            connections_per_ip=self._connections_per_ip,
            rebalance=self._rebalance(now),
            place=PLACE,
            stay=self._assignments.up_since is None,
            hold="waiting for workers to register" if settling else "",
            overdue=frozenset(a for a, since in self._revoking.items() if now - since >= ACK_WITHIN_S),
        )
        return plan(
            snapshot.accounts if snapshot else None,
            self._observed.own,
            self._observed.workers,
            limits,
            self._quarantine.quarantined(),
            self._quarantine.waiting(now),
        )

    def _rebalance(self, now: float) -> int:
        """How many accounts may move to even out the load: slowly and in calm, or at once if an operator asks for it."""
        if self._wished():
            return IN_FLIGHT
        return self._budget.allowed if now - self._calm_since >= CALM_S else 0

    def _wished(self) -> bool:
        return self._observed.latest is not None and self._observed.latest.rebalance

    def _note_rebalance(self, result: Plan, now: float) -> None:
        moving = sum(1 for r in result.releases if r.reason == "rebalance")
        if not self._wished():
            self._budget.spend(moving)
        elif self._assignments.up_since and not (moving or result.assigns or result.in_flight or self._settling(now)):
            self._evened = result.uneven
            self._show()  # before the wish is gone: who waits for that reads the answer then
            self._store.withdraw_rebalance()
            if result.uneven:
                self._log.warning("load stays uneven", action="rebalance", reason=result.uneven)
            else:
                self._log.info("load is even", action="rebalance")
        else:
            self._evened = None

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
        for slot, why in result.staying.items():
            if self._staying.get(slot) != why:
                self._log.warning("accounts stay on a drained worker", action="drain", shard=slot, reason=why)
        self._staying = result.staying
        self._show()
        self._metrics.accounts("owned").set(len(self._observed.own))
        if not result.empty:
            self._log.info(
                "reconciliation",
                action="reconcile",
                assign=len(result.assigns),
                release=len(result.releases),
                unplaced=len(result.unplaced),
            )

    def _show(self) -> None:
        """For `fleet account`, `fleet shards` and `fleet doctor`; for those who wait for a drain or a rebalance."""
        answers = {wire.drained(slot): why for slot, why in self._staying.items()}
        if self._evened is not None:
            answers[wire.EVENED] = self._evened
        state = (self._leadership.leader, self._generation, self._unplaced, answers)
        if state != self._shown:
            self._store.set_unplaced(self._leadership.leader, self._unplaced, answers)
            self._shown = state

    def _state(self, snapshot: Snapshot | None, now: float) -> tuple[object, ...]:
        """Everything a plan depends on, in short: if it is the same, so is the plan."""
        workers = tuple(
            (w.slot, w.incarnation, w.standing, w.capacity, w.addresses) for w in self._observed.workers.values()
        )
        held = (self._quarantine.quarantined(), self._quarantine.waiting(now))
        asked = (self._wished(), self._assignments.up_since is None)
        return (snapshot.version if snapshot else -1, self._observed.own_version, workers, held, asked)

    def _forget_dead(self, now: float) -> None:
        for slot, incarnation in self._observed.expired(now, FORGET_AFTER_S).items():
            if self._store.forget(self._leadership.leader, slot, incarnation):
                self._log.info("worker forgotten", action="forget", shard=slot)
