"""R10: Redis lost its data (or never had any). Ownership is restored from Postgres and from what workers say they run.

In: durable records of `fleet_assignment`, the former leader's own mirror, reports. Out: a new generation, first `building`
(which no worker obeys), then `ready`. No stream restarts. Runs in the leader's loop, one step per tick.

    new term → restore records, gen building → wait until every worker concerned has reported, at least for two beats (a
    worker of which Redis knows nothing and Postgres not yet comes back with its next one), at most T_dead
    → adopt higher tokens, drop what a reporting worker does not run → gen ready
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping

import msgspec

from coordinator.assignments import Assignments
from coordinator.lease import Leadership
from coordinator.observed import Observed, is_gone, reported
from fleet.core.lifecycle import ENDED
from fleet.core.model import Ownership, StreamStatus
from fleet.core.wire import REVOKE, RUN, Generation
from fleet.runtime.logs import get
from fleet.runtime.redis_store import BATCH, Change, NotLeader, Observation, RedisStore

COME_BACK_S = 2.5  # within this time every live worker has met the new data: two beats and a call


class Rebuild:
    """One rebuild. `step` returns the ready generation when it is done, None while it goes on."""

    def __init__(
        self,
        store: RedisStore,
        leadership: Leadership,
        assignments: Assignments,
        mirror: Mapping[str, Ownership],
        wait_s: float,
        now_ms: Callable[[], int],
    ) -> None:
        self._store, self._leadership, self._assignments = store, leadership, assignments
        self._mirror = dict(mirror)
        self._wait_s = wait_s
        self._now_ms = now_ms
        self._generation = Generation(uuid.uuid4().hex[:12], False)
        self._has_term = False
        self._restored: dict[str, Ownership] | None = None
        self._durable: dict[str, Ownership] = {}
        self._since = 0.0
        self._log = get("rebuild")

    def step(self, observed: Observed, now: float) -> Generation | None:
        """Raises StoreUnavailable or NotLeader: the caller starts another rebuild."""
        if not self._has_term and not self._begin(observed):
            return None
        if self._restored is None:
            self._restore(now)
            return None
        observation = observed.latest
        assert observation is not None
        slots = {r.slot for r in self._restored.values()} | set(observation.workers)
        waiting = [s for s in slots if not reported(observation, s) and not is_gone(observation.workers.get(s))]
        waited_s = now - self._since
        if (waiting and waited_s < self._wait_s) or (waited_s < COME_BACK_S and not self._leadership.first):
            return None
        return self._finish(observed, observation)

    def _begin(self, observed: Observed) -> bool:
        """From here on workers obey nothing, and report what they run."""
        self._has_term = self._leadership.new_term()
        if self._has_term:
            workers = observed.latest.workers if observed.latest else ()
            self._store.rebuild(self._leadership.leader, self._generation, {}, workers)
            self._log.warning("rebuild: restoring ownership", action="rebuild", generation=self._generation.id)
        return self._has_term

    def _restore(self, now: float) -> None:
        durable = self._assignments.restore()
        if durable is None:
            return
        self._durable, self._restored = durable, newest(durable, self._mirror)
        written = self._store.rebuild(self._leadership.leader, self._generation, self._restored)
        self._since = now
        self._log.warning("rebuild: records restored", action="rebuild", records=len(self._restored), written=written)

    def _finish(self, observed: Observed, observation: Observation) -> Generation:
        """The durable copy is touched only when Redis has confirmed that these records are the generation's to the end: data
        that are lost once more meanwhile must not be taken for accounts without an owner."""
        generation, own, _ = self._store.ownership()
        if generation != self._generation:
            raise NotLeader("redis has lost its data again")
        assert self._restored is not None
        kept = {a: r for a, r in own.items() if a not in self._durable or self._durable[a].token < r.token}
        removed = {a: r.token for a, r in self._restored.items() if a not in own}
        said: list[Change] = []
        for slot in observation.workers:
            if reported(observation, slot):
                incarnation = observation.workers[slot].view.incarnation
                reports = self._store.reports(slot)
                said += settle(own, slot, incarnation, reports, self._now_ms())
        changes = agreed(said)
        for start in range(0, len(changes), BATCH):
            batch = changes[start : start + BATCH]
            done = self._store.apply(self._leadership.leader, self._generation, batch)
            for change in (change for change, ok in zip(batch, done, strict=True) if ok):
                if change.new is not None:
                    kept[change.account_id] = change.new
                elif change.expected is not None:
                    kept.pop(change.account_id, None)
                    removed[change.account_id] = change.expected.token
        ready = self._store.complete(self._leadership.leader, self._generation)
        self._assignments.record(kept, removed)
        for slot in observation.workers:
            self._store.poke(slot)
        self._log.warning("rebuild: done", action="rebuild", generation=ready.id, adopted=len(changes))
        observed.own_version = -1
        return ready


def newest(*sources: Mapping[str, Ownership]) -> dict[str, Ownership]:
    """For each account the record under the highest token; a record that was being revoked is one that runs, until asked again."""
    merged: dict[str, Ownership] = {}
    for source in sources:
        for account, record in source.items():
            if account not in merged or record.token > merged[account].token:
                merged[account] = record
    return {
        account: msgspec.structs.replace(record, state=RUN) if record.state == REVOKE else record
        for account, record in merged.items()
    }


def agreed(said: Iterable[Change]) -> list[Change]:
    """One change per account. Of workers that run it the one under the highest token counts (R2), and any of them more than one
    that only says that it does not: the record it is named in may be older than a move that nobody wrote down."""
    by_account: dict[str, Change] = {}
    for change in sorted(said, key=lambda each: each.new.token if each.new else 0):
        by_account[change.account_id] = change
    return list(by_account.values())


def settle(
    own: Mapping[str, Ownership],
    slot: str,
    incarnation: str,
    reports: Mapping[str, StreamStatus],
    now_ms: int,
) -> list[Change]:
    """What one worker's report changes: a higher token beats the record (R2); a record for what it does not run is dropped."""
    changes: list[Change] = []
    reports = {account: status for account, status in reports.items() if status.state not in ENDED}
    for account, status in reports.items():
        record = own.get(account)
        if record is None or status.token > record.token:
            egress_ip = record.egress_ip if record and record.slot == slot else ""
            adopted = Ownership(slot, incarnation, status.token, RUN, now_ms, -1, egress_ip)
            changes.append(Change(account, record, adopted))
    for account, record in own.items():
        if (record.slot, record.incarnation) == (slot, incarnation) and account not in reports:
            changes.append(Change(account, record, None))
    return changes
