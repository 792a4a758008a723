"""How far each public series has come on its way to Kafka: acknowledged, or dropped. Under the publisher's lock.

In: marks of events in the order they are sent, acknowledgements in any order. Out: per series the mark up to which everything
sent is acknowledged, and what was dropped since it was last asked.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from fleet.core.events import Kline, MarketRecord, Trade
from workers.market_tracks import Mark

NEAR_MS = 120_000  # what lies between two dropped trades is read again with them if it is not more


class EventMark(NamedTuple):
    """Which numbers an event stands for: those of its track `interval`, from `first` to `id`."""

    interval: str
    first: str
    id: str
    at_ms: int
    complete: bool = True  # False: a candle that is still open. It stands for nothing, and says where its track begins


def mark_of(event: MarketRecord) -> EventMark | None:
    """None for events of which nothing is counted."""
    if isinstance(event, Trade):
        single = event.count == 1 or not event.trade_id.isdigit()
        first = event.trade_id if single else str(int(event.trade_id) - event.count + 1)
        return EventMark("", first, event.trade_id, event.ts_event)
    if isinstance(event, Kline):
        last = event.close_time if event.closed else event.open_time - 1
        return EventMark(event.interval, str(event.open_time), str(last), last, event.closed)
    return None


class Sent:
    """The marks of one record, and whether it arrived."""

    __slots__ = ("arrived", "marks")

    def __init__(self, marks: Iterable[EventMark | None]) -> None:
        self.marks = [mark for mark in marks if mark is not None]
        self.arrived = False


class Told:
    """The series of one queue of the publisher."""

    __slots__ = ("_dropped_to", "_flight", "acked", "dropped")

    def __init__(self) -> None:
        self._flight: deque[Sent] = deque()
        self.acked: dict[str, Mark] = {}
        self.dropped: dict[str, list[tuple[str, str]]] = {}  # interval -> first and last, of each run of ids
        self._dropped_to: dict[str, EventMark] = {}  # the last one

    def send(self, marks: Iterable[EventMark | None]) -> Sent:
        """A record goes out."""
        sent = Sent(marks)
        if sent.marks:
            self._flight.append(sent)
        return sent

    def arrive(self, sent: Sent) -> None:
        """It was answered. Only what has nothing unanswered before it counts."""
        sent.arrived = True
        while self._flight and self._flight[0].arrived:
            for mark in self._flight.popleft().marks:
                known = self.acked.get(mark.interval)
                if known is None or mark.at_ms >= known.at_ms:
                    self.acked[mark.interval] = Mark(mark.id, mark.at_ms)

    def overtaken(self, waiting: Iterable[EventMark | None]) -> set[str]:
        """Intervals of which something older than what is acknowledged is still on its way: what was read back goes out late.
        `waiting`: marks of what has not been sent yet."""
        unsure = itertools.chain((mark for sent in self._flight for mark in sent.marks), waiting)
        return {
            mark.interval for mark in unsure
            if mark is not None and mark.complete and mark.interval in self.acked and mark.at_ms < self.acked[mark.interval].at_ms
        }  # fmt: skip

    def drop(self, marks: Iterable[EventMark | None]) -> None:
        """These go nowhere."""
        for mark in marks:
            if mark is not None and mark.complete:
                runs = self.dropped.setdefault(mark.interval, [])
                if runs and _follows(self._dropped_to[mark.interval], mark):
                    runs[-1] = (runs[-1][0], mark.id)
                else:
                    runs.append((mark.first, mark.id))
                self._dropped_to[mark.interval] = mark


def _follows(before: EventMark, mark: EventMark) -> bool:
    """Does `mark` go on where `before` ended? What was read back goes out late, and between it and what is new lies what arrived.
    Other ids do not tell."""
    if not (before.id.isdigit() and mark.first.isdigit()):
        return True
    ahead = int(mark.first) - int(before.id)
    return ahead == 1 or (ahead > 0 and not mark.interval and mark.at_ms - before.at_ms <= NEAR_MS)
