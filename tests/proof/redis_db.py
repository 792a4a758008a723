"""Redis as plain Python: the keys, the few commands in use, and every script of fleet/runtime/lua with the same meaning.

In: KEYS and ARGV exactly as fleet.runtime.redis_store.RedisStore sends them. Out: the reply that the script would give. The real
RedisStore runs on top of it. tests/proof/test_model_is_redis.py holds it against a real Redis: equal replies, equal keys.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Sequence

from fleet.core.model import process_of

Value = str | dict[str, str] | set[str]
Script = Callable[["Db", Sequence[str], Sequence[str]], list[str]]


class Db:
    """The data of one server. `now_ms` is the server's wall clock, by which keys expire."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self.data: dict[str, Value] = {}
        self.expires: dict[str, float] = {}
        self.now_ms = now_ms
        self.order = 0  # in what order this process goes through a hash
        self.publish: Callable[[str], None] = lambda channel: None

    # ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────
    def get(self, key: str) -> str | None:
        self._expire(key)
        value = self.data.get(key)
        assert value is None or isinstance(value, str)
        return value

    def set(self, key: str, value: str, px: float | None = None) -> None:
        self.data[key] = value
        self.expires.pop(key, None)
        if px is not None:
            self.expires[key] = self.now_ms() + px

    def pttl(self, key: str) -> int:
        self._expire(key)
        if key not in self.data:
            return -2
        return int(self.expires[key] - self.now_ms()) if key in self.expires else -1

    def pexpire(self, key: str, ms: int) -> None:
        if key in self.data:
            self.expires[key] = self.now_ms() + ms

    def incr(self, key: str) -> None:
        self.set(key, str(int(self.get(key) or 0) + 1))

    def delete(self, *keys: str) -> None:
        for key in keys:
            self.data.pop(key, None)
            self.expires.pop(key, None)

    def hash(self, key: str) -> dict[str, str]:
        value = self.data.get(key)
        return value if isinstance(value, dict) else {}

    def hget(self, key: str, field: str) -> str | None:
        return self.hash(key).get(field)

    def hscan(self, key: str, cursor: int, count: int) -> tuple[int, dict[str, str]]:
        """As of a hash that is kept as a table: what stands all the time is given; what a cursor means is this process' own. (The
        cursor is a place in the order of hashed names, and a page begins with the last field of the one before it.)"""
        places = sorted((zlib.crc32(f"{self.order} {field}".encode()) + 1, field) for field in self.hash(key))
        page = [each for each in places if each[0] >= cursor][: count + 1]
        following = page[-1][0] if len(page) > count else 0
        return following, {field: self.hash(key)[field] for _, field in page}

    def hset(self, key: str, *pairs: str) -> None:
        value = self.data.setdefault(key, {})
        assert isinstance(value, dict)
        for i in range(0, len(pairs), 2):
            value[pairs[i]] = pairs[i + 1]

    def hdel(self, key: str, field: str) -> None:
        value = self.hash(key)
        value.pop(field, None)
        if not value:
            self.data.pop(key, None)

    def beat(self, key: str) -> None:
        """The time of a beat, as TIME tells it."""
        self.hset(key, "beat_ms", f"{math.floor(self.now_ms())}")

    def hincrby(self, key: str, field: str, n: int) -> None:
        self.hset(key, field, str(int(self.hget(key, field) or 0) + n))

    def sadd(self, key: str, member: str) -> None:
        value = self.data.setdefault(key, set())
        assert isinstance(value, set)
        value.add(member)

    def srem(self, key: str, member: str) -> None:
        value = self.data.get(key)
        if isinstance(value, set):
            value.discard(member)
            if not value:
                del self.data[key]

    def smembers(self, key: str) -> set[str]:
        value = self.data.get(key)
        return set(value) if isinstance(value, set) else set()

    def _expire(self, key: str) -> None:
        until = self.expires.get(key)
        if until is not None and until <= self.now_ms():
            self.delete(key)

    # ── life of the server ───────────────────────────────────────────────────────────────────────────────────────
    def copy(self) -> tuple[dict[str, Value], dict[str, float]]:
        """What a replica holds at this instant."""
        data = {key: value if isinstance(value, str) else value.copy() for key, value in self.data.items()}
        return data, dict(self.expires)

    def restore(self, copy: tuple[dict[str, Value], dict[str, float]]) -> None:
        data, self.expires = copy[0], dict(copy[1])
        self.data = {key: value if isinstance(value, str) else value.copy() for key, value in data.items()}

    def flush(self) -> None:
        self.data.clear()
        self.expires.clear()


def standing(db: Db, w: str, incarnation: str) -> str:
    """The first lines of every worker script."""
    if db.hget(w, "fenced_inc") == incarnation:
        return "FENCED"
    inc = db.hget(w, "inc")
    if inc is None:
        return "UNKNOWN"
    return "OK" if inc == incarnation else "FENCED"


