"""The worker's lease thread: registers, beats, and moves the deadline up to which this process may publish.

In: answers of Redis and of the witness in Postgres. Out: `LeaseGate`, the incarnation, orders to the shard. Runs in each
`workers userdata` process. The rules (R4, R5) are in fleet/core/lease.py; this file only carries them out.

Thread roles: `heartbeat` owns its Redis connection and the lease; `witness` owns a Postgres connection, so that a frozen
Postgres never delays a beat; `gate.deadline` is written by the heartbeat thread alone and read by every stream.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable
from typing import NamedTuple, Protocol

from fleet.core import lease as rules
from fleet.core import wire
from fleet.core.errors import FleetError, StoreUnavailable
from fleet.core.lease import Answer, Order
from fleet.core.model import Desired, StreamStatus, WorkerView, incarnation_of
from fleet.core.names import ARRIVALS
from fleet.core.wire import Generation
from fleet.runtime.logs import get
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import Beat, RedisStore
from fleet.runtime.settings import Settings
from workers.witness import Witness

LOOK_S = 0.25
SILENCE_S = 1.0  # Q: silence after the deadline


def boottime_s() -> float:
    """CLOCK_BOOTTIME: never set back, and it goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LeaseGate:
    """May this process publish now? Asked per message (R4). One writer: the heartbeat thread."""

    __slots__ = ("deadline",)

    def __init__(self) -> None:
        self.deadline = 0.0

    def valid(self) -> bool:
        return time.clock_gettime(time.CLOCK_BOOTTIME) < self.deadline


class Holder(NamedTuple):
    """Another process that has our slot, under another lock: its last beat ("" = there is none), since when it stands as far as
    we know, and whether the witness took no beats of it any more by then."""

    beat: str = ""
    since: float = 0.0
    fenced: bool = False


class Streams(Protocol):
    """What of workers.shard.Shard is used by heartbeat and inbox."""

    incarnation: str

    def apply(self, desired: dict[str, Desired]) -> None: ...
    def count(self) -> int: ...
    def statuses(self) -> list[StreamStatus]: ...
    def abort_all(self, reason: str) -> None: ...


class Turn(Protocol):
    """What of workers.rotation.Rotation is used here."""

    def begin(self) -> None: ...
    def left(self) -> int: ...


