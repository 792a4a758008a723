"""Carry a plan out: compare-and-set batches in Redis under the leader's term, the durable copy, one event per move.

In: a plan. Out: Redis (`apply`), `fleet_assignment` rows, `fleet.streams` events, log lines, metrics. Runs in the leader's
loop; nothing here waits for Postgres or Kafka. A change that Redis refuses is simply planned again from what Redis says.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from coordinator.assignments import Assignments
from coordinator.events import Moves
from coordinator.lease import Leadership
from coordinator.observed import Observed
from fleet.core.errors import StoreUnavailable
from fleet.core.model import AccountSpec, Ownership
from fleet.core.plan import Assign, Plan, Release
from fleet.core.wire import REVOKE, RUN, Generation
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.redis_store import BATCH, Change, RedisStore

T = TypeVar("T")
PAUSED_S = 2.0  # no call takes that long
WRITE_S = 0.5  # of a tick: carrying out a plan for 60,000 accounts takes longer than the lease lasts


class Dispatch:
    """The leader's hand."""

    def __init__(
        self,
        store: RedisStore,
        leadership: Leadership,
        observed: Observed,
        assignments: Assignments,
        moves: Moves,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._store, self._leadership, self._observed = store, leadership, observed
        self._assignments, self._moves, self._metrics, self._now_ms = assignments, moves, metrics, now_ms
        self._log = get("dispatch")

    def carry_out(
        self, plan: Plan, generation: Generation, accounts: Mapping[str, AccountSpec]
    ) -> Iterator[dict[str, Ownership]]:
        """Stops first, starts later; yields each batch of assignments made. Ends part-way after WRITE_S, or by StoreUnavailable
        or NotLeader: the next tick plans the rest (R15)."""
        until_s = time.monotonic() + WRITE_S
        for releases in _chunks(plan.releases):
            self._release(releases, generation)
            if time.monotonic() >= until_s:
                return
        for assigns in _chunks(plan.assigns):
            yield self._assign(assigns, generation, accounts)
            if time.monotonic() >= until_s:
                return

    def fence(self, slot: str, incarnation: str, reason: str) -> bool:
        """The verdict on one incarnation, in Redis and for the witness. Raises StoreUnavailable or NotLeader."""
        self._assignments.fence({slot: incarnation})
        done = self._store.fence_worker(self._leadership.leader, slot, incarnation)
        if done:
            self._log.warning("worker fenced", action="fence", shard=slot, incarnation=incarnation, reason=reason)
        return done

    def _release(self, releases: Sequence[Release], generation: Generation) -> None:
        now_ms = self._now_ms()
        changes = [Change(r.account_id, r.expected, self._revoked(r, now_ms) if r.revoke else None) for r in releases]
        removed: dict[str, int] = {}
        for release, change, done in zip(releases, changes, self._apply(generation, changes), strict=True):
            if not done:
                continue
            if change.new is None:
                removed[release.account_id] = release.expected.token
            self._log.info(
                "account revoked" if release.revoke else "account dropped",
                action="release",
                stream=release.account_id,
                shard=release.expected.slot,
                reason=release.reason,
            )
        self._assignments.record({}, removed)

    def _assign(
        self, assigns: Sequence[Assign], generation: Generation, accounts: Mapping[str, AccountSpec]
    ) -> dict[str, Ownership]:
        now_ms = self._now_ms()
        changes = [
            Change(
                a.account_id,
                a.expected,
                Ownership(a.slot, a.incarnation, self._leadership.next_token(), RUN, now_ms, a.revision, a.egress_ip),
            )
            for a in assigns
        ]
        moved: dict[str, Ownership] = {}
        for assign, change, done in zip(assigns, changes, self._apply(generation, changes), strict=True):
            if not done or change.new is None:
                continue
            moved[assign.account_id] = change.new
            self._moves.put(assign, change.new, accounts.get(assign.account_id), now_ms)
            self._log.info(
                "account assigned",
                action="move",
                stream=assign.account_id,
                shard=assign.slot,
                former=assign.expected.slot if assign.expected else "",
                token=change.new.token,
                egress_ip=assign.egress_ip,
                reason=assign.reason,
            )
        self._assignments.record(moved, {})
        return moved

    def _apply(self, generation: Generation, changes: Sequence[Change]) -> list[bool]:
        started_s = time.monotonic()
        results = self._store.apply(self._leadership.leader, generation, changes)
        if (
            time.monotonic() - started_s > PAUSED_S
        ):  # somebody else may lead by now: the next reading tells what came of it
            raise StoreUnavailable("the leader was paused amid a write")
        self._observed.applied(changes, results)
        return results

    def _revoked(self, release: Release, now_ms: int) -> Ownership:
        return msgspec.structs.replace(release.expected, state=REVOKE, since_ms=now_ms)


def _chunks(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))