def register(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    workers, w, d, r = keys
    slot, incarnation, seq, life, lock, watched = argv[:6]
    if db.hget(w, "fenced_inc") == incarnation:
        return ["FENCED"]
    inc = db.hget(w, "inc")
    if inc != incarnation:
        held = db.hget(w, "lock") or ""
        if inc is not None and held and lock and held != lock:
            beat = f"{inc}|{db.hget(w, 'seq') or '0'}"
            if db.hget(w, "state") != "gone" and db.hget(w, "fenced_inc") != inc and beat != watched:
                return ["HELD", beat]
        if inc is not None:
            db.delete(d)
            if process_of(inc) != process_of(incarnation):
                db.hdel(w, "drain")
        db.delete(r)
        db.hincrby(w, "version", 1)
        number = str(max(int(db.hget(w, "life") or 0) + 1, int(life)))
        db.hset(w, "inc", incarnation, "seq", seq, "life", number, "lock", lock)
    db.beat(w)
    db.hset(w, *argv[6:])
    db.sadd(workers, slot)
    return ["OK", db.hget(w, "life") or "0"]


def heartbeat(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    w, gen = keys
    answer = standing(db, w, argv[0])
    if answer == "FENCED" and db.hget(w, "fenced_inc") != argv[0]:
        return [answer, db.get(gen) or "", db.hget(w, "life") or "0"]
    if answer != "OK":
        return [answer]
    former = db.hget(w, "seq") or "0"
    if int(argv[1]) >= int(former):
        db.beat(w)
        db.hset(w, "seq", argv[1], *argv[2:])
    return [
        "OK",
        db.get(gen) or "",
        db.hget(w, "version") or "0",
        db.hget(w, "drain") or "",
        db.hget(w, "rotate") or "",
        former,
    ]


def pull(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    w, gen_key, d, own_key = keys
    slot, incarnation, known_gen, known_version = argv
    answer = standing(db, w, incarnation)
    if answer != "OK":
        return [answer]
    gen, version = db.get(gen_key) or "", db.hget(w, "version") or "0"
    if gen == known_gen and version == known_version:
        return ["OK", gen, version, "same"]
    reply = ["OK", gen, version, "full"]
    own = db.hash(own_key)
    for account, entry in db.hash(d).items():
        if own.get(account, "").startswith(f"{slot}|{incarnation}|{entry}|"):
            address = own[account].split("|")[6:7]
            reply += [account, "|".join([entry, *address])]
    return reply


def report(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    w, r = keys
    answer = standing(db, w, argv[0])
    if answer != "OK":
        return [answer]
    if argv[1] == "full":
        db.delete(r)
    removed = int(argv[2])
    for account in argv[3 : 3 + removed]:
        db.hdel(r, account)
    if argv[3 + removed :]:
        db.hset(r, *argv[3 + removed :])
    db.hset(w, "reported", argv[0])
    return ["OK"]


def ack_release(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    w, own_key, d, r, ver = keys
    slot, incarnation = argv[:2]
    answer = standing(db, w, incarnation)
    if answer != "OK":
        return [answer]
    released = 0
    for i in range(2, len(argv), 2):
        own = db.hget(own_key, argv[i])
        if own and own.startswith(f"{slot}|{incarnation}|{argv[i + 1]}|"):
            for key in (own_key, d, r):
                db.hdel(key, argv[i])
            released += 1
    if released:
        db.incr(ver)
        db.hincrby(w, "version", 1)
    return ["OK", str(released)]


def lead(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    leader_key, term_key = keys
    holder, new_term, lease_ms = argv
    leader = db.get(leader_key)
    if leader is not None and not leader.startswith(holder + "|"):
        return ["HELD", leader]
    term = db.get(term_key)
    if term is not None and term > new_term:
        return ["STALE", term]
    db.set(leader_key, f"{holder}|{new_term}", px=int(lease_ms))
    db.set(term_key, new_term)
    return ["OK"]


def resign(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    if db.get(keys[0]) == argv[0]:
        db.delete(keys[0])
    return ["OK"]


def apply(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    leader_key, gen_key, own_key, ver = keys[:4]
    if db.get(leader_key) != argv[0]:
        return ["NOTLEADER"]
    if db.get(gen_key) != argv[1]:
        return ["GEN"]
    slots = int(argv[3])
    reply, touched, changed = ["OK"], set(), False
    for i in range(4 + slots, len(argv), 7):
        account, expected, new, to, inc, entry, gone = argv[i : i + 7]
        to_index, from_index = int(to), int(gone)
        now = db.hget(own_key, account) or ""
        if not (_may_take(db, keys, to_index, inc) and now in (expected, new)):
            reply.append("0")
            continue
        if new == "":
            db.hdel(own_key, account)
        else:
            db.hset(own_key, account, new)
        if from_index > 0 and from_index != to_index:
            db.hdel(keys[3 + 2 * from_index], account)
            touched.add(from_index)
        if to_index > 0:
            db.hset(keys[3 + 2 * to_index], account, entry)
            touched.add(to_index)
        changed = changed or now != new
        reply.append("1")
    if changed:
        db.incr(ver)
    for index in sorted(touched):
        db.hincrby(keys[2 + 2 * index], "version", 1)
        db.publish(argv[2] + argv[3 + index])
    return reply


def _may_take(db: Db, keys: Sequence[str], index: int, incarnation: str) -> bool:
    if index == 0:
        return True
    w = keys[2 + 2 * index]
    return db.hget(w, "inc") == incarnation and db.hget(w, "fenced_inc") != incarnation


def distrust(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    if db.get(keys[0]) != argv[0]:
        return ["OK", "0"]
    db.delete(keys[0])
    return ["OK", "1"]


def fence_worker(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    leader_key, workers, w, d = keys
    leader, slot, incarnation, channel = argv
    if db.get(leader_key) != leader:
        return ["NOTLEADER"]
    inc = db.hget(w, "inc")
    if inc is not None and inc != incarnation:
        return ["CHANGED"]
    db.hset(w, "fenced_inc", incarnation, "state", "fenced")
    db.hincrby(w, "version", 1)
    db.delete(d)
    db.sadd(workers, slot)
    db.publish(channel)
    return ["OK"]


def forget(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    leader_key, workers, w, d, r = keys
    leader, slot, incarnation = argv
    if db.get(leader_key) != leader:
        return ["NOTLEADER"]
    inc = db.hget(w, "inc")
    if inc is not None and inc != incarnation:
        return ["CHANGED"]
    db.delete(w, d, r)
    db.srem(workers, slot)
    return ["OK"]


def unplaced(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    if db.get(keys[0]) != argv[0]:
        return ["NOTLEADER"]
    db.delete(keys[1])
    if argv[1:]:
        db.hset(keys[1], *argv[1:])
    return ["OK"]


def rebuild(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    leader_key, gen_key, own_key, ver = keys[:4]
    if db.get(leader_key) != argv[0]:
        return ["NOTLEADER"]
    db.set(gen_key, argv[1])
    slots, written = int(argv[3]), 0
    for i in range(4 + slots, len(argv), 4):
        account, record, slot_index, entry = argv[i : i + 4]
        now = db.hget(own_key, account)
        if now is None or _token(now) < _token(record):
            db.hset(own_key, account, record)
            written += 1
            now = record
        if now.split("|")[:4] == record.split("|")[:4]:
            db.hset(keys[3 + 2 * int(slot_index)], account, entry)
    db.incr(ver)
    for index in range(1, slots + 1):
        if len(argv) == 4 + slots:
            db.hdel(keys[2 + 2 * index], "reported")
        db.hincrby(keys[2 + 2 * index], "version", 1)
        db.publish(argv[2] + argv[3 + index])
    return ["OK", str(written)]


def complete(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    leader_key, gen_key, ver = keys
    if db.get(leader_key) != argv[0]:
        return ["NOTLEADER"]
    gen = db.get(gen_key)
    if gen == argv[2]:
        return ["OK"]
    if gen != argv[1]:
        return ["GEN"]
    db.set(gen_key, argv[2])
    db.incr(ver)
    return ["OK"]


def _token(record: str) -> str:
    parts = record.split("|")
    return parts[2] if len(parts) > 3 and parts[2].isdigit() else ""


def bucket_take(db: Db, keys: Sequence[str], argv: Sequence[str]) -> list[str]:
    """The steady bucket only: what the fleet's dials use. Windowed weights are proved in tests/integration."""
    amount, burst, per_s, block = (float(value) for value in argv[:4])
    now, state = db.now_ms() / 1000, db.hash(keys[0])
    blocked_until = float(state.get("blocked_until", 0))
    if block > 0:
        blocked_until = max(blocked_until, now + block)
        db.hset(keys[0], "blocked_until", f"{blocked_until:.6f}")
        return [str(math.ceil((blocked_until - now) * 1000))]
    if blocked_until > now:
        return [str(math.ceil((blocked_until - now) * 1000))]
    tokens, at = float(state.get("tokens", burst)), float(state.get("at", now))
    tokens = min(burst, tokens + max(0.0, now - at) * per_s)
    wait = 0
    if tokens + 1e-6 >= amount:
        tokens -= amount
    else:
        wait = math.ceil((amount - tokens) / per_s * 1000)
    db.hset(keys[0], "tokens", f"{tokens:.6f}", "at", f"{now:.6f}", "burst", argv[1], "per_s", argv[2])
    return [str(wait)]


SCRIPTS: dict[str, Script] = {
    "register": register, "heartbeat": heartbeat, "pull": pull, "report": report, "ack_release": ack_release,
    "lead": lead, "resign": resign, "apply": apply, "fence_worker": fence_worker, "forget": forget,
    "rebuild": rebuild, "distrust": distrust, "complete": complete, "unplaced": unplaced, "bucket_take": bucket_take,
}  # fmt: skip
