"""Which topics of one socket are silent for too long: events in, stalled topics out. Pure numbers; the caller has the clock.

Connected is not alive: an exchange may answer pings and send nothing, and acknowledges names it does not know. Each topic has
the longest silence its venue's adapter believes (`expect_s`), counted from the subscription, so a topic silent from birth is
found too. A topic that is seen to tick every second gets a tighter limit, learned on this socket; one whose silence turned out
to be real (a new socket was silent too) is not held to a rhythm again. A topic of which nothing came yet is believed less where
the venue begins each subscription with a message, and while its symbol is seen to trade on a sibling; so is one that has no
limit of its own (trades of a thin symbol). A topic that is still silent on its new socket waits twice as long each time: a
wrong name must not become a reconnect loop. Nor must a book that changes each quarter of a minute: a topic that speaks on each new
socket and never ticks is given twice as long each time but the first.
"""

from __future__ import annotations

from collections.abc import Container, Iterable

from fleet.core.exchange import Topic

LEARN_AFTER = 20  # events on this socket, and
LEARN_SPAN_S = 10.0  # this long, before a rhythm is believed
RHYTHM_S = 2.0  # longest silence so far for a topic to count as ticking every second
LEARNED_LIMIT_S = 10.0
MAX_LIMIT_S = 600.0
TRADES = 10  # of a symbol that one topic told and another let pass without a word: more than chance
PATIENT = 10  # strikes that make any limit MAX_LIMIT_S


class _Topic:
    __slots__ = (
        "begun",
        "born_s",
        "count",
        "last_s",
        "longest_s",
        "missed",
        "rare",
        "steady",
        "strikes",
        "struck",
        "topic",
    )

    def __init__(self, topic: Topic, now_s: float) -> None:
        self.topic = topic
        self.strikes = 0  # replacements without a single event since
        self.rare = 0  # replacements for a silence that was like those before
        self.steady = True
        self.struck = False  # its socket is being replaced
        self.restart(now_s, begun=False)

    def restart(self, now_s: float, *, begun: bool) -> None:
        self.begun = begun  # something of it came on this socket
        self.struck = False
        self.born_s = self.last_s = now_s
        self.count = 0
        self.missed: dict[str, int] = {}  # by topic: trades of its symbol that this one told since its last event
        self.longest_s = 0.0

    def limit_s(self, now_s: float) -> float | None:
        limit = self.topic.expect_s
        if not self.begun and self.topic.first_s is not None:
            limit = min(limit or self.topic.first_s, self.topic.first_s)
        traded = (limit is None or not self.begun) and max(self.missed.values(), default=0) >= TRADES
        if traded and self.topic.traded_s is not None:
            limit = min(limit or self.topic.traded_s, self.topic.traded_s)
        ticks = self.ticks()
        if self.steady and ticks:
            limit = min(limit or LEARNED_LIMIT_S, LEARNED_LIMIT_S)
        slow = 0 if ticks else max(0, self.rare - 1)
        return None if limit is None else min(limit * 2.0 ** (self.strikes + slow), MAX_LIMIT_S)

    def ticks(self) -> bool:
        spoke_s = self.last_s - self.born_s
        return self.count >= LEARN_AFTER and spoke_s >= LEARN_SPAN_S and self.longest_s <= RHYTHM_S


class TopicWatch:
    """The topics of one lane. Belongs to the lane's thread; it outlives single sockets."""

    def __init__(self, topics: Iterable[Topic], now_s: float) -> None:
        self._topics = {t.name: _Topic(t, now_s) for t in topics}
        self._trading: dict[str, list[_Topic]] = {}  # by symbol, those that speak when it trades
        for topic in self._topics.values():
            if topic.topic.traded_s is not None:
                self._trading.setdefault(topic.topic.symbol, []).append(topic)

    def restart(self, now_s: float, seen: Container[str], *, carried_on: bool = False) -> None:
        """A new socket is subscribed, and `seen` came on it: silence counts from now, and rhythms are learned anew.
        `carried_on`: the old one was alive until then. A topic that never came on either is silent since the old one's start."""
        for name, topic in self._topics.items():
            if not (carried_on and not topic.begun and not topic.strikes and name not in seen):
                topic.restart(now_s, begun=name in seen)

    def traded(self, name: str, symbol: str) -> None:
        """Topic `name` showed that `symbol` traded."""
        for topic in self._trading.get(symbol, ()):
            if topic.topic.name != name:
                topic.missed[name] = topic.missed.get(name, 0) + 1

    def note(self, name: str, now_s: float, *, first: bool = False) -> None:
        """An event of topic `name` came; `first` on its socket: where each subscription begins with one it does not prove that the
        silence before was a stall, else a quiet topic would cost one socket after the other."""
        topic = self._topics.get(name)
        if topic is not None:
            silence_s = now_s - topic.last_s
            if topic.count and silence_s > topic.longest_s:
                topic.longest_s = silence_s
            topic.last_s = now_s
            topic.count += 1
            topic.begun = True
            topic.missed.clear()
            if topic.strikes and not (first and topic.topic.first_s is not None):
                topic.strikes = 0
                topic.steady = topic.steady and (topic.struck or now_s - topic.born_s <= RHYTHM_S)

    def stalled(self, now_s: float) -> list[str]:
        """Topics whose silence is not believable any more."""
        found = []
        for name, topic in self._topics.items():
            limit_s = topic.limit_s(now_s)
            if limit_s is not None and now_s - topic.last_s > limit_s:
                found.append(name)
        return found

    def strike(self, names: Iterable[str]) -> None:
        """These topics get a new socket now: if they stay silent on it, wait longer before the next."""
        for name in names:
            topic = self._topics[name]
            topic.strikes += 1
            topic.struck = True
            if topic.begun and topic.topic.first_s is None and not topic.ticks():
                topic.rare = min(topic.rare + 1, PATIENT)

    def refused(self, names: Iterable[str]) -> None:
        """The exchange does not serve these: they are asked for again with a new socket, and it is no hurry to get one for them."""
        for name in names:
            self._topics[name].strikes = PATIENT

    def whole(self, stalled: Iterable[str], now_s: float) -> bool:
        """Is nothing of this socket alive: was no other topic heard for half as long as the most patient of `stalled`?"""
        silent = set(stalled)
        window_s = max((t.limit_s(now_s) or 0.0 for n, t in self._topics.items() if n in silent), default=0.0) / 2
        return all(
            topic.count == 0 or now_s - topic.last_s >= window_s
            for name, topic in self._topics.items()
            if name not in silent
        )
