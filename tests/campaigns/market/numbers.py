"""A set of whole numbers as ranges, for ids that should count by one. In: numbers, in any order. Out: what is missing between."""

from __future__ import annotations

from bisect import bisect_right


class Numbers:
    """Memory goes with the holes, not with the numbers."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.ends: list[int] = []  # included

    def add(self, number: int) -> bool:
        """False if it was there already."""
        at = bisect_right(self.begins, number)
        if at and number <= self.ends[at - 1]:
            return False
        after_left = bool(at) and self.ends[at - 1] == number - 1
        before_right = at < len(self.begins) and self.begins[at] == number + 1
        if after_left and before_right:
            self.ends[at - 1] = self.ends.pop(at)
            self.begins.pop(at)
        elif after_left:
            self.ends[at - 1] = number
        elif before_right:
            self.begins[at] = number
        else:
            self.begins.insert(at, number)
            self.ends.insert(at, number)
        return True

    def has(self, number: int) -> bool:
        at = bisect_right(self.begins, number)
        return bool(at) and number <= self.ends[at - 1]

    @property
    def missing(self) -> int:
        return sum(b - a - 1 for a, b in zip(self.ends, self.begins[1:], strict=False))
