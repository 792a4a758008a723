"""R13 carried out: which accounts wait, which are not started any more, because their start kills workers.

In: assignments made, reports, deaths of workers, the rows of `fleet_quarantine`. Out: two sets for the plan, rows, alerts, one
`fleet.streams` event each. Runs in the leader's loop. The rule is in fleet/core/poison.py. Who is under suspicion is the
leader's memory alone, and a new leader learns it again; who was found guilty stays so, until its row is cleared or changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from coordinator.assignments import Assignments
from coordinator.desired import Snapshot
from coordinator.events import Moves
from coordinator.observed import Observed
from fleet.core.lifecycle import CONNECTED
from fleet.core.model import AccountSpec, Ownership
from fleet.core.poison import Suspicion
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.redis_store import RedisStore

SLOTS_PER_TICK = 8
TICK_S = 0.5


class Incident(msgspec.Struct, frozen=True):
    """One row to be written."""

    incident: str
    account_id: str
    revision: int
    reason: str
    since_ms: int


class Quarantine:
    """Feeds a Suspicion, and keeps its verdicts in Postgres."""

    def __init__(
        self,
        store: RedisStore,
        observed: Observed,
        assignments: Assignments,
        moves: Moves,
        metrics: Metrics,
        now_ms: Callable[[], int],
    ) -> None:
        self._store, self._observed, self._metrics = store, observed, metrics
        self._assignments, self._moves, self._now_ms = assignments, moves, now_ms
        self._suspicion = Suspicion()
        self._incidents: dict[str, str] = {}  # quarantined account -> its row
        self._lifted: set[str] = set()  # rows that are to be cleared
        self._read_at = 0.0
        self._next = 0
        self._log = get("quarantine")

    def begin(self) -> None:
        """A new leadership: the rows say who is quarantined."""
        self._suspicion = Suspicion()
        self._incidents, self._lifted = {}, set()
        self._observed.take_deaths()

    def assigned(self, records: Mapping[str, Ownership], now: float) -> None:
        for account, record in records.items():
            self._suspicion.assigned(account, record, now)

    def look(self, fenced: Mapping[str, str], snapshot: Snapshot | None, now: float) -> None:
        """Take in reports, deaths and rows. Raises StoreUnavailable."""
        accounts = snapshot.accounts if snapshot else None
        self._read_reports(now)
        for slot, incarnation in [*self._observed.take_deaths(), *fenced.items()]:
            for account in self._suspicion.died(slot, incarnation, now):
                self._condemn(account, accounts.get(account) if accounts else None, now)
        if snapshot is not None:
            self._follow_rows(snapshot, now)
            for account in self._suspicion.forgive(snapshot.accounts):
                self._release(account, snapshot.accounts.get(account), "row changed", lift=True)
            for account in self._suspicion.retry(now):
                self._release(account, snapshot.accounts.get(account), "tried again", lift=True)
        self._metrics.accounts("quarantined").set(len(self._suspicion.quarantined))

    def quarantined(self) -> frozenset[str]:
        return frozenset(self._suspicion.quarantined)

    def waiting(self, now: float) -> frozenset[str]:
        return self._suspicion.waiting(now)

    def _condemn(self, account: str, spec: AccountSpec | None, now: float) -> None:
        now_ms = self._now_ms()
        revision = spec.revision if spec else -1
        deaths = self._suspicion.deaths(account, now)
        pause_s = self._suspicion.quarantine(account, revision, now)
        guilty = f"{deaths} workers died starting it; tried again after {pause_s / 60:.0f} min"
        incident = self._incidents[account] = f"{account}:{now_ms}"
        self._assignments.quarantine(Incident(incident, account, revision, guilty, now_ms))
        self._log.error("account quarantined", action="alert", stream=account, reason=guilty)
        self._moves.told(account, "quarantined", guilty, spec, now_ms, incident)

    def _follow_rows(self, snapshot: Snapshot, now: float) -> None:
        """What another leader found holds here too; what an operator has cleared does not."""
        for account, row in snapshot.quarantine.items():
            spec = snapshot.accounts.get(account)
            mine = self._incidents.get(account)
            if row.cleared and mine == row.incident:
                self._suspicion.acquit(account)
                self._release(account, spec, "cleared", lift=False)
            elif row.cleared or row.incident in self._lifted or spec is None or spec.revision != row.revision:
                continue
            elif mine is None:
                self._suspicion.quarantine(account, row.revision, now)
                self._incidents[account] = row.incident
                self._log.warning("account stays quarantined", action="quarantine", stream=account, reason=row.reason)

    def _release(self, account: str, spec: AccountSpec | None, why: str, *, lift: bool) -> None:
        incident = self._incidents.pop(account, "")
        if lift and incident:
            self._lifted.add(incident)
            self._assignments.lift_quarantine(incident, why)
        self._log.info("account out of quarantine", action="quarantine", stream=account, reason=why)
        self._moves.told(account, "quarantine_ended", why, spec, self._now_ms(), incident)

    def _read_reports(self, now: float) -> None:
        """A few workers each tick: who of those that were started is live?"""
        slots = list(self._suspicion.slots())
        if not slots or now - self._read_at < TICK_S:
            return
        self._read_at = now
        for i in range(min(SLOTS_PER_TICK, len(slots))):
            for account, status in self._store.reports(slots[(self._next + i) % len(slots)]).items():
                if status.state in CONNECTED:
                    self._suspicion.live(account, status.token)
        self._next += SLOTS_PER_TICK
