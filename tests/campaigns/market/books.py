"""A consumer's order book, compared with the exchange's own. In: depth events in Kafka's order, samples of the exchange's book.
Out: counts and complaints. It breaks where the numbers do, and a snapshot mends it: a book whole by its numbers must be right.
"""

from __future__ import annotations

import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any

LEVELS = 20
SAMPLES, STATES = 100, 150

Top = tuple[list[tuple[Decimal, Decimal]], list[tuple[Decimal, Decimal]]]


class Book:
    """One symbol's."""

    def __init__(self, complain: Callable[[str], None] = lambda text: None) -> None:
        self._complain = complain
        self.last: int | None = None
        self._met = False
        self._broke_s = 0.0
        self._sides: tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]] = ({}, {})
        self.breaks = self.snapshots = self.compared = 0
        self.keeping = False  # states are kept only while somebody samples: they are dear
        self._samples: OrderedDict[int, Top] = OrderedDict()
        self._states: OrderedDict[int, Top] = OrderedDict()

    def feed(self, event: dict[str, Any]) -> None:
        if event["kind"] == "snapshot":
            self._sides, self.last, self._met = ({}, {}), event["last_seq"], False
            self.snapshots += 1
        elif self.last is None or event["last_seq"] <= self.last:
            return
        elif not self._links(event):
            self.last, self.breaks, self._broke_s = None, self.breaks + 1, time.monotonic()
            return
        for side, levels in zip(self._sides, (event["bids"], event["asks"]), strict=True):
            for price, qty in levels:
                if quantity := Decimal(qty):
                    side[Decimal(price)] = quantity
                else:
                    side.pop(Decimal(price), None)
        if event["kind"] == "update" and (self.keeping or self.last in self._samples):
            self._keep(event["last_seq"])

    def _links(self, event: dict[str, Any]) -> bool:
        """Does it follow? The first one after a snapshot may begin before it."""
        assert self.last is not None
        first, last, prev = event["first_seq"], event["last_seq"], event.get("prev_seq")
        follows = prev == self.last if prev is not None else first == self.last + 1
        if not follows and (self._met or not first <= self.last + 1 <= last + 1):
            return False
        self.last, self._met = last, True
        return True

    def broken_s(self) -> float:
        """For how long its numbers have been broken; 0 while they are whole, or before the first snapshot."""
        return time.monotonic() - self._broke_s if self.last is None and self._broke_s else 0.0

    def top(self) -> Top:
        bids, asks = self._sides
        return heapq.nlargest(LEVELS, bids.items()), heapq.nsmallest(LEVELS, asks.items())

    def sample(self, number: int, bids: Iterable[Any], asks: Iterable[Any]) -> None:
        """The exchange's own book at `number`."""
        one, two = ([(Decimal(p), Decimal(q)) for p, q, *_ in levels][:LEVELS] for levels in (bids, asks))
        self._samples[number] = (one, two)
        if number in self._states:
            self._compare(number)
        if len(self._samples) > SAMPLES:
            self._samples.popitem(last=False)

    def _keep(self, number: int) -> None:
        self._states[number] = self.top()
        if number in self._samples:
            self._compare(number)
        if len(self._states) > STATES:
            self._states.popitem(last=False)

    def _compare(self, number: int) -> None:
        self.compared += 1
        mine, truth = self._states[number], self._samples[number]
        if mine != truth:
            self._complain(f"at {number}: {mine[0][:2]} {mine[1][:2]} instead of {truth[0][:2]} {truth[1][:2]}")
