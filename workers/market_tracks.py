"""What one symbol's trades or candles need to be complete: held, asked for, filled in. Belongs to the lane's thread.

In: live events, answers of `workers.market_reader`, the time. Out: events to publish, in order as far as possible, and notices
for fleet.streams. While something is missing the newer events of that symbol wait, but only for HOLD_S: then they go on, and
what is read back later is published late. The numbers are `fleet.core.series`'s; how the venue is asked is its history's.
"""

from __future__ import annotations

import time
from typing import Any, NamedTuple, Protocol

from fleet.core.events import Kline, MarketRecord, Trade
from fleet.core.exchange import CANDLE_SETTLE_MS, CandleHistory, CandleQuery, TradeHistory, TradeQuery
from fleet.core.series import Series, Span, interval_ms
from workers.market_reader import Answer

TRADE_GRACE_S = 0.25  # events that only changed places on their way
CANDLE_GRACE_S = 1.5  # a closed candle may come after the first update of the next one, and REST later
HOLD_S = 2.0  # longest wait of newer events after the question
MAX_HELD = 20_000
MAX_TRADES = 300_000  # a gap of more is read back from its newer end only
MAX_CANDLES = 5_000
TRIES = 9  # replies without anything new before the rest counts as lost
FAILED_CAP_S = 30.0  # longest pause after a call that failed
RETRY_S = (0.5, 1.0, 2.0, 4.0, 4.0, 8.0, 10.0, 15.0, 20.0)  # a minute in all: REST may lag the socket by half of that
QUIET_S = 3.0  # a symbol that says nothing this long after a reconnect is asked about, and again
QUIET_AGAIN_S = 10.0  # so much later: REST lags
DOUBTS = 3  # jumps in which the venue never had anything, in a row: its ids do not count by one after all
PATIENCE_S = 60.0  # such a symbol's jumps are looked into this often, and nothing waits for that
BOUNDARY_S = 3.0  # a candle of which nothing was heard this long after its end is asked for
UNTRADED_S = 600.0  # after one that does not exist, the next is asked for this much later at the earliest
MONTH_MS = 31 * 86_400_000  # the longest
LATE_S = 120.0  # what was published late counts as unpublished for so long (it may not be in Kafka yet)


class Name(NamedTuple):
    """Which track: `kind` is the events' type, `interval` a candle's."""

    kind: str
    symbol: str
    interval: str = ""


class Mark(NamedTuple):
    """How far a track is told: the id of its last trade, or the close time of its last candle, and when that was."""

    id: str
    at_ms: int


Spans = list[tuple[str, str]]
"""First and last id of each, both included, in the order in which they were told."""


class Notice(NamedTuple):
    """`event` is "backfilled" or, for what cannot be had, "gap"."""

    event: str
    reason: str
    data: dict[str, Any]


class Gap:
    """Something is missing. `late`: nothing waits for it any more."""

    def __init__(self, reason: str, ask_at_s: float, hold_s: float) -> None:
        self.reason = reason
        self.since_ms = int(time.time() * 1000)
        self.ask_at_s = ask_at_s
        self.hold_until_s = ask_at_s + hold_s
        self.late = hold_s <= 0
        self.tries = self.failures = self.pages = 0
        self.recovered = self.absent = self.lost = self.arrived = 0
        self.stash: list[MarketRecord] = []  # read back
        self.held: list[MarketRecord] = []  # came meanwhile

    def again(self, now_s: float) -> None:
        """Nothing new came: after TRIES the rest counts as lost."""
        self.ask_at_s = now_s + RETRY_S[min(self.tries, len(RETRY_S) - 1)]
        self.tries += 1

    def failed(self, now_s: float) -> None:
        """No answer came: asked for ever, ever more rarely."""
        self.ask_at_s = now_s + min(FAILED_CAP_S, 0.5 * 2.0 ** min(self.failures, 10))
        self.failures += 1


class Track(Protocol):
    """What `workers.market_backfill` needs of one."""

    name: Name
    gap: Gap | None
    asked: bool
    notices: list[Notice]

    def accept(self, event: Any, now_s: float) -> list[MarketRecord]: ...
    def settle(self, now_s: float) -> list[MarketRecord]: ...
    def question(self, now_s: float) -> TradeQuery | CandleQuery | None: ...
    def answer(self, answer: Answer, now_s: float) -> list[MarketRecord]: ...
    def disconnected(self, now_s: float) -> None: ...
    def reconnected(self, now_s: float) -> None: ...
    def resume(self, mark: Mark, now_s: float) -> None: ...
    def reopen(self, first: str, last: str, now_s: float) -> None: ...
    def floor(self, now_s: float) -> Mark | None: ...
    def finish(self) -> list[MarketRecord]: ...


