"""Watermarks of public data: so that a killed market-data process is only a longer gap. One thread of that process.

In: marks of Postgres at the start; then, each second, what Kafka acknowledged and what the lanes still miss. Out: `resume` for
each lane, rows of market_watermarks. Without Postgres the streams run as ever; nothing is saved before the marks of the former
life were read, and those may still be read late.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from fleet.core.errors import FleetError
from fleet.runtime import logs
from fleet.runtime.postgres import Postgres, queries
from workers.market_backfill import Backfill
from workers.market_publish import MarketPublisher
from workers.market_tracks import Mark, Name

SAVE_S = 1.0
RETRY_S = 5.0
TOUCH_S = 3600.0  # marks that stay as they are (a weekly candle, a symbol without trades) are saved again this often

Venue = tuple[str, str]
"""exchange and market, as events say it."""


class Source(NamedTuple):
    """A lane: whose events its backfill completes."""

    venue: Venue
    backfill: Backfill


class Watermarks:
    """One per process."""

    def __init__(self, postgres: Postgres, publisher: MarketPublisher, sources: Sequence[Source]) -> None:
        self._postgres, self._publisher, self._sources = postgres, publisher, sources
        self._sql = queries("market_watermarks")
        self._saved: dict[tuple[Venue, Name], Mark] = {}
        self._touch_at_s = 0.0
        self._loaded = threading.Event()
        self._stop = threading.Event()
        self._troubled = False
        self._log = logs.get("market_watermarks")
        self._thread = threading.Thread(target=self._loop, name="market-watermarks", daemon=True)

    def start(self, timeout_s: float) -> bool:
        """Begin, and wait so long for the marks of the former life. False = they may come later."""
        self._thread.start()
        return self._loaded.wait(timeout_s)

    def close(self, timeout_s: float) -> None:
        """Save once more (Kafka has been flushed) and end."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        pause_s = 0.0
        while not self._stop.wait(pause_s):
            pause_s = SAVE_S if self._turn() else RETRY_S
        self._turn()
        self._postgres.close()

    def _turn(self) -> bool:
        try:
            if not self._loaded.is_set():
                self._load()
            self._save()
        except FleetError as error:
            if not self._troubled:
                self._log.warning("watermarks of market data wait for Postgres", action="watermark", error=str(error))
            self._troubled = True
            return False
        self._troubled = False
        return True

    def _load(self) -> None:
        marks: dict[Venue, dict[Name, Mark]] = {}
        for row in self._postgres.fetch(self._sql["load"]):
            name = Name(row["kind"], row["symbol"], row["interval"])
            mark = Mark(row["last_id"], int(row["at_ms"]))
            marks.setdefault((row["exchange"], row["market"]), {})[name] = mark
            self._saved[(row["exchange"], row["market"]), name] = mark
        for source in self._sources:
            if source.venue in marks:
                source.backfill.resume(marks[source.venue])
        self._loaded.set()

    def _save(self) -> None:
        """Acknowledged first, then missing: what is found missing after the first look can only lower a mark. What was missing and
        went out between the two is on its way at a third. Now and then all marks of this process' series, so that the age of a
        row says how long nobody has looked after its series."""
        now = self._publisher.acked()
        now_s = time.monotonic()
        for source in self._sources:
            for name, floor in source.backfill.floors(now_s).items():
                acked = now.get(source.venue, {}).get(name)
                if acked is not None and _before(floor, acked):
                    now[source.venue][name] = Mark(floor.id, floor.at_ms or acked.at_ms)
        still = self._publisher.acked()
        found = {
            (venue, name): mark
            for venue, marks in now.items()
            for name, mark in marks.items()
            if name in still.get(venue, {})
        }
        changed = {key: mark for key, mark in found.items() if self._saved.get(key) != mark}
        touch = now_s >= self._touch_at_s
        if touch:
            changed = {key: mark for key, mark in self._saved.items() if self._owned(*key)} | changed
        if changed:
            rows = [(*venue, n.symbol, n.kind, n.interval, m.id, m.at_ms) for (venue, n), m in changed.items()]
            with self._postgres.transaction() as tx:
                tx.execute_values(self._sql["save"], rows)
            self._saved |= changed
        if touch:
            self._touch_at_s = now_s + TOUCH_S

    def _owned(self, venue: Venue, name: Name) -> bool:
        return any(source.venue == venue and source.backfill.owns(name) for source in self._sources)


def _before(floor: Mark, acked: Mark) -> bool:
    """Numbers are compared; ids that are none know their time."""
    if floor.id.isdigit() and acked.id.isdigit():
        return int(floor.id) < int(acked.id)
    return floor.at_ms <= acked.at_ms
