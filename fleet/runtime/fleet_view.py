"""The fleet as an operator asks for it: workers, owners and reports of Redis joined into rows. Used by CLI, console and demo.

In: one RedisStore. Out: dicts with the fields of contracts.md, "Commands"; times as UNIX milliseconds (`*_ms`).
"""

from __future__ import annotations

import time
from typing import Any

from fleet.core import wire
from fleet.core.model import Ownership, StreamState, StreamStatus
from fleet.runtime.redis_store import RedisStore

LIVE = frozenset({StreamState.LIVE, StreamState.ROTATING})
SILENT = "silent"  # says "up", and has not said anything for longer than a live worker may


class FleetView:
    """Reads only. `dead_after_s`: how long a worker may be silent (FLEET_DEAD_AFTER_S)."""

    def __init__(self, store: RedisStore, dead_after_s: float) -> None:
        self._store = store
        self._dead_after_s = dead_after_s

    def shards(self) -> list[dict[str, Any]]:
        """One row per registered worker, by slot."""
        workers = self._store.observe().workers
        owners, _ = self._store.owners()
        return [self._shard(record, owners) for _, record in sorted(workers.items())]

    def shard(self, slot: str) -> list[dict[str, Any]] | None:
        """The accounts of one worker and their states; None where no such worker is registered and nothing names it."""
        workers = self._store.observe().workers
        owners = {account: owner for account, owner in self._store.owners()[0].items() if owner.slot == slot}
        if slot not in workers and not owners:
            return None
        reports = self._store.reports(slot)
        return [
            stream_row(account, owners.get(account), reports.get(account)) for account in sorted({*owners, *reports})
        ]

    def account(self, account_id: str) -> dict[str, Any]:
        """Where one account runs; `slot` is None where nobody owns it, `reason` says why as the leader knows it."""
        owner = self._store.owner(account_id)
        report = self._store.report_of(owner.slot, account_id) if owner else None
        named = {} if owner else self._store.unplaced()[0]
        row = stream_row(account_id, owner, report)
        return row | {"egress_ip": (owner.egress_ip or None) if owner else None, "reason": named.get(account_id)}

    def unplaced(self) -> dict[str, int]:
        """Why accounts run nowhere → how many of them."""
        return self._store.unplaced()[1]

    def live(self) -> dict[str, StreamStatus]:
        """Account → report, of every account that its present owner says is live."""
        owners, _ = self._store.owners()
        found: dict[str, StreamStatus] = {}
        for slot in {owner.slot for owner in owners.values()}:
            for account, report in self._store.reports(slot).items():
                owner = owners.get(account)
                if owner and owner.slot == slot and owner.token == report.token and report.state in LIVE:
                    found[account] = report
        return found

    def _shard(self, record: wire.WorkerRecord, owners: dict[str, Ownership]) -> dict[str, Any]:
        view = record.view
        reports = self._store.reports(view.slot)
        owned = [account for account, owner in owners.items() if owner.slot == view.slot]
        age_s = round(max(0.0, time.time() - record.beat_ms / 1000), 3) if record.beat_ms else None
        state = view.state
        if record.fenced and record.fenced == view.incarnation:
            state = wire.FENCED
        elif state in (wire.UP, wire.DRAINING) and (age_s is None or age_s > self._dead_after_s):
            state = SILENT
        return {
            "slot": view.slot,
            "host": view.host,
            "pid": view.pid,
            "state": state,
            "incarnation": view.incarnation,
            "accounts": len(owned),
            "live": sum(1 for account in owned if account in reports and reports[account].state in LIVE),
            "load": view.load,
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
