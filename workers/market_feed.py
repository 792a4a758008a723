"""What one lane knows about its data: liveness per topic, order books, events seen. Belongs to the lane's thread.

In: events of the lane's sockets (two of them while it rotates). Out: each event once, in order, to `workers.market_publish`;
announcements on fleet.streams.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from fleet.core.events import Depth, Kline, MarketRecord, Ticker, Trade
from fleet.core.exchange import Exchange, Topic
from workers.market_backfill import Backfill
from workers.market_books import Books
from workers.market_plan import Lane
from workers.market_publish import MarketPublisher, stream_event
from workers.market_reader import MarketReader
from workers.market_socket import MarketSocket
from workers.market_watch import TopicWatch

RECENT_IDS = 50_000
SETTLE_S = 0.02  # a busy socket is read far more often


class MarketFeed:
    """One per lane; it outlives the lane's sockets."""

    def __init__(self, lane: Lane, venue: Exchange, reader: MarketReader | None, publisher: MarketPublisher) -> None:
        self._lane, self._venue, self._publisher = lane, venue, publisher
        self._market = lane.topics[0].market or venue.market
        self.venue = (venue.exchange, self._market)  # as its events say it
        self.topic_of = venue.market_data.topic_of
        self.watch = TopicWatch(lane.topics, time.monotonic())
        market = venue.market_data
        self.books = Books(venue.name, market.book, reader if market.snapshot is not None else None, self.announce)
        self.backfill = Backfill(lane, self._market, reader, self.announce)
        self.overlap = False  # two sockets are read side by side,
        self.silent: frozenset[str] = frozenset()  # and of these topics the old one says nothing any more
        self._settle_at_s = 0.0
        self._book_symbols = {topic.symbol for topic in lane.topics if topic.kind == "depth"}
        self._candles: dict[str, tuple[int, str]] = {}  # topic -> its last one's open time and volume
        self._prices: dict[str, str] = {}  # ticker topic -> the last price it told
        self._recent: set[str] = set()
        self._older: set[str] = set()

    def take(self, events: Iterable[MarketRecord], socket: MarketSocket) -> None:
        """Publish what is new. The same event from two sockets is published once."""
        if not events:
            return
        now_s = time.monotonic()
        recent, older, note, topic_of = self._recent, self._older, self.watch.note, self.topic_of
        seen = socket.topics_seen
        out: list[MarketRecord] = []
        for event in events:
            topic = topic_of(event)
            note(topic, now_s, first=topic not in seen)
            seen.add(topic)
            overlap = self.overlap and topic not in self.silent
            if (event.id in recent or event.id in older) and (overlap or not self._continues(event)):
                continue
            recent.add(event.id)
            if isinstance(event, Depth):
                out += self.books.accept(event, overlap=overlap)
            elif isinstance(event, (Trade, Kline)):
                if self._shows_trading(event, topic):
                    self.watch.traded(topic, event.symbol)
                out += self.backfill.accept(event, now_s)
            else:
                if isinstance(event, Ticker) and self._moved(event, topic):
                    self.watch.traded(topic, event.symbol)
                out.append(event)
        if len(recent) > RECENT_IDS:
            self._recent, self._older = set(), recent
        if out:
            self._publisher.offer(out)

    def _shows_trading(self, event: Trade | Kline, topic: str) -> bool:
        """A trade does, and a candle whose volume is not what it was."""
        if isinstance(event, Trade):
            return True
        known = self._candles.get(topic)
        self._candles[topic] = now = (event.open_time, event.volume)
        return known is not None and known[0] == now[0] and known != now

    def _moved(self, event: Ticker, topic: str) -> bool:
        """The last price is another one: there was a trade. (OKX's candles, which tell it too, come on another socket.)"""
        if event.last is None:
            return False
        known = self._prices.get(topic)
        self._prices[topic] = event.last
        return known is not None and known != event.last

    def _continues(self, event: MarketRecord) -> bool:
        """Numbers that were seen before are new where they continue a book: its venue counts anew from lower down (okx.md 4.4)."""
        return isinstance(event, Depth) and self.books.continues(event)

    @property
    def waiting(self) -> bool:
        """Answers are on their way: settle often."""
        return self.books.waiting or self.backfill.waiting

    def settle(self) -> None:
        """Publish what answers that arrived meanwhile make valid or complete."""
        now_s = time.monotonic()
        if now_s < self._settle_at_s:
            return
        self._settle_at_s = now_s + SETTLE_S
        events = [*self.books.settle(now_s), *self.backfill.settle(now_s)]
        if events:
            self._publisher.offer(events)

    def disconnected(self) -> None:
        """The lane's socket is gone: every book on it lost its continuity."""
        self.books.invalidate_all("disconnected")
        self.backfill.disconnected()

    def mend(self, now_s: float) -> list[Topic]:
        """Have read again what was dropped on the way to Kafka. → topics to subscribe anew, for a snapshot."""
        for symbol in self._publisher.broken_books(self._venue.exchange, self._market, self._book_symbols):
            self.books.invalidate(symbol, "updates were dropped while Kafka was away")
        lost = self._publisher.dropped(self._venue.exchange, self._market, self.backfill.owns)
        if lost:
            self.backfill.reopen(lost, now_s)
        renew = set(self.books.to_renew(now_s))
        return [t for t in self._lane.topics if t.kind == "depth" and t.symbol in renew] if renew else []

    def finish(self) -> None:
        """The end of the process: publish what waits (updates of unsynchronised books were announced as invalid)."""
        events = [*self.books.drain(), *self.backfill.finish()]
        if events:
            self._publisher.offer(events)

    def announce(self, event: str, reason: str = "", *, symbol: str = "", data: dict[str, Any] | None = None) -> None:
        """Say on fleet.streams what happened to the lane or to one of its books."""
        venue = self._venue
        self._publisher.announce(
            stream_event(self._lane.name, venue.exchange, self._market, event, reason, symbol=symbol, data=data)
        )
