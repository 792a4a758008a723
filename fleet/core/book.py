"""Order-book sequence rules: when a local book may be called valid. Pure; used by the market-data process, one Book per symbol.

In: `Depth` updates in the order of the socket, and snapshots. Out: the same events once they may be published, and whether a
snapshot is needed. A book is

    invalid ──update──▶ buffering ──snapshot that meets the updates──▶ valid ──gap, crossed book, invalidate()──▶ invalid

and while it is not valid its updates wait here, so that nobody takes them for a continuation. Nothing is lost by that: `load`
hands out what waited, in order: updates older than the snapshot, the snapshot, and those that follow it.

How updates link and how the first one meets a snapshot differs by venue: `Rules`, as data in the exchange's folder.
Sources: exchanges/binance.md 3.5, bybit.md and okx.md (order book).
"""

from __future__ import annotations

import enum
import heapq
from collections import deque
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from fleet.core.events import Depth, plain

MAX_WAITING = 20_000
LATE_RUN = 50  # updates in a row that all end before the book: no repetition, the venue counts anew from lower down


@dataclass(frozen=True)
class Rules:
    """`link`: an update names its predecessor ("previous": prev_seq == last) or starts after it, at the latest ("next":
    first_seq == last + 1; quantities are absolute, so one that begins earlier and ends later continues it too).
    `covers`: the first update after a snapshot may also begin before it, if it reaches it. `snapshots`: where they come from;
    "either": the stream begins with one, and where it did not or a gap followed, REST has one of the same sequence."""

    link: Literal["previous", "next"]
    covers: bool
    snapshots: Literal["rest", "stream", "either"]

    def follows(self, update: Depth, last_seq: int) -> bool:
        """Is `update` the direct continuation of a book at `last_seq`?"""
        if self.link == "previous":
            return update.prev_seq == last_seq
        return update.first_seq <= last_seq + 1 <= update.last_seq

    def meets(self, update: Depth, snapshot_seq: int) -> bool:
        """May `update` be the first one applied to a snapshot?"""
        if self.follows(update, snapshot_seq):
            return True
        # futures: U <= lastUpdateId <= u; spot: U <= lastUpdateId + 1 <= u
        reached = snapshot_seq if self.link == "previous" else snapshot_seq + 1
        return self.covers and update.first_seq <= reached <= update.last_seq

    def stale(self, update: Depth, snapshot_seq: int) -> bool:
        """Is everything in `update` in the snapshot already? (futures drop u < lastUpdateId, spot u <= lastUpdateId)"""
        if self.follows(update, snapshot_seq):
            return False  # OKX: after a maintenance the sequence starts again, below its predecessor
        return update.last_seq < snapshot_seq + (self.link == "next")


class BookState(enum.StrEnum):
    INVALID = "invalid"
    BUFFERING = "buffering"
    VALID = "valid"


class _Side:
    """Bids or asks: quantities by price, and a heap of prices (best first) that may still hold deleted ones."""

    def __init__(self, is_bid: bool) -> None:
        self.levels: dict[str, str] = {}  # plain price -> quantity as sent
        self._sign = -1 if is_bid else 1
        self._heap: list[tuple[Decimal, str]] = []

    def set(self, price: str, qty: str) -> None:
        """Raises InvalidOperation for a price that is not a number."""
        key = plain(price)
        if not qty.strip("0."):
            self.levels.pop(key, None)  # deleting an unknown level is normal
            return
        if key not in self.levels:
            heapq.heappush(self._heap, (self._sign * Decimal(key), key))
            if len(self._heap) > 2 * len(self.levels) + 1000:
                self._heap = [(self._sign * Decimal(k), k) for k in (*self.levels, key)]
                heapq.heapify(self._heap)
        self.levels[key] = qty

    def best(self) -> tuple[Decimal, str] | None:
        while self._heap and self._heap[0][1] not in self.levels:
            heapq.heappop(self._heap)
        return (self._sign * self._heap[0][0], self._heap[0][1]) if self._heap else None


