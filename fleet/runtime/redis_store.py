"""What the fleet asks of Redis: the scripts of `lua/` as typed methods, and pub/sub pokes.

In: ids, packed values of `fleet.core.wire`. Out: typed replies; every redis error becomes StoreUnavailable ("no usable
answer": down, timeout, LOADING, READONLY, OOM, NOREPLICAS, MOVED, CLUSTERDOWN). One RedisStore per thread role: one connection,
a budget of 0.5 s a call, looking up the server included, and no retries of the client's own (a timed-out call may have run;
every script may run twice). Used by coordinator, workers, console and CLI.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from fleet.core import wire
from fleet.core.errors import StoreUnavailable, WireError
from fleet.core.exchange import Rate
from fleet.core.model import Desired, Ownership, StreamStatus, WorkerView, format_token
from fleet.core.names import Keys
from fleet.runtime.budget import Budget
from fleet.runtime.deadline import Deadline
from fleet.runtime.redis_connection import FAILURES, NoScriptError, connect

__all__ = [
    "BATCH", "Beat", "Budget", "Change", "NotLeader", "Observation", "Poke", "RedisStore", "View", "connect",
]  # fmt: skip

BATCH = 500  # operations in one script call: keeps each below a few milliseconds of Redis' single thread
WISH_S = 600  # an operator's wish that nobody fulfils is forgotten
LUA = Path(__file__).with_name("lua")
SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(LUA.glob("*.lua"))}
SHAS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}

Standing = Literal["OK", "FENCED", "UNKNOWN"]


class Beat(msgspec.Struct, frozen=True):
    """Answer to a heartbeat. Only an OK carries the rest. `former` is the beat that Redis knew before this one."""

    standing: Standing
    generation: wire.Generation | None = None
    version: int = 0
    drain: bool = False
    rotate: str = ""  # id of an operator's wish for new sockets
    former: int = 0


class View(msgspec.Struct, frozen=True):
    """Answer to a pull: `desired` is None where nothing changed since (generation, version)."""

    standing: Standing
    generation: wire.Generation | None = None
    version: int = 0
    desired: dict[str, Desired] | None = None


class Change(msgspec.Struct, frozen=True):
    """One compare-and-set of the leader: `expected` → `new` (None = no record). The entry follows the new record."""

    account_id: str
    expected: Ownership | None
    new: Ownership | None


class Observation(msgspec.Struct, frozen=True):
    """What the leader reads each tick: all workers, and the counter of writes to `own`."""

    generation: wire.Generation | None
    version: int
    workers: dict[str, wire.WorkerRecord]
    malformed: list[str]
    rebalance: bool = False  # an operator asks for it


class RedisStore:
    """One connection to one fleet's keys. Belongs to one thread."""

    def __init__(self, url: str, keys: Keys, timeout_s: float = 0.5) -> None:
        self.keys = keys
        self._deadline = Deadline(timeout_s)
        self._client = connect(url, timeout_s, keys.gen, self._deadline)

    def close(self) -> None:
        self._client.close()

    # ── worker side ──────────────────────────────────────────────────────────────────────────────────────────────
    def register(self, view: WorkerView, *, beat_ms: int, egress_ips: tuple[str, ...] = ()) -> Standing:
        keys = self.keys
        wire.check_name(view.slot)
        fields = _flat(wire.pack_worker(view, beat_ms=beat_ms, egress_ips=egress_ips))
        reply = self._run(
            "register",
            [keys.workers, keys.worker(view.slot), keys.desired(view.slot), keys.report(view.slot)],
            [view.slot, wire.check_name(view.incarnation), view.seq, *fields],
        )
        return _standing(reply)

    def heartbeat(self, view: WorkerView, *, beat_ms: int, egress_ips: tuple[str, ...] = ()) -> Beat:
        reply = self._run(
            "heartbeat",
            [self.keys.worker(view.slot), self.keys.gen],
            [view.incarnation, view.seq, *_flat(wire.pack_worker(view, beat_ms=beat_ms, egress_ips=egress_ips))],
        )
        standing = _standing(reply)
        if standing != "OK":
            return Beat(standing)
        generation = wire.parse_generation(reply[1])
        return Beat(standing, generation, int(reply[2]), reply[3] == "1", reply[4], int(reply[5]))

    def pull(self, slot: str, incarnation: str, generation: wire.Generation | None, version: int) -> View:
        known = wire.pack_generation(generation) if generation else ""
        reply = self._run(
            "pull",
            [self.keys.worker(slot), self.keys.gen, self.keys.desired(slot), self.keys.own],
            [slot, incarnation, known, version],
        )
        standing = _standing(reply)
        if standing != "OK":
            return View(standing)
        desired = None
        if reply[3] == "full":
            desired = {account: wire.parse_desired(entry) for account, entry in _pairs(reply[4:])}
        return View(standing, wire.parse_generation(reply[1]), int(reply[2]), desired)

    def report(
        self, slot: str, incarnation: str, statuses: Sequence[StreamStatus], removed: Sequence[str] = (), *, full: bool
    ) -> Standing:
        """Upload states in batches; `full` replaces everything reported before."""
        keys = [self.keys.worker(slot), self.keys.report(slot)]
        chunks = list(_chunks(statuses)) or [[]]
        gone = list(removed)
        for number, chunk in enumerate(chunks):
            mode = "full" if full and number == 0 else "delta"
            packed = [value for s in chunk for value in (s.account_id, wire.pack_report(s))]
            standing = _standing(self._run("report", keys, [incarnation, mode, len(gone), *gone, *packed]))
            if standing != "OK":
                return standing
            gone = []
        return "OK"

    def ack_release(self, slot: str, incarnation: str, stopped: Mapping[str, int]) -> Standing:
        """Second phase of a revoke: `stopped` maps account to the token under which it ran."""
        keys = self.keys
        names = [keys.worker(slot), keys.own, keys.desired(slot), keys.report(slot), keys.version]
        for chunk in _chunks(list(stopped.items())):
            packed = [value for account, token in chunk for value in (account, format_token(token))]
            standing = _standing(self._run("ack_release", names, [slot, incarnation, *packed]))
            if standing != "OK":
                return standing
        return "OK"

    def distrust(self, generation: wire.Generation) -> bool:
        """These data are older than what this worker has seen: True where nobody had said so before."""
        return bool(self._run("distrust", [self.keys.gen], [wire.pack_generation(generation)])[1] == "1")

    # ── leader side ──────────────────────────────────────────────────────────────────────────────────────────────
    def leader(self) -> str:
        """`holder|term` of the acting leader, "" where there is none."""
        return str(self._call(self._client.get, self.keys.leader) or "")

    def vacant(self, lease_s: float) -> bool:
        """Does nobody lead? Keys expire by Redis' wall clock: where it was set back, a dead leader's lease would last for as
        long. A lease that is longer than any leader takes is cut down."""

        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(self.keys.leader)
                pipe.pttl(self.keys.leader)
                return list(pipe.execute())

        leader, left_ms = self._call(read)
        if leader and left_ms > lease_s * 1000:
            self._call(self._client.pexpire, self.keys.leader, int(lease_s * 1000))
        return not leader

    def lead(self, holder: str, term: int, lease_s: float) -> Literal["OK", "HELD", "STALE"]:
        reply = self._run(
            "lead",
            [self.keys.leader, self.keys.term],
            [wire.check_name(holder), format_token(term), int(lease_s * 1000)],
        )
        answer: Literal["OK", "HELD", "STALE"] = reply[0]
        return answer

    def resign(self, leader: str) -> None:
        self._run("resign", [self.keys.leader], [leader])

    def observe(self) -> Observation:
        """Generation, write counter and every worker's hash, in two round trips."""
        keys = self.keys

        def read() -> Observation:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.get(keys.gen)
                pipe.get(keys.version)
                pipe.get(keys.rebalance)
                pipe.smembers(keys.workers)
                generation, version, rebalance, slots = pipe.execute()
                names = sorted(slots)
                for slot in names:
                    pipe.hgetall(keys.worker(slot))
                hashes = pipe.execute() if names else []
            workers, malformed = {}, []
            for slot, fields in zip(names, hashes, strict=True):
                try:
                    workers[slot] = wire.parse_worker(slot, fields)
                except WireError:
                    malformed.append(slot)
            return Observation(
                wire.parse_generation(generation), int(version or 0), workers, malformed, bool(rebalance)
            )

        observation: Observation = self._call(read)
        return observation

    def owners(self) -> tuple[dict[str, Ownership], list[str]]:
        """Every ownership record, and the accounts whose record is unreadable."""
        return _records(self._call(self._client.hgetall, self.keys.own))

    def ownership(self) -> tuple[wire.Generation | None, dict[str, Ownership], list[str]]:
        """The generation that the records belong to, the records, and the accounts whose record is unreadable."""

        def read() -> list[Any]:
            with self._client.pipeline(transaction=False) as pipe:
                pipe.hgetall(self.keys.own)
                pipe.get(self.keys.gen)  # read last: data that are lost in between have another generation, or none
                return list(pipe.execute())

        texts, generation = self._call(read)
        return wire.parse_generation(generation), *_records(texts)

    def owner(self, account_id: str) -> Ownership | None:
        text = self._call(self._client.hget, self.keys.own, account_id)
        return wire.parse_own(text) if text else None

    def reports(self, slot: str) -> dict[str, StreamStatus]:
        """What the worker said last of its streams; unreadable entries are left out."""
        found: dict[str, StreamStatus] = {}
        for account, text in self._call(self._client.hgetall, self.keys.report(slot)).items():
            try:
                found[account] = wire.parse_report(account, text)
            except WireError:
                continue
        return found

    def report_of(self, slot: str, account_id: str) -> StreamStatus | None:
        text = self._call(self._client.hget, self.keys.report(slot), account_id)
        return wire.parse_report(account_id, text) if text else None

    def apply(self, leader: str, generation: wire.Generation, changes: Sequence[Change]) -> list[bool]:
        """Compare-and-set up to BATCH changes; True where the new record stands.

        Raises NotLeader where another leader has taken over, or the generation is not the one the plan was made for.
        """
        if len(changes) > BATCH:
            raise ValueError(f"{len(changes)} changes in one batch")
        index = _slot_index(changes)
        args: list[Any] = []
        for change in changes:
            new, old = change.new, change.expected
            entry = wire.pack_desired(Desired(new.token, new.state)) if new else ""
            args += [
                change.account_id,
                wire.pack_own(old) if old else "",
                wire.pack_own(new) if new else "",
                index[new.slot] if new else 0,
                new.incarnation if new else "",
                entry,
                index[old.slot] if old else 0,
            ]
        reply = self._run(
            "apply",
            [self.keys.leader, self.keys.gen, self.keys.own, self.keys.version, *self._slot_keys(index)],
            [leader, wire.pack_generation(generation), self.keys.channel(""), len(index), *index, *args],
        )
        _check_leader(reply)
        return [done == "1" for done in reply[1:]]

    def set_unplaced(self, leader: str, reasons: Mapping[str, str]) -> None:
        """The leader's word on accounts that run nowhere. Raises NotLeader."""
        fields = _flat(wire.pack_unplaced(reasons))
        _check_leader(self._run("unplaced", [self.keys.leader, self.keys.unplaced], [leader, *fields]))

    def unplaced(self) -> tuple[dict[str, str], dict[str, int]]:
        """(account → why it runs nowhere, of some; why → how many, of all), as the leader said last."""
        return wire.parse_unplaced(self._call(self._client.hgetall, self.keys.unplaced))

    def fence_worker(self, leader: str, slot: str, incarnation: str) -> bool:
        """True once the incarnation is fenced; False where another one has registered meanwhile."""
        keys = self.keys
        reply = self._run(
            "fence_worker",
            [keys.leader, keys.workers, keys.worker(slot), keys.desired(slot)],
            [leader, slot, incarnation, keys.channel(slot)],
        )
        _check_leader(reply)
        return bool(reply[0] == "OK")

    def forget(self, leader: str, slot: str, incarnation: str) -> bool:
        keys = self.keys
        reply = self._run(
            "forget",
            [keys.leader, keys.workers, keys.worker(slot), keys.desired(slot), keys.report(slot)],
            [leader, slot, incarnation],
        )
        _check_leader(reply)
        return bool(reply[0] == "OK")

    def rebuild(
        self, leader: str, generation: wire.Generation, records: Mapping[str, Ownership], slots: Iterable[str] = ()
    ) -> int:
        """Set the generation and restore records; returns how many were written (a higher token stays). With `slots` and
        no records, these workers count as not having reported yet."""
        written = 0
        for chunk in _chunks(list(records.items())) if records else [[]]:
            names = [r.slot for _, r in chunk] if records else slots
            index = {slot: n for n, slot in enumerate(dict.fromkeys(names), 1)}
            args: list[Any] = []
            for account, record in chunk:
                entry = wire.pack_desired(Desired(record.token, record.state))
                args += [account, wire.pack_own(record), index[record.slot], entry]
            reply = self._run(
                "rebuild",
                [self.keys.leader, self.keys.gen, self.keys.own, self.keys.version, *self._slot_keys(index)],
                [leader, wire.pack_generation(generation), self.keys.channel(""), len(index), *index, *args],
            )
            _check_leader(reply)
            written += int(reply[1])
        return written

    def complete(self, leader: str, building: wire.Generation) -> wire.Generation:
        """The generation that was being built is ready. Raises NotLeader where its data are gone, or somebody else leads."""
        ready = wire.Generation(building.id, True)
        packed = [wire.pack_generation(building), wire.pack_generation(ready)]
        _check_leader(self._run("complete", [self.keys.leader, self.keys.gen, self.keys.version], [leader, *packed]))
        return ready

    def poke(self, slot: str) -> None:
        """Shorten a worker's wait; losing it costs a tick."""
        self._call(self._client.publish, self.keys.channel(slot), "desired")

    # ── operators ────────────────────────────────────────────────────────────────────────────────────────────────
    def set_drain(self, slot: str, drain: bool) -> bool:
        """Ask for a worker to be emptied (or no longer). False where no such worker is registered."""
        key = self.keys.worker(slot)
        if not self._call(self._client.hexists, key, "inc"):
            return False
        if drain:
            self._call(self._client.hset, key, "drain", "1")
        else:
            self._call(self._client.hdel, key, "drain")
        return True

    def ask_rotation(self, slot: str, wish: str) -> None:
        """Ask a worker to replace all its sockets. `wish`: a new id, by which its progress is known (WorkerView.rotation)."""
        self._call(self._client.hset, self.keys.worker(slot), "rotate", wire.check_name(wish))

    def ask_rebalance(self) -> None:
        """Ask the leader to even out the load now, and not slowly; it withdraws the wish when nothing is left to do."""
        self._call(self._client.setex, self.keys.rebalance, WISH_S, "1")

    def withdraw_rebalance(self) -> None:
        self._call(self._client.delete, self.keys.rebalance)

    def budgets(self) -> list[dict[str, Any]]:
        """The shared buckets: `[{kind, exchange, egress_ip, tokens, burst, per_s, blocked_s}]`, refilled to now."""
        prefix = self.keys.prefix + "budget:"
        seconds, micros = self._call(self._client.time)
        now, names, cursor = seconds + micros / 1e6, list[str](), -1
        while cursor:  # each step a call: how many there are depends on whatever else this Redis holds
            cursor, found = self._call(self._client.scan, max(cursor, 0), _escape(prefix) + "*", 500)
            names += found
        return [_bucket_row(n[len(prefix) :], self._call(self._client.hgetall, n), now) for n in sorted(set(names))]

    # ── buckets ──────────────────────────────────────────────────────────────────────────────────────────────────
    def bucket_take(
        self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0
    ) -> float:
        """Take from the shared bucket, leaving `reserve` in it: 0.0 = granted, else seconds until it is worth asking again."""
        key = self.keys.budget(kind, exchange, egress_ip)
        args = [amount, rate.burst, rate.per_s, 0, rate.window_s, reserve]
        return int(self._run("sliding_take" if rate.sliding else "bucket_take", [key], args)[0]) / 1000

    def bucket_block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        """Nobody takes from this bucket for `seconds`; a shorter block never shortens a longer one."""
        self._run("bucket_take", [self.keys.budget(kind, exchange, egress_ip)], [0, 1, 1, seconds, 0])

    # ── one door ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _slot_keys(self, index: Mapping[str, int]) -> list[str]:
        return [key for slot in index for key in (self.keys.worker(slot), self.keys.desired(slot))]

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        def call() -> Any:
            try:
                return self._client.evalsha(SHAS[name], len(keys), *keys, *args)
            except NoScriptError:  # a restart, a failover or SCRIPT FLUSH: EVAL loads it again
                return self._client.eval(SCRIPTS[name], len(keys), *keys, *args)

        reply: list[Any] = self._call(call)
        return reply

    def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            with self._deadline:
                return call(*args)
        except FAILURES as error:
            self._client.connection_pool.disconnect()
            raise StoreUnavailable(f"redis: {type(error).__name__}: {str(error)[:200]}") from error


