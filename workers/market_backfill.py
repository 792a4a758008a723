"""Completeness of one lane's trades and candles: notices what is missing, has it read by REST, publishes it in place.

In: live trades and candles of the lane's sockets, answers of the venue's `MarketReader`, marks of a former life. Out: events to
publish, "backfilled" and "gap" announcements. Belongs to the lane's thread; `resume` and `floors` are for any thread.
A kind whose history the venue does not serve passes through, and each reconnect says so.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Container, Mapping
from typing import Any, Protocol

from fleet.core.events import Kline, MarketRecord, Trade
from fleet.core.exchange import CandleQuery, HttpReply
from fleet.runtime import logs
from workers.market_opaque import OpaqueTrack
from workers.market_plan import Lane
from workers.market_reader import Answer, MarketReader, Read, Rows
from workers.market_tracks import CandleTrack, Habit, Mark, Name, Spans, Track, TradeTrack

UNSERVED = ("trade", "liquidation")  # kinds whose events are single: without a history each reconnect loses some


class Announce(Protocol):
    """Says on fleet.streams what happened to a symbol's data."""

    def __call__(
        self, event: str, reason: str = "", *, symbol: str = "", data: dict[str, Any] | None = None
    ) -> None: ...


class Backfill:
    """One per lane. Without a reader nothing is tracked."""

    def __init__(self, lane: Lane, market: str, reader: MarketReader | None, announce: Announce) -> None:
        self._lane, self._market, self._reader, self._announce = lane, market, reader, announce
        self._log = logs.get("market_backfill").bind(stream=lane.name)
        self._kinds = {topic.kind for topic in lane.topics}
        self._topics = {(topic.kind, topic.symbol) for topic in lane.topics}
        self._trades: dict[str, Track] = {}
        self._habit = Habit()
        self._candles: dict[tuple[str, str], CandleTrack] = {}
        self._tracks: dict[Name, Track] = {}
        self._open: set[Name] = set()  # tracks with a gap
        self._inbox: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._marks: queue.SimpleQueue[Mapping[Name, Mark]] = queue.SimpleQueue()
        self._resuming: Mapping[Name, Mark] = {}  # those that the lane has not taken up yet
        self._down_ms = 0  # since when the socket is away
        history = reader.venue.market_data if reader is not None else None
        self._trade_history = history.trade_history if history is not None else None
        self._candle_history = history.candle_history if history is not None else None

    @property
    def waiting(self) -> bool:
        """Something is missing or on its way: settle often."""
        return bool(self._open)

    @property
    def down(self) -> bool:
        """A socket is gone, and none took its place yet."""
        return self._down_ms > 0

    def accept(self, event: Trade | Kline, now_s: float) -> list[MarketRecord]:
        """What may be published now that `event` came on a socket."""
        track = self._track(event)
        if track is None:
            return [event]
        out = track.accept(event, now_s)
        if track.gap is not None:
            self._open.add(track.name)
        return out

    def settle(self, now_s: float) -> list[MarketRecord]:
        """Apply answers, ask what is due, let go what waited long enough. → what may be published."""
        out: list[MarketRecord] = []
        while not self._marks.empty():
            self._resume(self._marks.get_nowait(), now_s)
        while not self._inbox.empty():
            answer = self._inbox.get_nowait()
            assert isinstance(answer.name, Name)
            out += self._tracks[answer.name].answer(answer, now_s)
        for track in self._tracks.values():
            out += track.settle(now_s)
            self._ask(track, now_s)
            if track.gap is not None:
                self._open.add(track.name)
            elif not track.asked:
                self._open.discard(track.name)
            if track.notices:
                self._tell(track)
        return out

    def disconnected(self) -> None:
        """The lane's socket is gone, or says nothing any more."""
        self._down_ms = self._down_ms or int(time.time() * 1000)
        for track in self._tracks.values():
            track.disconnected(time.monotonic())

    def reconnected(self, now_s: float) -> None:
        """Another socket took the place of a dead one."""
        for track in self._tracks.values():
            track.reconnected(now_s)
        since_ms, self._down_ms = self._down_ms, 0
        self._tell_unserved(since_ms)

    def _tell_unserved(self, since_ms: int) -> None:
        for kind in UNSERVED:
            if kind in self._kinds and (kind != "trade" or (self._reader is not None and self._trade_history is None)):
                data = {"class": kind, "events": None, "since_ms": since_ms, "until_ms": int(time.time() * 1000)}
                self._announce("gap", "the exchange has no history of it", data=data)

    def fell_silent(self, topics: Container[str]) -> None:
        """These say nothing on a socket that lives: what they did not tell is asked for once they speak again."""
        for track in self._tracks_of(topics):
            track.disconnected(time.monotonic())

    def speak_again(self, topics: Container[str], now_s: float) -> None:
        """The socket was replaced for them, or it could not be."""
        for track in self._tracks_of(topics):
            track.reconnected(now_s)

    def reopen(self, lost: Mapping[Name, Spans], now_s: float) -> None:
        """Events of these tracks were dropped on the way to Kafka."""
        for name, spans in lost.items():
            track = self._tracks.get(name)
            if track is not None:
                for first, last in spans:
                    track.reopen(first, last, now_s)
                self._open.add(name)

    def finish(self) -> list[MarketRecord]:
        """The end of the process: what waits is published; what is missing is the next life's business."""
        return [event for track in self._tracks.values() for event in track.finish()]

    def owns(self, name: Name) -> bool:
        """Is it among this lane's topics?"""
        return _topic(name) in self._topics

    # ── for any thread ───────────────────────────────────────────────────────────────────────────────────────────
    def resume(self, marks: Mapping[Name, Mark]) -> None:
        """How far a former life of this process told each track."""
        self._resuming = {name: mark for name, mark in marks.items() if self.owns(name)}
        self._marks.put(marks)

    def floors(self, now_s: float) -> dict[Name, Mark]:
        """Tracks that are not told up to what Kafka acknowledged, and how far they are."""
        resuming = self._resuming  # read first: when it is empty, the tracks know
        found = {name: track.floor(now_s) for name, track in list(self._tracks.items())}
        return {name: mark for name, mark in found.items() if mark is not None} | dict(resuming)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _track(self, event: Trade | Kline) -> Track | None:
        if isinstance(event, Trade):
            trades = self._trades.get(event.symbol)
            return trades if trades is not None else self._make(Name("trade", event.symbol))
        candles = self._candles.get((event.symbol, event.interval))
        return candles if candles is not None else self._make(Name("kline", event.symbol, event.interval))

    def _tracks_of(self, topics: Container[str]) -> list[Track]:
        kinds = {(topic.kind, topic.symbol) for topic in self._lane.topics if topic.name in topics}
        return [track for name, track in self._tracks.items() if _topic(name) in kinds]

    def _make(self, name: Name) -> Track | None:
        track: Track
        if name.kind == "trade":
            history = self._trade_history
            if history is None:
                return None
            if history.ids == "contiguous":
                track = TradeTrack(name, self._market, history, self._habit)
            else:
                track = OpaqueTrack(name, self._market, history)
            self._trades[name.symbol] = track
        else:
            if self._candle_history is None:
                return None
            track = self._candles[name.symbol, name.interval] = CandleTrack(name, self._market, self._candle_history)
        self._tracks[name] = track
        return track

    def _resume(self, marks: Mapping[Name, Mark], now_s: float) -> None:
        lives = [mark.at_ms for name, mark in marks.items() if name.kind == "trade"]
        if lives:  # nobody listened since the former life's last trade, or a moment later
            self._tell_unserved(max(lives))
        for name, mark in marks.items():
            if self.owns(name):
                track = self._tracks.get(name) or self._make(name)
                if track is not None:
                    track.resume(mark, now_s)
        self._resuming = {}

    def _ask(self, track: Track, now_s: float) -> None:
        query = track.question(now_s)
        if query is None or self._reader is None:
            return
        rows: Callable[[HttpReply, int], Rows]
        if isinstance(query, CandleQuery):
            candles = self._candle_history
            assert candles is not None
            call, rows = candles.call(query), lambda reply, now_ms: candles.rows(reply, query, now_ms)
        else:
            trades = self._trade_history
            assert trades is not None
            call, rows = trades.call(query), lambda reply, now_ms: trades.rows(reply, query, now_ms)
        self._open.add(track.name)
        self._reader.read(Read(track.name, call, rows, self._inbox))

    def _tell(self, track: Track) -> None:
        name = track.name
        for event, reason, data in track.notices:
            told = {"class": name.kind, **({"interval": name.interval} if name.interval else {}), **data}
            (self._log.warning if event == "gap" else self._log.info)(
                "market data lost for good" if event == "gap" else "market data read back",
                action=event, symbol=name.symbol, reason=reason, **told,
            )  # fmt: skip
            self._announce(event, reason, symbol=name.symbol, data=told)
        track.notices.clear()


def _topic(name: Name) -> tuple[str, str]:
    """Kind and symbol of the topic that brings a track's events."""
    return (f"kline_{name.interval}" if name.kind == "kline" else name.kind, name.symbol)
