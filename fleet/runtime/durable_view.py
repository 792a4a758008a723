"""Where accounts ran as Postgres has it, for an operator while Redis is away or being rebuilt: owners, but not how streams stand.

In: one Postgres connection. Out: dicts with the fields of contracts.md, "Commands", their states "unknown". Used by the CLI.
"""

from __future__ import annotations

import time
from typing import Any

from fleet.core.model import Ownership
from fleet.core.wire import RUN
from fleet.runtime.fleet_view import UNKNOWN, stream_row
from fleet.runtime.postgres import Postgres, queries


class DurableView:
    """Reads only. `newest_s`: age of the newest move read so far, None where there was none."""

    def __init__(self, pg: Postgres) -> None:
        self._pg, self._sql = pg, queries("account_rows")
        self.newest_s: float | None = None

    def shards(self) -> list[dict[str, Any]]:
        """One row per slot that owns something."""
        slots: dict[str, list[Ownership]] = {}
        for owner in self._owners().values():
            slots.setdefault(owner.slot, []).append(owner)
        return [
            {
                "slot": slot,
                "host": slot.rpartition(":")[0],
                "pid": None,
                "state": UNKNOWN,
                "incarnation": max(owners, key=lambda owner: owner.token).incarnation,
                "accounts": len(owners),
                "live": None,
                "load": None,
                "heartbeat_age_s": None,
            }
            for slot, owners in sorted(slots.items())
        ]

    def shard(self, slot: str) -> list[dict[str, Any]]:
        return [self._row(account, owner) for account, owner in self._owners(slot=slot).items()]

    def account(self, account_id: str) -> dict[str, Any]:
        owner = self._owners(account_id=account_id).get(account_id)
        return self._row(account_id, owner) | {"egress_ip": owner.egress_ip or None if owner else None, "reason": None}

    def _row(self, account_id: str, owner: Ownership | None) -> dict[str, Any]:
        return stream_row(account_id, owner, None) | {"state": UNKNOWN, "reconnects": None, "gap": None}

    def _owners(self, slot: str | None = None, account_id: str | None = None) -> dict[str, Ownership]:
        rows = self._pg.fetch(self._sql["durable_owners"], {"slot": slot, "id": account_id})
        if rows:
            self.newest_s = max(0.0, time.time() - max(int(row["since_ms"]) for row in rows) / 1000)
        return {
            str(row["account_id"]): Ownership(
                row["slot"], row["incarnation"], int(row["token"]), RUN, int(row["since_ms"]), -1, row["egress_ip"]
            )
            for row in rows
        }
