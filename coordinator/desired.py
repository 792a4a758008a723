"""Which accounts should stream: the active rows of `exchange_accounts`, without their secrets.

In: Postgres, read fully at start, at each reconcile interval and after any failure, and row by row as notifications name
them (R15: the full reload is the truth). Out: an immutable `Snapshot`, and a wake-up of the reconciler. Runs on its own
thread of the coordinator, so that a slow Postgres never delays the leader's tick; the last snapshot stays in force.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from coordinator.background import Background
from fleet.core import decoding
from fleet.core.errors import FleetError
from fleet.core.model import AccountSpec
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.postgres import Postgres, queries

RETRY_S = 1.0
ALL = ""  # a notification without an id: reload everything


class Quarantined(msgspec.Struct, frozen=True):
    """The last row of `fleet_quarantine` of one account."""

    incident: str
    revision: int
    reason: str
    cleared: bool


class Snapshot(msgspec.Struct, frozen=True):
    """Active accounts as of one reading. `version` grows with each change; `skipped`: account → why its row is not usable;
    `quarantine`: account → its last quarantine (R13)."""

    accounts: dict[str, AccountSpec]
    skipped: dict[str, str]
    version: int
    quarantine: dict[str, Quarantined] = {}


class Desired(Background):
    """Call `start()`; `changed()` from any thread; `snapshot` is None until Postgres was read once."""

    def __init__(
        self,
        postgres: Callable[[], Postgres],
        venues: Collection[str],
        interval_s: float,
        metrics: Metrics,
        wake: Callable[[], None],
    ) -> None:
        super().__init__("desired")
        self.snapshot: Snapshot | None = None  # replaced as a whole by this thread, read by the reconciler
        self._factory, self._venues, self._interval_s = postgres, venues, interval_s
        self._metrics, self._wake_reconciler = metrics, wake
        self._sql = queries("control", "coordinator.sql")
        self._condition = threading.Condition()  # guards _ids and _stop
        self._ids: set[str] = {ALL}
        self._log = get("desired")

    def stop(self, timeout_s: float) -> None:
        with self._condition:
            self._stop.set()
            self._condition.notify()
        super().stop(timeout_s)

    def changed(self, ids: Iterable[str]) -> None:
        """These rows changed; an empty id stands for "anything may have"."""
        with self._condition:
            self._ids.update(ids)
            self._condition.notify()

    def _run(self) -> None:
        pg = self._factory()
        full_at, trouble = 0.0, ""
        while (ids := self._wait(full_at)) is not None:
            full = ALL in ids or time.monotonic() >= full_at or self.snapshot is None
            started = time.monotonic()
            try:
                self._load(pg, None if full else ids)
            except FleetError as error:
                self._metrics.reconciliations("error").inc()
                if str(error) != trouble:  # one line per trouble, not one per try
                    trouble = str(error)
                    self._log.error("reconciliation failed: accounts unreadable", action="reconcile", error=trouble)
                self.changed([ALL])
                self._pause()
                continue
            self._metrics.reconciliations("success").inc()
            trouble = ""
            if full:
                full_at = time.monotonic() + self._interval_s
            self._log.info(
                "reconciliation: accounts read",
                action="reconcile",
                scope="all" if full else "changed",
                accounts=len(self.snapshot.accounts) if self.snapshot else 0,
                duration_ms=round((time.monotonic() - started) * 1000, 1),
            )
            self._wake_reconciler()
        pg.close()

    def _wait(self, full_at: float) -> set[str] | None:
        """The ids to read; returns when there are some, or the full reload is due. None = stop."""
        with self._condition:
            while not self._stop.is_set() and not self._ids and (left_s := full_at - time.monotonic()) > 0:
                self._condition.wait(left_s)
            ids, self._ids = self._ids, set()
            return None if self._stop.is_set() else ids

    def _pause(self) -> None:
        with self._condition:
            self._condition.wait_for(self._stop.is_set, RETRY_S)

    def _load(self, pg: Postgres, ids: set[str] | None) -> None:
        before = self.snapshot or Snapshot({}, {}, 0)
        if ids is None:
            rows = pg.fetch(self._sql["active_accounts"])
            accounts: dict[str, AccountSpec] = {}
            skipped: dict[str, str] = {}
        else:
            rows = pg.fetch(self._sql["some_accounts"], {"ids": sorted(ids)})
            accounts = {a: spec for a, spec in before.accounts.items() if a not in ids}
            skipped = {a: why for a, why in before.skipped.items() if a not in ids}
        for row in rows:
            spec, why = read_row(row, self._venues)
            if spec is None:
                skipped[str(row["id"])] = why
            else:
                accounts[spec.id] = spec
        quarantine = {
            str(row["account_id"]): Quarantined(
                str(row["incident"]), int(row["revision"]), str(row["reason"]), bool(row["cleared"])
            )
            for row in pg.fetch(self._sql["quarantine"])
        }
        self._alert(before.skipped, skipped)
        now = Snapshot(accounts, skipped, before.version, quarantine)
        if self.snapshot is None or now != before:
            self.snapshot = msgspec.structs.replace(now, version=before.version + 1)
        self._metrics.accounts("active").set(len(accounts))
        self._metrics.accounts("malformed").set(len(skipped))

    def _alert(self, before: Mapping[str, str], after: Mapping[str, str]) -> None:
        """One line per bad row, when it turns bad or bad in another way; the other accounts stream on."""
        for account, why in after.items():
            if before.get(account) != why:
                self._log.error("account row skipped", action="alert", stream=account, reason=why)


def read_row(row: Mapping[str, Any], venues: Collection[str]) -> tuple[AccountSpec | None, str]:
    """(account, "") or (None, why the row cannot be streamed)."""
    try:
        spec = decoding.convert({k: v for k, v in row.items() if k != "has_credentials"}, AccountSpec)
    except msgspec.ValidationError as error:
        return None, f"malformed row: {error}"
    if spec.venue not in venues:
        return None, f"no adapter for {spec.exchange} {spec.market}"
    if not row.get("has_credentials"):
        return None, "no credentials"
    return spec, ""
