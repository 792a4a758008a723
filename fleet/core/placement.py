"""Where orphans go: greedy sticky placement with a rendezvous tie-break. Pure; used by fleet/core/plan.py.

In: workers with their capacity, current load and source addresses, accounts without an owner. Out: account → slot and address,
or why it fits nowhere. Every feasible owner stays (the caller passes orphans only); heaviest first, each goes to the feasible
worker with the lowest normalised load, there to the address with the fewest connections to its venue, ties by rendezvous hash.
Hard limits are never broken: a worker's capacity, and the connections that one address may hold to a venue.

Cost: O(log m) per account. Workers are kept in buckets of equal load; among many ties the rendezvous hash is taken over a
window of them, chosen by the account's own hash.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from hashlib import blake2b
from itertools import islice
from math import inf
from zlib import crc32

import msgspec

WINDOW = 16
MASK = (1 << 64) - 1
OVER = 1.2  # rebalance a worker past this share of the mean
DOWN_TO = 1.1
AT_MOST_PER_MINUTE = 0.01
IN_FLIGHT = 20


class Target(msgspec.Struct, frozen=True):
    """A worker that may take accounts. `used` counts the accounts it has, `weight` is their sum; `addresses` are those it may
    dial from, at least one."""

    slot: str
    incarnation: str
    addresses: tuple[str, ...]
    capacity: int
    used: int = 0
    weight: float = 0.0


class Orphan(msgspec.Struct, frozen=True):
    """An account that needs an owner."""

    account_id: str
    venue: str
    weight: float = 1.0


class Place(msgspec.Struct, frozen=True):
    """Where an account goes."""

    slot: str
    address: str


class Room:
    """Connections that each (address, venue) holds, and how many it may; a venue that is missing in `limits` has no limit."""

    def __init__(
        self, limits: Mapping[str, int] | None = None, held: Mapping[tuple[str, str], int] | None = None
    ) -> None:
        self._limits = dict(limits or {})
        self._held = dict(held or {})
        self.full: dict[str, set[str]] = {}  # venue -> addresses that may hold no more
        for (address, venue), n in self._held.items():
            if venue in self._limits and n >= self._limits[venue]:
                self.full.setdefault(venue, set()).add(address)
        self.closed = {venue for venue, limit in self._limits.items() if limit <= 0}

    def take(self, addresses: tuple[str, ...], orphan: Orphan, preferred: str = "") -> str | None:
        """The address for one more connection, which counts from now on: the preferred one if it is there and has room, else
        the one with the fewest. None = all are full."""
        venue, held = orphan.venue, self._held
        full = self.full.get(venue, ())
        free = [a for a in addresses if a not in full] if venue not in self.closed else []
        if not free:
            return None
        if preferred in free:
            chosen = preferred
        elif len(free) == 1:
            chosen = free[0]
        else:
            account = point(orphan.account_id)
            chosen = min(free, key=lambda a: (held.get((a, venue), 0), -score(account, point(a)), a))
        n = held[chosen, venue] = held.get((chosen, venue), 0) + 1
        if n >= self._limits.get(venue, n + 1):
            self.full.setdefault(venue, set()).add(chosen)
        return chosen

    def left(self, address: str, venue: str) -> float:
        """Connections that this address may have besides; negative where it holds more than it may."""
        return self._limits.get(venue, inf) - self._held.get((address, venue), 0)

    def why(self, venue: str, whose: str = "") -> str:
        return f"no address{whose} may hold another {venue} connection (limit {self._limits.get(venue, 0)} each)"


def place(
    orphans: Iterable[Orphan], targets: Iterable[Target], room: Room | None = None, most: int | None = None
) -> tuple[dict[str, Place], dict[str, str]]:
    """(account → place, account → why it is unplaced). Deterministic: the order of the inputs does not matter. `room` is kept
    up to date. Once `most` have a place, the others are left out of both."""
    room = room or Room()
    index = _Index(targets)
    index.close(room)
    placed: dict[str, Place] = {}
    unplaced: dict[str, str] = {}
    for orphan in sorted(orphans, key=lambda o: (-o.weight, o.account_id)):
        if len(placed) == most:
            break
        slot = index.lowest(orphan.account_id, orphan.venue)
        if slot is None:
            unplaced[orphan.account_id] = index.why() or room.why(orphan.venue)
            continue
        addresses = index.addresses[slot]
        address = room.take(addresses, orphan)
        if address is None:
            raise AssertionError(f"{slot} has no room for {orphan.venue}")
        placed[orphan.account_id] = Place(slot, address)
        index.add(slot, orphan.weight)
        if address in room.full.get(orphan.venue, ()):
            index.filled(address, orphan.venue, room)
    return placed, unplaced


def fallback_address(account_id: str, addresses: Sequence[str]) -> str:
    """The address of an account that was assigned without one (by an older release, or found running): spread evenly, the same
    for whoever asks. "" where there is no choice to make."""
    return addresses[crc32(account_id.encode()) % len(addresses)] if addresses else ""


def surplus(targets: Iterable[Target]) -> dict[str, int]:
    """How many accounts each overloaded worker has too many, the most loaded one first. {} while nobody is past OVER."""
    rows = [t for t in targets if t.capacity > 0]
    total, room = sum(t.used for t in rows), sum(t.capacity for t in rows)
    if len(rows) < 2 or not total:
        return {}
    low = min(t.used / t.capacity for t in rows)
    many: dict[str, int] = {}
    for target in sorted(rows, key=lambda t: (-t.used / t.capacity, t.slot)):
        mean = total * target.capacity / room
        if target.used > OVER * mean and target.used - low * target.capacity >= 2:
            many[target.slot] = max(1, int(target.used - DOWN_TO * mean))
    return many


def seats_to_even_out(source: Target, given: int, targets: Collection[Target]) -> Callable[[Target], int]:
    """How many accounts a worker may take from `source`, which has given `given` away: below the mean only, and never so many
    that it would have more than `source` is left with. So the load comes to rest."""
    total, room = sum(t.used for t in targets), sum(t.capacity for t in targets)
    left = source.used - given - 1

    def seats(target: Target) -> int:
        to_mean = -(-total * target.capacity // room)
        as_source = left * target.capacity // source.capacity
        return min(target.capacity, to_mean, as_source) - target.used

    return seats


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
        self.addresses: dict[str, tuple[str, ...]] = {}
        self._capacity: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._weight: dict[str, float] = {}
        self._point: dict[str, int] = {}
        self._buckets: dict[float, list[tuple[int, str]]] = {}
        self._loads: list[float] = []
        self._blocked: dict[str, set[str]] = {}  # venue -> workers all of whose addresses are full
        self._at: dict[str, list[str]] = {}  # address -> workers that dial from it
        for target in targets:
            slot = target.slot
            self.addresses[slot], self._capacity[slot] = target.addresses, target.capacity
            self._used[slot], self._weight[slot] = target.used, target.weight
            self._point[slot] = point(slot)
            self._insert(slot)
            for address in target.addresses:
                self._at.setdefault(address, []).append(slot)

    def close(self, room: Room) -> None:
        """Take note of what is full from the beginning."""
        for venue in room.closed:
            self._blocked[venue] = set(self._capacity)
        for venue, full in room.full.items():
            for address in full:
                self.filled(address, venue, room)

    def filled(self, address: str, venue: str, room: Room) -> None:
        """An address holds all that it may: its workers are blocked for this venue where no other address is left."""
        full = room.full[venue]
        for slot in self._at.get(address, ()):
            if full.issuperset(self.addresses[slot]):
                self._blocked.setdefault(venue, set()).add(slot)

    def lowest(self, account_id: str, venue: str) -> str | None:
        """The feasible worker with the lowest load; None where none is."""
        blocked = self._blocked.get(venue)
        if not blocked:
            while self._loads and self._loads[0] not in self._buckets:
                heapq.heappop(self._loads)
            return self._pick(account_id, self._buckets[self._loads[0]], ()) if self._loads else None
        if len(blocked) == len(self._capacity):
            return None
        for load in sorted(self._buckets):
            slot = self._pick(account_id, self._buckets[load], blocked)
            if slot is not None:
                return slot
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

    def why(self) -> str:
        """Why nobody is feasible, if it is not for the addresses' limits."""
        if not self._capacity:
            return "no worker is up"
        return "" if self._buckets else "every worker is full"

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

    def _pick(self, account_id: str, bucket: list[tuple[int, str]], blocked: Collection[str]) -> str | None:
        if len(bucket) == 1:
            return bucket[0][1] if bucket[0][1] not in blocked else None
        account = point(account_id)
        if len(bucket) > WINDOW or blocked:
            start = bisect_left(bucket, (account, ""))
            around = (bucket[(start + i) % len(bucket)] for i in range(len(bucket)))
            bucket = list(islice((pair for pair in around if pair[1] not in blocked), WINDOW))
        return max(((score(account, slot_point), slot) for slot_point, slot in bucket), default=(0, None))[1]
