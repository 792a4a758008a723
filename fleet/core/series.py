"""Numbers that must be there once each, without a hole: a symbol's trade ids, or the milliseconds that its candles cover.

In: the spans of events as they come (a trade is its id, an aggregate several; a candle is open time … close time). Out: whether
an event is new, and which numbers are missing. Pure; used by the market-data process, one Series per symbol and kind.
"""

from __future__ import annotations

Span = tuple[int, int]
"""First and last number, both included."""

_STEPS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}


def interval_ms(interval: str) -> int:
    """How long a candle of `interval` (1m, 4h, …) is. 0 for 1M, as months differ, and for what is no interval."""
    count = interval[:-1]
    return int(count) * _STEPS_MS.get(interval[-1:], 0) if count.isdecimal() else 0


class Series:
    """Everything up to `last` is told or listed in `missing` (in order, disjoint); nothing beyond it is known yet."""

    def __init__(self, last: int | None = None) -> None:
        self.last = last
        self.first: int | None = None  # where this life began, for `resume`
        self.missing: list[Span] = []

    def take(self, lo: int, hi: int) -> bool:
        """An event with the numbers lo … hi came. False: it was told already."""
        last = self.last
        if last is None:
            self.first, self.last = lo, hi
            return True
        if lo > last:
            if lo > last + 1:
                self.missing.append((last + 1, lo - 1))
            self.last = hi
            return True
        found = self.remove(lo, hi)
        if hi > last:
            self.last = hi
            return True
        return found > 0

    def expect(self, upto: int) -> bool:
        """Everything up to `upto` should have come by now. True if some of it did not."""
        if self.last is None:
            self.first, self.last = upto + 1, upto
            return False
        if upto <= self.last:
            return False
        self.missing.append((self.last + 1, upto))
        self.last = upto
        return True

    def resume(self, mark: int) -> bool:
        """A former life told everything up to `mark`. True if something is missing between it and this one's beginning."""
        if self.last is None:
            self.last = mark
            return False
        if self.first is None or mark >= self.first - 1:
            return False
        self.missing.insert(0, (mark + 1, self.first - 1))
        self.first = mark + 1
        return True

    def reopen(self, lo: int, hi: int) -> None:
        """Numbers that were taken are missing after all: they were dropped on the way."""
        if self.last is None:
            return
        hi = min(hi, self.last)
        self.remove(lo, hi)
        if lo <= hi:
            self.missing = sorted([*self.missing, (lo, hi)])

    def remove(self, lo: int, hi: int) -> int:
        """Numbers of lo … hi are not missing (any more). → how many of them were."""
        if not self.missing or hi < self.missing[0][0] or lo > self.missing[-1][1]:
            return 0
        left: list[Span] = []
        found = 0
        for a, b in self.missing:
            if b < lo or a > hi:
                left.append((a, b))
                continue
            found += min(b, hi) - max(a, lo) + 1
            if a < lo:
                left.append((a, lo - 1))
            if b > hi:
                left.append((hi + 1, b))
        self.missing = left
        return found

    def cap(self, most: int) -> Span | None:
        """Give up what lies further back than `most` numbers before the end of what is missing. → the span given up."""
        if not self.missing:
            return None
        floor = self.missing[-1][1] - most + 1
        begin = self.missing[0][0]
        return (begin, floor - 1) if begin < floor and self.remove(begin, floor - 1) else None

    def count(self) -> int:
        """How many numbers are missing."""
        return sum(b - a + 1 for a, b in self.missing)

    def floor(self) -> int | None:
        """Everything up to here is told: where a later life may resume."""
        return self.missing[0][0] - 1 if self.missing else self.last
