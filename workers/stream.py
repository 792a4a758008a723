"""One account's private stream: the data path on one screen. Runs as one blocking thread in a worker process.

    load → wait (backoff, permit) → connect → log in → subscribe → ask for the read-back → read → parse → publish
    on an error: classify it, open the gap at the last proven-alive instant, wait, again. For ever, until told to stop.

In: frames of the exchange. Out: events to `Progress` (and so to Kafka). What a venue needs is data (`fleet.core.exchange`);
there is no branch for any venue here. The thread never waits for REST while it has a socket to read: renewals, probes and
read-backs run in the worker's REST threads and reach this thread through `_verdict` and an aborted socket.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleet.core import lifecycle
from fleet.core.backoff import delay_s
from fleet.core.breaker import Breaker
from fleet.core.errors import ConnectionFailed, DialRefused, ExchangeRefused, FleetError, LeaseLost
from fleet.core.events import Event, UserRecord
from fleet.core.exchange import (
    Control,
    Exchange,
    Goodbye,
    Malformed,
    Outcome,
    Reply,
    Step,
    TicketExpired,
    Unknown,
    UserItem,
    Verdict,
)
from fleet.core.model import AccountSpec, Credentials, StreamState, StreamStatus
from fleet.core.names import USER_CONNECTED, USER_CONNECTING, USER_RECONNECTED
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.settings import Settings
from workers.accounts import Accounts, Loaded
from workers.connection import Connection
from workers.credentials import CredentialDesk
from workers.progress import Progress
from workers.publish import Gate, Publisher
from workers.readback import ReadBack, Reading
from workers.rest import VenueRest

OPENING_TIMEOUT_S = 10.0
OVERLAP_S = 2.0  # both sockets of a rotation are read this long
STRIKE_DELAY_S = 10.0
SUSPECT_PAUSE_S = 5.0  # how often the bookkeeping is looked at; doubled each time that an audit finds nothing behind it
SUSPECT_QUIET_MS = 2000
BAN_WAIT_S = 60.0  # a 429, 418 or 403 at the handshake that does not say how long
TICK_MAX_S = 1.0
FLUSH_ON_STOP_S = 5.0
FREE_CUTS = 5.0  # so many short lives in a row are dialled again at once ...
LIFE_PER_CUT_S = 2.0  # ... and each two seconds of life earn one back; a stable minute earns all


@dataclass(frozen=True)
class Worker:
    """What the streams of one worker process share."""

    settings: Settings
    slot: str
    incarnation: Callable[[], str]
    gate: Gate
    publisher: Publisher
    readback: ReadBack
    accounts: Accounts
    desk: CredentialDesk
    metrics: Metrics
    venue: Callable[[AccountSpec], VenueRest]
    user_url: Callable[[Exchange, bool, str], str]
    dial: Callable[[str, str], Connection]  # url, account id (chooses the source address)
    random: Callable[[], float]


class _Socket:
    """A connection that finished its opening."""

    def __init__(self, connection: Connection, ticket: str, subscribed_ms: int, now_s: float) -> None:
        self.connection, self.ticket, self.subscribed_ms, self.opened_s = connection, ticket, subscribed_ms, now_s
        self.pinged_s = now_s


class AccountStream:
    """The stream of one account under one token."""

    spec: AccountSpec
    credentials: Credentials
    rest: VenueRest
    progress: Progress

    def __init__(self, account_id: str, token: int, worker: Worker) -> None:
        self.account_id, self.token, self.state, self.reconnects = account_id, token, StreamState.IDLE, 0
        self._worker, self._settings = worker, worker.settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"account-{account_id[:8]}")
        self._log = get("stream").bind(stream=account_id, shard=worker.slot)
        self._socket: _Socket | None = None
        self._dialling: Connection | None = None  # also reachable for abort()
        self._reading: Reading | None = None
        self._verdict: Verdict | None = None  # set by REST threads, taken by this one
        self._reason = "start"
        self._attempt = 0
        self._cuts = 0.0  # short lives not yet earned back
        self._breaker = Breaker()
        self._alive_ms = 0
        self._rotate = False
        self._unknown: set[str] = set()
        self._loaded = self._lost = False
        self._renew_s = self._audit_s = self._suspect_s = self._held_until_s = 0.0
        self._suspect_pause_s = SUSPECT_PAUSE_S

    # ── for the shard ────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it flushes to Kafka, saves its watermark, and its state becomes `stopped`."""
        self._stop.set()
        self._abort_socket()

    def lose(self) -> None:
        """The lease is lost: end at once, publish nothing more."""
        self._lost = True
        self.stop()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive() and self.state is not StreamState.IDLE

    @property
    def running(self) -> bool:
        return self._loaded and not self.ended

    def rotate(self) -> None:
        """Replace the socket, make before break, at the next tick."""
        self._rotate = True

    def silent_s(self, now_s: float) -> float:
        """Seconds since the socket last received anything; 0.0 without a socket."""
        socket = self._socket
        return now_s - socket.connection.last_rx if socket is not None else 0.0

    def give_up(self, why: str) -> None:
        """The socket is not to be trusted any more: dial again."""
        self._verdict = Verdict(Outcome.TRANSIENT, why)
        self._abort_socket()

    def status(self) -> StreamStatus:
        loaded = self._loaded
        return StreamStatus(
            account_id=self.account_id,
            token=self.token,
            state=self.state,
            last_event_ms=self.progress.last_event_ms if loaded else 0,
            reconnects=self.reconnects,
            gap_open=loaded and self.progress.gap is not None,
        )

    # ── for REST threads ─────────────────────────────────────────────────────────────────────────────────────────
    def rejected(self, verdict: Verdict) -> None:
        """A signed call was refused for its credentials."""
        self._verdict = verdict
        self._abort_socket()

    def proven(self, reading: Reading) -> None:
        """A read-back is complete. An audit that found what the socket had not delivered is silent loss; if the socket has
        delivered nothing since, it is deaf."""
        by = "audit" if reading.audit else "gap"
        if reading.recovered:
            self._worker.metrics.recovered(self.spec.exchange, by).inc(reading.recovered)
        if reading.audit and reading.deaf_since_ms:
            self._suspect_pause_s = SUSPECT_PAUSE_S
            self.progress.event("silent_loss", "audit", recovered_events=reading.recovered)
            self._log.warning("silent loss: the socket dropped events", action="audit", events=reading.recovered)
        if reading.audit and reading.deaf_since_ms > self.progress.last_live_ms:
            self._log.warning("the socket is deaf: an audit found events it did not deliver", action="audit")
            self.give_up("deaf")

    def _abort_socket(self) -> None:
        for connection in (self._dialling, self._socket.connection if self._socket else None):
            if connection is not None:
                connection.abort()

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        self._move(StreamState.WAITING)
        try:
            if self._load():
                while not self._stop.is_set():
                    self._one_life()
            if not self._lost:
                self._end()
        except LeaseLost as error:
            self._move(StreamState.LOST, error=str(error))
        finally:
            if self._reading is not None:
                self._reading.cancel()
            self._close_socket()
            if self._loaded:
                self.progress.abandon()
            self._move(StreamState.STOPPED)

    def _load(self) -> bool:
        """Read the account's row and watermark; retried for ever. False = told to stop, or nothing to stream."""
        attempt = 0
        while not self._stop.is_set():
            try:
                loaded = self._worker.accounts.load(self.account_id)
                if loaded is None:
                    self._log.warning("account is not active any more", action="load")
                    return False
                self._take_over(loaded)
                return True
            except (FleetError, LookupError) as error:
                attempt += 1
                self._log.warning("account could not be loaded", action="load", attempt=attempt, error=str(error))
                self._stop.wait(delay_s(attempt, self._worker.random, cap_s=10.0))
        return False

    def _take_over(self, loaded: Loaded) -> None:
        worker = self._worker
        self.spec, self.credentials = loaded.spec, loaded.credentials
        self.rest = worker.venue(loaded.spec)
        self.progress = Progress(
            loaded.spec,
            loaded.mark,
            self.token,
            worker.slot,
            worker.incarnation(),
            worker.publisher,
            worker.gate,
            worker.metrics,
        )
        self._exchange = self.rest.exchange
        self._loaded = True
        worker.metrics.streams(self._exchange.exchange, str(self.state)).inc()
        if loaded.known:
            self.progress.open_gap(max(loaded.mark.alive_ms, loaded.mark.last_event_ms, loaded.mark.proven_ms), "moved")

    def _one_life(self) -> None:
        """Wait, dial, serve until something goes wrong, and say what. Never raises but LeaseLost."""
        self._pause()
        if self._stop.is_set():
            return
        opened_s = 0.0
        try:
            self._socket = socket = self._dial(StreamState.CONNECTING)
            opened_s = time.monotonic()
            self._connected(socket)
            self._serve()
        except ExchangeRefused as error:
            self._verdict = error.verdict if isinstance(error.verdict, Verdict) else None
            self._failed("refused", str(error))
        except DialRefused as error:
            if error.status in (403, 418, 429):
                self.rest.block_dials(error.retry_after_s or BAN_WAIT_S)
            self._failed("dial_refused", str(error))
        except ConnectionFailed as error:
            self._failed(_label(error), str(error))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001  # a bug must not end an account's stream for good: it is logged, and tried again
            self._log.exception("stream failed unexpectedly", action="bug", attempt=self._attempt)
            self._failed("bug", type(error).__name__)
        finally:
            self._close_socket()
        self._count(time.monotonic() - opened_s if opened_s else 0.0)
        self._judge()

    def _pause(self) -> None:
        """Backoff by full jitter; the breaker slows a stream that keeps failing down, it never gives it up."""
        wait_s = delay_s(self._attempt, self._worker.random)
        now_s = time.monotonic()
        if self._breaker.is_open(now_s):
            self._move(StreamState.SUSPENDED, attempt=self._attempt)
            wait_s = max(wait_s, self._breaker.wait_s(now_s))
        elif self.state is not StreamState.WAITING:
            self._move(StreamState.WAITING, attempt=self._attempt, delay_s=round(wait_s, 3), reason=self._reason)
        if self._reason == "start":
            wait_s = 0.0
        self._stop.wait(wait_s)

    def _count(self, lived_s: float) -> None:
        """Attempts for the next pause: a few short lives are free, a dial that never came up is not."""
        if lived_s <= 0.0:
            self._attempt += 1
            self._breaker = self._breaker.failed(time.monotonic())
            return
        self._breaker = self._breaker.succeeded()
        self._cuts = max(0.0, self._cuts + 1.0 - lived_s / LIFE_PER_CUT_S) if lived_s < 60.0 else 0.0
        self._attempt = max(0, int(self._cuts - FREE_CUTS) + 1) if self._cuts > FREE_CUTS else 0

    def _judge(self) -> None:
        """What a verdict of the exchange means for the next life."""
        verdict, self._verdict = self._verdict, None
        if verdict is None or self._stop.is_set():
            return
        if verdict.outcome is Outcome.INVALID:
            self._move(StreamState.REJECTED, code=verdict.code)
            self._worker.desk.strike(self.spec, verdict)
            self._stop.wait(STRIKE_DELAY_S)
            self.rest.resync()  # some venues call a wrong timestamp a failed login
            if not self._stop.is_set() and self._worker.desk.confirm(self.spec, self.credentials, self.rest):
                self.progress.event("deactivated", f"credentials: code {verdict.code}")
                self._stop.set()
        elif verdict.outcome is Outcome.CLOCK:
            self.rest.resync()
        elif verdict.outcome is Outcome.PERMANENT:
            self._log.error("the exchange refuses, and not for the credentials", action="refused", code=verdict.code)

    # ── dialling ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _dial(self, state: StreamState) -> _Socket:
        """Permit, ticket, handshake, opening dialogue. Raises ConnectionFailed, DialRefused or ExchangeRefused."""
        exchange, worker = self._exchange, self._worker
        self.rest.dial_permit(self._stop.is_set)
        self._move(state)
        self._log.info(USER_CONNECTING, action="dial", exchange=exchange.name, attempt=self._attempt)
        ticket = ""
        if exchange.ticket is not None and exchange.ticket_of is not None:
            ticket = exchange.ticket_of(self.rest.call(exchange.ticket, self.credentials, self._stop.is_set))
        try:
            connection = worker.dial(worker.user_url(exchange, self.spec.is_testnet, ticket), self.account_id)
        except ConnectionFailed as error:
            worker.metrics.dials(exchange.name, _label(error)).inc()
            raise
        worker.metrics.dials(exchange.name, "ok").inc()
        worker.metrics.userdata_connections(exchange.exchange).inc()
        self._dialling = connection
        try:
            subscribed_ms = self.rest.now_ms()
            early: list[UserItem] = []
            for step in exchange.opening(self.credentials, self.rest.now_ms()):
                if state is StreamState.CONNECTING:
                    self._move(StreamState(step.phase))
                early += self._ask(connection, step)
            if state is StreamState.CONNECTING:
                self.progress.hold()
            socket = _Socket(connection, ticket, subscribed_ms, time.monotonic())
            self._take(early)
        except BaseException:
            self._closed(connection)
            raise
        finally:
            self._dialling = None
        return socket

    def _ask(self, connection: Connection, step: Step) -> list[UserItem]:
        """Send one step of the opening and wait for its reply; events that come meanwhile are returned."""
        connection.send(step.frame)
        others: list[UserItem] = []
        deadline_s = time.monotonic() + OPENING_TIMEOUT_S
        while time.monotonic() < deadline_s:
            answered = False
            for frame in connection.read(0.5):
                for item in self._exchange.parse_user(frame, self.account_id, int(time.time() * 1000)):
                    if isinstance(item, Reply) and item.key == step.key:
                        if item.verdict.outcome is not Outcome.OK:
                            raise ExchangeRefused(step.phase, item.verdict)
                        answered = True
                    else:
                        others.append(item)
            if answered:
                return others
            if self._stop.is_set():
                raise ConnectionFailed("stopped")
        raise ConnectionFailed(f"no answer while {step.phase}")

    def _connected(self, socket: _Socket) -> None:
        """Streaming: tell everybody, and ask for what was missed."""
        settings, now_s = self._settings, time.monotonic()
        self._move(StreamState.RECOVERING)
        self._log.info(USER_CONNECTED, action="connected", exchange=self._exchange.name, attempt=self._attempt)
        if self._reason != "start":
            self.reconnects += 1
            self._worker.metrics.userdata_reconnects(self._exchange.exchange, self._reason).inc()
            self._log.info(USER_RECONNECTED, action="reconnected", reason=self._reason, attempt=self._attempt)
        self.progress.event("connected", self._reason)
        self._held_until_s = now_s + settings.recover_hold_s
        self._renew_s = now_s + settings.listenkey_renewal_s * (0.7 + 0.3 * self._worker.random())
        self._audit_s = now_s + settings.audit_interval_s * (0.5 + 0.5 * self._worker.random())
        self._read_back(socket)

    def _read_back(self, socket: _Socket, *, audit: bool = False) -> None:
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self._worker.readback.request(self, socket.subscribed_ms, audit=audit)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _serve(self) -> None:
        """Read until the socket dies, is given up, or has to be replaced before the exchange cuts it."""
        assert self._socket is not None
        while not self._stop.is_set():
            socket = self._socket
            frames = socket.connection.read(TICK_MAX_S)
            self._alive_ms = int((time.time() - (time.monotonic() - socket.connection.last_rx)) * 1000)
            if frames:
                self._take_frames(frames)
            self._tick(socket, time.monotonic())
            if self._verdict is not None:
                raise ConnectionFailed("given up")
            lived_s = time.monotonic() - socket.opened_s
            if self._rotate or lived_s > self._exchange.limits.rotate_after_s:
                self._replace(socket)

    def _take_frames(self, frames: list[bytes]) -> None:
        parse, now_ms = self._exchange.parse_user, int(time.time() * 1000)
        items: list[UserItem] = []
        for frame in frames:
            items += parse(frame, self.account_id, now_ms)
        self._take(items)

    def _take(self, items: list[UserItem]) -> None:
        events: list[UserRecord] = [item for item in items if isinstance(item, Event)]
        if events:
            self.progress.live(events)
        for item in items:
            if not isinstance(item, Event):
                self._control(item)

    def _control(self, item: Control) -> None:
        metrics, name = self._worker.metrics, self._exchange.name
        if isinstance(item, TicketExpired):
            raise _expired()
        if isinstance(item, Goodbye):
            self._rotate = True
            self._log.info("the exchange will close this socket", action="goodbye", reason=item.reason)
        elif isinstance(item, Reply) and item.verdict.outcome is not Outcome.OK:
            raise ExchangeRefused(f"reply {item.key}", item.verdict)
        elif isinstance(item, Unknown):
            metrics.frames_unknown(name, item.type).inc()
            if item.type not in self._unknown:
                self._unknown.add(item.type)
                self._log.warning("unknown message type", action="unknown", type=item.type)
        elif isinstance(item, Malformed):
            metrics.frames_malformed(name).inc()
            if "malformed" not in self._unknown:
                self._unknown.add("malformed")
                self._log.warning("malformed frame", action="malformed", reason=item.reason)

    def _tick(self, socket: _Socket, now_s: float) -> None:
        """Everything that is due by the clock: pings, the end of the hold, renewal, audit, the way back from a full buffer."""
        liveness = self._exchange.user_liveness
        silent_s = now_s - socket.connection.last_rx
        if silent_s > liveness.timeout_s:
            raise ConnectionFailed("silent")
        pinged_s = now_s - socket.pinged_s
        quiet = silent_s >= liveness.interval_s and pinged_s >= liveness.interval_s
        if quiet or (liveness.keepalive_s and pinged_s >= liveness.keepalive_s):
            socket.pinged_s = now_s
            if liveness.ping is None:
                socket.connection.ping()
            else:
                socket.connection.send(liveness.ping)
        progress = self.progress
        if progress.holding and now_s >= self._held_until_s:
            progress.release()
        if self.state is StreamState.RECOVERING and not progress.holding and not progress.overflowed:
            self._move(StreamState.LIVE)
        if progress.overflowed:
            self._overflowed(socket, now_s)
        if self._exchange.renewal is not None and now_s >= self._renew_s:
            self._renew_s = now_s + self._settings.listenkey_renewal_s * (0.8 + 0.2 * self._worker.random())
            self._worker.readback.submit(lambda: self._renew(socket.ticket))
        if self.state is StreamState.LIVE and progress.gap is None:
            self._audit(socket, now_s)

    def _audit(self, socket: _Socket, now_s: float) -> None:
        """Compare with REST now and then, and at once when the bookkeeping says that the socket dropped something."""
        suspect = False
        if now_s >= self._suspect_s:
            suspect = self.progress.suspicious(SUSPECT_QUIET_MS)
            if suspect:
                self._suspect_pause_s = min(2 * self._suspect_pause_s, self._settings.audit_interval_s)
            self._suspect_s = now_s + self._suspect_pause_s
        if suspect or now_s >= self._audit_s:
            self._audit_s = now_s + self._settings.audit_interval_s * (0.8 + 0.4 * self._worker.random())
            self._read_back(socket, audit=True)

    def _overflowed(self, socket: _Socket, now_s: float) -> None:
        """Kafka is away and the buffer full: frames are read and dropped (pings are answered), and once there is room again a
        read-back from the watermark delivers what was dropped."""
        if self.progress.gap is None:
            self.progress.open_gap(self.progress.last_event_ms or self._alive_ms, "kafka")
            self._move(StreamState.RECOVERING, reason="kafka")
        if self._worker.publisher.has_room():
            self.progress.resume()
            self._held_until_s = now_s + self._settings.recover_hold_s
            socket.subscribed_ms = self.rest.now_ms()
            self._read_back(socket)

    def _renew(self, ticket: str) -> None:
        """Extend the listen key; a failed renewal fetches one at once. Runs in a REST thread."""
        renewal, exchange = self._exchange.renewal, self._exchange
        assert renewal is not None and exchange.ticket is not None and exchange.ticket_of is not None
        count = self._worker.metrics.listenkey_renewals
        for call in (renewal.call, exchange.ticket):
            try:
                named = exchange.ticket_of(self.rest.call(call, self.credentials, self._stop.is_set))
            except (ConnectionFailed, ExchangeRefused) as error:
                count(exchange.exchange, "error").inc()
                self._log.warning("listen key renewal failed", action="renew", error=str(error))
                if isinstance(error, ExchangeRefused) and getattr(error.verdict, "outcome", None) is Outcome.INVALID:
                    self.rejected(error.verdict)  # type: ignore[arg-type]
                    return
                continue
            count(exchange.exchange, "success").inc()
            current = self._socket
            if named and named != ticket and current is not None and current.ticket == ticket:
                self._verdict = Verdict(Outcome.TICKET_GONE)
                self._abort_socket()
            return
        self._renew_s = time.monotonic() + 30.0 + 30.0 * self._worker.random()

    def _replace(self, old: _Socket) -> None:
        """Rotation, make before break (R14): prove the new socket, read both for a moment, close the old one."""
        self._rotate = False
        self._move(StreamState.ROTATING)
        try:
            new = self._dial(StreamState.ROTATING)
        except (ConnectionFailed, ExchangeRefused) as error:
            self._log.warning("rotation failed, the old socket goes on", action="rotate", error=str(error))
            self._move(StreamState.LIVE)
            old.opened_s = time.monotonic() - self._exchange.limits.rotate_after_s + 60.0
            return
        self._socket = new
        until_s = time.monotonic() + OVERLAP_S
        try:
            while time.monotonic() < until_s and not self._stop.is_set():
                self._take_frames(old.connection.read(0.05))
                self._take_frames(new.connection.read(0.05))
        except ConnectionFailed:
            self._read_back(new)  # one of the two died meanwhile: make sure nothing fell between them
        finally:
            self._closed(old.connection)
        self.progress.event("rotated")
        self._move(StreamState.LIVE)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _failed(self, reason: str, text: str) -> None:
        """A life ended: the gap begins at the last instant at which the stream was proven alive."""
        if self._stop.is_set():
            return
        if self._reading is not None:
            self._reading.cancel()
        if self._verdict is not None and self._verdict.outcome is Outcome.TICKET_GONE:
            reason = "listen_key"
        self._reason = reason
        self._log.warning(
            "stream disconnected", action="disconnected", reason=reason, attempt=self._attempt, error=text
        )
        if self._socket is not None:
            self.progress.event("disconnected", reason)
        if self._alive_ms:
            self.progress.open_gap(self._alive_ms, reason)

    def _end(self) -> None:
        """Told to stop: hand everything read to Kafka, save the watermark."""
        if not self._loaded:
            return
        self._move(StreamState.DRAINING)
        self._close_socket()
        if self.progress.holding:
            self.progress.release()
        deadline_s = time.monotonic() + FLUSH_ON_STOP_S
        while not self.progress.flushed() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self.progress.note_alive()
        try:
            self._worker.accounts.save([(self.token, self.progress)])
        except FleetError as error:
            self._log.warning("watermark not saved; the next read-back is longer", action="stop", error=str(error))

    def _close_socket(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            self._closed(socket.connection)

    def _closed(self, connection: Connection) -> None:
        connection.close()
        self._worker.metrics.userdata_connections(self._exchange.exchange).dec()

    def _move(self, state: StreamState, **why: object) -> None:
        """The one place where the state changes."""
        if state is self.state:
            return
        lifecycle.check(self.state, state)
        before, self.state = self.state, state
        self._log.info("stream state", action="move", before=str(before), state=str(state), **why)
        if self._loaded:
            streams = self._worker.metrics.streams
            streams(self._exchange.exchange, str(before)).dec()
            streams(self._exchange.exchange, str(state)).inc()


def _expired() -> ExchangeRefused:
    return ExchangeRefused("listen key", Verdict(Outcome.TICKET_GONE))


def _label(error: ConnectionFailed) -> str:
    """A short, bounded reason for metrics and gaps."""
    words = error.reason.lower()
    for label in ("silent", "refused", "timed out", "reset", "closed", "given up", "protocol", "tls"):
        if label in words:
            return label.replace(" ", "_")
    return "connection"
