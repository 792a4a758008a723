"""One lane of public market data, on one thread: dial → subscribe → read → books → publish; on an error wait and again.

In: a lane (path and topics). Out: events to `workers.market_publish` and announcements on fleet.streams. Runs in the
market-data process. A dead socket is replaced after a backoff. A planned end (24 h, the server's goodbye) and topics that fell
silent are met by make-before-break: dial, prove, then close the old one. So is a socket on which everything fell silent: it
may be that nothing happens, and then nothing must be lost either.
"""

from __future__ import annotations

import random
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from fleet.core import names
from fleet.core.backoff import CAP_S, delay_s, next_attempt
from fleet.core.errors import ConnectionFailed, DialRefused
from fleet.core.events import Depth, MarketRecord
from fleet.core.exchange import Exchange
from fleet.core.model import StreamState
from fleet.runtime import logs
from fleet.runtime.metrics import Metrics
from workers.connection import Connection
from workers.market_books import Books, SnapshotReader
from workers.market_plan import Lane
from workers.market_publish import MarketPublisher, stream_event
from workers.market_socket import MarketSocket
from workers.market_watch import TopicWatch
from workers.rest import RATE_WAIT_S, VenueRest

TICK_S = 0.25  # longest read without looking at the stop event, snapshots and clocks
BOOK_TICK_S = 0.05  # the same while a snapshot is on its way
CHECK_S = 0.5
DIAL_TIMEOUT_S = 10.0
PROVE_S = 10.0  # a new socket has this long to send what the old one sends
OVERLAP_READ_S = 0.02
DRAIN_S = 0.5
ROTATE_RETRY_S = 30.0
ROTATE_PERMIT_S = 2.0
ROTATE_SPREAD = 0.05  # lanes rotate at different times
LIVE_CAP_S = 3.0
RATE_STATUSES = (403, 418, 429)
RECENT_IDS = 50_000