class NotLeader(StoreUnavailable):
    """A script refused a write: another leader acts, or Redis has lost its data. Observe again."""


class Poke:
    """The worker's end of `:ch:<slot>`. Pub/sub loses messages without an error, so it only ever shortens a wait (R15)."""

    def __init__(self, url: str, keys: Keys, slot: str, timeout_s: float = 0.5) -> None:
        self._deadline = Deadline(timeout_s)  # of the subscription; a wait has a time of its own
        self._client = connect(url, timeout_s, keys.gen, self._deadline)
        self._channel = keys.channel(slot)
        self._pubsub: Any = None

    def wait(self, timeout_s: float) -> bool:
        """True as soon as something was published, or a subscription began (what was published before it is unknown: look);
        False after `timeout_s`. Raises StoreUnavailable at once."""
        try:
            until = time.monotonic() + timeout_s
            if self._pubsub is None:
                client: Any = self._client
                self._pubsub = client.pubsub()
                with self._deadline:
                    self._pubsub.subscribe(self._channel)
            while (left_s := until - time.monotonic()) > 0:
                if self._pubsub.get_message(timeout=left_s) is not None:
                    while self._pubsub.get_message(timeout=0) is not None:
                        pass
                    return True
            return False
        except FAILURES as error:
            self.close()
            raise StoreUnavailable(f"redis: {type(error).__name__}") from error

    def close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            try:
                pubsub.close()
            except FAILURES:  # the connection is gone either way
                self._client.connection_pool.disconnect()
        self._client.close()