def in_order(event: MarketRecord) -> tuple[int, int, int]:
    """Sort key within one track."""
    if isinstance(event, Kline):
        return (event.open_time, int(event.closed), event.ts_event)
    assert isinstance(event, Trade)
    return (int(event.trade_id), 0, 0)


class CountedTrack:
    """Events that carry consecutive numbers. Trades and candles differ in the methods at the end."""

    grace_s = TRADE_GRACE_S
    most = MAX_TRADES

    def __init__(self, name: Name, market: str) -> None:
        self.name, self.market = name, market
        self.series = Series()
        self.gap: Gap | None = None
        self.asked = False
        self.notices: list[Notice] = []
        self.reason = "jump"  # of the next gap
        self.patient = False
        self._doubts = 0
        self._probe_at_s: float | None = None
        self._probing = self._probed = False
        self._late: tuple[int, float] | None = None  # floor while late events are on their way, and until when

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────
    def accept(self, event: Any, now_s: float) -> list[MarketRecord]:
        """What may be published now that `event` came on the socket."""
        span = self.span(event)
        self._probe_at_s = None
        if span is None:
            self.opened(event)
        else:
            missing = self.series.count() if self.gap is not None else 0
            if not self.series.take(*span):
                return []
            if self.gap is not None and self.series.count() < missing:
                self.gap.arrived += 1
        gap = self._look(now_s)
        if gap is None:
            return [event]
        if gap.late:
            return [event, *(self._close(now_s) if not self.series.missing else ())]
        gap.held.append(event)
        if not self.series.missing:
            return self._close(now_s)
        return self._let_go() if len(gap.held) > MAX_HELD else []

    def settle(self, now_s: float) -> list[MarketRecord]:
        """What has waited long enough."""
        gap = self.gap
        return self._let_go() if gap is not None and not gap.late and now_s >= gap.hold_until_s else []

    def _look(self, now_s: float) -> Gap | None:
        """The gap, opened if something began to be missing."""
        if self.gap is None and self.series.missing:
            reason, self.reason = self.reason, "jump"
            patient = self.patient and reason == "jump"
            wait_s = PATIENCE_S if patient else self.grace_s
            self.gap = Gap(reason, now_s + wait_s, 0.0 if patient else HOLD_S)
            given_up = self.series.cap(self.most)
            if given_up is not None:
                self._lost([given_up], "more than is read back at once")
        return self.gap

    def _let_go(self) -> list[MarketRecord]:
        gap = self.gap
        assert gap is not None
        gap.late = True
        out = sorted([*gap.stash, *gap.held], key=in_order)
        gap.stash, gap.held = [], []
        return out

    def _close(self, now_s: float) -> list[MarketRecord]:
        gap = self.gap
        assert gap is not None
        out = self._let_go()
        self.gap = None
        barren = gap.absent > 0 and not (gap.recovered or gap.arrived or gap.lost)
        self._doubts = self._doubts + 1 if barren else 0
        self.patient = self._doubts >= DOUBTS
        if gap.recovered:
            data = {"events": gap.recovered, "since_ms": gap.since_ms, "until_ms": int(time.time() * 1000)}
            self.notices.append(Notice("backfilled", gap.reason, data))
        return out

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────
    def question(self, now_s: float) -> TradeQuery | CandleQuery | None:
        """What to ask the venue now."""
        if self.asked:
            return None
        if self._probe_at_s is not None and now_s >= self._probe_at_s and self.gap is None:
            self._probe_at_s = None
            if self.series.last is not None:
                self.asked = self._probing = True
                return self.query((self.series.last + 1, None), 0)
        gap = self.gap
        if gap is None or now_s < gap.ask_at_s:
            return None
        self.asked = True
        missing = self.series.missing
        return self.query((missing[0][0], missing[-1][1]), gap.pages)

    def answer(self, answer: Answer, now_s: float) -> list[MarketRecord]:
        """What may be published now that the venue answered."""
        self.asked, probing, self._probing = False, self._probing, False
        found = [(span, event) for event in answer.rows if (span := self.span(event)) is not None]
        rows = sorted(found, key=lambda row: row[0])  # not every sheet says which end comes first
        if probing:
            news = bool(rows) and self.series.expect(rows[-1][0][1])
            if answer.failure and not answer.final:
                self._probe_at_s = now_s + QUIET_S
            elif not (news or self._probed):
                self._probe_at_s, self._probed = now_s + QUIET_AGAIN_S, True
            self._look(now_s)
        gap = self.gap
        if gap is None:
            return []
        if answer.failure:
            if answer.final:
                return self._give_up(answer.failure, now_s)
            gap.failed(now_s)
            return []
        before = self.series.count()
        late: list[MarketRecord] = []
        for span, event in rows:
            if self.series.remove(*span):
                gap.recovered += 1
                (late if gap.late else gap.stash).append(event)
        if rows:
            gap.absent += self.series.remove(rows[0][0][0], rows[-1][0][1])
        gap.pages += 1
        if late:
            self._late = (self.span(late[0]) or (0, 0))[0] - 1, now_s + LATE_S
        if not self.series.missing:
            return [*late, *self._close(now_s)]
        if self.series.count() < before:
            gap.ask_at_s, gap.tries = now_s, 0
        elif (wait_s := self.settles_in_s(answer.at_ms)) > 0:
            gap.ask_at_s = now_s + min(max(RETRY_S[0], wait_s), FAILED_CAP_S)
        elif gap.tries < TRIES:
            gap.again(now_s)
        else:
            return [*late, *self._give_up("not in the exchange's history", now_s)]
        return late

    def _give_up(self, reason: str, now_s: float) -> list[MarketRecord]:
        self._lost(self.series.missing, reason)
        self.series.missing = []
        return self._close(now_s)

    def _lost(self, spans: list[Span], reason: str) -> None:
        gap = self.gap
        assert gap is not None
        count = self.lengths(spans)
        gap.lost += count
        data = {
            "events": count, "first": spans[0][0], "last": spans[-1][1], "since_ms": gap.since_ms, "after": gap.reason,
        }  # fmt: skip
        self.notices.append(Notice("gap", reason, data))

    # ── outside events ───────────────────────────────────────────────────────────────────────────────────────────
    def disconnected(self, now_s: float) -> None:
        """The socket is gone: the next jump is its doing."""
        self.reason = "disconnected"

    def reconnected(self, now_s: float) -> None:
        """Where nothing comes on the new socket, the venue is asked."""
        if self.series.last is not None:
            self._probe_at_s, self._probed = now_s + QUIET_S, False

    def resume(self, mark: Mark, now_s: float) -> None:
        """A former life of this process told everything up to `mark`."""
        if mark.id.isdigit():
            self.reason = "restart"
            if self.series.resume(int(mark.id)):
                self._look(now_s)
            elif self.series.first is None:
                self._probe_at_s, self._probed = now_s + QUIET_S, False

    def reopen(self, first: str, last: str, now_s: float) -> None:
        """These were dropped on the way to Kafka."""
        if first.isdigit() and last.isdigit():
            self.series.reopen(int(first), int(last))
            self.reason = "kafka"
            gap = self._look(now_s)
            if gap is not None:
                gap.ask_at_s = min(gap.ask_at_s, now_s + self.grace_s)

    def floor(self, now_s: float) -> Mark | None:
        """Where a later life must resume at the latest; None = where Kafka acknowledged."""
        found = [self._late[0]] if self._late is not None and now_s < self._late[1] else []
        if self.series.missing:
            found.append(self.series.missing[0][0] - 1)
        return Mark(str(min(found)), 0) if found else None

    def finish(self) -> list[MarketRecord]:
        """The end of the process: what waits goes out; what is missing is left to the next life."""
        return self._let_go() if self.gap is not None else []

    # ── what differs ─────────────────────────────────────────────────────────────────────────────────────────────
    def span(self, event: Any) -> Span | None:
        raise NotImplementedError

    def opened(self, event: Any) -> None:
        """An event without a number came."""

    def query(self, span: tuple[int, int | None], page: int) -> TradeQuery | CandleQuery:
        raise NotImplementedError

    def lengths(self, spans: list[Span]) -> int:
        return sum(hi - lo + 1 for lo, hi in spans)

    def settles_in_s(self, at_ms: int) -> float:
        """How long after `at_ms` the venue can tell all of it; 0 = it could."""
        return 0.0


