"""The durable copy of ownership and the second witness: the leader's side of Postgres, beside the accounts.

In: moves (one row each), questions about silent workers. Out: rows of `fleet_assignment`, witness rows. Runs on its own
thread of the coordinator: while Postgres is away the latest state per account waits here and moves go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from coordinator.background import Background
from fleet.core.errors import FleetError, StoreUnavailable, WireError
from fleet.core.model import Ownership
from fleet.core.observe import WitnessRow
from fleet.core.wire import RUN
from fleet.runtime.logs import get
from fleet.runtime.postgres import Postgres, StatementFailed, Transaction, queries

if TYPE_CHECKING:
    from coordinator.quarantine import Incident

PROBE_S = 1.0


class Reading(msgspec.Struct, frozen=True):
    """Witness rows as they stood at `at`. `slots` were asked for; one of them that is not in `rows` has none."""

    at: float
    slots: frozenset[str]
    rows: dict[str, WitnessRow]

    def differs_in(self, other: Reading) -> bool:
        """Is anybody fenced that was asked for in both, and fenced in one of them only?"""
        both = self.slots & other.slots
        return any(_fenced(self.rows.get(slot)) != _fenced(other.rows.get(slot)) for slot in both)


class Assignments(Background):
    """Call `start()`; everything else is called by the reconciler and returns at once."""

    def __init__(self, postgres: Callable[[], Postgres], wake: Callable[[], None]) -> None:
        super().__init__("assignments")
        self.up_since: float | None = None  # since when Postgres has answered without a break; written by this thread
        self._factory, self._wake = postgres, wake
        self._sql, self._witness_sql = queries("control", "coordinator.sql"), queries("witness")
        self._condition = threading.Condition()  # guards everything below
        self._pending: dict[str, tuple[Ownership | None, int]] = {}  # account -> (record or None, token of the change)
        self._suspects: frozenset[str] = frozenset()
        self._witness: Reading | None = None
        self._fences: dict[str, str] = {}
        self._incidents: list[tuple[str, dict[str, Any]]] = []  # statements on `fleet_quarantine`, in order
        self._restore = False
        self._restored: dict[str, Ownership] | None = None
        self._log = get("assignments")

    def stop(self, timeout_s: float) -> None:
        """Write what is pending, if Postgres lets us."""
        with self._condition:
            self._stop.set()
            self._condition.notify()
        super().stop(timeout_s)

    def record(self, changes: Mapping[str, Ownership], removed: Mapping[str, int]) -> None:
        """Moves made, and accounts that lost their owner (with the token they had). Written in order, newest last."""
        with self._condition:
            for account, record in changes.items():
                self._put(account, record, record.token)
            for account, token in removed.items():
                self._put(account, None, token)
            self._condition.notify()

    def _put(self, account: str, record: Ownership | None, token: int) -> None:
        """News of an older ownership never replaces what waits to be written of a newer one."""
        if account not in self._pending or self._pending[account][1] <= token:
            self._pending[account] = (record, token)

    def drop(self) -> None:
        """No longer leading: what waits here may be over by now, and whoever leads compares, judges and writes it anew."""
        with self._condition:
            self._pending.clear()
            self._fences.clear()

    def fence(self, fences: Mapping[str, str]) -> None:
        """The verdict also for workers that only see Postgres."""
        with self._condition:
            self._fences.update(fences)
            self._condition.notify()

    def quarantine(self, incident: Incident) -> None:
        """A row of `fleet_quarantine` to be written (R13)."""
        with self._condition:
            self._incidents.append(("store_quarantine", msgspec.structs.asdict(incident)))
            self._condition.notify()

    def lift_quarantine(self, incident: str, why: str) -> None:
        with self._condition:
            self._incidents.append(("lift_quarantine", {"incident": incident, "why": why}))
            self._condition.notify()

    def witness(self, suspects: Iterable[str]) -> Reading | None:
        """The last reading, None where there is none; `suspects` are read anew. It may have been of others: among a thousand
        workers somebody is late, or heard of again, in every tick, and the rest must not be asked for anew for that."""
        with self._condition:
            self._suspects = frozenset(suspects)
            if self._suspects:
                self._condition.notify()
            return self._witness

    def restore(self) -> dict[str, Ownership] | None:
        """Every durable record, pending ones included; None until it was read (call again)."""
        with self._condition:
            if self._restored is not None:
                restored, self._restored = self._restored, None
                return restored
            self._restore = True
            self._condition.notify()
            return None

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        pg = self._factory()
        while True:
            with self._condition:
                if not (self._pending or self._fences or self._incidents or self._restore or self._stop.is_set()):
                    self._condition.wait(PROBE_S)
                stop = self._stop.is_set()
            try:
                self._round(pg)
                self.up_since = self.up_since or time.monotonic()
            except FleetError as error:
                if self.up_since is not None or stop:
                    self._log.error("postgres silent: moves go on, rows wait", action="assignments", error=str(error))
                self.up_since = None
                if not stop:
                    with self._condition:
                        self._condition.wait_for(self._stop.is_set, PROBE_S)
                    continue
            if stop:
                break
        pg.close()

    def _round(self, pg: Postgres) -> None:
        with self._condition:
            pending, fences, suspects = dict(self._pending), dict(self._fences), self._suspects
            restore, incidents = self._restore, list(self._incidents)
        for name, values in incidents:
            pg.execute(self._sql[name], values)
        if fences:
            for slot, incarnation in fences.items():
                pg.execute(self._witness_sql["fence"], {"slot": slot, "incarnation": incarnation})
        if pending:
            self._store(pg, pending)
        rows = self._read_witness(pg, suspects)
        restored = self._read_assignments(pg) if restore else None
        news = restored is not None
        with self._condition:
            self._forget_written(pending, fences)
            del self._incidents[: len(incidents)]
            if suspects:
                before, self._witness = self._witness, Reading(time.monotonic(), suspects, rows)
                news = news or before is None or self._witness.differs_in(before)
            if restored is not None:
                self._restored, self._restore = restored, False
        if news:
            self._wake()

    def _forget_written(self, pending: Mapping[str, tuple[Ownership | None, int]], fences: Mapping[str, str]) -> None:
        for account, change in pending.items():
            if self._pending.get(account) == change:
                del self._pending[account]
        for slot, incarnation in fences.items():
            if self._fences.get(slot) == incarnation:
                del self._fences[slot]

    def _store(self, pg: Postgres, pending: Mapping[str, tuple[Ownership | None, int]]) -> None:
        """All of it, but rows that Postgres refuses for their values: a record in Redis that is no account's (somebody else
        wrote it) must not keep the others, and verdicts, waiting for ever."""
        try:
            with pg.transaction() as tx:
                self._write(tx, pending)
        except StatementFailed as error:
            if not error.is_data:
                raise
            changes = list(pending.items())
            if len(changes) == 1:
                self._log.error("assignment row refused", action="alert", stream=changes[0][0], error=str(error))
                return
            half = len(changes) // 2
            self._store(pg, dict(changes[:half]))
            self._store(pg, dict(changes[half:]))

    def _write(self, tx: Transaction, pending: Mapping[str, tuple[Ownership | None, int]]) -> None:
        kept = [
            (account, r.slot, r.incarnation, str(r.token), r.since_ms, r.revision, r.egress_ip)
            for account, (r, _) in pending.items()
            if r is not None
        ]
        gone = [(account, str(token)) for account, (r, token) in pending.items() if r is None]
        tx.execute_values(self._sql["store_assignments"], kept)
        tx.execute_values(self._sql["delete_assignments"], gone)

    def _read_witness(self, pg: Postgres, suspects: frozenset[str]) -> dict[str, WitnessRow]:
        """Raises StoreUnavailable also where no worker could beat: that nobody did says nothing then (R9)."""
        if suspects and not pg.fetch(self._witness_sql["writable"])[0]["writable"]:
            raise StoreUnavailable("postgres: takes no writes, so it is no witness")
        rows = pg.fetch(
            self._witness_sql["age"], {"slots": sorted(suspects)}
        )  # also without suspects: is Postgres there?
        return {
            str(row["slot"]): WitnessRow(str(row["incarnation"]), str(row["fenced_inc"] or ""), int(row["beat"]))
            for row in rows
        }

    def _read_assignments(self, pg: Postgres) -> dict[str, Ownership]:
        found: dict[str, Ownership] = {}
        for row in pg.fetch(self._sql["assignments"]):
            try:
                found[str(row["account_id"])] = Ownership(
                    str(row["slot"]), str(row["incarnation"]), int(row["token"]), RUN,
                    int(row["since_ms"]), int(row["revision"]), str(row["egress_ip"]),
                )  # fmt: skip
            except (ValueError, WireError) as error:
                self._log.error("assignment row skipped", action="alert", error=str(error))
        return found


def _fenced(row: WitnessRow | None) -> str:
    return row.fenced if row is not None else ""
