"""What is: workers, ownership records and the standings the leader derives from them.

In: Redis, on the leader's tick. Out: `workers` for the plan, `own` (a mirror, brought up to date only when its write counter
moved), and the silent workers that need a verdict. Runs in the coordinator's loop. The rules (R3, R8) are in
fleet/core/observe.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from coordinator.own_reading import OwnReading, OwnRecords
from fleet.core import observe, wire
from fleet.core.errors import StoreUnavailable
from fleet.core.model import Ownership, process_of
from fleet.core.observe import Seen, Standing, Timing
from fleet.core.plan import Worker
from fleet.core.wire import REVOKE
from fleet.runtime.logs import get
from fleet.runtime.redis_store import Change, Observation, RedisStore

BY_NAME = 5000  # records at the most that are asked for by name: more are revoked only where many workers are drained
STANDBY_SHARE = 20  # a standby spends no more than a twentieth of the time on reading records
ALIVE_OR_SILENT = (Standing.UP, Standing.LEAVING, Standing.DRAIN, Standing.SILENT)


class Observed:
    """The leader's (and a standby's) picture of the fleet."""

    def __init__(self, store: RedisStore, timing: Timing) -> None:
        self.own: dict[str, Ownership] = {}
        self.own_version = -1  # write counter the mirror stands for; -1 = all of it is to be read, or being read
        self.version = 0  # highest count known of this generation: one that falls means an older copy of the data
        self.latest: Observation | None = None
        self.workers: dict[str, Worker] = {}
        self._store, self._timing = store, timing
        self._memory: dict[str, Seen] = {}
        self._read_at = 0.0
        self._reading: OwnReading | None = None
        self._reading_since = self._rest_until = 0.0
        self._unreadable: frozenset[str] = frozenset()  # accounts whose record is
        self._doubtful: set[str] = set()  # accounts whose record is not what we took it for
        self._released: dict[str, int] = {}
        self._appeared: dict[str, Ownership] = {}
        self._deaths: list[tuple[str, str]] = []
        self._log = get("observed")

    def forget(self, why: str) -> None:
        """R3: after a pause of our own, a Redis gap or a new generation, every silence is timed from the beginning."""
        if self._memory:
            self._log.info("observations start over", action="observe", reason=why)
        self._memory = {}

    def read(self, now: float, leads: bool) -> Observation:
        """One reading. `leads`: nobody else adds or changes records. Raises StoreUnavailable, after which the caller must
        `forget` and `read_again`."""
        if self._read_at and now - self._read_at > self._timing.leader_gap_s:
            self.forget("the leader was paused")
        self._read_at = now
        observation = self._store.observe()
        for slot in observation.malformed:
            self._log.error("worker record unreadable", action="alert", shard=slot)
        if self.own_version != observation.version or self._doubtful:
            self._follow(observation, leads, now)
        self.latest = observation
        self._memory = observe.see(self._memory, observation.workers, {r.slot for r in self.own.values()}, now)
        lost = self._owning({slot for slot in self._memory if not _incarnation(observation.workers.get(slot))})
        before, self.workers = self.workers, {slot: self._worker(slot, lost, now) for slot in self._memory}
        self._note(before)
        return observation

    def read_again(self) -> None:
        """Nothing is known any more of what was written to the records."""
        self.own_version, self._reading = -1, None

    @property
    def own_known(self) -> bool:
        """Does `own` stand for what is in Redis, or is that still being read?"""
        return self.own_version >= 0

    def _follow(self, observation: Observation, leads: bool, now: float) -> None:
        """Others have written to `own`. The leader need not read all of it for that, and nobody all of it in one tick."""
        if leads and 0 <= self.own_version <= observation.version:
            version = self._by_name(self.own, observation)
            if version is not None:
                self.own_version = version
                return
        if self._reading is None:
            if now < self._rest_until and not leads:
                return
            self._reading, self._reading_since = OwnReading(self._store), now
        self.own_version = -1
        whole = self._reading.go_on()
        if whole is None:
            return
        self._reading, self._rest_until = None, now + STANDBY_SHARE * (now - self._reading_since)
        if whole.generation != observation.generation:
            raise StoreUnavailable("redis: its data were lost while they were read")
        self._unreadable = whole.malformed
        version = self._by_name(whole.records, observation) if leads and whole.changed else whole.version
        if version is not None:
            self._take(whole, version)

    def _by_name(self, own: dict[str, Ownership], observation: Observation) -> int | None:
        """While we lead, others only remove records, and nearly always of accounts that we have revoked: `own` is brought up
        to date by reading these, and the doubtful ones. The version it then stands for; None where that does not explain how
        many records are left."""
        names = self._doubtful | {account for account, record in own.items() if record.state == REVOKE}
        if not 0 < len(names) <= BY_NAME:
            return None
        part = self._store.own_of(sorted(names))
        if part.generation != observation.generation or part.version < observation.version:
            raise StoreUnavailable("redis: its data were lost while they were read")
        unreadable = (self._unreadable - names).union(part.malformed)
        others = len(own) - sum(1 for account in names if account in own)
        if others + len(part.records) + len(unreadable) != part.size:
            return None
        for account in names:
            record = part.records.get(account)
            self._changed(account, own.pop(account, None), record)
            if record is not None:
                own[account] = record
        self._unreadable = unreadable
        self._doubtful.clear()
        return part.version

    def _take(self, whole: OwnRecords, version: int) -> None:
        before, self.own, self.own_version = self.own, whole.records, version
        self._doubtful.clear()
        for account in before.keys() - self.own.keys():
            self._changed(account, before[account], None)
        for account, record in self.own.items():
            self._changed(account, before.get(account), record)
        for account in whole.malformed:
            self._log.error("ownership record unreadable", action="alert", stream=account)

    def _changed(self, account: str, before: Ownership | None, record: Ownership | None) -> None:
        """For `take_changes`; it may also be a write of ours whose answer was lost."""
        if record is None and before is not None:
            self._released[account] = before.token
            self._appeared.pop(account, None)
        elif record is not None and (before is None or before.token != record.token):
            self._appeared[account] = record
            self._released.pop(account, None)

    def take_changes(self) -> tuple[dict[str, Ownership], dict[str, int]]:
        """What the records show that we did not write, or do not know to have written, since the last call: new records, and
        accounts that workers released or gave back, with the token they had."""
        appeared, self._appeared = self._appeared, {}
        released, self._released = self._released, {}
        return appeared, released

    def applied(self, changes: Sequence[Change], results: Sequence[bool]) -> None:
        """A batch was written: the mirror follows what was done, so that it need not be read again."""
        for change, done in zip(changes, results, strict=True):
            if done:  # the writer keeps the durable copy itself
                self._appeared.pop(change.account_id, None)
                self._released.pop(change.account_id, None)
            if done and change.new is not None:
                self.own[change.account_id] = change.new
            elif done:
                self.own.pop(change.account_id, None)
            else:
                self._doubtful.add(change.account_id)
        self.own_version += any(results)
        self.version += any(results)

    def take_deaths(self) -> list[tuple[str, str]]:
        """(slot, incarnation) of the processes that were replaced without having said goodbye, since the last call."""
        deaths, self._deaths = self._deaths, []
        return deaths

    def suspects(self, now: float) -> dict[str, str]:
        """Slot → incarnation of the workers silent for T_dead: witness before verdict (R9)."""
        return {
            slot: worker.incarnation
            for slot, worker in self.workers.items()
            if worker.standing is Standing.SILENT
            and worker.incarnation
            and self._quiet_s(slot, now) >= self._timing.dead_after_s
        }

    def quiet(self, now: float, for_s: float) -> dict[str, str]:
        """Slot → incarnation of the workers, not dead for certain, that have not been heard of for `for_s`."""
        return {
            slot: worker.incarnation
            for slot, worker in self.workers.items()
            if worker.standing in ALIVE_OR_SILENT and worker.incarnation and self._quiet_s(slot, now) >= for_s
        }

    def _quiet_s(self, slot: str, now: float) -> float:
        """How long its counter has not moved; 0 for one that was forgotten a moment ago."""
        return now - self._memory[slot].beat_at if slot in self._memory else 0.0

    def may_live(self, slot: str, incarnation: str) -> bool:
        """Is this still the slot's incarnation, and not yet dead for certain?"""
        worker = self.workers.get(slot)
        return worker is not None and worker.incarnation == incarnation and worker.standing is not Standing.DEAD

    def given_up(self) -> set[str]:
        """Workers that an operator drains: should they fall silent, that is no news to the mass guard (R11)."""
        return {slot for slot, record in self.latest.workers.items() if record.drain} if self.latest else set()

    def watched(self) -> int:
        """How many workers are neither dead nor given up: the mass guard's measure (R11)."""
        alive = {slot for slot, worker in self.workers.items() if worker.standing is not Standing.DEAD}
        return len(alive - self.given_up())

    def expired(self, now: float, after_s: float) -> dict[str, str]:
        """Dead slots whose record may be removed: nothing names them, and nothing has moved for `after_s`."""
        assert self.latest is not None
        naming = {record.slot for record in self.own.values()}
        return {
            slot: record.view.incarnation or record.fenced
            for slot, record in self.latest.workers.items()
            if self.workers[slot].standing is Standing.DEAD
            and slot not in naming
            and slot in self._memory
            and now - self._memory[slot].state_at >= after_s
        }

    def _worker(self, slot: str, lost: Mapping[str, str], now: float) -> Worker:
        assert self.latest is not None
        record = self.latest.workers.get(slot)
        standing = observe.standing(record, self._memory[slot], now, self._timing)
        if record is None or not _incarnation(record):
            incarnation = lost.get(slot, "") if standing is Standing.SILENT else ""
            return Worker(slot, incarnation, standing, slot.rpartition(":")[0], 0)
        view = record.view
        return Worker(slot, view.incarnation, standing, view.host, view.capacity, record.egress_ips)

    def _owning(self, lost: Set[str]) -> dict[str, str]:
        """Which life of each worker without a record to wait for: the one that was given accounts last. One pass for all of them:
        a hundred passes over a million records take longer than a tick."""
        newest: dict[str, Ownership] = {}
        if lost:
            for record in self.own.values():
                if record.slot in lost and (record.slot not in newest or newest[record.slot].token < record.token):
                    newest[record.slot] = record
        return {slot: record.incarnation for slot, record in newest.items()}

    def _note(self, before: dict[str, Worker]) -> None:
        """One line per change of a worker's standing."""
        for slot, worker in self.workers.items():
            known = before.get(slot)
            if known is not None and known.standing in ALIVE_OR_SILENT and _replaced(known, worker):
                self._deaths.append((slot, known.incarnation))
            if known is None or (known.standing, known.incarnation) != (worker.standing, worker.incarnation):
                self._log.info(
                    f"worker {worker.standing}",
                    action="worker",
                    shard=slot,
                    incarnation=worker.incarnation,
                    former=str(known.standing) if known else "",
                )


def reported(observation: Observation, slot: str) -> bool:
    """Has the slot's present incarnation uploaded its streams since this data began (R10)?"""
    record = observation.workers.get(slot)
    return record is not None and bool(record.view.incarnation) and record.reported == record.view.incarnation


def is_gone(record: wire.WorkerRecord | None) -> bool:
    return record is not None and (record.view.state == wire.GONE or record.fenced == record.view.incarnation)


def _incarnation(record: wire.WorkerRecord | None) -> str:
    return record.view.incarnation if record is not None else ""


def _replaced(known: Worker, worker: Worker) -> bool:
    """By another process; a process that was fenced begins anew without having died."""
    return bool(known.incarnation) and process_of(known.incarnation) != process_of(worker.incarnation)
