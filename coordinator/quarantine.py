"""R13 carried out: which accounts wait, which are not started any more, because their start kills workers.

In: assignments made, reports, deaths of workers. Out: two sets for the plan, alerts. Runs in the leader's loop. The rule is in
fleet/core/poison.py. It is the leader's memory alone: a new leader learns it again.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.observed import Observed
from fleet.core.lifecycle import CONNECTED
from fleet.core.model import AccountSpec, Ownership
from fleet.core.poison import Suspicion
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.redis_store import RedisStore

SLOTS_PER_TICK = 8
TICK_S = 0.5


class Quarantine:
    """Feeds a Suspicion."""

    def __init__(self, store: RedisStore, observed: Observed, metrics: Metrics) -> None:
        self._store, self._observed, self._metrics = store, observed, metrics
        self._suspicion = Suspicion()
        self._read_at = 0.0
        self._next = 0
        self._log = get("quarantine")

    def begin(self) -> None:
        """A new leadership."""
        self._suspicion = Suspicion()
        self._observed.take_deaths()

    def assigned(self, records: Mapping[str, Ownership], now: float) -> None:
        for account, record in records.items():
            self._suspicion.assigned(account, record, now)

    def look(self, fenced: Mapping[str, str], accounts: Mapping[str, AccountSpec] | None, now: float) -> None:
        """Take in reports and deaths. Raises StoreUnavailable."""
        self._read_reports(now)
        for slot, incarnation in [*self._observed.take_deaths(), *fenced.items()]:
            for account in self._suspicion.died(slot, incarnation, now):
                spec = accounts.get(account) if accounts else None
                self._suspicion.quarantine(account, spec.revision if spec else -1)
                self._log.error(
                    "account quarantined", action="alert", stream=account, reason="three workers died starting it"
                )
        if accounts is not None:
            for account in self._suspicion.forgive(accounts):
                self._log.info("account out of quarantine", action="quarantine", stream=account)
        self._metrics.accounts("quarantined").set(len(self._suspicion.quarantined))

    def quarantined(self) -> frozenset[str]:
        return frozenset(self._suspicion.quarantined)

    def waiting(self, now: float) -> frozenset[str]:
        return self._suspicion.waiting(now)

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