class MarketStream:
    """One lane. `start`, `abort`, `join` and `unhealthy` from any thread; the rest is its own thread's."""

    def __init__(
        self,
        lane: Lane,
        venue: Exchange,
        url: str,
        rest: VenueRest,
        snapshots: SnapshotReader | None,
        publisher: MarketPublisher,
        metrics: Metrics,
        stop: threading.Event,
        *,
        tls: ssl.SSLContext | None,
        source_ip: str | None = None,
    ) -> None:
        self.lane, self._venue, self._url, self._rest = lane, venue, url, rest
        self._publisher, self._metrics, self._stop = publisher, metrics, stop
        self._tls, self._source_ip = tls, source_ip
        self.state = StreamState.IDLE
        self._socket: MarketSocket | None = None
        self._watch = TopicWatch(lane.topics, time.monotonic())
        self._books = Books(venue.name, snapshots, self._announce)
        self._topic_of = venue.market_data.topic_of
        self._market = lane.topics[0].market or venue.market
        self._recent: set[str] = set()
        self._older: set[str] = set()
        self._rotate_at_s = 0.0
        self._check_at_s = 0.0
        self._stalled: list[str] = []
        self._log = logs.get("market_stream")
        self._thread = threading.Thread(target=self._run, name=lane.name)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """True if the thread has ended."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def abort(self) -> None:
        """Wake the thread if it is blocked in its socket."""
        socket = self._socket
        if socket is not None:
            socket.connection.abort()

    def unhealthy(self) -> str:
        """Why the lane is not healthy now, "" if it is (for the periodic health check)."""
        if not self._thread.is_alive():
            return "its thread has ended"
        if self.state not in (StreamState.LIVE, StreamState.ROTATING):
            return str(self.state)
        stalled = self._stalled
        if stalled:
            return f"silent: {', '.join(stalled[:5])}"
        return ""

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        attempt = 0
        ever_live = False
        while not self._stop.is_set():
            live_s = 0.0
            failure: ConnectionFailed | None = None
            try:
                self._connect(attempt)
                live_s = time.monotonic()
                self._went_live(attempt, again=ever_live)
                ever_live = True
                self._stream()
            except ConnectionFailed as error:
                failure = error
            self._drop(failure)
            if failure is not None and not self._stop.is_set():
                lived_s = time.monotonic() - live_s if live_s else 0.0
                self._failed(failure, attempt, was_live=bool(live_s))
                attempt = next_attempt(attempt, lived_s)
                self.state = StreamState.WAITING
                self._stop.wait(self._pause_s(failure, attempt, was_live=bool(live_s)))
        self._publish_books(self._books.drain())
        self.state = StreamState.STOPPED

    def _connect(self, attempt: int) -> None:
        """Open a socket and subscribe everything. Raises ConnectionFailed."""
        self.state = StreamState.CONNECTING
        self._socket = socket = self._dial(self._stop.is_set)
        self.state = StreamState.SUBSCRIBING
        self._watch.restart(time.monotonic())
        while not socket.subscribed and not self._stop.is_set():
            self._publish(socket.step(TICK_S), socket)
        self._log.info("market data lane subscribed", action="subscribe", stream=self.lane.name, attempt=attempt)

    def _dial(self, cancelled: Callable[[], bool]) -> MarketSocket:
        self._rest.dial_permit(cancelled)
        try:
            connection = Connection.open(
                self._url,
                source_ip=self._source_ip,
                tls=self._tls,
                timeout_s=DIAL_TIMEOUT_S,
                max_message_bytes=self._venue.limits.max_frame_bytes,
            )
        except ConnectionFailed as error:
            self._metrics.dials(self._venue.exchange, "refused" if isinstance(error, DialRefused) else "failed").inc()
            if isinstance(error, DialRefused) and error.status in RATE_STATUSES:
                self._rest.block_dials(error.retry_after_s or RATE_WAIT_S)
            raise
        self._metrics.dials(self._venue.exchange, "opened").inc()
        return MarketSocket(connection, self._venue, self.lane, self._metrics)

    def _stream(self) -> None:
        """Read until the stop event; raises ConnectionFailed when the socket dies."""
        while not self._stop.is_set():
            socket = self._socket
            assert socket is not None
            self._publish(socket.step(BOOK_TICK_S if self._books.waiting else TICK_S), socket)
            self._publish_books(self._books.settle(time.monotonic()))
            now_s = time.monotonic()
            if now_s >= self._check_at_s:
                self._check_at_s = now_s + CHECK_S
                self._check(socket, now_s)

    def _check(self, socket: MarketSocket, now_s: float) -> None:
        """Stalls, the planned end, refused subscriptions, books broken by dropping."""
        for topics, reply in socket.refused:
            where = [t.name for t in topics]
            self._log.error(
                "subscription refused",
                action="subscribe",
                stream=self.lane.name,
                verdict=str(reply.verdict),
                topics=where,
            )
            self._announce("subscription_refused", str(reply.verdict), data={"topics": where})
        socket.refused.clear()
        for symbol in self._publisher.broken_books(self._venue.exchange, self._market):
            self._books.invalidate(symbol, "updates were dropped while Kafka was away")
        if renew := set(self._books.to_renew(now_s)):
            socket.again([t for t in self.lane.topics if t.kind == "depth" and t.symbol in renew])
        self._stalled = stalled = self._watch.stalled(now_s)
        if stalled:
            self._meet_stall(socket, stalled, now_s)
        elif socket.goodbye or now_s >= self._rotate_at_s:
            self._replace(socket, socket.goodbye or "lifetime")

    def _meet_stall(self, socket: MarketSocket, stalled: list[str], now_s: float) -> None:
        whole = self._watch.whole(stalled, now_s)
        self._watch.strike(stalled)
        self._log.warning(
            "market data stalled", action="stall", stream=self.lane.name, topics=stalled[:20], whole=whole
        )
        self._announce("stalled", "socket" if whole else "topics", data={"topics": stalled})
        failure = ConnectionFailed("stalled: pongs may come, data does not")
        if whole:
            self._say_disconnected(failure, 0)
        replaced = self._replace(socket, "stalled", frozenset(stalled), again=whole)
        if whole and not replaced:
            raise failure

    # ── make before break ────────────────────────────────────────────────────────────────────────────────────────
    def _replace(
        self, old: MarketSocket, reason: str, stalled: frozenset[str] = frozenset(), *, again: bool = False
    ) -> bool:
        """Open a second socket, read both until the new one proved itself, then close the old one. On failure keep the old,
        try again later, and return False. `again`: it counts as a reconnect in the log, not as a rotation."""
        self.state = StreamState.ROTATING
        give_up_s = time.monotonic() + ROTATE_PERMIT_S
        try:
            new = self._dial(lambda: time.monotonic() > give_up_s)
        except ConnectionFailed as error:
            self._put_off(error, reason)
            return False
        try:
            self._overlap(old, new, stalled)
        except ConnectionFailed as error:  # of the new one
            new.close()
            self._put_off(error, reason)
            return False
        self._socket = new
        self._drain(old)
        if again:
            old.connection.abort()  # nobody may be there to answer a close
        old.close()
        if not again:
            self._metrics.marketdata_reconnects("success").inc()
        self._went_live(0, again=again, rotated="" if again else reason)
        return True

    def _overlap(self, old: MarketSocket, new: MarketSocket, stalled: frozenset[str]) -> None:
        """Read both. Returns once the new socket delivers whatever the old one delivered lately, or its time is over."""
        deadline_s = time.monotonic() + PROVE_S
        old_dead = False
        wanted = {t.name for t in self.lane.topics if t.expect_s is not None and t.name in old.topics_seen} - stalled
        while time.monotonic() < deadline_s and not self._stop.is_set():
            if not old_dead:
                try:
                    self._publish(old.step(OVERLAP_READ_S), old)
                except ConnectionFailed:
                    old_dead = True
            self._publish(new.step(OVERLAP_READ_S), new)
            self._publish_books(self._books.settle(time.monotonic()))
            if new.subscribed and wanted <= new.topics_seen:
                return
        if not new.subscribed and not self._stop.is_set():
            raise ConnectionFailed("the new socket did not subscribe in time")

    def _drain(self, old: MarketSocket) -> None:
        """What the old socket still holds; the new one delivers it too, so its death loses nothing."""
        deadline_s = time.monotonic() + DRAIN_S
        try:
            while time.monotonic() < deadline_s and (events := old.step(0.0)):
                self._publish(events, old)
        except ConnectionFailed as error:
            self._log.info("old market socket ended", action="rotate", stream=self.lane.name, reason=error.reason)

    def _put_off(self, error: ConnectionFailed, reason: str) -> None:
        self._metrics.marketdata_reconnects("failed").inc()
        self._rotate_at_s = time.monotonic() + ROTATE_RETRY_S
        self.state = StreamState.LIVE
        self._log.warning(
            "market data rotation failed", action="rotate", stream=self.lane.name, reason=reason, error=str(error)
        )

    # ── transitions ──────────────────────────────────────────────────────────────────────────────────────────────
    def _went_live(self, attempt: int, *, again: bool, rotated: str = "") -> None:
        now_s = time.monotonic()
        self._rotate_at_s = now_s + self._venue.limits.rotate_after_s * (1 - random.random() * ROTATE_SPREAD)
        self._watch.restart(now_s)
        self._stalled = []
        self.state = StreamState.LIVE
        fields: dict[str, Any] = {"stream": self.lane.name, "attempt": attempt, "topics": len(self.lane.topics)}
        if again:
            self._metrics.marketdata_reconnects("success").inc()
            self._log.info(names.MARKET_RECONNECTED, action="reconnect", **fields)
        else:
            self._log.info("market data live", action="rotate" if rotated else "connect", reason=rotated, **fields)
        self._announce("rotated" if rotated else "connected", rotated, data={"attempt": attempt})

    def _failed(self, error: ConnectionFailed, attempt: int, *, was_live: bool) -> None:
        if was_live:
            self._log.warning(
                names.MARKET_DISCONNECTED,
                action="disconnect",
                stream=self.lane.name,
                attempt=attempt,
                reason=str(error),
            )
            self._announce("disconnected", str(error))
        else:
            self._metrics.marketdata_reconnects("failed").inc()
            self._log.warning(
                "market data dial failed", action="dial", stream=self.lane.name, attempt=attempt, reason=str(error)
            )

    def _say_disconnected(self, error: ConnectionFailed, attempt: int) -> None:
        self._log.warning(
            names.MARKET_DISCONNECTED, action="disconnect", stream=self.lane.name, attempt=attempt, reason=str(error)
        )
        self._announce("disconnected", str(error))

    def _pause_s(self, error: ConnectionFailed, attempt: int, *, was_live: bool) -> float:
        """A venue that takes our dials but cuts the sockets is dialled at a steady pace; one that refuses them, ever slower."""
        pause_s = delay_s(attempt, random.random, cap_s=LIVE_CAP_S if was_live else CAP_S)
        if isinstance(error, DialRefused):
            pause_s = max(pause_s, error.retry_after_s)
        return pause_s

    def _drop(self, failure: ConnectionFailed | None) -> None:
        """Close the socket, if any, politely unless it failed: every book on it lost its continuity."""
        socket, self._socket = self._socket, None
        if socket is not None:
            if failure is not None:
                socket.connection.abort()
            socket.close()
            if not self._stop.is_set():
                self._books.invalidate_all("disconnected")

    # ── events ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _publish(self, events: Iterable[MarketRecord], socket: MarketSocket) -> None:
        """New events, in order: liveness, books, Kafka. The same event from two sockets is published once."""
        if not events:
            return
        now_s = time.monotonic()
        recent, older, note, topic_of = self._recent, self._older, self._watch.note, self._topic_of
        seen = socket.topics_seen
        out: list[MarketRecord] = []
        for event in events:
            topic = topic_of(event)
            note(topic, now_s)
            seen.add(topic)
            if event.id in recent or event.id in older:
                continue
            recent.add(event.id)
            if isinstance(event, Depth):
                out += self._books.accept(event)
            else:
                out.append(event)
        if len(recent) > RECENT_IDS:
            self._recent, self._older = set(), recent
        if out:
            self._publisher.offer(out)

    def _publish_books(self, events: list[Depth]) -> None:
        if events:
            self._publisher.offer(events)

    def _announce(self, event: str, reason: str = "", *, symbol: str = "", data: dict[str, Any] | None = None) -> None:
        self._publisher.announce(
            stream_event(self.lane.name, self._venue.exchange, self._market, event, reason, symbol=symbol, data=data)
        )