class Book:
    """One symbol's book. Not thread-safe: its reader owns it."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.state = BookState.INVALID
        self.reason = "never synchronised"  # why it is not valid
        self.last_seq = 0
        self._meeting = False  # a snapshot is loaded and no update has met it yet
        self._late = 0  # updates in a row that the book has already
        self._waiting: deque[Depth] = deque()
        self._bids, self._asks = _Side(True), _Side(False)

    @property
    def valid(self) -> bool:
        return self.state is BookState.VALID

    @property
    def needs_snapshot(self) -> bool:
        """True while a REST snapshot would help: updates wait and none has met them."""
        return self.state is BookState.BUFFERING and self.rules.snapshots != "stream"

    @property
    def needs_stream(self) -> bool:
        """True while only a new subscription would help: updates wait, and snapshots come in the stream alone."""
        return self.state is BookState.BUFFERING and self.rules.snapshots == "stream"

    def feed(self, update: Depth, *, overlap: bool = False) -> list[Depth]:
        """Take in one message of the socket. → what may be published now: nothing while the book is not valid. `overlap`: a second
        socket begins while the first goes on, and its snapshot may be older than the book. On a single socket any snapshot
        replaces the book, also one of a lower sequence (bybit.md 4.3, okx.md 4.4: the venue's service restarted)."""
        if update.kind == "snapshot":
            if overlap and self.rules.snapshots != "rest" and self.valid and update.last_seq <= self.last_seq:
                return []
            return self.load(update, in_stream=self.rules.snapshots != "rest")
        if self.state is BookState.VALID and self._advance(update):
            return [update]
        self.state = BookState.BUFFERING
        self._waiting.append(update)
        # A snapshot that never comes must not fill the memory: the oldest go out, and the book stays invalid.
        return [self._waiting.popleft()] if len(self._waiting) > MAX_WAITING else []

    def continues(self, update: Depth) -> bool:
        """Would `update` change a valid book as its next one?"""
        moves = update.kind == "update" and update.last_seq != self.last_seq
        return self.valid and moves and self.rules.follows(update, self.last_seq)

    def load(self, snapshot: Depth, *, in_stream: bool = False) -> list[Depth]:
        """Start from `snapshot` and apply what waited. → all of it, in order; nothing if the snapshot is older than what waited
        (then `needs_snapshot` is still true). `in_stream`: it came among the updates, so what waited is older."""
        seq, in_stream = snapshot.last_seq, in_stream or self.rules.snapshots == "stream"
        fresh = [] if in_stream else [update for update in self._waiting if not self.rules.stale(update, seq)]
        if fresh and not self.rules.meets(fresh[0], seq):
            self.reason = "snapshot older than the updates"
            return []
        released = [update for update in self._waiting if in_stream or self.rules.stale(update, seq)]
        self._waiting.clear()
        self._bids, self._asks = _Side(True), _Side(False)
        self.state, self.reason, self.last_seq = BookState.VALID, "", seq
        self._meeting, self._late = True, 0
        if self._write(snapshot):
            released.append(snapshot)
        for update in fresh:
            released += self.feed(update)
        return released

    def invalidate(self, reason: str) -> None:
        """The continuity is broken or unknown (the socket was replaced): a snapshot is needed after the next update."""
        self.state, self.reason = BookState.INVALID, reason

    def drain(self) -> list[Depth]:
        """What waits, for the end of the process or of the subscription; the book is invalid afterwards."""
        waiting = list(self._waiting)
        self._waiting.clear()
        self.invalidate("drained")
        return waiting

    def best_bid(self) -> tuple[str, str] | None:
        """(plain price, quantity as sent), or None for an empty side."""
        best = self._bids.best()
        return (best[1], self._bids.levels[best[1]]) if best else None

    def best_ask(self) -> tuple[str, str] | None:
        best = self._asks.best()
        return (best[1], self._asks.levels[best[1]]) if best else None

    def sizes(self) -> tuple[int, int]:
        """How many bid and ask levels."""
        return len(self._bids.levels), len(self._asks.levels)

    # ── inside a valid book ──────────────────────────────────────────────────────────────────────────────────────
    def _advance(self, update: Depth) -> bool:
        """Apply `update` if it continues the book. False: the book is invalid now, and `update` was not part of it."""
        if self._meeting:
            if self.rules.stale(update, self.last_seq):
                return True  # in the snapshot already: nothing to apply
            if not self.rules.meets(update, self.last_seq):
                self.invalidate(f"no update meets the snapshot {self.last_seq}")
                return False
        elif not self.rules.follows(update, self.last_seq):
            self._late += 1
            if update.last_seq <= self.last_seq and self._late < LATE_RUN:
                return True  # delivered twice
            self.invalidate(f"sequence gap after {self.last_seq}")
            return False
        self._meeting, self._late = False, 0
        self.last_seq = update.last_seq
        return self._write(update)

    def _write(self, message: Depth) -> bool:
        """False: the book is invalid now, because what it says cannot be."""
        try:
            for price, qty in message.bids:
                self._bids.set(price, qty)
            for price, qty in message.asks:
                self._asks.set(price, qty)
            bid, ask = self._bids.best(), self._asks.best()
            if bid is None or ask is None or bid[0] < ask[0]:
                return True
        except InvalidOperation:
            self.invalidate("unreadable level")
            return False
        self.invalidate(f"crossed: bid {bid[1]} ask {ask[1]}")
        return False
