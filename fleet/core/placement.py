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
from collections.abc import Iterable, Mapping
from hashlib import blake2b

import msgspec

WINDOW = 16
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
    placed: dict[str, str] = {}
    unplaced: dict[str, str] = {}
    for orphan in sorted(orphans, key=lambda o: (-o.weight, o.account_id)):
        slot = index.lowest(orphan, left)
        if slot is None:
            unplaced[orphan.account_id] = index.why(orphan.venue)
            continue
        placed[orphan.account_id] = slot
        index.add(slot, orphan.weight)
        pair = (index.host[slot], orphan.venue)
        if pair in left:
            left[pair] -= 1
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


def score(account_id: str, slot: str) -> int:
    """Rendezvous hash: the account goes to the slot with the highest score."""
    return int.from_bytes(blake2b(f"{account_id}\n{slot}".encode(), digest_size=8).digest(), "big")


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
            self._point[slot] = score("", slot)
            self._insert(slot)

    def lowest(self, orphan: Orphan, left: Mapping[tuple[str, str], int]) -> str | None:
        """The feasible worker with the lowest load; None where none is."""
        blocked = {host for (host, venue), n in left.items() if venue == orphan.venue and n <= 0} if left else set()
        if not blocked:
            while self._loads and self._loads[0] not in self._buckets:
                heapq.heappop(self._loads)
            return self._pick(orphan.account_id, self._buckets[self._loads[0]]) if self._loads else None
        for load in sorted(self._buckets):
            free = [pair for pair in self._buckets[load] if self.host[pair[1]] not in blocked]
            if free:
                return self._pick(orphan.account_id, free)
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
        if len(bucket) > WINDOW:
            start = bisect_left(bucket, (score(account_id, ""), ""))
            bucket = [bucket[(start + i) % len(bucket)] for i in range(WINDOW)]
        return max(bucket, key=lambda pair: score(account_id, pair[1]))[1]
