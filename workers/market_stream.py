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
from typing import Any

from fleet.core import names
from fleet.core.backoff import CAP_S, delay_s, next_attempt
from fleet.core.errors import ConnectionFailed, DialRefused
from fleet.core.exchange import Exchange
from fleet.core.model import StreamState
from fleet.runtime import logs
from fleet.runtime.metrics import Metrics
from workers.market_feed import MarketFeed
from workers.market_plan import Lane
from workers.market_publish import MarketPublisher
from workers.market_reader import MarketReader
from workers.market_rotation import drain, overlap
from workers.market_socket import MarketDialer, MarketSocket
from workers.rest import VenueRest

TICK_S = 0.25  # longest read without looking at the stop event, answers and clocks
BUSY_TICK_S = 0.05  # the same while an answer is on its way
CHECK_S = 0.5
ROTATE_RETRY_S = 30.0
GOODBYE_RETRY_S = (
    5.0  # a server that goes says so up to a minute ahead, and may take no new sockets; permits are the fleet's
)
ROTATE_DIAL_S = 4.0  # permit and dial
ROTATE_SPREAD = 0.05  # lanes rotate at different times
LIVE_CAP_S = 3.0  # longest pause after a socket that had worked


class MarketStream:
    """One lane. `start`, `abort`, `join` and `unhealthy` from any thread; the rest is its own thread's."""

    def __init__(
        self,
        lane: Lane,
        venue: Exchange,
        url: str,
        rest: VenueRest,
        reader: MarketReader | None,
        publisher: MarketPublisher,
        metrics: Metrics,
        stop: threading.Event,
        *,
        tls: ssl.SSLContext | None,
        source_ip: str | None = None,
    ) -> None:
        self.lane, self._venue, self._metrics, self._stop = lane, venue, metrics, stop
        self._dialer = MarketDialer(lane, venue, url, rest, metrics, tls=tls, source_ip=source_ip)
        self.feed = MarketFeed(lane, venue, reader, publisher)
        self.state = StreamState.IDLE
        self._socket: MarketSocket | None = None
        self._rotate_at_s = 0.0
        self._goodbye_at_s = 0.0  # when a goodbye may be met again
        self._check_at_s = 0.0
        self._stalled: list[str] = []
        self._log = logs.get("market_stream").bind(stream=lane.name)
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
            except Exception as error:  # noqa: BLE001 - a bug must not end the lane; it is logged with its traceback and counts as a failure
                self._log.exception("market data lane failed", action="bug")
                failure = ConnectionFailed(f"internal error: {type(error).__name__}")
            self._drop(failure)
            if failure is not None and not self._stop.is_set():
                lived_s = time.monotonic() - live_s if live_s else 0.0
                self._failed(failure, attempt, was_live=bool(live_s))
                attempt = next_attempt(attempt, lived_s)
                self.state = StreamState.WAITING
                self._wait(self._pause_s(failure, attempt, was_live=bool(live_s)))
        self.feed.finish()
        self.state = StreamState.STOPPED

    def _wait(self, pause_s: float) -> None:
        """Before the next dial; answers to what was asked are taken meanwhile."""
        until_s = time.monotonic() + pause_s
        while (left_s := until_s - time.monotonic()) > 0 and not self._stop.wait(min(left_s, TICK_S)):
            self.feed.settle()

    def _connect(self, attempt: int) -> None:
        """Open a socket and subscribe everything. Raises ConnectionFailed."""
        self.state = StreamState.CONNECTING
        self._socket = socket = self._dialer.open(self._stop.is_set)
        self.state = StreamState.SUBSCRIBING
        self.feed.watch.restart(time.monotonic(), ())
        while not socket.subscribed and not self._stop.is_set():
            self.feed.take(socket.step(TICK_S), socket)
            self.feed.settle()
        self._log.info("market data lane subscribed", action="subscribe", attempt=attempt)

    def _stream(self) -> None:
        """Read until the stop event; raises ConnectionFailed when the socket dies."""
        while not self._stop.is_set():
            socket = self._socket
            assert socket is not None
            self.feed.take(socket.step(BUSY_TICK_S if self.feed.waiting else TICK_S), socket)
            self.feed.settle()
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
                verdict=str(reply.verdict),
                topics=where,
            )
            self.feed.announce("subscription_refused", str(reply.verdict), data={"topics": where})
            self.feed.watch.refused(where)
        socket.refused.clear()
        socket.again(self.feed.mend(now_s))
        self._stalled = stalled = self.feed.watch.stalled(now_s)
        if stalled:
            self._meet_stall(socket, stalled, now_s)
        elif now_s >= self._rotate_at_s or (socket.goodbye and now_s >= self._goodbye_at_s):
            self._goodbye_at_s = now_s + GOODBYE_RETRY_S
            self._replace(socket, socket.goodbye or "lifetime")

    def _meet_stall(self, socket: MarketSocket, stalled: list[str], now_s: float) -> None:
        whole = self.feed.watch.whole(stalled, now_s)
        self.feed.watch.strike(stalled)
        self._log.warning("market data stalled", action="stall", topics=stalled[:20], whole=whole)
        self.feed.announce("stalled", "socket" if whole else "topics", data={"topics": stalled})
        failure = ConnectionFailed("stalled: pongs may come, data does not") if whole else None
        if whole:
            self.feed.backfill.disconnected()
        else:
            self.feed.backfill.fell_silent(stalled)
        replaced = self._replace(socket, "stalled", frozenset(stalled), failure)
        if not whole:
            self.feed.backfill.speak_again(stalled, time.monotonic())
        elif failure is not None and not replaced:
            raise failure

    # ── make before break ────────────────────────────────────────────────────────────────────────────────────────
    def _replace(
        self,
        old: MarketSocket,
        reason: str,
        stalled: frozenset[str] = frozenset(),
        failure: ConnectionFailed | None = None,
    ) -> bool:
        """Open a second socket, read both until the new one proved itself, then close the old one. If that fails, keep the old
        one, try again later, and return False. With a `failure` it counts as a reconnect, otherwise as a rotation."""
        self.state = StreamState.ROTATING
        give_up_s, reading = time.monotonic() + ROTATE_DIAL_S, True

        def given_up() -> bool:  # asked several times a second
            nonlocal reading
            try:
                if reading:
                    self.feed.take(old.step(0.0), old)
            except ConnectionFailed:
                reading = False
            self.feed.settle()
            return self._stop.is_set() or time.monotonic() > give_up_s

        try:
            new = self._dialer.open(given_up)
        except ConnectionFailed as error:
            self._put_off(error, reason)
            return False
        try:
            overlap(self.feed, old, new, self.lane.topics, stalled, self._stop)
        except ConnectionFailed as error:  # of the new one
            new.close()
            self._put_off(error, reason)
            return False
        self._socket = new
        ended = drain(self.feed, old)
        if failure is not None or ended:
            old.connection.abort()  # nobody may be there to answer a close
        old.close()
        if failure is not None:
            self._say_disconnected(failure, 0)
            self._went_live(0, again=True)
        else:
            self._metrics.marketdata_reconnects("success").inc()
            self._went_live(0, again=False, rotated=reason)
        return True

    def _put_off(self, error: ConnectionFailed, reason: str) -> None:
        self._metrics.marketdata_reconnects("failed").inc()
        self._rotate_at_s = time.monotonic() + ROTATE_RETRY_S
        self.state = StreamState.LIVE
        self._log.warning("market data rotation failed", action="rotate", reason=reason, error=str(error))

    # ── transitions ──────────────────────────────────────────────────────────────────────────────────────────────
    def _went_live(self, attempt: int, *, again: bool, rotated: str = "") -> None:
        now_s = time.monotonic()
        self._rotate_at_s = now_s + self._venue.limits.rotate_after_s * (1 - random.random() * ROTATE_SPREAD)
        seen = self._socket.topics_seen if self._socket else ()
        self.feed.watch.restart(now_s, seen, carried_on=bool(rotated))
        self._stalled = []
        self.state = StreamState.LIVE
        fields: dict[str, Any] = {"attempt": attempt, "topics": len(self.lane.topics)}
        if again or self.feed.backfill.down:  # also where the socket before died as it subscribed
            self.feed.backfill.reconnected(now_s)
        if again:
            self._metrics.marketdata_reconnects("success").inc()
            self._log.info(names.MARKET_RECONNECTED, action="reconnect", **fields)
        else:
            self._log.info("market data live", action="rotate" if rotated else "connect", reason=rotated, **fields)
        self.feed.announce("rotated" if rotated else "connected", rotated, data={"attempt": attempt})

    def _failed(self, error: ConnectionFailed, attempt: int, *, was_live: bool) -> None:
        if was_live:
            self._say_disconnected(error, attempt)
        else:
            self._metrics.marketdata_reconnects("failed").inc()
            self._log.warning("market data dial failed", action="dial", attempt=attempt, reason=str(error))

    def _say_disconnected(self, error: ConnectionFailed, attempt: int) -> None:
        self._log.warning(names.MARKET_DISCONNECTED, action="disconnect", attempt=attempt, reason=str(error))
        self.feed.announce("disconnected", str(error))

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
                self.feed.disconnected()
