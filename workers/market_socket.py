"""One public socket of one lane: a Connection in, normalised events out. Runs in the lane's thread.

Sends the SUBSCRIBE frames at the venue's pace, waits for their replies, pings when nothing comes, and notices that the
transport is dead. Whether the *data* is alive is `workers.market_watch`'s business.
"""

from __future__ import annotations

import itertools
import ssl
import time
from collections import deque
from collections.abc import Callable, Sequence

from fleet.core.errors import ConnectionFailed, DialRefused
from fleet.core.events import Event, MarketRecord
from fleet.core.exchange import Exchange, Goodbye, Malformed, Outcome, Reply, Topic, Unknown
from fleet.core.liveness import Due, due
from fleet.runtime import logs
from fleet.runtime.metrics import Metrics
from workers.connection import Connection
from workers.market_merge import Merged
from workers.market_plan import Lane, chunks
from workers.rest import RATE_WAIT_S, VenueRest

REPLY_TIMEOUT_S = 10.0
DIAL_TIMEOUT_S = 10.0
RATE_STATUSES = (403, 418, 429)


class MarketDialer:
    """Opens the sockets of one lane: permit, dial, and what a refusal means for the whole fleet."""

    def __init__(
        self,
        lane: Lane,
        venue: Exchange,
        url: str,
        rest: VenueRest,
        metrics: Metrics,
        *,
        tls: ssl.SSLContext | None,
        source_ip: str | None,
    ) -> None:
        self._lane, self._venue, self._url, self._rest, self._metrics = lane, venue, url, rest, metrics
        self._tls, self._source_ip = tls, source_ip

    def open(self, cancelled: Callable[[], bool]) -> MarketSocket:
        """Raises ConnectionFailed, also when `cancelled` says so while a permit is awaited."""
        self._rest.dial_permit(cancelled)
        try:
            connection = Connection.open(
                self._url,
                source_ip=self._source_ip,
                tls=self._tls,
                timeout_s=DIAL_TIMEOUT_S,
                max_message_bytes=self._venue.limits.max_frame_bytes,
                cancelled=cancelled,
            )
        except ConnectionFailed as error:
            self._metrics.dials(self._venue.exchange, "refused" if isinstance(error, DialRefused) else "failed").inc()
            if isinstance(error, DialRefused) and error.status in RATE_STATUSES:
                self._rest.block_dials(error.retry_after_s or RATE_WAIT_S)
            raise
        self._metrics.dials(self._venue.exchange, "opened").inc()
        return MarketSocket(connection, self._venue, self._lane, self._metrics)


