"""The scripts of fleet/runtime/lua as plain Python over dicts: what each of them means, without Redis.

Used by tests/integration/test_redis_scripts.py, which runs the same operations on both and compares replies and states.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fleet.core.model import process_of

Own = tuple[str, str, int, str, int, int, str]  # slot, incarnation, token, state, since_ms, revision, egress_ip


@dataclass
class Hash:
    """`{..}:w:<slot>`, the fields that scripts look at."""

    inc: str = ""
    fenced: str = ""
    version: int = 0
    seq: int = 0
    state: str = ""
    drain: bool = False
    reported: str = ""
    life: int = 0
    lock: str = ""


@dataclass
class Model:
    """State of one fleet's keys."""

    gen: tuple[str, bool] | None = None
    leader: tuple[str, int] | None = None
    term: int = 0
    ver: int = 0
    workers: set[str] = field(default_factory=set)
    w: dict[str, Hash] = field(default_factory=dict)
    own: dict[str, Own] = field(default_factory=dict)
    d: dict[str, dict[str, tuple[int, str]]] = field(default_factory=dict)
    r: dict[str, dict[str, int]] = field(default_factory=dict)

    def standing(self, slot: str, inc: str) -> str:
        record = self.w.get(slot, Hash())
        if record.fenced == inc:
            return "FENCED"
        if not record.inc:
            return "UNKNOWN"
        return "OK" if record.inc == inc else "FENCED"

    def register(self, slot: str, inc: str, lock: str = "", watched: bool = False) -> tuple[str, int]:
        """standing and number of the life; lives are told by a wall clock that shows 1. `watched`: the holder's last beat was."""
        record = self.w.setdefault(slot, Hash())
        if record.fenced == inc:
            return "FENCED", 0
        if record.inc != inc:
            elsewhere = record.inc and record.lock and lock and lock != record.lock
            if elsewhere and record.state != "gone" and record.fenced != record.inc and not watched:
                return "HELD", 0
            record.lock = lock
            if record.inc:
                self.d.pop(slot, None)
                record.drain = record.drain and process_of(record.inc) == process_of(inc)
            self.r.pop(slot, None)
            record.version += 1
            record.inc, record.life = inc, record.life + 1
        record.state = "up"
        self.workers.add(slot)
        return "OK", record.life

    def heartbeat(self, slot: str, inc: str, seq: int) -> tuple[Any, ...]:
        """standing, generation, version, drain, and the life of who holds the slot instead."""
        standing = self.standing(slot, inc)
        if standing != "OK":
            record = self.w.get(slot, Hash())
            known = standing == "FENCED" and record.fenced != inc
            return (standing, self.gen if known else None, 0, False, record.life if known else 0)
        if seq >= self.w[slot].seq:
            self.w[slot].seq, self.w[slot].state = seq, "up"
        return ("OK", self.gen, self.w[slot].version, self.w[slot].drain, 0)

    def pull(self, slot: str, inc: str) -> tuple[Any, ...]:
        standing = self.standing(slot, inc)
        if standing != "OK":
            return (standing,)
        view = {
            account: (*entry, self.own[account][6])
            for account, entry in self.d.get(slot, {}).items()
            if account in self.own and self.own[account][:4] == (slot, inc, *entry)
        }
        return ("OK", self.gen, self.w[slot].version, view)

    def report(self, slot: str, inc: str, tokens: dict[str, int], removed: list[str], full: bool) -> str:
        standing = self.standing(slot, inc)
        if standing != "OK":
            return standing
        if full:
            self.r.pop(slot, None)
        rows = self.r.setdefault(slot, {})
        for account in removed:
            rows.pop(account, None)
        rows.update(tokens)
        self.w[slot].reported = inc
        return "OK"

    def ack_release(self, slot: str, inc: str, stopped: dict[str, int]) -> str:
        standing = self.standing(slot, inc)
        if standing != "OK":
            return standing
        released = [a for a, token in stopped.items() if self.own.get(a, ())[:3] == (slot, inc, token)]
        for account in released:
            del self.own[account]
            self.d.get(slot, {}).pop(account, None)
            self.r.get(slot, {}).pop(account, None)
        if released:
            self.ver += 1
            self.w[slot].version += 1
        return "OK"

    def lead(self, holder: str, term: int) -> str:
        if self.leader and self.leader[0] != holder:
            return "HELD"
        if self.term > term:
            return "STALE"
        self.leader, self.term = (holder, term), term
        return "OK"

    def apply(
        self, leader: tuple[str, int], gen: tuple[str, bool], changes: list[tuple[str, Own | None, Own | None]]
    ) -> list[bool] | str:
        if self.leader != leader:
            return "NOTLEADER"
        if self.gen != gen:
            return "GEN"
        done, touched, changed = [], set(), False
        for account, expected, new in changes:
            now = self.own.get(account)
            target = self.w.get(new[0], Hash()) if new else None
            alive = target is None or (new is not None and target.inc == new[1] and target.fenced != new[1])
            if not alive or now not in (expected, new):
                done.append(False)
                continue
            if new is None:
                self.own.pop(account, None)
            else:
                self.own[account] = new
            if expected and (new is None or expected[0] != new[0]):
                self.d.get(expected[0], {}).pop(account, None)
                touched.add(expected[0])
            if new:
                self.d.setdefault(new[0], {})[account] = (new[2], new[3])
                touched.add(new[0])
            changed = changed or now != new
            done.append(True)
        self.ver += changed
        for slot in touched:
            self.w.setdefault(slot, Hash()).version += 1
        return done

    def complete(self, leader: tuple[str, int], gen: str) -> bool | str:
        if self.leader != leader:
            return "NOTLEADER"
        if self.gen == (gen, True):
            return True
        if self.gen != (gen, False):
            return "GEN"
        self.gen = (gen, True)
        self.ver += 1
        return True

    def distrust(self, gen: tuple[str, bool]) -> bool:
        if self.gen != gen:
            return False
        self.gen = None
        return True

    def fence(self, leader: tuple[str, int], slot: str, inc: str) -> bool | str:
        if self.leader != leader:
            return "NOTLEADER"
        record = self.w.get(slot, Hash())
        if record.inc and record.inc != inc:
            return False
        record.fenced, record.state = inc, "fenced"
        record.version += 1
        self.w[slot] = record
        self.d.pop(slot, None)
        self.workers.add(slot)
        return True

    def forget(self, leader: tuple[str, int], slot: str, inc: str) -> bool | str:
        if self.leader != leader:
            return "NOTLEADER"
        record = self.w.get(slot, Hash())
        if record.inc and record.inc != inc:
            return False
        for table in (self.w, self.d, self.r):
            table.pop(slot, None)
        self.workers.discard(slot)
        return True

    def rebuild(
        self, leader: tuple[str, int], gen: tuple[str, bool], records: dict[str, Own], slots: tuple[str, ...] = ()
    ) -> int | str:
        if self.leader != leader:
            return "NOTLEADER"
        self.gen = gen
        written = 0
        for account, record in records.items():
            if account not in self.own or self.own[account][2] < record[2]:
                self.own[account] = record
                written += 1
            if self.own[account][:4] == record[:4]:
                self.d.setdefault(record[0], {})[account] = (record[2], record[3])
        self.ver += 1
        for slot in {record[0] for record in records.values()} if records else set(slots):
            self.w.setdefault(slot, Hash()).version += 1
            if not records:
                self.w[slot].reported = ""
        return written


