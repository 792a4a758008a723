"""Desired view in, reports and acknowledgements out: the worker's half of the control path.

In: `{fleet}:d:<slot>` (woken by `:ch:<slot>`, or once a second: the tick is the truth, R15). Out: `shard.apply(...)`, the
report hash, released accounts (R7). Runs in each `workers userdata` process on one thread with its own Redis connection.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fleet.core.errors import FleetError, StoreUnavailable
from fleet.core.lease import obey
from fleet.core.lifecycle import ENDED
from fleet.core.model import Desired, StreamStatus
from fleet.core.wire import REVOKE, Generation
from fleet.runtime.logs import get
from fleet.runtime.redis_store import Poke, RedisStore
from workers.heartbeat import Heartbeat, Streams

TICK_S = 1.0
REVOKE_TICK_S = 0.1  # while a revoke waits for its stream to stop: a move's gap should not wait for a tick
LEASE_TICK_S = 0.05  # while there is no lease, in which views come and are not obeyed
GIVE_BACK_S = 5.0  # a stream that is to run and does not, and cannot start again under a token it has used
EVENT_AGE_MS = 5_000  # a report that differs in nothing but the time of the last event is sent this late


class Inbox:
    """Call `start()`, later `stop()`. Streams keep running while this thread gets no answer."""

    def __init__(
        self,
        store: Callable[[], RedisStore],
        poke: Callable[[], Poke],
        shard: Streams,
        slot: str,
        heartbeat: Heartbeat,
    ) -> None:
        self._store_factory, self._poke_factory = store, poke
        self._shard, self._slot, self._heartbeat = shard, slot, heartbeat
        self._incarnation = ""
        self._generation: Generation | None = None
        self._version = 0
        self._past: set[str] = set()  # generations that were replaced
        self._current: dict[str, Desired] = {}
        self._seen: dict[str, int] = {}  # highest token met per account, by this process, under any incarnation
        self._reported: dict[str, StreamStatus] = {}
        self._idle: dict[str, tuple[int, float]] = {}  # accounts that are to run and do not: token, since when
        self._stop = threading.Event()
        self._log = get("inbox")
        self._thread = threading.Thread(target=self._run, name="inbox", daemon=True)

    def start(self) -> Inbox:
        self._thread.start()
        return self

    def alive(self) -> bool:
        """False = the thread died of something unforeseen: the process should end, its supervisor starts another."""
        return self._thread.is_alive()

    def stop(self, timeout_s: float = 2.0) -> None:
        """From now on nothing is applied; returns when the thread has ended."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        store, poke = self._store_factory(), self._poke_factory()
        silent = False
        while not self._stop.is_set():
            try:
                if self.step(store) and silent:
                    self._log.info("desired view readable again", action="inbox", shard=self._slot)
                    silent = False
                poke.wait(self._wait_s())
            except StoreUnavailable as error:
                if not silent:
                    self._log.warning("desired view unreadable", action="inbox", shard=self._slot, error=str(error))
                silent = True
                self._stop.wait(TICK_S)
            except FleetError as error:
                self._log.error("desired view not understood", action="inbox", shard=self._slot, error=str(error))
                self._stop.wait(TICK_S)
        poke.close()
        store.close()

    def step(self, store: RedisStore) -> bool:
        """One round: pull, apply, acknowledge, report; False where there is nothing to obey yet. Raises StoreUnavailable."""
        incarnation = self._heartbeat.incarnation
        if incarnation != self._incarnation:
            self._begin(incarnation)
        if not self._leased():
            return False  # without a lease nothing starts: it would end at its first event
        view = store.pull(self._slot, incarnation, self._generation, self._version)
        if view.standing != "OK":
            self._heartbeat.beat_now()
            return False
        if view.generation is not None and self._older(view.generation, view.version):
            # a copy from before a failover, which a new leader may not notice: it is to begin a new generation (R10)
            if store.distrust(view.generation):
                self._log.warning("redis shows older data than before: rebuild", action="distrust", shard=self._slot)
            return False
        if view.generation != self._generation:
            self._heartbeat.upload.set()  # whoever rebuilds goes by what we run
        if view.desired is not None:
            rebuilt = view.generation is not None and view.generation.ready
            self._current = obey(self._current, self._seen, view.desired, rebuilt=rebuilt)
            self._seen.update((account, wish.token) for account, wish in self._current.items())
            self._follow(view.generation, view.version)
        if not self._apply(incarnation):
            return False
        self._heartbeat.applied = self._version
        statuses = {status.account_id: status for status in self._shard.statuses()}
        self._acknowledge(store, incarnation, statuses)
        self._report(store, incarnation, statuses)
        return True

    def _leased(self) -> bool:
        return self._heartbeat.registered and self._heartbeat.gate.valid()

    def _older(self, generation: Generation, version: int) -> bool:
        """Have we seen newer data than these (R6)?"""
        if generation.id in self._past or generation == self._heartbeat.distrusted:
            return True
        return generation == self._generation and version < self._version

    def _follow(self, generation: Generation | None, version: int) -> None:
        known = self._generation
        if known is not None and (generation is None or generation.id != known.id):
            self._past.add(known.id)  # it never comes back, but in an older copy
        self._generation, self._version = generation, version

    def _begin(self, incarnation: str) -> None:
        self._incarnation = incarnation
        self._generation, self._version = None, 0
        self._current, self._reported, self._idle = {}, {}, {}
        self._heartbeat.upload.set()

    def _apply(self, incarnation: str) -> bool:
        """False where nothing may be started: no lease, or a view of a former incarnation."""
        with self._heartbeat.lock:
            if self._heartbeat.incarnation != incarnation or self._stop.is_set() or not self._heartbeat.gate.valid():
                return False
            self._shard.apply(dict(self._current))
        return True

    def _acknowledge(self, store: RedisStore, incarnation: str, statuses: dict[str, StreamStatus]) -> None:
        """Release what was revoked and has stopped; give back what is to run but does not: the leader assigns it anew."""
        stopped = {
            account: wish.token
            for account, wish in self._current.items()
            if wish.state == REVOKE and not _runs(statuses.get(account), wish)
        }
        given_back = self._unable(statuses)
        if not (stopped or given_back) or store.ack_release(self._slot, incarnation, stopped | given_back) != "OK":
            return
        self._log.info(
            "released", action="release", shard=self._slot, accounts=len(stopped), given_back=len(given_back)
        )
        for account in stopped | given_back:
            del self._current[account]

    def _unable(self, statuses: dict[str, StreamStatus]) -> dict[str, int]:
        """Accounts that have not run for GIVE_BACK_S although they should: they ended by themselves, or their token was
        used before. A moment's grace, because the leader may be about to revoke what ended for a reason."""
        now = time.monotonic()
        idle = {
            account: wish.token
            for account, wish in self._current.items()
            if wish.state != REVOKE and not _runs(statuses.get(account), wish)
        }
        since = {account: self._idle.get(account, (token, now)) for account, token in idle.items()}
        self._idle = {a: known if known[0] == idle[a] else (idle[a], now) for a, known in since.items()}
        return {a: token for a, (token, at) in self._idle.items() if now - at >= GIVE_BACK_S}

    def _report(self, store: RedisStore, incarnation: str, statuses: dict[str, StreamStatus]) -> None:
        full = self._heartbeat.upload.is_set()
        if full:
            self._heartbeat.upload.clear()
            self._reported = {}
        news = [status for status in statuses.values() if self._is_news(status)]
        removed = [account for account in self._reported if account not in statuses]
        if not (news or removed or full):
            return
        try:
            standing = store.report(self._slot, incarnation, news, removed, full=full)
        except StoreUnavailable:
            self._heartbeat.upload.set()
            raise
        if standing != "OK":
            self._heartbeat.upload.set()
            self._heartbeat.beat_now()
            return
        self._reported = dict(statuses) if full else {**self._reported, **{s.account_id: s for s in news}}
        for account in removed:
            self._reported.pop(account, None)

    def _is_news(self, status: StreamStatus) -> bool:
        known = self._reported.get(status.account_id)
        if known is None:
            return True
        same = (known.token, known.state, known.reconnects, known.gap_open) == (
            status.token,
            status.state,
            status.reconnects,
            status.gap_open,
        )
        return not same or status.last_event_ms - known.last_event_ms >= EVENT_AGE_MS

    def _wait_s(self) -> float:
        if not self._leased():
            return LEASE_TICK_S
        revoking = any(wish.state == REVOKE for wish in self._current.values())
        return REVOKE_TICK_S if revoking else TICK_S


def _runs(status: StreamStatus | None, wish: Desired) -> bool:
    """Is there a stream that has not ended? One under another token is about to be replaced."""
    return status is not None and (status.state not in ENDED or status.token != wish.token)
