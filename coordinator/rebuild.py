"""R10: Redis lost its data (or never had any). Ownership is restored from Postgres and from what workers say they run.

In: durable records of `fleet_assignment`, the former leader's own mirror, reports. Out: a new generation, first `building`
(which no worker obeys), then `ready`. No stream restarts. Runs in the leader's loop, one step per tick.

    new term → restore records, gen building → wait until every worker concerned has reported, at least for two beats (a
    worker of which Redis knows nothing and Postgres not yet comes back with its next one), at most T_dead
    → adopt higher tokens, drop what a reporting worker does not run → gen ready
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

import msgspec

from coordinator.assignments import Assignments
from coordinator.lease import Leadership
from coordinator.observed import Observed, is_gone, reported
from coordinator.own_reading import READ_S, OwnReading, OwnRecords
from fleet.core.lifecycle import ENDED
from fleet.core.model import Ownership, StreamStatus
from fleet.core.wire import REVOKE, RUN, Generation
from fleet.runtime.logs import get
from fleet.runtime.redis_store import BATCH, Change, NotLeader, Observation, RedisStore

WRITE_S = 0.5  # of a tick: restoring 1,000,000 records takes longer than the lease lasts
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
        self._to_write: list[dict[str, Ownership]] = []  # batches
        self._written = 0
        self._version = 0  # write counter, as seen last
        self._reading: OwnReading | None = None
        self._whole: OwnRecords | None = None  # the records that reports are compared with
        self._owned: dict[tuple[str, str], list[str]] = {}  # slot, incarnation -> accounts, of these records
        self._compared: dict[str, str] = {}  # slot -> incarnation whose report was
        self._said: list[Change] = []  # what came of it
        self._since = 0.0
        self._log = get("rebuild")

    def step(self, observed: Observed, now: float) -> Generation | None:
        """Raises StoreUnavailable or NotLeader: the caller starts another rebuild."""
        if not self._has_term and not self._begin(observed):
            return None
        observation = observed.latest
        assert observation is not None
        if self._restored is not None:
            self._same_data(observation)
        if self._restored is None or self._to_write:
            self._restore(now)
            return None
        slots = {r.slot for r in self._restored.values()} | set(observation.workers)
        waiting = [s for s in slots if not reported(observation, s) and not is_gone(observation.workers.get(s))]
        waited_s = now - self._since
        if (waiting and waited_s < self._wait_s) or (waited_s < COME_BACK_S and not self._leadership.first):
            return None
        return self._finish(observed, observation) if self._compare(observation) else None

    def _same_data(self, observation: Observation) -> None:
        """Data that are lost once more meanwhile must not be taken for accounts without an owner, nor be written on."""
        if observation.generation != self._generation or observation.version < self._version:
            raise NotLeader("redis has lost its data again")
        self._version = observation.version

    def _begin(self, observed: Observed) -> bool:
        """From here on workers obey nothing, and report what they run."""
        self._has_term = self._leadership.new_term()
        if self._has_term:
            workers = observed.latest.workers if observed.latest else ()
            self._store.rebuild(self._leadership.leader, self._generation, {}, workers)
            self._log.warning("rebuild: restoring ownership", action="rebuild", generation=self._generation.id)
        return self._has_term

    def _restore(self, now: float) -> None:
        if self._restored is None:
            durable = self._assignments.restore()
            if durable is None:
                return
            self._durable, self._restored = durable, newest(durable, self._mirror)
            records = iter(self._restored.items())
            self._to_write = [dict(islice(records, BATCH)) for _ in range(0, len(self._restored), BATCH)]
        until = time.monotonic() + WRITE_S
        while self._to_write and time.monotonic() < until:
            self._written += self._store.rebuild(self._leadership.leader, self._generation, self._to_write.pop())
        if self._to_write:
            return
        self._since = now
        self._log.warning(
            "rebuild: records restored", action="rebuild", records=len(self._restored), written=self._written
        )

    def _compare(self, observation: Observation) -> bool:
        """Hold every report against the records, over as many ticks as that takes; anew where either changed meanwhile."""
        reporting = {
            slot: worker.view.incarnation for slot, worker in observation.workers.items() if reported(observation, slot)
        }
        whole = self._whole
        if whole is None or whole.version != observation.version or not self._compared.items() <= reporting.items():
            self._whole, self._compared, self._said = None, {}, []
            self._reading = self._reading or OwnReading(self._store)
            whole = self._reading.go_on()
            if whole is None:
                return False
            self._reading = None
            if whole.changed:
                return False
            self._whole, self._owned = whole, {}
            for account, record in whole.records.items():
                self._owned.setdefault((record.slot, record.incarnation), []).append(account)
        until = time.monotonic() + READ_S
        for slot in [each for each in reporting if each not in self._compared]:
            if time.monotonic() >= until:
                return False
            incarnation = self._compared[slot] = reporting[slot]
            mine = self._owned.get((slot, incarnation), ())
            reports = self._store.reports(slot)
            self._said += settle(whole.records, mine, slot, incarnation, reports, self._now_ms())
        return True

    def _finish(self, observed: Observed, observation: Observation) -> Generation:
        """The durable copy is touched only when Redis has confirmed that these records are the generation's to the end."""
        assert self._restored is not None and self._whole is not None
        own = self._whole.records
        if self._whole.generation != self._generation:
            raise NotLeader("redis has lost its data again")
        kept = {a: r for a, r in own.items() if a not in self._durable or self._durable[a].token < r.token}
        removed = {a: r.token for a, r in self._restored.items() if a not in own}
        changes = agreed(self._said)
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
        observed.read_again()
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
    mine: Iterable[str],
    slot: str,
    incarnation: str,
    reports: Mapping[str, StreamStatus],
    now_ms: int,
) -> list[Change]:
    """What one worker's report changes: a higher token beats the record (R2); a record for what it does not run is dropped.
    `mine`: the accounts whose record names this incarnation."""
    changes: list[Change] = []
    reports = {account: status for account, status in reports.items() if status.state not in ENDED}
    for account, status in reports.items():
        record = own.get(account)
        if record is None or status.token > record.token:
            egress_ip = record.egress_ip if record and record.slot == slot else ""
            adopted = Ownership(slot, incarnation, status.token, RUN, now_ms, -1, egress_ip)
            changes.append(Change(account, record, adopted))
    return changes + [Change(account, own[account], None) for account in mine if account not in reports]