@dataclass
class Window:
    """bucket_take and bucket_observe on a windowed bucket, away from a window's edges. `first`: what an unknown one begins with."""

    burst: float
    first: float
    tokens: float | None = None
    unknown: bool = False
    blocked: bool = False
    passed: bool = False  # a new window has begun since

    def take(self, amount: float, reserve: float) -> tuple[bool, float, bool] | None:
        """→ granted, left, unknown; None while blocked."""
        if self.blocked:
            return None
        self.tokens = self._now()
        amount = min(amount, self.burst - reserve)
        granted = self.tokens >= amount + (0.0 if self.unknown else reserve)
        self.tokens -= amount if granted else 0.0
        return granted, self.tokens, self.unknown

    def observe(self, used: float, sent: str, knew: bool) -> tuple[float, bool]:
        """`sent`: now, early (near the window's beginning) or before it; `knew`: of this very unknown bucket → left, unknown."""
        knew = knew and self.tokens is not None and self.unknown
        tokens, left = self._now(), max(0.0, self.burst - used)
        if self.unknown and knew and (sent == "now" or (sent == "early" and left > self.first)):
            tokens, self.unknown = max(0.0, tokens + left - self.first), False
        self.tokens = min(tokens, left) if sent == "now" else tokens
        return self.tokens, self.unknown

    def _now(self) -> float:
        if self.tokens is None:
            self.tokens, self.unknown = self.first, self.first < self.burst
        elif self.passed:
            self.tokens, self.unknown = self.burst, False
        self.passed = False
        return self.tokens
