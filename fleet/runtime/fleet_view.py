"""The fleet as an operator asks for it: workers, owners and reports of Redis joined into rows. Used by CLI, console and demo.

In: one RedisStore. Out: dicts with the fields of contracts.md, "Commands"; times as UNIX milliseconds (`*_ms`). How old a beat is
is told by Redis' clock alone, and a report counts only while its worker is alive: neither a host's clock nor the dead have a say.
"""

from __future__ import annotations

from typing import Any

from fleet.core import wire
from fleet.core.errors import WireError
from fleet.core.model import Ownership, StreamState, StreamStatus
from fleet.runtime.redis_store import Observation, RedisStore, check_rebuilt

LIVE = frozenset({StreamState.LIVE, StreamState.ROTATING})
SILENT = "silent"  # says "up", and has not said anything for longer than a live worker may
UNKNOWN = "unknown"


class FleetView:
    """Reads only. `dead_after_s`: how long a worker may be silent (FLEET_DEAD_AFTER_S). Who owns what is never told from data that
    are not whole: BeingRebuilt is raised instead."""

    def __init__(self, store: RedisStore, dead_after_s: float) -> None:
        self._store = store
        self._dead_after_s = dead_after_s

    def shards(self) -> list[dict[str, Any]]:
        """One row per registered worker, by slot."""
        seen = self._store.observe()
        owned: dict[str, dict[str, Ownership]] = {}
        for account, owner in self.owners().items():
            owned.setdefault(owner.slot, {})[account] = owner
        return [self._shard(slot, seen, owned.get(slot, {})) for slot in sorted(seen.workers)]

    def shard(self, slot: str) -> list[dict[str, Any]] | None:
        """The accounts of one worker and their states; None where no such worker is registered and nothing names it."""
        seen = self._store.observe()
        owners = {account: owner for account, owner in self.owners().items() if owner.slot == slot}
        if slot not in seen.workers and not owners:
            return None
        reports = self._store.reports(slot)
        return [
            self.stream(account, owners.get(account), reports.get(account), seen)
            for account in sorted({*owners, *reports})
        ]

    def account(self, account_id: str) -> dict[str, Any]:
        """Where one account runs; `slot` is None where nobody owns it, `reason` says why, as the leader knows. Raises WireError."""
        seen = self._store.observe()
        part = self._store.own_of([account_id])
        check_rebuilt(part.generation)
        if part.malformed:
            raise WireError(f"the ownership record of {account_id} is unreadable")
        owner = part.records.get(account_id)
        report = self._store.report_of(owner.slot, account_id) if owner else None
        named = {} if owner else self._store.unplaced()[0]
        row = self.stream(account_id, owner, report, seen)
        return row | {"egress_ip": (owner.egress_ip or None) if owner else None, "reason": named.get(account_id)}

    def owners(self) -> dict[str, Ownership]:
        """Every ownership record that can be read, page by page; each page tells whether the data it is of are whole."""
        owners: dict[str, Ownership] = {}
        cursor = -1
        while cursor:
            page = self._store.own_page(max(cursor, 0))
            check_rebuilt(page.generation)
            owners |= page.records
            cursor = page.cursor
        return owners

    def stream(
        self, account_id: str, owner: Ownership | None, report: StreamStatus | None, seen: Observation
    ) -> dict[str, Any]:
        """One account's row, in which the report of an owner that is not alive by `seen` says nothing of how the stream stands."""
        row = stream_row(account_id, owner, report)
        doubt = self._doubt(owner, seen) if owner else ""
        return row | {"state": doubt, "gap": None} if doubt else row

    def unplaced(self) -> dict[str, int]:
        """Why accounts run nowhere → how many of them."""
        return self._store.unplaced()[1]

    def live(self) -> dict[str, StreamStatus]:
        """Account → report, of every account that its present owner, which is alive, says is live. Of data that are being rebuilt
        it has those that are known by now."""
        seen = self._store.observe()
        owned: dict[str, dict[str, Ownership]] = {}
        for account, owner in self._store.owners()[0].items():
            owned.setdefault(owner.slot, {})[account] = owner
        return {
            account: report
            for slot, owners in owned.items()
            for account, report in self._live(slot, seen, owners).items()
        }

    def _live(self, slot: str, seen: Observation, owners: dict[str, Ownership]) -> dict[str, StreamStatus]:
        """Of these accounts of one slot."""
        return {
            account: report
            for account, report in self._store.reports(slot).items()
            if (owner := owners.get(account))
            and owner.token == report.token
            and report.state in LIVE
            and not self._doubt(owner, seen)
        }

    def _doubt(self, owner: Ownership, seen: Observation) -> str:
        """ "" while the worker that owns is alive; else what is to be said of its streams, instead of what it reported last."""
        record = seen.workers.get(owner.slot)
        if record is None or record.view.incarnation != owner.incarnation:
            return UNKNOWN
        state, _ = self._state(record, seen)
        if state in (wire.UP, wire.DRAINING):
            return ""
        return SILENT if state == SILENT else UNKNOWN

    def _state(self, record: wire.WorkerRecord, seen: Observation) -> tuple[str, float | None]:
        """How a worker stands, and the age of its last beat in seconds."""
        age_s = max(0, seen.now_ms - record.beat_ms) / 1000 if record.beat_ms else None
        state = record.view.state
        if record.fenced and record.fenced == record.view.incarnation:
            state = wire.FENCED
        elif state in (wire.UP, wire.DRAINING) and (age_s is None or age_s > self._dead_after_s):
            state = SILENT
        return state, age_s

    def _shard(self, slot: str, seen: Observation, owners: dict[str, Ownership]) -> dict[str, Any]:
        record = seen.workers[slot]
        state, age_s = self._state(record, seen)
        return {
            "slot": slot,
            "host": record.view.host,
            "pid": record.view.pid,
            "state": state,
            "incarnation": record.view.incarnation,
            "accounts": len(owners),
            "live": len(self._live(slot, seen, owners)),
            "load": record.view.load,
            "heartbeat_age_s": age_s,
        }


def stream_row(account_id: str, owner: Ownership | None, report: StreamStatus | None) -> dict[str, Any]:
    """One account's stream; a report under another token than the owner's is an older life and does not count."""
    if owner and report and report.token != owner.token:
        report = None
    return {
        "id": account_id,
        "slot": owner.slot if owner else None,
        "token": owner.token if owner else None,
        "state": str(report.state) if report else ("assigned" if owner else "unplaced"),
        "since_ms": owner.since_ms if owner else 0,
        "last_event_ms": report.last_event_ms if report else 0,
        "reconnects": report.reconnects if report else 0,
        "gap": bool(report.gap_open) if report else owner is not None,
    }
