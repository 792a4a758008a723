"""Would an account that runs find a place elsewhere? Asked before it is revoked to drain a worker or to even out load. Pure.

In: the workers that take accounts, with what this plan gives them already; the connections of their addresses; who is on the
way. Out: yes or no for one account more, and why not. Used by fleet/core/plan.py, at the cost of O(workers) a question, and
asked about drains and rebalances only.

Accounts on their way are released, and placed again, in an order that nobody knows beforehand, and each takes the place that
suits placement then. Each takes one seat and one connection, though. So whoever is asked about is sure of a place if there are
more of them than accounts on the way, wherever those go; where it is tight, accounts move one after the other, and none stops
for a place that another one gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable

from fleet.core.placement import Room, Target

RESERVED = "what room there is awaits accounts on probation"


def free_seats(target: Target) -> int:
    return target.capacity - target.used


class Prospects:
    """`starved` are venues with accounts that fit nowhere: those would get any connection that is given up. `whose` workers the
    places are at, for people."""

    def __init__(self, targets: Iterable[Target], room: Room, starved: Collection[str], whose: str) -> None:
        self._room, self._starved, self._whose = room, starved, whose
        self._groups: dict[tuple[str, ...], list[Target]] = {}
        for target in targets:
            self._groups.setdefault(target.addresses, []).append(target)
        self._promised = 0
        self._freed: Counter[tuple[str, str]] = Counter()

    def promise(self, venue: str, address: str) -> None:
        """One more is on its way. Its connection at `address` ("" = it has none) is free again before it needs another."""
        self._promised += 1
        self._freed[address, venue] += 1

    def fit(self, venue: str, address: str, seats: Callable[[Target], int] = free_seats) -> bool:
        """Is an account at `address` sure of a place? `seats`: how many more a worker may take."""
        return self._places(venue, address, seats) > self._promised

    def why_not(self, venue: str, address: str, seats: Callable[[Target], int] = free_seats) -> str:
        """Why it does not fit while nobody is on the way."""
        if not self._groups:
            return "no other worker is up"
        if all(seats(target) <= 0 for group in self._groups.values() for target in group):
            return f"no room on {self._whose}"
        return RESERVED if self._places(venue, address, seats) else self._room.why(venue, f" of {self._whose}")

    def _places(self, venue: str, address: str, seats: Callable[[Target], int]) -> int:
        """Places that cannot be taken away by fewer accounts than that. Workers of the same addresses have as many as they have
        seats, or those addresses connections. An address that several such groups share counts for the one with the most."""
        rows = sorted(
            (min(sum(max(0, seats(t)) for t in group), self._connections(addresses, venue, address)), addresses)
            for addresses, group in self._groups.items()
        )
        places, counted = 0, set[str]()
        for n, addresses in reversed(rows):
            if counted.isdisjoint(addresses):
                counted.update(addresses)
                places += int(n)
        return places

    def _connections(self, addresses: tuple[str, ...], venue: str, given_up: str) -> float:
        total = 0.0
        for address in addresses:
            freed = 0 if venue in self._starved else self._freed[address, venue] + (address == given_up)
            total += max(0.0, self._room.left(address, venue) + freed)
        return total
