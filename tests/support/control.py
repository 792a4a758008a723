"""The control path without streams: a worker whose shard only remembers, rows of accounts, waiting under a deadline."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from fleet.core.model import Desired, StreamState, StreamStatus
from fleet.core.names import Keys
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import Poke, RedisStore
from fleet.runtime.settings import Settings
from workers.heartbeat import Heartbeat
from workers.inbox import Inbox


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0, what: str = "condition") -> float:
    """Seconds until `condition()` is true; fails after `timeout_s`."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise AssertionError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.01)
    return time.monotonic() - started


class Remembering:
    """Stands for workers.shard.Shard: runs what it is told at once, under tokens that only rise."""

    def __init__(self) -> None:
        self.incarnation = ""
        self.running: dict[str, int] = {}
        self.highest: dict[str, int] = {}
        self.starts: list[tuple[str, int]] = []
        self.stops: list[str] = []
        self.aborted: list[str] = []
        self.stuck: set[str] = set()  # accounts whose stream does not end when revoked
        self.starting: set[str] = set()  # accounts that are never seen to be live
        self.lock = threading.Lock()  # guards everything above

    def apply(self, desired: Mapping[str, Desired]) -> None:
        with self.lock:
            for account in list(self.running):
                want = desired.get(account)
                if (want is None or want.state != "run") and account not in self.stuck:
                    del self.running[account]
                    self.stops.append(account)
            for account, want in desired.items():
                if want.state == "run" and want.token > self.highest.get(account, -1):
                    self.running[account] = self.highest[account] = want.token
                    self.starts.append((account, want.token))

    def count(self) -> int:
        return len(self.running)

    def statuses(self) -> list[StreamStatus]:
        with self.lock:
            return [
                StreamStatus(a, t, StreamState.CONNECTING if a in self.starting else StreamState.LIVE, 0, 0, False)
                for a, t in self.running.items()
            ]

    def abort_all(self, reason: str) -> None:
        with self.lock:
            self.aborted.append(reason)
            self.running.clear()


class ControlledWorker:
    """Heartbeat and inbox of one slot, in this process. `kill` stops them without a word, as SIGKILL would."""

    def __init__(self, settings: Settings, slot: str, *, witness: bool = True, lock: str = "") -> None:
        settings = dataclasses.replace(settings, slot=slot)
        keys = Keys(settings.fleet)

        def store() -> RedisStore:
            return RedisStore(settings.redis_url, keys, settings.redis_timeout_s)

        def postgres() -> Postgres:
            return Postgres(settings.postgres_dsn, application=f"test {slot}", statement_timeout_s=1.0)

        self.slot, self.shard = slot, Remembering()
        self.heartbeat = Heartbeat(settings, store, postgres if witness else None, self.shard, slot, lock=lock)
        self.inbox = Inbox(
            store,
            lambda: Poke(settings.redis_url, keys, slot, settings.redis_timeout_s),
            self.shard,
            slot,
            self.heartbeat,
        )
        self.heartbeat.start()
        self.inbox.start()

    @property
    def running(self) -> dict[str, int]:
        return dict(self.shard.running)

    def kill(self) -> None:
        self.inbox.stop()
        self.heartbeat.stop(3.0, gone=False)

    def exit(self) -> None:
        self.inbox.stop()
        self.heartbeat.stop(3.0, gone=True)


class Accounts:
    """Rows of exchange_accounts, written as an operator's tool would."""

    def __init__(self, dsn: str) -> None:
        self.pg = Postgres(dsn, application="test accounts")
        self._n = 0

    def add(self, n: int = 1) -> list[str]:
        self._n += n
        rows = self.pg.fetch(
            "INSERT INTO exchange_accounts (user_id, exchange, market, label, credential_key_id, credential_ciphertext)"
            " SELECT 'u', 'binance', 'usdm', 'label ' || n, 'k', 'x' FROM generate_series(%s, %s) AS n RETURNING id::text",
            (self._n - n + 1, self._n),
        )
        return [str(row["id"]) for row in rows]

    def change(self, sql: str, account: str) -> None:
        assert self.pg.execute(f"UPDATE exchange_accounts SET {sql} WHERE id = %s", (account,)) == 1

    def remove(self, account: str) -> None:
        self.pg.execute("DELETE FROM exchange_accounts WHERE id = %s", (account,))


def start_coordinator(env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "coordinator"], env=dict(env))
