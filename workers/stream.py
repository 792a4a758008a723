"""One account's private stream: the data path on one screen. Runs as one blocking thread in a worker process.

    load → wait (backoff, permit) → connect → log in → subscribe → ask for the read-back → read → parse → publish
    on an error: classify it, open the gap at the last proven-alive instant, wait, again. For ever, until told to stop.

In: frames of the exchange. Out: events to `Progress` (and so to Kafka). What a venue needs is data (`fleet.core.exchange`);
there is no branch for any venue here. The thread never waits for REST while it has a socket to read: renewals, probes and
read-backs run in the worker's REST threads and reach this thread through `_verdict` and an aborted socket.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleet.core import lifecycle
from fleet.core.backoff import Patience, delay_s
from fleet.core.errors import ConnectionFailed, DialRefused, ExchangeRefused, FleetError, LeaseLost
from fleet.core.events import Event, UserRecord
from fleet.core.exchange import (
    REFUSED,
    Control,
    Exchange,
    Goodbye,
    Malformed,
    Outcome,
    Reply,
    TicketExpired,
    Unknown,
    UserItem,
    Verdict,
)
from fleet.core.model import AccountSpec, Credentials, StreamState, StreamStatus
from fleet.core.names import USER_CONNECTED, USER_CONNECTING, USER_RECONNECTED
from fleet.core.recovery import Scope
from fleet.runtime.logs import get
from fleet.runtime.metrics import Metrics
from fleet.runtime.settings import Settings
from workers.accounts import Accounts, Loaded
from workers.credentials import CredentialDesk
from workers.dial import Connect, Dialler, PrivateSocket, label
from workers.progress import Progress
from workers.publish import Gate, Publisher
from workers.readback import ReadBack, Reading
from workers.rest import VenueRest
from workers.upkeep import Upkeep

OVERLAP_S = 2.0  # both sockets of a rotation are read this long
STRIKE_DELAY_S = 10.0
PERMIT_RETRY_S = 5.0
SPARE_PAUSE_S, SPARE_PAUSE_MAX_S = 60.0, 3600.0  # until a refused channel is asked for again
BAN_WAIT_S = 60.0  # a 429, 418 or 403 at the handshake that does not say how long
TICK_MAX_S = 2.5  # a read waits no longer, whatever is due: what other threads want of a stream waits for it
BUSY_TICK_S = 1.0  # ... and while something is under way, or was a moment ago
BUSY_FOR_S = 10.0
TICK_MIN_S = 0.05
FLUSH_ON_STOP_S = 5.0


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
    connect: Connect
    shares: Callable[[Exchange], bool]  # do this venue's accounts share sockets here?
    random: Callable[[], float]


class AccountStream:
    """The stream of one account under one token."""

    spec: AccountSpec
    credentials: Credentials
    rest: VenueRest
    progress: Progress
    _dialler: Dialler
    _upkeep: Upkeep

    def __init__(self, account_id: str, token: int, worker: Worker) -> None:
        self.account_id, self.token, self.state, self.reconnects = account_id, token, StreamState.IDLE, 0
        self.socket: PrivateSocket | None = None
        self.patience = Patience()
        self._worker, self._settings = worker, worker.settings
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"account-{account_id[:8]}")
        self._log = get("stream").bind(stream=account_id, shard=worker.slot)
        self._loaded = self._lost = self._rotate = False
        self.known_here = False  # a read-back of this life is complete
        self._reading: Reading | None = None
        self._asking: Reading | None = None  # for orders that a gap left unasked; gives way to every read-back
        self._verdict: Verdict | None = None  # set by REST threads, taken by this one
        self._reason = "start"  # why the stream is not connected
        self._alive_ms = 0
        self._held_until_s = 0.0
        self._rotate_from_s = 0.0  # a rotation that found no permit is tried again then
        self._spare_pause_s = SPARE_PAUSE_S
        self.heard_s = 0.0  # time.monotonic() of the last event that the socket told
        self._unknown: set[str] = set()

    # ── for the shard ────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end; it flushes to Kafka, saves its watermark, and its state becomes `stopped`."""
        self._stop.set()
        self._abort_socket()

    def revoke(self) -> None:
        """The lease is lost: publish nothing from now on. `stop` is to follow, and wakes the thread."""
        self._lost = True
        if self._loaded:
            self.progress.revoke()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def ended(self) -> bool:
        return not self._thread.is_alive() and self.state is not StreamState.IDLE

    @property
    def running(self) -> bool:
        return self._loaded and not self.ended

    def rotate(self) -> None:
        """Replace the socket, make before break, at the next tick."""
        self._rotate = True

    @property
    def rotating(self) -> bool:
        return self._rotate or self.state is StreamState.ROTATING

    def silent_s(self, now_s: float) -> float:
        """Seconds since the socket last received anything; 0.0 without a socket."""
        socket = self.socket
        return now_s - socket.connection.last_rx if socket is not None else 0.0

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
    def give_up(self, verdict: Verdict) -> None:
        """The socket is not to be trusted any more: dial again, and judge `verdict` before."""
        self._verdict = verdict
        self._abort_socket()

    rejected = give_up  # a signed call was refused for its credentials

    def proven(self, reading: Reading) -> None:
        """A read-back is complete."""
        self.known_here = True
        of_gap = reading.audit in (None, "orders")
        if reading.recovered:
            by = "gap" if of_gap else "audit"
            self._worker.metrics.recovered(self.spec.exchange, by).inc(reading.recovered)
        if not of_gap:
            self._upkeep.audited(reading)
        elif reading.audit is None and self.progress.unasked:
            self._asking = asking = self._worker.readback.request(self, reading.subscribed_ms, audit="orders")
            if self.stopping():  # our thread may be past the place where it cancels
                asking.cancel()

    def _abort_socket(self) -> None:
        socket = self.socket
        if socket is not None:
            socket.connection.abort()
        if self._loaded:
            self._dialler.abort()

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
            self._cancel_reads()
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
        worker, spec, mark = self._worker, loaded.spec, loaded.mark
        self.spec, self.credentials = spec, loaded.credentials
        self.rest = worker.venue(spec)
        self.progress = Progress(
            spec, mark, self.token, worker.slot, worker.incarnation(), worker.publisher, worker.gate, worker.metrics
        )
        self._exchange = self.rest.exchange
        self._dialler = Dialler(
            spec,
            self.credentials,
            self.rest,
            worker.connect,
            worker.user_url,
            worker.metrics,
            self.stopping,
            shared=worker.shares(self._exchange),
        )
        self._upkeep = Upkeep(self, self._settings, worker.readback, worker.metrics, worker.random())
        self._loaded = True
        if self._lost:  # meanwhile: `revoke` looks at these two in the opposite order, so that one of us revokes
            self.progress.revoke()
        worker.metrics.streams(self._exchange.exchange, str(self.state)).inc()
        if loaded.known:
            now_ms = int(time.time() * 1000)  # a time to come was told by a clock that went back since
            known = [at_ms for at_ms in (mark.alive_ms, mark.last_event_ms, mark.proven_ms) if at_ms <= now_ms]
            self.progress.open_gap(max(known, default=now_ms), "moved")

    def _one_life(self) -> None:
        """Wait, dial, serve until something goes wrong, and say what. Never raises but LeaseLost."""
        opened_s = 0.0
        try:
            self._pause()
            self.socket = self._dial()
            opened_s = time.monotonic()
            self._connected(self.socket)
            self._serve()
        except ExchangeRefused as error:
            self._verdict = error.verdict if isinstance(error.verdict, Verdict) else None
            self._failed("refused", str(error))
        except DialRefused as error:
            if error.status in (403, 418, 429):
                self.rest.block_dials(error.retry_after_s or BAN_WAIT_S)
            self._failed("dial_refused", str(error))
        except ConnectionFailed as error:
            self._failed(label(error), str(error))
        except LeaseLost:
            raise
        except Exception as error:  # noqa: BLE001  # a bug must not end an account's stream for good: logged, tried again
            self._log.exception("stream failed unexpectedly", action="bug", attempt=self.patience.attempt)
            self._failed("bug", type(error).__name__)
        finally:
            self._close_socket()
        now_s = time.monotonic()
        self.patience = self.patience.after(now_s - opened_s if opened_s else 0.0, now_s)
        self._judge()

    def _pause(self) -> None:
        """Backoff by full jitter; the breaker slows a stream that keeps failing down, it never gives it up."""
        now_s = time.monotonic()
        wait_s = 0.0 if self._reason == "start" else self.patience.pause_s(now_s, self._worker.random)
        self._move(StreamState.WAITING, attempt=self.patience.attempt, delay_s=round(wait_s, 3), reason=self._reason)
        if self.patience.breaker.is_open(now_s):
            self._move(StreamState.SUSPENDED, attempt=self.patience.attempt)
        if self._stop.wait(wait_s):
            raise ConnectionFailed("stopped")

    def _judge(self) -> None:
        """What a verdict of the exchange means for the next life."""
        verdict, self._verdict = self._verdict, None
        if verdict is None or self._stop.is_set():
            return
        if verdict.outcome in REFUSED:
            self._move(StreamState.REJECTED, code=verdict.code)
            self._worker.desk.strike(self.spec, verdict)
            self._stop.wait(STRIKE_DELAY_S)
            self.rest.resync()  # some venues call a wrong timestamp a failed login
            if not self._stop.is_set() and self._worker.desk.confirm(
                self.spec, self.credentials, self.rest, self.stopping
            ):
                self.progress.event("deactivated", f"credentials: code {verdict.code}")
                self._stop.set()
        elif verdict.outcome is Outcome.CLOCK:
            self.rest.resync()
        elif verdict.outcome is Outcome.RATE:
            self.rest.block_dials(verdict.wait_s or BAN_WAIT_S)
        elif verdict.outcome is Outcome.PERMANENT:
            self._log.error("the exchange refuses, and not for the credentials", action="refused", code=verdict.code)

    def _dial(self) -> PrivateSocket:
        self._dialler.permit(self.progress.traded_ms)
        self._move(StreamState.CONNECTING)
        self._log.info(USER_CONNECTING, action="dial", exchange=self._exchange.name, attempt=self.patience.attempt)
        return self._dialler.open(lambda phase: self._move(StreamState(phase)))

    def _connected(self, socket: PrivateSocket) -> None:
        """Streaming: tell everybody, and ask for what was missed."""
        attempt = self.patience.attempt
        self._move(StreamState.RECOVERING)
        self._log.info(USER_CONNECTED, action="connected", exchange=self._exchange.name, attempt=attempt)
        if self._reason != "start":
            self.reconnects += 1
            self._worker.metrics.userdata_reconnects(self._exchange.exchange, self._reason).inc()
            self._log.info(USER_RECONNECTED, action="reconnected", reason=self._reason, attempt=attempt)
        self.progress.event("connected", self._reason)
        self._hold()
        self._upkeep.begin()
        self._take(socket.early)

    def _hold(self) -> None:
        """Live events wait (not for long) for the read-back that is asked for now, so that they come after what was missed."""
        self.progress.hold()
        self._held_until_s = time.monotonic() + self._settings.recover_hold_s
        self.read_back()

    def read_back(self, *, audit: Scope | None = None) -> None:
        """Read everything since the watermark by REST; an audit only looks whether that is needed, and not while the other is under
        way."""
        before = self._reading
        if self.socket is not None and not (audit is not None and before is not None and before.under_way):
            if audit is None:
                self._cancel_reads()
                self.progress.taken_over(self.socket.subscribed_ms)
            self._reading = self._worker.readback.request(self, self.socket.subscribed_ms, audit=audit)

    def _cancel_reads(self) -> None:
        for reading in (self._reading, self._asking):
            if reading is not None:
                reading.cancel()

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _serve(self) -> None:
        """Read until the socket dies, is given up, or has to be replaced before the exchange cuts it."""
        while not self._stop.is_set() and (socket := self.socket) is not None:
            looked_s = time.monotonic()
            frames = socket.connection.read(self._patience_s(socket, looked_s))
            now_s = time.monotonic()
            self._alive_ms = int((time.time() - (now_s - socket.connection.last_rx)) * 1000)
            if frames:
                self._take_frames(frames)
            self._tick(socket, looked_s, now_s)
            old = now_s - socket.opened_s > self._exchange.limits.rotate_after_s
            due = self._rotate or old or now_s > socket.rotate_s
            if due and now_s >= self._rotate_from_s:
                self._replace(socket)

    def _patience_s(self, socket: PrivateSocket, now_s: float) -> float:
        """How long a read may wait. A thousand quiet streams that look each second keep a process busy with nothing."""
        if self.state is not StreamState.LIVE or self.progress.gap is not None or now_s < self.heard_s + BUSY_FOR_S:
            return min(TICK_MAX_S, BUSY_TICK_S)
        return min(TICK_MAX_S, max(TICK_MIN_S, self._upkeep.wait_s(socket, now_s)))

    def _take_frames(self, frames: list[bytes]) -> None:
        parse, now_ms = self._exchange.parse_user, int(time.time() * 1000)
        items: list[UserItem] = []
        for frame in frames:
            items += parse(frame, self.account_id, now_ms)
        self._take(items)

    def _take(self, items: list[UserItem]) -> None:
        events: list[UserRecord] = [item for item in items if isinstance(item, Event)]
        if events:
            self.heard_s = time.monotonic()
            self.progress.live(events)
            if self._reading is not None:
                self._worker.readback.hurry(self._reading)
        for item in items:
            if not isinstance(item, Event):
                self._control(item)

    def _control(self, item: Control) -> None:
        metrics, name = self._worker.metrics, self._exchange.name
        if isinstance(item, TicketExpired):
            raise ExchangeRefused("listen key", Verdict(Outcome.TICKET_GONE))
        if isinstance(item, Goodbye):
            self._rotate = True
            self._log.info("the exchange will close this socket", action="goodbye", reason=item.reason)
        elif isinstance(item, Reply) and item.verdict.outcome is not Outcome.OK:
            if (
                self.socket is None
                or item.key not in self.socket.spare
                or item.verdict.outcome is not Outcome.PERMANENT
            ):
                raise ExchangeRefused(f"reply {item.key}", item.verdict)
            self._do_without(self.socket, item)
        elif isinstance(item, Unknown):
            metrics.frames_unknown(name, item.type).inc()
            self._once(f"unknown {item.type}", "unknown message type", action="unknown", type=item.type)
        elif isinstance(item, Malformed):
            metrics.frames_malformed(name).inc()
            self._once("malformed", "malformed frame", action="malformed", reason=item.reason)

    def _do_without(self, socket: PrivateSocket, refusal: Reply) -> None:
        """A channel that tells no fill is refused, or was ended: a rotation asks for it again, later each time."""
        socket.rotate_s = time.monotonic() + self._spare_pause_s
        text = "a channel is refused, the stream goes on without it"
        code, again_s = refusal.verdict.code, round(self._spare_pause_s)
        self._log.error(text, action="refused", channel=refusal.key, code=code, again_s=again_s)
        self._spare_pause_s = min(2 * self._spare_pause_s, SPARE_PAUSE_MAX_S)

    def _once(self, key: str, text: str, **fields: str) -> None:
        """Log the first of its kind; the metric counts all."""
        if key not in self._unknown:
            self._unknown.add(key)
            self._log.warning(text, **fields)

    def _tick(self, socket: PrivateSocket, looked_s: float, now_s: float) -> None:
        """Everything that is due by the clock. Raises ConnectionFailed for a socket that is dead or was given up."""
        if self._verdict is not None:
            raise ConnectionFailed("given up")
        progress = self.progress
        if progress.holding and now_s >= self._held_until_s:
            progress.release()
        if self.state is StreamState.RECOVERING and not progress.holding and not progress.overflowed:
            self._move(StreamState.LIVE)
        if progress.overflowed:
            self._overflowed(socket)
        self._upkeep.tick(socket, looked_s, now_s, proven=self.state is StreamState.LIVE and progress.gap is None)

    def _overflowed(self, socket: PrivateSocket) -> None:
        """Kafka is away and the buffer full: frames are read and dropped (pings are answered), and once there is room again a
        read-back from the watermark delivers what was dropped."""
        self.progress.open_gap(self.progress.overflowed_ms, "kafka")
        self._move(StreamState.RECOVERING, reason="kafka")
        if self._worker.publisher.has_room():
            self.progress.resume()
            socket.subscribed_ms = self.rest.now_ms()
            self._hold()

    def _replace(self, old: PrivateSocket) -> None:
        """Rotation, make before break (R14): prove the new socket, read both for a moment, close the old one, which is read all the
        while: a dial may take long."""
        if not self._dialler.permit_now():  # not waited for: the old socket has to be read
            self._rotate_from_s = time.monotonic() + PERMIT_RETRY_S
            return
        before, ends = self.state, list[ConnectionFailed | ExchangeRefused]()
        self._move(StreamState.ROTATING)

        def read_old() -> None:
            try:
                if not ends:
                    self._take_frames(old.connection.read(0.0))
            except (ConnectionFailed, ExchangeRefused) as error:
                ends.append(error)

        try:
            new = self._dialler.open(lambda phase: None, patient=False, beside=read_old)
        except (ConnectionFailed, ExchangeRefused) as error:
            self._log.warning("rotation failed, the old socket goes on", action="rotate", error=str(error))
            self._move(before)
            self._rotate = False
            old.opened_s = time.monotonic() - self._exchange.limits.rotate_after_s + 60.0
            old.rotate_s = math.inf
            if ends:
                raise ends[0] from None
            return
        self.socket, self._rotate = new, False
        until_s = time.monotonic() + OVERLAP_S
        try:
            if ends:
                raise ends[0]
            self._take(new.early)
            while time.monotonic() < until_s and not self._stop.is_set():
                self._take_frames(old.connection.read(0.05))
                self._take_frames(new.connection.read(0.05))
        except ConnectionFailed:
            self.read_back()  # one of the two died meanwhile: make sure nothing fell between them
        finally:
            self._dialler.close(old.connection)
        self.progress.event("rotated")
        self._move(before)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _failed(self, reason: str, text: str) -> None:
        """A life ended. A thousand that are cut together take that in by turns, or nobody beats meanwhile."""
        if not self._stop.is_set():
            with self.rest.crowd.work():
                self._take_in(reason, text)

    def _take_in(self, reason: str, text: str) -> None:
        """The gap begins at the last instant at which the stream was proven alive."""
        self._cancel_reads()
        if self._verdict is not None and self._verdict.outcome is Outcome.TICKET_GONE:
            reason = "listen_key"
        self._reason = reason
        attempt = self.patience.attempt
        self._log.warning("stream disconnected", action="disconnected", reason=reason, attempt=attempt, error=text)
        if self.socket is not None:
            self.progress.event("disconnected", reason)
        if self._alive_ms:
            self.progress.open_gap(self._alive_ms, reason)

    def _end(self) -> None:
        """Told to stop: hand everything read to Kafka, save the watermark. What Kafka has not taken by then is left to the next
        owner, who reads it back: published later it would come after what that one publishes."""
        if not self._loaded:
            return
        self._move(StreamState.DRAINING)
        until_ms = int(time.time() * 1000)
        self._close_socket()
        self._cancel_reads()
        if self.progress.holding:
            self.progress.release()
        deadline_s = time.monotonic() + FLUSH_ON_STOP_S
        while not self.progress.flushed() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if self.progress.flushed():
            self.progress.note_alive(until_ms)
        else:
            self.progress.revoke()
            self._worker.publisher.recall()
        try:
            self._worker.accounts.save_last(self.token, self.progress)
        except FleetError as error:
            self._log.warning("watermark not saved; the next read-back is longer", action="stop", error=str(error))

    def _close_socket(self) -> None:
        socket, self.socket = self.socket, None
        if socket is not None:
            self._dialler.close(socket.connection)

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
            if state is not StreamState.STOPPED:  # the end: nobody would take it off the count again
                streams(self._exchange.exchange, str(state)).inc()