RESTART_MS = 5_000  # a lower id on a newer trade: the venue counts anew


# Pairs of neighbours that an aggregate could have held, and not one aggregate: the socket is taken not to aggregate. Two orders of
# one millisecond look like such a pair, so it takes many: where one trade in ten covers several ids, 50 never come by chance.
EQUALS = 50


class Habit:
    """Does the socket tell several ids as one trade? Shared by the tracks of a lane, so that one symbol's trade says it for all.

    Taken to until it is seen not to: what a new process reads back first would otherwise come in other pieces than its former
    life published.
    """

    __slots__ = ("_equals", "_sure")

    def __init__(self) -> None:
        self._sure, self._equals = False, 0

    @property
    def aggregates(self) -> bool:
        return self._sure or self._equals < EQUALS

    def saw(self, before: Trade | None, event: Trade) -> None:
        """Two trades of one symbol as the socket told them, one after the other."""
        if event.count > 1:
            self._sure = True
        elif before is not None and self._equals < EQUALS:
            alike = (before.price, before.side, before.ts_event) == (event.price, event.side, event.ts_event)
            self._equals += alike and int(before.trade_id) + 1 == int(event.trade_id)


class TradeTrack(CountedTrack):
    """Trades of a venue whose ids count by one."""

    def __init__(self, name: Name, market: str, history: TradeHistory, habit: Habit | None = None) -> None:
        super().__init__(name, market)
        self.history = history
        self._newest_ms = 0
        self._before: Trade | None = None
        self._habit = habit or Habit()

    def accept(self, event: Any, now_s: float) -> list[MarketRecord]:
        if not event.trade_id.isdigit():
            return [event]  # not a number: nothing to count
        if event.ts_event > self._newest_ms + RESTART_MS and self._newest_ms and not self.series.missing:
            last = self.series.last
            if last is not None and int(event.trade_id) <= last:
                self.series = Series()
                self.notices.append(Notice("gap", "ids began anew", {"events": None, "last": last}))
        self._newest_ms = max(self._newest_ms, event.ts_event)
        self._habit.saw(self._before, event)
        self._before = event
        return super().accept(event, now_s)

    def resume(self, mark: Mark, now_s: float) -> None:
        self._newest_ms = max(self._newest_ms, mark.at_ms)
        super().resume(mark, now_s)

    def span(self, event: Any) -> Span | None:
        number = int(event.trade_id)
        return (number - event.count + 1, number)

    def query(self, span: tuple[int, int | None], page: int) -> TradeQuery:
        lo, hi = span
        before = "" if hi is None else str(hi + 1)
        return TradeQuery(self.name.symbol, self.market, str(lo - 1), before, page, self._habit.aggregates)


