"""All ownership records, read by pages: at 1,000,000 accounts seconds of work, during which the lease must be kept.

In: Redis, on the leader's tick. Out: the records once all pages are there. Used by observed.py and rebuild.py.

Each page comes with the generation, the write counter and the number of records of its instant. Redis repeats records and gives
them in no order, but leaves none out that stands all the time; so with an unchanged counter all pages together are the records,
and their number must be right (it is not where another server answered the later pages: a cursor means nothing to it).
"""

from __future__ import annotations

import time

import msgspec

from fleet.core.errors import StoreUnavailable
from fleet.core.model import Ownership
from fleet.core.wire import Generation
from fleet.runtime.redis_store import OwnPart, RedisStore

READ_S = 0.5  # of a tick: what is left of Timing.leader_gap_s is for the calls beside it


class OwnRecords(msgspec.Struct, frozen=True):
    """As they were at `version`. `changed`: somebody wrote meanwhile, so that some of them may be newer, or gone by now."""

    generation: Generation | None
    version: int
    changed: bool
    records: dict[str, Ownership]
    malformed: frozenset[str]


class OwnReading:
    """One reading. Call `go_on` once a tick until it returns the records; after an error begin another one."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self._first: OwnPart | None = None
        self._cursor = 0
        self._records: dict[str, Ownership] = {}
        self._malformed: set[str] = set()

    def go_on(self) -> OwnRecords | None:
        """Raises StoreUnavailable, also where the pages are not of the same data."""
        until = time.monotonic() + READ_S
        while True:
            part = self._store.own_page(self._cursor)
            self._first = self._first or part
            if part.generation != self._first.generation or part.version < self._first.version:
                raise StoreUnavailable("redis: its data were lost while they were read")
            self._records.update(part.records)
            self._malformed.update(part.malformed)
            self._cursor = part.cursor
            if not part.cursor:
                return self._whole(self._first, part)
            if time.monotonic() >= until:
                return None

    def _whole(self, first: OwnPart, last: OwnPart) -> OwnRecords:
        changed = last.version != first.version
        if not changed and last.size != len(self._records) + len(self._malformed):
            raise StoreUnavailable("redis: another server answered while records were read")
        return OwnRecords(first.generation, first.version, changed, self._records, frozenset(self._malformed))
