"""What the fleet looks like now: shards and streams from Redis, accounts, gaps and moves from Postgres.

In: the two stores. Out: one JSON-able dict. Run by the console, on request, at most once a second. A store that does not
answer leaves its part empty and its error in `problems`: the page is most needed when something is down.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

from fleet.core.errors import FleetError, SettingsError
from fleet.core.model import StreamState, StreamStatus
from fleet.core.names import Keys
from fleet.core.wire import WorkerRecord
from fleet.runtime.postgres import Postgres, queries
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.settings import Settings

LIVE = (StreamState.LIVE, StreamState.ROTATING)
FRESH_S = 1.0  # an overview this young is shown again instead of asking the stores
SHOWN = 100  # accounts that are not live, listed by name
POSTGRES_TIMEOUT_S = 1.5


class Overview:
    """Reads both stores over one connection each."""

    def __init__(self, settings: Settings) -> None:
        self._redis = RedisStore(settings.redis_url, Keys(settings.fleet), settings.redis_timeout_s)
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
            observation = self._redis.observe()
            leader = self._redis.leader().partition("|")[0]
            owners, unreadable = self._redis.owners()
            reports = {slot: self._redis.reports(slot) for slot in observation.workers}
        except FleetError as error:
            problems.append(f"Redis: {error}")
            return empty
        problems += [f"Redis: record of worker {slot} is unreadable" for slot in observation.malformed]
        problems += [f"Redis: ownership record of {account} is unreadable" for account in unreadable[:5]]
        streams: dict[str, tuple[str, StreamStatus | None]] = {
            account: (own.slot, reports.get(own.slot, {}).get(account)) for account, own in owners.items()
        }
        states = Counter(str(status.state) if status else "assigned" for _, status in streams.values())
        not_live = [
            _stream_row(account, slot, status)
            for account, (slot, status) in sorted(streams.items())
            if status is None or status.state not in LIVE
        ]
        per_slot = Counter(slot for slot, _ in streams.values())
        live = Counter(slot for slot, status in streams.values() if status and status.state in LIVE)
        shards = [
            _shard_row(slot, record, per_slot[slot], live[slot]) for slot, record in sorted(observation.workers.items())
        ]
        return {"leader": leader, "shards": shards, "states": dict(states), "not_live": not_live[:SHOWN]}

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
        except SettingsError:
            raise
        except FleetError as error:
            problems.append(f"Postgres: {error}")
        return view


def _shard_row(slot: str, record: WorkerRecord, accounts: int, live: int) -> dict[str, Any]:
    """The row of `fleet shards --json`."""
    view = record.view
    return {
        "slot": slot,
        "host": view.host,
        "pid": view.pid,
        "state": "fenced" if record.fenced == view.incarnation else "draining" if record.drain else view.state,
        "incarnation": view.incarnation,
        "accounts": accounts,
        "live": live,
        "load": view.load,
        "heartbeat_age_s": round(max(0.0, time.time() - record.beat_ms / 1000), 1),
    }


def _stream_row(account: str, slot: str, status: StreamStatus | None) -> dict[str, Any]:
    return {
        "account_id": account,
        "slot": slot,
        "state": str(status.state) if status else "assigned",
        "reconnects": status.reconnects if status else 0,
        "gap_open": status.gap_open if status else False,
        "last_event_ms": status.last_event_ms if status else 0,
    }