def _records(texts: Mapping[str, str]) -> tuple[dict[str, Ownership], list[str]]:
    records: dict[str, Ownership] = {}
    malformed: list[str] = []
    for account, text in texts.items():
        try:
            records[account] = wire.parse_own(text)
        except WireError:
            malformed.append(account)
    return records, malformed


def _standing(reply: Sequence[Any]) -> Standing:
    standing: Standing = reply[0]
    return standing


def _check_leader(reply: Sequence[Any]) -> None:
    if reply[0] in ("NOTLEADER", "GEN"):
        raise NotLeader("another leader acts" if reply[0] == "NOTLEADER" else "the generation changed")


def _slot_index(changes: Sequence[Change]) -> dict[str, int]:
    slots = dict.fromkeys(r.slot for c in changes for r in (c.expected, c.new) if r is not None)
    return {slot: n for n, slot in enumerate(slots, 1)}


def _flat(fields: Mapping[str, str]) -> list[str]:
    return [value for pair in fields.items() for value in pair]


def _pairs(flat: Sequence[str]) -> Iterable[tuple[str, str]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))


def _escape(text: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in text)


def _bucket_row(name: str, fields: Mapping[str, str], now: float) -> dict[str, Any]:
    exchange, _, rest = name.partition(":")
    egress_ip, kind = (rest[: -len(":weight")], "weight") if rest.endswith(":weight") else (rest, "dial")
    burst, per_s = float(fields.get("burst", 0)), float(fields.get("per_s", 0))
    if "window" in fields:  # sliding: what the last window's parts left
        oldest = now // (float(fields["window"]) / 60) - 60
        tokens = burst - sum(float(n) for part, n in fields.items() if part[1:].isdigit() and int(part[1:]) >= oldest)
    else:
        tokens = min(burst, float(fields.get("tokens", burst)) + max(0.0, now - float(fields.get("at", now))) * per_s)
    blocked_s = max(0.0, float(fields.get("blocked_until", 0)) - now)
    return {
        "kind": kind, "exchange": exchange, "egress_ip": egress_ip, "tokens": round(tokens, 3),
        "burst": burst, "per_s": per_s, "blocked_s": round(blocked_s, 3),
    }  # fmt: skip
