"""The worker's rows in Postgres: what an account needs to start, its watermark, and its deactivation. Runs in the worker.

In: account ids. Out: spec, plaintext credentials (here and nowhere else) and watermark. Watermarks are saved in one statement
for all accounts that changed, each second; a save that fails is repeated, because a stale watermark only makes the next
read-back longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

import msgspec

from fleet.core import decoding
from fleet.core.errors import FleetError, SecretsError, StoreUnavailable
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Watermark
from fleet.runtime.logs import get
from fleet.runtime.postgres import Postgres, queries
from fleet.runtime.secrets import Keyring
from workers.progress import Progress

SAVE_INTERVAL_S = 1.0
ALIVE_INTERVAL_S = 10.0
FAREWELL_S = 3.0  # a stream that ends waits so long for its turn to save ...
SILENT_S = 5.0  # ... and not at all for so long after Postgres did not answer
FIRST_READ_MAX_S = 7 * 86400.0  # an account without a watermark is read back to its creation, but no further than this


class Loaded(msgspec.Struct, frozen=True):
    """An account ready to start; `known` is False for one that never streamed here."""

    spec: AccountSpec
    credentials: Credentials
    mark: Watermark
    known: bool


class Accounts:
    """One Postgres connection, shared by the worker's threads under a lock, and the thread that saves watermarks."""

    def __init__(self, pg: Postgres, keyring: Keyring, stop: threading.Event) -> None:
        self._pg, self._keyring, self._stop = pg, keyring, stop
        self._sql = queries("accounts", "workers.sql")
        self._lock = threading.Lock()  # guards _pg: one statement at a time
        self._silent_until_s = 0.0
        self._log = get("accounts")
        self._live: Callable[[], Iterable[tuple[int, Progress]]] = lambda: ()
        self._thread = threading.Thread(target=self._save_loop, name="watermarks")

    def start(self, live: Callable[[], Iterable[tuple[int, Progress]]]) -> None:
        """`live` gives (token, progress) of every running stream."""
        self._live = live
        self._thread.start()

    def alive(self) -> bool:
        """False = the thread that saves watermarks died of something unforeseen: the process should end."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def load(self, account_id: str) -> Loaded | None:
        """None if the row is gone or inactive. Raises StoreUnavailable, or SecretsError if its ciphertext cannot be read."""
        with self._lock:
            rows = self._pg.fetch(self._sql["load_account"], {"id": account_id})
        if not rows or not rows[0]["is_active"]:
            return None
        row = rows[0]
        created_ms = int(row["created_at"].timestamp() * 1000)
        spec = AccountSpec(
            id=str(row["id"]),
            user_id=str(row["user_id"]),
            exchange=row["exchange"],
            market=row["market"],
            label=row["label"],
            is_testnet=row["is_testnet"],
            revision=row["revision"],
            created_at_ms=created_ms,
            telegram_chat_id=row["telegram_chat_id"],
        )
        if row["credential_ciphertext"] is None:
            raise SecretsError(f"account {spec.id} has no credentials")
        credentials = self._keyring.decrypt(row["credential_key_id"], bytes(row["credential_ciphertext"]), spec.id)
        stored = row["watermark"]
        earliest_ms = int((time.time() - FIRST_READ_MAX_S) * 1000)
        mark = decoding.convert(stored, Watermark) if stored else Watermark(proven_ms=max(created_ms, earliest_ms))
        return Loaded(spec, credentials, mark, stored is not None)

    def save(self, progresses: Iterable[tuple[int, Progress]]) -> None:
        """Save the watermarks that changed. Raises StoreUnavailable; nothing is lost by that."""
        self._save(progresses, -1)

    def save_last(self, token: int, progress: Progress) -> None:
        """Save the watermark of a stream that ends. Its release waits for this (R7), so many of them must not queue up, five
        seconds each, before a frozen Postgres: the leader would fence the whole worker. Raises StoreUnavailable."""
        if time.monotonic() < self._silent_until_s:
            raise StoreUnavailable("postgres: silent a moment ago")
        self._save([(token, progress)], FAREWELL_S)

    def _save(self, progresses: Iterable[tuple[int, Progress]], turn_s: float) -> None:
        rows = []
        for token, progress in progresses:
            if progress.dirty:
                progress.dirty = False
                rows.append((progress, (progress.spec.id, token, progress.watermark_json())))
        if not rows:
            return
        rows.sort(key=lambda row: row[1][0])  # one order for all writers: no deadlock
        try:
            self._write([row for _, row in rows], turn_s)
        except FleetError:
            for progress, _ in rows:
                progress.dirty = True
            raise

    def _write(self, rows: list[tuple[str, int, str]], turn_s: float) -> None:
        if not self._lock.acquire(timeout=turn_s):
            raise StoreUnavailable("postgres: others are waiting for it")
        try:
            with self._pg.transaction() as tx:
                tx.execute_values(self._sql["save_watermarks"], rows)
        except StoreUnavailable:
            self._silent_until_s = time.monotonic() + SILENT_S
            raise
        finally:
            self._lock.release()

    def _save_loop(self) -> None:
        alive_s = time.monotonic()
        while not self._stop.wait(SAVE_INTERVAL_S):
            live = list(self._live())
            if time.monotonic() - alive_s >= ALIVE_INTERVAL_S:
                alive_s = time.monotonic()
                for _, progress in live:
                    progress.note_alive()
            try:
                self.save(live)
            except FleetError as error:  # refused, too: a right that was taken away may be given back
                self._log.warning("watermarks could not be saved", action="save_watermarks", error=str(error))

    def deactivate(self, spec: AccountSpec, reason: str, text: str) -> bool:
        """Set is_active=false with its reason, and write the notice, in one transaction. False if the row has changed since
        (somebody repaired it). Raises StoreUnavailable: then nothing has happened."""
        with self._lock, self._pg.transaction() as tx:
            rows = tx.fetch(self._sql["deactivate"], {"id": spec.id, "revision": spec.revision, "reason": reason})
            if not rows:
                return False
            incident = f"credentials:{spec.id}:{spec.revision}"
            chat = rows[0]["telegram_chat_id"]
            tx.execute(self._sql["notice"], {"id": spec.id, "incident": incident, "chat": chat, "text": text})
        return True
