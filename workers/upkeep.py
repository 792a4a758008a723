"""What a connected private stream owes by the clock: pings, renewal of its listen key, probes, audits. In its thread, after a read.

In: the stream and the time. Out: frames on the socket, jobs for the worker's REST threads, ConnectionFailed for a dead socket.
Quiet is not dead: a socket is dead when it answers no ping, deaf when REST tells of events that it did not. A deaf one may answer
pings (somebody closed its listen key, a server lost its subscription), so one on which nothing happens is probed: a proof by
REST, as often as a small share of the weight allows (`VenueRest.may_prove`).
"""

from __future__ import annotations

import math
import time
from typing import Protocol

from fleet.core.errors import ConnectionFailed, ExchangeRefused
from fleet.core.exchange import Outcome, Verdict
from fleet.core.liveness import Due, due, wait_s
from fleet.core.model import Credentials
from fleet.core.recovery import Scope
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.settings import Settings
from workers.dial import PrivateSocket
from workers.progress import Progress
from workers.readback import ReadBack, Reading
from workers.rest import VenueRest

SUSPECT_PAUSE_S = (
    5.0  # how often the bookkeeping is looked at; that of positions less after each audit that finds nothing
)
SUSPECT_QUIET_MS = 2000
LIVE_LAG_MS = 5000  # REST may tell an event so much before the socket does: that is not loss
RENEW_RETRY_S = 30.0
FULL_AUDIT_EACH = (
    4  # audits of which one asks for orders that came and went unfilled; the others prove that no fill is missing
)


class Kept(Protocol):
    """What of an account stream its upkeep needs."""

    account_id: str
    credentials: Credentials
    rest: VenueRest
    progress: Progress

    @property
    def socket(self) -> PrivateSocket | None: ...
    @property
    def heard_s(self) -> float: ...
    def read_back(self, *, audit: Scope | None = None) -> None: ...
    def rejected(self, verdict: Verdict) -> None: ...
    def give_up(self, verdict: Verdict) -> None: ...
    def stopping(self) -> bool: ...


