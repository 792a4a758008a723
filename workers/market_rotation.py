"""Make before break: two sockets of one lane are read side by side until the new one has proved itself.

In: an old and a new socket. Out: their events, once each, through the lane's feed. Runs in the lane's thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from fleet.core.errors import ConnectionFailed
from fleet.core.exchange import Topic
from workers.market_feed import MarketFeed
from workers.market_socket import MarketSocket

PROVE_S = 10.0  # a new socket has this long to send what the old one sends
SLACK_S = 1.0  # what the old one says counts from so long after the new one's subscription, and is looked for this much longer
READ_S = 0.02
DRAIN_S = 0.5


def overlap(
    feed: MarketFeed,
    old: MarketSocket,
    new: MarketSocket,
    topics: Iterable[Topic],
    stalled: frozenset[str],
    stop: threading.Event,
) -> None:
    """Return once the new socket delivers whatever the old one delivered, topics without a rhythm aside, or its time is over and
    the old one was as silent. Raises ConnectionFailed if the new one dies, does not subscribe in time or does not say what the
    old one says; the old one may die meanwhile."""
    feed.overlap, feed.silent = True, stalled
    try:
        _until_proven(feed, old, new, topics, stalled, stop)
    finally:
        feed.overlap, feed.silent = False, frozenset()


def _until_proven(
    feed: MarketFeed,
    old: MarketSocket,
    new: MarketSocket,
    topics: Iterable[Topic],
    stalled: frozenset[str],
    stop: threading.Event,
) -> None:
    deadline_s = time.monotonic() + PROVE_S
    wanted = {t.name for t in topics if t.expect_s is not None and t.name in old.topics_seen} - stalled
    old_alive = True
    heard: set[str] = set()  # on the old one, while the new one should have told it too
    heard_from_s: float | None = None  # what comes before may have been on its way when the new one subscribed
    while time.monotonic() < deadline_s and not stop.is_set():
        if old_alive:
            try:
                events = old.step(READ_S if new.subscribed else 0.0)  # hundreds of requests go out, one a turn
                feed.take(events, old)
                if heard_from_s is not None and heard_from_s <= time.monotonic() < deadline_s - SLACK_S:
                    heard.update(map(feed.topic_of, events))
            except ConnectionFailed:
                old_alive = False
                if not new.subscribed:
                    feed.backfill.disconnected()  # in between nobody listens
        feed.take(new.step(READ_S), new)
        if new.subscribed and heard_from_s is None:
            heard_from_s = time.monotonic() + SLACK_S
        feed.settle()
        if new.subscribed and wanted <= new.topics_seen:
            return
    if not new.subscribed and not stop.is_set():
        raise ConnectionFailed("the new socket did not subscribe in time")
    missing = (heard & wanted) - new.topics_seen
    if missing and old_alive and not stop.is_set():
        raise ConnectionFailed(f"the new socket says nothing of {min(missing)} and {len(missing) - 1} more")


def drain(feed: MarketFeed, old: MarketSocket) -> str:
    """Take what the old socket still holds. → why it ended, "" if it did not; the new one delivers the same, so nothing is lost."""
    deadline_s = time.monotonic() + DRAIN_S
    try:
        while time.monotonic() < deadline_s and (events := old.step(0.0)):
            feed.take(events, old)
    except ConnectionFailed as error:
        return error.reason
    return ""
