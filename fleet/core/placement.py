"""Where orphans go: greedy sticky placement with a rendezvous tie-break. Pure; used by fleet/core/plan.py.

In: workers with their capacity and current load, accounts without an owner. Out: account → slot, or why it fits nowhere.
Every feasible owner stays (the caller passes orphans only); heaviest first, each goes to the feasible worker with the
lowest normalised load, ties by rendezvous hash. Hard limits are never broken: a worker's capacity, and the connections one
host may hold to a venue (limit per egress address × its addresses).

Cost: O(log m) per account. Workers are kept in buckets of equal load; among many ties the rendezvous hash is taken over a
window of them, chosen by the account's own hash.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterable
from hashlib import blake2b

import msgspec

WINDOW = 16
MASK = (1 << 64) - 1
OVER = 1.2  # rebalance a worker past this share of the mean
DOWN_TO = 1.1
AT_MOST_PER_MINUTE = 0.01
IN_FLIGHT = 20


class Target(msgspec.Struct, frozen=True):
    """A worker that may take accounts. `used` counts the accounts it has, `weight` is their sum."""

    slot: str
    incarnation: str
    host: str
    capacity: int
    used: int = 0
    weight: float = 0.0


class Orphan(msgspec.Struct, frozen=True):
    """An account that needs an owner."""

    account_id: str
    venue: str
    weight: float = 1.0


class HostRoom(msgspec.Struct, frozen=True):
    """How many more connections each (host, venue) may hold; a pair that is missing has no limit."""

    left: dict[tuple[str, str], int]


NO_LIMIT = HostRoom({})


def place(
    orphans: Iterable[Orphan], targets: Iterable[Target], room: HostRoom = NO_LIMIT
) -> tuple[dict[str, str], dict[str, str]]:
    """(account → slot, account → why it is unplaced). Deterministic: the order of the inputs does not matter."""
    index = _Index(targets)
    left = dict(room.left)
    blocked: dict[str, set[str]] = {}  # venue -> hosts that may not open another connection to it
    for (host, venue), n in left.items():
        if n <= 0:
            blocked.setdefault(venue, set()).add(host)
    placed: dict[str, str] = {}
    unplaced: dict[str, str] = {}
    for orphan in sorted(orphans, key=lambda o: (-o.weight, o.account_id)):
        slot = index.lowest(orphan.account_id, blocked.get(orphan.venue))
        if slot is None:
            unplaced[orphan.account_id] = index.why(orphan.venue)
            continue
        placed[orphan.account_id] = slot
        index.add(slot, orphan.weight)
        pair = (index.host[slot], orphan.venue)
        if pair in left:
            left[pair] -= 1
            if left[pair] <= 0:
                blocked.setdefault(orphan.venue, set()).add(pair[0])
    return placed, unplaced


def surplus(targets: Iterable[Target], allowance: int) -> dict[str, int]:
    """How many accounts each overloaded worker gives up, `allowance` in all. {} while nobody is past OVER."""
    rows = [t for t in targets if t.capacity > 0]
    total, room = sum(t.used for t in rows), sum(t.capacity for t in rows)
    give: dict[str, int] = {}
    if len(rows) < 2 or not total:
        return give
    low = min(t.used / t.capacity for t in rows)
    for target in sorted(rows, key=lambda t: (-t.used / t.capacity, t.slot)):
        mean = total * target.capacity / room
        if allowance <= 0 or target.used <= OVER * mean or target.used - low * target.capacity < 2:
            continue
        n = min(allowance, max(1, int(target.used - DOWN_TO * mean)))
        give[target.slot] = n
        allowance -= n
    return give


def point(name: str) -> int:
    """64 well-mixed bits of a slot's or an account's name."""
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "big")


def score(account_point: int, slot_point: int) -> int:
    """Rendezvous hash: the account goes to the slot with the highest score."""
    mixed = ((account_point ^ slot_point) * 0x9E3779B97F4A7C15) & MASK
    return ((mixed ^ (mixed >> 29)) * 0xBF58476D1CE4E5B9) & MASK


class Allowance:
    """Pace of rebalancing: 1 % of the accounts a minute (at least one), 20 at a time."""

    def __init__(self) -> None:
        self._at = 0.0
        self._tokens = 0.0

    def refill(self, now: float, accounts: int) -> None:
        per_s = max(1.0, accounts * AT_MOST_PER_MINUTE) / 60.0
        self._tokens = min(float(IN_FLIGHT), self._tokens + (now - self._at) * per_s if self._at else 0.0)
        self._at = now

    @property
    def allowed(self) -> int:
        return int(self._tokens)

    def spend(self, n: int) -> None:
        self._tokens -= n


class _Index:
    """Workers in buckets of equal normalised load; each bucket is sorted by the workers' own hashes."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self.host: dict[str, str] = {}
        self._capacity: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._weight: dict[str, float] = {}
        self._point: dict[str, int] = {}
        self._buckets: dict[float, list[tuple[int, str]]] = {}
        self._loads: list[float] = []
        for target in targets:
            slot = target.slot
            self.host[slot], self._capacity[slot] = target.host, target.capacity
            self._used[slot], self._weight[slot] = target.used, target.weight
            self._point[slot] = point(slot)
            self._insert(slot)
        self._hosts = set(self.host.values())

    def lowest(self, account_id: str, blocked: set[str] | None) -> str | None:
        """The feasible worker with the lowest load outside the blocked hosts; None where none is."""
        if not blocked:
            while self._loads and self._loads[0] not in self._buckets:
                heapq.heappop(self._loads)
            return self._pick(account_id, self._buckets[self._loads[0]]) if self._loads else None
        if blocked >= self._hosts:
            return None
        for load in sorted(self._buckets):
            free = [pair for pair in self._buckets[load] if self.host[pair[1]] not in blocked]
            if free:
                return self._pick(account_id, free)
        return None

    def add(self, slot: str, weight: float) -> None:
        load = self._load(slot)
        bucket = self._buckets[load]
        del bucket[bisect_left(bucket, (self._point[slot], slot))]
        if not bucket:
            del self._buckets[load]
        self._used[slot] += 1
        self._weight[slot] += weight
        self._insert(slot)

    def why(self, venue: str) -> str:
        if not self._capacity:
            return "no worker is up"
        return "every worker is full" if not self._buckets else f"no host may open another {venue} connection"

    def _insert(self, slot: str) -> None:
        if self._used[slot] >= self._capacity[slot]:
            return
        load = self._load(slot)
        if load not in self._buckets:
            self._buckets[load] = []
            heapq.heappush(self._loads, load)
        insort(self._buckets[load], (self._point[slot], slot))

    def _load(self, slot: str) -> float:
        return round(self._weight[slot] / self._capacity[slot], 9)

    def _pick(self, account_id: str, bucket: list[tuple[int, str]]) -> str:
        if len(bucket) == 1:
            return bucket[0][1]
        account = point(account_id)
        if len(bucket) > WINDOW:
            start = bisect_left(bucket, (account, ""))
            bucket = [bucket[(start + i) % len(bucket)] for i in range(WINDOW)]
        return max((score(account, slot_point), slot) for slot_point, slot in bucket)[1]