class CandleTrack(CountedTrack):
    """Closed candles: each millisecond belongs to one."""

    grace_s = CANDLE_GRACE_S

    def __init__(self, name: Name, market: str, history: CandleHistory) -> None:
        super().__init__(name, market)
        self.history = history
        # From the name: a track that resumes has to know before its first candle comes.
        self.length_ms = interval_ms(name.interval) or MONTH_MS
        self.most = MAX_CANDLES * self.length_ms
        self._boundary_from_s = 0.0

    def accept(self, event: Any, now_s: float) -> list[MarketRecord]:
        if event.close_time < event.open_time:
            return [event]  # nonsense has no length
        return super().accept(event, now_s)

    def settle(self, now_s: float) -> list[MarketRecord]:
        """Also: has a candle ended of which nothing was heard? (A month's length differs: its successor tells.)"""
        last = self.series.last
        if last is None or self.gap is not None or self.length_ms == MONTH_MS or now_s < self._boundary_from_s:
            return super().settle(now_s)
        if time.time() * 1000 > last + self.length_ms + BOUNDARY_S * 1000:
            self.reason = "boundary"
            self.series.expect(last + self.length_ms)
            gap = self._look(now_s)
            assert gap is not None
            gap.ask_at_s = now_s
        return []

    def span(self, event: Any) -> Span | None:
        return (event.open_time, event.close_time) if event.closed else None

    def opened(self, event: Any) -> None:
        self.series.expect(event.open_time - 1)

    def query(self, span: tuple[int, int | None], page: int) -> CandleQuery:
        lo, hi = span
        until_ms = int(time.time() * 1000) if hi is None else hi
        tries = self.gap.tries if self.gap is not None else 0
        return CandleQuery(self.name.symbol, self.market, self.name.interval, lo, until_ms, tries)

    def reconnected(self, now_s: float) -> None:
        """No probe: the clock tells when a candle is due."""

    def lengths(self, spans: list[Span]) -> int:
        return sum(-(-(hi - lo + 1) // self.length_ms) for lo, hi in spans)

    def settles_in_s(self, at_ms: int) -> float:
        """Hours, where this machine's clock is ahead by as much."""
        return max(0, self.series.missing[-1][1] + CANDLE_SETTLE_MS + 1 - at_ms) / 1000

    def _give_up(self, reason: str, now_s: float) -> list[MarketRecord]:
        self._boundary_from_s = now_s + UNTRADED_S
        return super()._give_up(reason, now_s)