class Upkeep:
    """Clocks of one stream; `begin` at each new socket, `tick` after each read and at least every few seconds."""

    def __init__(self, stream: Kept, settings: Settings, readback: ReadBack, metrics: Metrics, jitter: float) -> None:
        self._stream, self._settings, self._readback, self._metrics = stream, settings, readback, metrics
        self._jitter = jitter  # in [0, 1): spreads the streams of a shard over each interval
        self._suspect_pause_s = SUSPECT_PAUSE_S
        self._audit_pause_s = settings.audit_interval_s * (0.8 + 0.4 * jitter)
        self._renew_s = self._full_s = self._suspect_s = self._short_s = self._probe_s = 0.0
        self._proof_s = 0.0  # the last one, an audit or a probe, was asked for then
        self._untold_ms = 0  # exchange time of a fill that REST told just now, and that the socket may tell yet
        self._log = get("upkeep").bind(stream=stream.account_id)

    def begin(self) -> None:
        now_s = time.monotonic()
        self._renew_s = now_s + self._settings.listenkey_renewal_s * (0.7 + 0.3 * self._jitter)
        # Spread over all of the interval, as a crowd may begin at once.
        self._proof_s = now_s + self._settings.audit_interval_s * self._jitter - self._audit_pause_s
        self._full_s = self._proof_s + self._audit_pause_s * math.ceil(FULL_AUDIT_EACH * (1.0 - self._jitter))
        self._probe_s = now_s + self._settings.probe_interval_s * (0.5 + 0.5 * self._jitter)
        self._untold_ms = 0

    def tick(self, socket: PrivateSocket, looked_s: float, now_s: float, *, proven: bool) -> None:
        """`looked_s`: before the last read began. `proven`: the stream is live and no gap is open. Raises ConnectionFailed if the
        socket answers no ping any more."""
        self._ping(socket, looked_s)
        if self._stream.rest.exchange.renewal is not None and now_s >= self._renew_s:
            self._renew_s = now_s + self._settings.listenkey_renewal_s * (0.8 + 0.2 * self._jitter)
            self._readback.submit(self._stream.rest, lambda: self._renew(socket.ticket))
        if proven:
            self._audit(now_s)

    def wait_s(self, socket: PrivateSocket, now_s: float) -> float:
        """Seconds until the socket's liveness has to be looked at again."""
        return wait_s(self._stream.rest.exchange.user_liveness, now_s, socket.connection.last_rx, socket.pinged_s)

    def _ping(self, socket: PrivateSocket, looked_s: float) -> None:
        liveness = self._stream.rest.exchange.user_liveness
        what = due(liveness, looked_s, socket.connection.last_rx, socket.pinged_s)
        if what is Due.DEAD:
            raise ConnectionFailed("silent")
        if what is Due.PING:
            if liveness.ping is None:
                socket.connection.ping()
            else:
                socket.connection.send(liveness.ping)
            socket.pinged_s = time.monotonic()

    # ── audits: silent loss ──────────────────────────────────────────────────────────────────────────────────────
    def _audit(self, now_s: float) -> None:
        """Compare with REST now and then, while the socket tells nothing more often, and at once when the bookkeeping says that it
        dropped something."""
        suspect = False
        if now_s >= self._short_s:
            self._short_s = now_s + SUSPECT_PAUSE_S
            suspect = self._stream.progress.short(SUSPECT_QUIET_MS)
        if not suspect and now_s >= self._suspect_s:
            suspect = self._stream.progress.suspicious(SUSPECT_QUIET_MS, self._stream.rest.exchange.books_positions)
            if suspect:
                self._suspect_pause_s = min(2 * self._suspect_pause_s, self._settings.audit_interval_s)
            self._suspect_s = now_s + self._suspect_pause_s
        settings = self._settings
        if now_s >= self._full_s:
            self._proof_s, self._full_s = now_s, now_s + FULL_AUDIT_EACH * self._audit_pause_s
            self._stream.read_back(audit="full")
        elif suspect or now_s >= self._proof_s + self._audit_pause_s:
            self._prove(now_s, due=True)
        elif now_s >= max(self._probe_s, self._stream.heard_s + settings.probe_interval_s):
            self._prove(now_s, due=False)

    def _prove(self, now_s: float, *, due: bool) -> None:
        if self._stream.rest.may_prove(due=due):
            self._proof_s, self._probe_s = now_s, now_s + self._settings.probe_interval_s * (0.8 + 0.2 * self._jitter)
            self._stream.read_back(audit="proof")

    def audited(self, reading: Reading) -> None:
        """An audit is complete. Fills that REST told first, and the socket not a while later, are silent loss; if it has delivered
        nothing since the oldest of them, it is deaf. Runs in a REST thread."""
        progress = self._stream.progress
        untold_ms = min(filter(None, (reading.only_rest_ms, self._untold_ms)), default=0)
        self._untold_ms = 0
        if not untold_ms:
            return
        if reading.read_ms - untold_ms < LIVE_LAG_MS:  # the socket may tell them yet: look again
            self._untold_ms, self._probe_s = untold_ms, time.monotonic() + LIVE_LAG_MS / 1000
            return
        deaf = untold_ms > progress.last_live_ms
        if not deaf and not reading.only_rest_ms:
            return
        self._suspect_pause_s = SUSPECT_PAUSE_S
        progress.event("silent_loss", "audit", recovered_events=reading.recovered)
        self._log.warning("silent loss: the socket dropped events", action="audit", events=reading.recovered)
        if deaf:
            self._stream.give_up(Verdict(Outcome.TRANSIENT, "deaf"))

    # ── the listen key ───────────────────────────────────────────────────────────────────────────────────────────
    def _renew(self, ticket: str) -> None:
        """Extend the listen key; a failed renewal fetches one at once. Runs in a REST thread."""
        stream, exchange = self._stream, self._stream.rest.exchange
        assert exchange.renewal is not None and exchange.ticket is not None and exchange.ticket_of is not None
        count = self._metrics.listenkey_renewals
        for call in (exchange.renewal.call, exchange.ticket):
            try:
                named = exchange.ticket_of(stream.rest.call(call, stream.credentials, stream.stopping))
            except (ConnectionFailed, ExchangeRefused) as error:
                count(exchange.exchange, "error").inc()
                self._log.warning("listen key renewal failed", action="renew", error=str(error))
                verdict = getattr(error, "verdict", None)
                if isinstance(verdict, Verdict) and verdict.outcome is Outcome.INVALID:
                    stream.rejected(verdict)
                    return
                continue
            count(exchange.exchange, "success").inc()
            current = stream.socket
            if named and named != ticket and current is not None and current.ticket == ticket:
                stream.give_up(Verdict(Outcome.TICKET_GONE))
            return
        self._renew_s = time.monotonic() + RENEW_RETRY_S * (1.0 + self._jitter)
