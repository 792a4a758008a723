"""A seeded order book in ticks and steps. In: a random generator; out: levels, and the changes since the last push of
each speed.

Every change carries update ids from one counter per venue. Pure; used in the simulator process.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

LEVELS = 200


@dataclass(slots=True)
class DepthFeed:
    """Changes of a book since the last push of one speed."""

    prev_id: int
    first_id: int = 0
    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)


class Sequence:
    """A counter shared by several symbols."""

    def __init__(self, start: int) -> None:
        self.value = start

    def advance(self, by: int) -> int:
        self.value += by
        return self.value


class Book:
    """LEVELS contiguous price levels on each side, one tick of spread."""

    def __init__(self, random: Random, ids: Sequence, price: int, typical_qty: int) -> None:
        self._random = random
        self._ids = ids
        self._typical_qty = typical_qty
        self.best_bid = price
        self.best_ask = price + 1
        self.levels = min(LEVELS, max(5, price // 2))
        self.bids = {price - i: self._qty() for i in range(self.levels)}
        self.asks = {price + 1 + i: self._qty() for i in range(self.levels)}
        self.last_id = ids.advance(1)
        self.feeds: dict[str, DepthFeed] = {}

    def _qty(self) -> int:
        return max(1, int(self._typical_qty * self._random.expovariate(1.0)))

    def mutate(self) -> bool:
        """Move the book a little; True when the best bid or ask changed. Every call changes at least one level."""
        random = self._random
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        before = (self.best_bid, self.bids[self.best_bid], self.asks[self.best_ask])
        draw = random.random()
        if draw < 0.2 and self.best_bid > self.levels + 4:
            self._step(-random.randint(1, 3), bids, asks)
        elif draw > 0.8:
            self._step(random.randint(1, 3), bids, asks)
        for _ in range(random.randint(1, 4)):
            depth = min(self.levels - 1, int(random.expovariate(0.15)))
            if random.random() < 0.5:
                bids[self.best_bid - depth] = self._qty()
            else:
                asks[self.best_ask + depth] = self._qty()
        self._apply(bids, asks)
        return before != (self.best_bid, self.bids[self.best_bid], self.asks[self.best_ask])

    def _step(self, ticks: int, bids: dict[int, int], asks: dict[int, int]) -> None:
        for _ in range(abs(ticks)):
            if ticks > 0:
                asks[self.best_ask] = 0
                self.best_ask += 1
                self.best_bid += 1
                bids[self.best_bid] = self._qty()
                bids[self.best_bid - self.levels] = 0
                asks[self.best_ask + self.levels - 1] = self._qty()
            else:
                bids[self.best_bid] = 0
                self.best_ask -= 1
                self.best_bid -= 1
                asks[self.best_ask] = self._qty()
                asks[self.best_ask + self.levels] = 0
                bids[self.best_bid - self.levels + 1] = self._qty()

    def _apply(self, bids: dict[int, int], asks: dict[int, int]) -> None:
        first = self.last_id = self._ids.advance(self._random.randint(1, 40))
        for side, changes in ((self.bids, bids), (self.asks, asks)):
            for price, qty in changes.items():
                if qty:
                    side[price] = qty
                else:
                    side.pop(price, None)
        if len(bids) + len(asks) > 1:
            self.last_id = self._ids.advance(len(bids) + len(asks))
        for feed in self.feeds.values():
            feed.bids.update(bids)
            feed.asks.update(asks)
            if not feed.first_id:
                feed.first_id = first

    def take_best(self, sells: bool) -> int:
        """Price at which a taker trades now."""
        return self.best_bid if sells else self.best_ask

    def top(self, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The best `levels` of both sides, best first."""
        count = min(levels, self.levels)
        bids = [(p, self.bids[p]) for p in range(self.best_bid, self.best_bid - count, -1) if p in self.bids]
        asks = [(p, self.asks[p]) for p in range(self.best_ask, self.best_ask + count) if p in self.asks]
        return bids, asks

    def feed(self, speed: str) -> DepthFeed:
        """The changes for one push speed, starting from now when it is new."""
        found = self.feeds.get(speed)
        if found is None:
            found = self.feeds[speed] = DepthFeed(prev_id=self.last_id)
        return found

    def drain(self, speed: str) -> tuple[int, int, int, dict[int, int], dict[int, int]] | None:
        """(first id, last id, previous pushed id, bids, asks) since the last call, or None when nothing changed."""
        feed = self.feed(speed)
        if not feed.first_id:
            return None
        out = (feed.first_id, self.last_id, feed.prev_id, feed.bids, feed.asks)
        self.feeds[speed] = DepthFeed(prev_id=self.last_id)
        return out