class MarketSocket:
    """An open, subscribing or subscribed socket. `goodbye` is why the server will close it, "" while it does not say so."""

    def __init__(self, connection: Connection, venue: Exchange, lane: Lane, metrics: Metrics) -> None:
        self.connection = connection
        self.opened_s = time.monotonic()
        self.goodbye = ""
        self.refused: list[tuple[Sequence[Topic], Reply]] = []  # for the lane to report and clear
        self.topics_seen: set[str] = set()
        self._venue, self._lane, self._metrics = venue, lane, metrics
        self._parse = venue.market_data.parse
        self._changes, self._merged = venue.market_data.changes, Merged()
        self._liveness = venue.market_data.liveness
        limits = venue.limits
        self._numbers = itertools.count(1)
        self._to_send = deque(chunks(lane.topics, limits.subscribe_chunk))
        self._interval_s = limits.subscribe_interval_s
        self._send_at_s = self.opened_s
        self._pinged_s = self.connection.last_rx  # no ping is under way
        self._looked_s = self.opened_s  # before the last read began: what had come by then is known
        self._awaited: dict[str, tuple[Sequence[Topic], float]] = {}  # request id -> topics, reply deadline
        self._log = logs.get("market_socket")
        self._reported: set[str] = set()

    @property
    def subscribed(self) -> bool:
        """Every SUBSCRIBE was sent and answered. An answer proves nothing about data."""
        return not self._to_send and not self._awaited

    def step(self, timeout_s: float) -> list[MarketRecord]:
        """Do what is due, then read once. Raises ConnectionFailed when the socket is dead."""
        self._stay_alive()
        self._looked_s = now_s = time.monotonic()
        self._send_due(now_s)
        if self._to_send:
            timeout_s = min(timeout_s, max(0.0, self._send_at_s - now_s))
        frames = self.connection.read(timeout_s)
        if not frames:
            return []
        now_ms = int(time.time() * 1000)
        path, parse, changes = self._lane.path, self._parse, self._changes
        events: list[MarketRecord] = []
        for frame in frames:
            for item in parse(frame, path, now_ms):
                if isinstance(item, Event):
                    whole = item if changes is None or not changes(item) else self._merged.whole(item)
                    if whole is not None:
                        events.append(whole)
                else:
                    self._control(item, frame)
        return events

    def again(self, topics: Sequence[Topic]) -> None:
        """Have the venue send these topics anew, from a snapshot. Raises ConnectionFailed."""
        frames_of = self._venue.market_data.again
        if frames_of is None:
            return
        for part in chunks(topics, self._venue.limits.subscribe_chunk):
            number = next(self._numbers)
            for frame in frames_of(part, number):
                self.connection.send(frame)
            self._awaited[str(number)] = (part, time.monotonic() + REPLY_TIMEOUT_S)

    def close(self) -> None:
        self.connection.close()

    def _send_due(self, now_s: float) -> None:
        if self._to_send and now_s >= self._send_at_s:
            number, topics = next(self._numbers), self._to_send.popleft()
            self.connection.send(self._venue.market_data.subscribe(topics, number))
            self._awaited[str(number)] = (topics, now_s + REPLY_TIMEOUT_S)
            self._send_at_s = now_s + self._interval_s

    def _stay_alive(self) -> None:
        looked_s = self._looked_s
        for topics, deadline_s in self._awaited.values():
            if looked_s > deadline_s:
                raise ConnectionFailed(f"no reply to the subscription of {topics[0].name} and {len(topics) - 1} more")
        what = due(self._liveness, looked_s, self.connection.last_rx, self._pinged_s)
        if what is Due.DEAD:
            silent_s = looked_s - self.connection.last_rx
            raise ConnectionFailed(f"half-open: nothing came for {silent_s:.0f} s, pongs included")
        if what is Due.PING:
            if self._liveness.ping is None:
                self.connection.ping()
            else:
                self.connection.send(self._liveness.ping)
            self._pinged_s = time.monotonic()

    def _control(self, item: object, frame: bytes) -> None:
        if isinstance(item, Reply):
            topics = self._answered(item)
            if item.verdict.outcome is Outcome.OK:
                return
            self.refused.append((topics, item))
            if item.verdict.outcome is not Outcome.PERMANENT:
                raise ConnectionFailed(f"subscription refused: {item.verdict}")
        elif isinstance(item, Goodbye):
            self.goodbye = item.reason or "goodbye"
        elif isinstance(item, Unknown):
            self._metrics.frames_unknown(self._venue.exchange, item.type).inc()
            self._report(f"unknown:{item.type}", "unknown market data message", type=item.type, frame=frame)
        elif isinstance(item, Malformed):
            self._metrics.frames_malformed(self._venue.exchange).inc()
            self._report("malformed", "malformed market data message", reason=item.reason, frame=frame)

    def _answered(self, reply: Reply) -> Sequence[Topic]:
        """The topics a reply is about: all of its request, or those it names where the venue answers one by one."""
        if not reply.topics:
            return self._awaited.pop(reply.key, ((), 0.0))[0]
        about: list[Topic] = []
        for key in [reply.key] if reply.key in self._awaited else list(self._awaited):
            topics, deadline_s = self._awaited[key]
            named = [t for t in topics if t.name in reply.topics]
            about += named
            rest = [t for t in topics if t not in named]
            if rest:
                self._awaited[key] = (rest, deadline_s)
            else:
                del self._awaited[key]
        return about

    def _report(self, what: str, message: str, *, frame: bytes, **fields: str) -> None:
        """Log the first of a kind on this socket; the metric counts the rest."""
        if what not in self._reported and len(self._reported) < 20:
            self._reported.add(what)
            sample = frame[:200].decode(errors="replace")
            self._log.warning(message, action="parse", stream=self._lane.name, sample=sample, **fields)
