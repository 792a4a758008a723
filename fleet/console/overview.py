"""What the fleet looks like now: shards and streams from Redis, accounts, gaps and moves from Postgres.

In: the two stores. Out: one JSON-able dict. Run by the console, on request, at most once a second. A store that does not
answer leaves its part empty and its error in `problems`: the page is most needed when something is down.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from fleet.core.errors import FleetError
from fleet.core.names import Keys
from fleet.runtime.fleet_view import LIVE, FleetView
from fleet.runtime.postgres import Postgres, queries
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.settings import Settings

FRESH_S = 1.0  # an overview this young is shown again instead of asking the stores
SHOWN = 100  # accounts that are not live, listed by name
POSTGRES_TIMEOUT_S = 1.5


class Overview:
    """Reads both stores over one connection each."""

    def __init__(self, settings: Settings) -> None:
        self._redis = RedisStore(settings.redis_url, Keys(settings.fleet), settings.redis_timeout_s)
        self._view = FleetView(self._redis, settings.dead_after_s)
        self._postgres: Postgres | None = None
        if settings.postgres_dsn:
            self._postgres = Postgres(
                settings.postgres_dsn, application="fleet-console", statement_timeout_s=POSTGRES_TIMEOUT_S
            )
        self._sql = queries("console", "fleet.console")
        self._lock = threading.Lock()  # guards the two connections and the last overview
        self._last: dict[str, Any] = {}
        self._read_at = float("-inf")

    def read(self) -> dict[str, Any]:
        """`{at_ms, leader, shards, states, not_live, accounts, gaps, open_gaps, moves, deactivations, problems}`."""
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_S:
                problems: list[str] = []
                self._last = {
                    "at_ms": int(time.time() * 1000),
                    **self._from_redis(problems),
                    **self._from_postgres(problems),
                    "problems": problems,
                }
                self._read_at = time.monotonic()
            return self._last

    def close(self) -> None:
        with self._lock:
            self._redis.close()
            if self._postgres is not None:
                self._postgres.close()

    def _from_redis(self, problems: list[str]) -> dict[str, Any]:
        empty: dict[str, Any] = {"leader": "", "shards": [], "states": {}, "not_live": []}
        try:
            seen = self._redis.observe()
            leader = self._redis.leader().partition("|")[0]
            owners, unreadable = self._redis.owners()
            reports = {slot: self._redis.reports(slot) for slot in {owner.slot for owner in owners.values()}}
            shards = self._view.shards()
        except FleetError as error:
            problems.append(f"Redis: {error}")
            return empty
        problems += [f"Redis: record of worker {slot} is unreadable" for slot in seen.malformed]
        problems += [f"Redis: ownership record of {account} is unreadable" for account in unreadable[:5]]
        rows = [
            self._view.stream(account, own, reports[own.slot].get(account), seen)
            for account, own in sorted(owners.items())
        ]
        return {
            "leader": leader,
            "shards": shards,
            "states": dict(Counter(row["state"] for row in rows)),
            "not_live": [row for row in rows if row["state"] not in LIVE][:SHOWN],
        }

    def _from_postgres(self, problems: list[str]) -> dict[str, Any]:
        view: dict[str, Any] = {"accounts": {}, "gaps": {}, "open_gaps": [], "moves": [], "deactivations": []}
        if self._postgres is None:
            problems.append("Postgres: FLEET_POSTGRES_DSN is not set")
            return view
        try:
            view["accounts"] = self._postgres.fetch(self._sql["accounts"])[0]
            view["gaps"] = self._postgres.fetch(self._sql["gap_counts"])[0]
            for name in ("open_gaps", "moves", "deactivations"):
                view[name] = self._postgres.fetch(self._sql[name])
        except FleetError as error:
            problems.append(f"Postgres: {error}")
        return view