class Heartbeat:
    """Call `start()`, later `stop()`. `gate` and `incarnation` are there from the constructor on."""

    def __init__(
        self,
        settings: Settings,
        store: Callable[[], RedisStore],
        postgres: Callable[[], Postgres] | None,
        shard: Streams,
        slot: str,
        *,
        gate: LeaseGate | None = None,
        rotation: Turn | None = None,
        lock: str = "",
        clock: Callable[[], float] = boottime_s,
    ) -> None:
        """`lock`: which slot lock this process holds (fleet/runtime/shutdown.py)."""
        self.gate = gate or LeaseGate()
        self._process, self._lives = uuid.uuid4().hex[:12], 0
        self.incarnation = incarnation_of(self._process, 0)
        self.lock = (
            threading.Lock()
        )  # guards incarnation against an inbox that is applying a view pulled under the former one
        self.registered = False
        self.upload = threading.Event()  # set: the inbox is to report everything anew
        self.applied = 0  # version of the desired view in force; written by the inbox
        self.draining_asked = False
        self._settings, self._store_factory, self._shard, self._slot = settings, store, shard, slot
        self._host, _, _ = slot.rpartition(":")
        self._pid = os.getpid()
        self._clock = clock
        self._times = rules.Times(settings.heartbeat_s, settings.worker_lease_s, settings.isolation_max_s)
        self._lease = rules.fresh(clock())
        self._seq = self._acknowledged = 0  # this beat, and the last one that Redis is known to have
        self.distrusted: Generation | None = None  # data that are older than what we have seen (R10): not to be obeyed
        self._life = 0  # number of this incarnation among the slot's lives; 0 = not registered yet
        self._lock_id, self._holder = lock, Holder()
        self._state = wire.UP
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._silent = False
        self._rotation, self._rotation_wish = rotation, ""
        self._beaten = False  # has any life of this process heard a wish, or that there is none?
        self._log = get("heartbeat")
        self._witness = Witness(postgres, slot, clock) if postgres else None
        self._store: RedisStore | None = None
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        shard.incarnation = self.incarnation

    def start(self) -> Heartbeat:
        if self._witness:
            self._witness.start()
        self._thread.start()
        return self

    def alive(self) -> bool:
        """False = the thread died of something unforeseen: the process should end, its supervisor starts another."""
        return self._thread.is_alive()

    def beat_now(self) -> None:
        """Do not wait for the next beat: something suggests that this incarnation is fenced or unknown."""
        self._wake.set()

    def drain(self) -> None:
        """Tell the leader that this worker takes no more accounts (SIGTERM was received)."""
        self._state = wire.DRAINING
        self._wake.set()

    def stop(self, timeout_s: float, *, gone: bool = True) -> None:
        """Stop beating; `gone` says that nothing streams any more: the accounts may go elsewhere without waiting (R8)."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)
        if self._witness:
            self._witness.stop()
        if gone and self.registered and not self._thread.is_alive():
            self._state = wire.GONE
            self.gate.deadline = 0.0
            try:
                self._seq += 1
                self._redis().heartbeat(self._view(), egress_ips=self._settings.egress_ips)
                self._log.info("worker gone", action="gone", shard=self._slot, incarnation=self.incarnation)
            except StoreUnavailable as error:
                self._log.warning(
                    "clean exit could not be announced", action="gone", shard=self._slot, error=str(error)
                )
        if self._store:
            self._store.close()

    # ── the heartbeat thread ─────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        while not self._stop.is_set():
            started = self._clock()
            try:
                self.beat()
            except FleetError as error:  # a reply of no known form; nothing is extended by it
                self._log.error("heartbeat failed", action="heartbeat", shard=self._slot, error=str(error))
            self._rest_until(started)

    def _rest_until(self, started: float) -> None:
        """Wait for the next beat, with a look at the clock every LOOK_S: a sleep must not be taken for a pause."""
        while not self._stop.is_set():
            now = self._tick()
            rest_s = started + rules.pause_s(self._lease, now, self._times) - now
            if rest_s <= 0 or self._wake.wait(min(rest_s, LOOK_S)):
                break
        self._wake.clear()

    def beat(self) -> None:
        """One beat: ask Redis, take in what the witness said meanwhile, do as ordered."""
        asked_at = self._tick()
        if not self.registered and not self._register():
            return
        answer = self._ask()
        now = self._tick()
        self._lease, order = rules.answered(self._lease, asked_at, now, answer, self._times)
        self._note(answer)
        if self._witness:
            for witnessed_at, said in self._witness.answers(self.incarnation):
                if order is not Order.ABORT:
                    self._lease, order_too = rules.witnessed(self._lease, witnessed_at, said, self._times)
                    order = order_too if order_too is Order.ABORT else order
        self.gate.deadline = self._lease.deadline
        self._obey(order)

    def _tick(self) -> float:
        now = self._clock()
        gap_s = now - self._lease.seen_at
        if gap_s > self._times.gap_s:
            self._log.warning("worker was paused", action="paused", shard=self._slot, gap_s=round(gap_s, 3))
            self._holder = Holder()  # who knows whether it could beat meanwhile
        self._lease = rules.observe(self._lease, now, self._times)
        return now

    def _ask(self) -> Answer:
        self._seq += 1
        try:
            beat = self._redis().heartbeat(self._view(), egress_ips=self._settings.egress_ips)
        except StoreUnavailable:
            return Answer.NONE
        if beat.drain != self.draining_asked:
            self.draining_asked = beat.drain
            self._log.info("drain requested" if beat.drain else "drain ended", action="drain", shard=self._slot)
        if 0 < beat.holder < self._life:
            return self._outlived(beat)
        if beat.standing == "OK":
            self._rotate(beat.rotate)
            self._look_back(beat)
        return Answer(beat.standing.lower())

    def _outlived(self, beat: Beat) -> Answer:
        """The slot's record names a life that ended before this one began: a failover brought back a copy from before our
        registration. That is a loss of data (R5 c), no verdict on us. The leader is to rebuild before it goes by that record."""
        self._log.warning("redis shows a former life: rebuild", action="distrust", shard=self._slot, former=beat.holder)
        try:
            if beat.generation is not None:
                self._redis().distrust(beat.generation)
        except StoreUnavailable:
            return Answer.NONE  # the next beat tries again
        return Answer.UNKNOWN

    def _look_back(self, beat: Beat) -> None:
        """A failover may bring back an older copy of the data, in which a beat is missing that was acknowledged. No counter of
        the leader's shows that for certain, because a new leader goes on counting: so the worker says it."""
        if beat.former < self._acknowledged:
            self.distrusted = beat.generation
            self._log.warning("redis shows older data than before: rebuild", action="distrust", shard=self._slot)
        self._acknowledged = self._seq
        if self.distrusted is not None:
            try:
                if beat.generation == self.distrusted:
                    self._redis().distrust(self.distrusted)
                self.distrusted = None
            except StoreUnavailable:
                return  # the next beat tries again

    def _rotate(self, wish: str) -> None:
        """An operator wants new sockets. What was asked for before this process began is fulfilled: its sockets are newer."""
        if wish != self._rotation_wish and wish and self._beaten and self._rotation:
            self._rotation.begin()
            self._log.info("rotation requested", action="rotate", shard=self._slot, sockets=self._rotation.left())
        self._rotation_wish, self._beaten = wish, True

    def _obey(self, order: Order) -> None:
        if order is Order.ABORT:
            self._abort()
        elif order is Order.REGISTER:
            self._log.warning("record lost, registering again", action="register", shard=self._slot)
            if self._register():
                self.upload.set()
        elif order is Order.ASK_WITNESS and self._witness:
            self._witness.ask(self.incarnation)

    def _abort(self) -> None:
        """R5 (b). The lock makes sure that no view pulled under the old incarnation is applied afterwards."""
        with self.lock:
            self._lives += 1
            fenced, self.incarnation = self.incarnation, incarnation_of(self._process, self._lives)
            self.registered = False
            self._lease = rules.fresh(self._clock())
            self.gate.deadline = 0.0
            self._shard.incarnation = self.incarnation
            self._shard.abort_all("fenced")
        self._seq = self._acknowledged = self._life = 0
        self._log.warning(
            "fenced: all streams stopped",
            action="fenced",
            shard=self._slot,
            incarnation=fenced,
            successor=self.incarnation,
        )
        self._wake.set()

    def _register(self) -> bool:
        watched = self._outwaited()
        try:
            answer = self._redis().register(
                self._view(),
                egress_ips=self._settings.egress_ips,
                life=self._life or _now_ms(),
                lock=self._lock_id,
                watched=watched,
            )
        except StoreUnavailable as error:
            self._holder = Holder()  # it could not beat either
            if not self._silent:
                self._silent = True
                self._log.warning("cannot register", action="register", shard=self._slot, error=str(error))
            return False
        if answer.standing == "FENCED":
            self._abort()
            return False
        if answer.standing == "HELD":
            self._wait_for_holder(answer.beat)
            return False
        self._holder = Holder()
        self._life = answer.life
        self.registered = True
        try:
            self._redis().poke(ARRIVALS)
        except StoreUnavailable as error:
            self._log.info("leader not woken, its tick will do", action="register", shard=self._slot, error=str(error))
        self._log.info("registered", action="register", shard=self._slot, incarnation=self.incarnation, pid=self._pid)
        return True

    def _wait_for_holder(self, beat: str) -> None:
        """R8 proves nothing about a process under another lock: it is timed by our own clock, as the leader does (R3)."""
        known = self._holder.beat
        if beat == known:
            return
        self._holder = Holder(beat, self._clock())
        if not known:
            text = "slot is held elsewhere: waiting. If that is another host, give each its own FLEET_HOST"
            self._log.error(text, action="alert", shard=self._slot, holder=beat)

    def _outwaited(self) -> str:
        """The holder's beat, once its lease is over for certain. One that is cut off from Redis renews through the witness: so
        when it has been silent for longer than a lease, it is fenced there, and has to be silent for as long again (R9).
        Without Postgres it keeps the slot."""
        holder = self._holder
        if not holder.beat or self._clock() - holder.since <= self._times.lease_s + SILENCE_S:
            return ""
        if holder.fenced:
            return holder.beat
        incarnation, _, _ = holder.beat.rpartition("|")
        if self._witness and any(said is Answer.OK for _, said in self._witness.answers(incarnation)):
            self._holder = Holder(holder.beat, self._clock(), True)
            self._log.warning("holder of the slot fenced in the witness", action="register", shard=self._slot)
        elif self._witness:
            self._witness.fence(incarnation)
        return ""

    def _note(self, answer: Answer) -> None:
        """One line per change, none per beat."""
        silent = answer is Answer.NONE
        if silent != self._silent:
            self._silent = silent
            text = "redis silent: streams go on" if silent else "redis answers again"
            self._log.warning(text, action="redis", shard=self._slot)

    def _view(self) -> WorkerView:
        load = float(self._shard.count())
        left = self._rotation.left() if self._rotation else 0
        return WorkerView(
            self._slot, self.incarnation, self._seq, self._state, self._host, self._pid, self._settings.capacity, load,
            self.applied, f"{self._rotation_wish}|{left}" if self._rotation_wish else "",
        )  # fmt: skip

    def _redis(self) -> RedisStore:
        if self._store is None:
            self._store = self._store_factory()
        return self._store


def _now_ms() -> int:
    return int(time.time() * 1000)
