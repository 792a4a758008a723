"""Read-backs: what a gap may have missed, read again by REST and handed to the stream's progress. Runs in the worker.

A few REST threads serve all accounts at a venue (from one address), most urgent first, so that no socket reader ever waits for REST
and a crowd of reconnecting accounts shares the exchange's weight limit in order (`workers/rest_queue.py`). An exchange that bans us
holds up the threads of its own accounts, and nobody else's. The dialogue itself (which
calls, windows, paging) is the venue's pure plan, `Exchange.recover`; this module only carries it out.

After the first read the live frames that were held are released; REST lags the engine, so a second read follows
`second_read_s` later, and only then is the gap closed and the watermark moved. A read that starts that late anyway is both; a
first one that does not is about fills only, as the second is full. A read of a new socket closes the gaps before it too. Where the
account or orders show a fill of before the socket that no call tells yet, REST lags more: it is read again, at most four times.
Failures are retried for ever, with backoff; the live stream goes on meanwhile.

Orders that came and went unfilled leave no trace in a snapshot. What the full read did not ask about them is asked once the gap has
closed (scope `orders`), behind everything else and out of weight that others leave: nobody waits for that.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

from fleet.core.backoff import delay_s
from fleet.core.errors import ConnectionFailed, ExchangeRefused, LeaseLost, NoPermit
from fleet.core.events import Fill
from fleet.core.exchange import REFUSED, Outcome, Recovered, Verdict
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Scope, Watermark
from fleet.runtime.logs import get
from workers.progress import Progress
from workers.rest import RESERVED_SHARE, VenueRest
from workers.rest_queue import THREADS, WHENEVER, Job, RestQueue

# How much later than a gap's beginning its read-back is due; the oldest first among equals, and nobody waits for ever.
EXPOSED_S = 30.0  # an account that has positions or open orders and did not trade within TRADED_MS
QUIET_S = 60.0  # one that has nothing
AGAIN_S = 30.0  # the second read of one of these, when the first found nothing
AUDIT_S = 300.0
MAX_LATE = 4  # further reads for fills that REST does not tell yet: 8, 16, 32 and 64 s after one another
YOUNG_MS = 600_000
TRADED_MS = 3_600_000
CROWD = 100  # with so many waiting, an account that is not urgent is read once, late enough, and after those that are
BEHIND_S = 2.0  # it looks this often whether they are through, ...
BEHIND_MOST_S = 120.0  # ... for so long: theirs may have to wait for the next minute's weight, ...
AFTER_S = 3.0  # and so much longer: those of other workers, which share that weight, may need a moment more
# Of the weight that reads which are not urgent, audits, and reads of orders leave to others.
PATIENT_SHARE, AUDIT_SHARE, ORDERS_SHARE = 0.2, 0.5, 0.75
MAX_TOO_FAST, MAX_FAILURES = 10, 3  # times in a row that one call of a plan is made again
ORDERS_PAUSE_S = 10.0  # a read of orders that finds no weight gives its thread back for so long


class Readable(Protocol):
    """What of an account stream a read-back needs."""

    spec: AccountSpec
    credentials: Credentials
    rest: VenueRest
    progress: Progress
    known_here: bool

    def rejected(self, verdict: Verdict) -> None: ...
    def proven(self, reading: Reading) -> None: ...


class Reading:
    """One read-back of one account: first read, second read, done. Given up by `cancel` when a newer one replaces it. `audit`:
    how much an audit asks for, `orders` for what a gap left unasked, None for a read-back after a gap."""

    def __init__(
        self,
        stream: Readable,
        subscribed_ms: int,
        over: Callable[[Reading], None],
        *,
        audit: Scope | None = None,
    ) -> None:
        """`over` hears, from any thread and perhaps twice, that it is done or cancelled."""
        self.stream = stream
        self._over = over
        self.subscribed_ms = subscribed_ms  # exchange time from which the socket delivers
        self.audit = audit
        self.asked_s = time.monotonic()
        self.urgent = False
        self.turn = -1  # the entry in the queue that counts; older ones do nothing
        self.reads = 0
        self.attempt = 0
        self.late = 0  # reads that were ahead of what REST tells
        self.recovered = 0
        self.only_rest_ms = (
            0  # exchange time of the oldest fill that REST told us first (order times may differ by venue)
        )
        self.read_ms = 0  # exchange time of the last read
        self.done = self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        self._over(self)

    def finish(self) -> None:
        """It is complete: the stream hears of it."""
        self.done = True
        self._over(self)
        self.stream.proven(self)

    @property
    def under_way(self) -> bool:
        return not self.done and not self.cancelled


class ReadBack:
    """Read-backs of all accounts of this worker."""

    def __init__(
        self,
        *,
        margin_s: float,
        second_read_s: float,
        random: Callable[[], float],
        stop: threading.Event,
        threads: int = THREADS,
    ) -> None:
        """`threads`: of each venue and address."""
        self._margin_ms, self._second_read_ms = int(margin_s * 1000), int(second_read_s * 1000)
        self._random, self._stop = random, stop
        self._threads, self._started = threads, False
        self._turns = itertools.count()
        self._lock = threading.Lock()  # guards _started and the following three
        self._queues: dict[VenueRest, RestQueue] = {}  # by venue and address
        self._under_way: set[Reading] = set()  # those after a gap
        self._urgent_s: dict[VenueRest, float] = {}  # venue and address → when an urgent one was over last
        self._log = get("readback")

    def start(self) -> ReadBack:
        with self._lock:
            self._started = True
            for queue in self._queues.values():
                queue.start()
        return self

    def join(self, timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        with self._lock:
            queues = list(self._queues.values())
        for queue in queues:
            queue.join(max(0.0, deadline_s - time.monotonic()))

    def _queue_of(self, rest: VenueRest) -> RestQueue:
        with self._lock:
            queue = self._queues.get(rest)
            if queue is None:
                queue = self._queues[rest] = RestQueue(self._stop, self._threads)
            if self._started:
                queue.start()
            return queue

    def request(self, stream: Readable, subscribed_ms: int, *, audit: Scope | None = None) -> Reading:
        """Ask for a read-back since the stream's watermark; it starts as soon as a thread is free."""
        reading = Reading(stream, subscribed_ms, self._over, audit=audit)
        if audit is None:
            with self._lock:
                self._under_way.add(reading)
        self._line_up(reading, 0.0)
        return reading

    def hurry(self, reading: Reading) -> None:
        """The socket tells that the account trades: its first read is urgent now."""
        if not reading.urgent and reading.audit is None and not reading.reads:
            reading.urgent = True
            self._line_up(reading, 0.0)

    def submit(self, rest: VenueRest, job: Job, delay_s: float = 0.0) -> None:
        """Run `job` in a REST thread of the venue after `delay_s`, before anything else (listen-key renewals)."""
        self._queue_of(rest).submit(job, delay_s)

    def _line_up(self, reading: Reading, delay_s: float) -> None:
        turn = reading.turn = next(self._turns)

        def read() -> None:
            if reading.turn != turn or reading.cancelled:
                return
            try:
                self._read(reading)
            except LeaseLost:
                raise
            except Exception as error:  # noqa: BLE001  # a reply that is not what the sheet says, or a bug: a gap may not stay open for it
                self._log.exception("read-back: unexpected", action="readback", stream=reading.stream.spec.id)
                self._again(reading, type(error).__name__)

        self._queue_of(reading.stream.rest).submit(read, delay_s, self._deadline_s(reading))

    def _over(self, reading: Reading) -> None:
        with self._lock:
            if reading in self._under_way:  # not for the second time: a stream also cancels what has long been done
                self._under_way.remove(reading)
                if reading.urgent:
                    self._urgent_s[reading.stream.rest] = time.monotonic()

    def _deadline_s(self, reading: Reading) -> float:
        """Urgent is an account that traded of late, of which something was missed, or whose socket has told something."""
        if reading.audit is not None:
            return WHENEVER if reading.audit == "orders" else reading.asked_s + AUDIT_S
        progress, now_ms = reading.stream.progress, int(time.time() * 1000)
        begun_ms = min((gap.opened_ms for gap in progress.gaps), default=now_ms)
        begun_s = min(reading.asked_s, time.monotonic() - (now_ms - begun_ms) / 1000)
        reading.urgent = reading.urgent or reading.recovered > 0 or progress.traded_ms > begun_ms - TRADED_MS
        if reading.urgent:
            return begun_s
        return begun_s + (EXPOSED_S if progress.exposed else QUIET_S) + (AGAIN_S if reading.reads else 0.0)

    def _others_first(self, reading: Reading) -> bool:
        """Do urgent ones of its venue and address want the same weight, and not just what REST does not tell yet?"""
        rest, now_s = reading.stream.rest, time.monotonic()
        if now_s > reading.asked_s + BEHIND_MOST_S:
            return False
        with self._lock:
            just_over = now_s < self._urgent_s.get(rest, -AFTER_S) + AFTER_S
            return just_over or any(r.urgent and not r.late and r.stream.rest is rest for r in self._under_way)

    # ── one read ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _read(self, reading: Reading) -> None:
        stream, progress = reading.stream, reading.stream.progress
        if reading.audit == "orders" and not progress.unasked:  # answered meanwhile, by the question before
            reading.done = True
            return
        started_ms = stream.rest.now_ms()
        if reading.audit is None and not reading.urgent and len(self._under_way) > CROWD:
            early_ms = 0 if reading.reads else reading.subscribed_ms + self._second_read_ms - started_ms
            if early_ms > 0 or self._others_first(reading):
                self._line_up(reading, max(early_ms / 1000, BEHIND_S * self._random()))
                return
        scope = self._scope(reading, started_ms)
        mark = progress.mark_for_reading(self._margin_ms, scope)
        mark.behind = not stream.known_here
        try:
            found = self._carry_out(reading, mark)
        except NoPermit:
            self._line_up(reading, ORDERS_PAUSE_S * (0.5 + self._random()))
            return
        except ConnectionFailed as error:
            self._again(reading, str(error))
            return
        except ExchangeRefused as error:
            self._refused(reading, error)
            return
        if reading.cancelled:
            return
        if scope == "orders":
            self._answered(reading, found)
            return
        if found.snapshot.at_ms < reading.subscribed_ms:  # asked for after it: the exchange's clock went back
            reading.subscribed_ms = found.snapshot.at_ms
            progress.clock_went_back(found.snapshot.at_ms)
        started_ms = min(started_ms, found.snapshot.at_ms)
        reading.reads += 1
        reading.attempt = 0
        published = progress.recovered(found.events, found.canceled)
        if published is None:
            return  # Kafka's buffer is full again: the stream asks anew once there is room
        reading.recovered += len(published)
        # An older one was a read's to find, which an old REST hid it from: no sign of what this socket does.
        first_told = [e.ts_event for e in published if isinstance(e, Fill) and e.ts_event >= mark.proven_ms]
        reading.only_rest_ms = min(filter(None, (*first_told, reading.only_rest_ms)), default=0)
        reading.read_ms = started_ms
        if found.unasked and reading.audit is None and progress.gaps:
            progress.leave_unasked(mark.proven_ms)
        self._judge(reading, found, mark, started_ms)

    def _answered(self, reading: Reading, found: Recovered) -> None:
        """A read of orders is complete. What is refused for good will not be told by asking again."""
        if found.unrecoverable:
            stream = reading.stream.spec.id
            self._log.warning("orders not told", action="orders", stream=stream, error=found.unrecoverable)
        reading.recovered = len(reading.stream.progress.asked(found.events))
        reading.finish()

    def _scope(self, reading: Reading, started_ms: int) -> Scope:
        """A gap is closed by a full read that starts late enough for REST to tell everything before its end. An earlier one is
        about fills, but for the first in a stream's life: nobody here knows what was before."""
        if reading.audit is not None:
            return reading.audit
        settled_ms = started_ms - self._second_read_ms
        late = reading.subscribed_ms <= settled_ms or reading.stream.progress.closes(settled_ms)
        return "full" if late or not reading.stream.known_here else "fills"

    def _judge(self, reading: Reading, found: Recovered, mark: Watermark, started_ms: int) -> None:
        """What a read has proven, and whether another one has to follow."""
        stream, progress, scope = reading.stream, reading.stream.progress, mark.scope
        settled_ms = started_ms - self._second_read_ms
        if reading.audit is not None:
            if not found.explained and reading.reads == 1:
                # The snapshot may show a fill that no call tells yet. As a base it would explain that fill away.
                self._line_up(reading, self._second_read_ms / 1000)
                return
            late = 0 < found.untold_ms < settled_ms
            if (late or _is_ahead(found, settled_ms)) and self._waits(reading, found):
                return
            if late:
                progress.lose(found.untold_ms, "audit", _untold(found))
            progress.prove(found.snapshot, found.snapshot.at_ms - self._margin_ms, scope)
            reading.finish()
            return
        if reading.subscribed_ms <= settled_ms:
            unrecoverable, untold = found.unrecoverable, 0 < found.untold_ms < reading.subscribed_ms
            if untold:
                if self._waits(reading, found):
                    return
                unrecoverable = _untold(found)
            if not (_is_ahead(found, reading.subscribed_ms) and _is_young(mark, started_ms)):
                progress.prove(found.snapshot, reading.subscribed_ms)
            if not progress.close_gaps(settled_ms, unrecoverable) and untold:  # a new account's first read closes none
                progress.lose(found.untold_ms, "start", unrecoverable)
            reading.finish()
            return
        # A base for the second read, which is cheap then if it explains. What REST did not show yet makes the two disagree, and
        # is read again from the margin before this; what was not asked for, from where the watermark is. Where something
        # could not be read or explained, the second one tries all of it again, and it is the one that says so.
        if found.explained and not found.unrecoverable:
            whole = scope == "full"
            progress.prove(found.snapshot, reading.subscribed_ms - self._margin_ms if whole else 0, scope)
        if scope == "full" and not 0 < found.untold_ms < settled_ms:
            progress.close_gaps(settled_ms, found.unrecoverable)
        wait_s = max(0.5, (reading.subscribed_ms - stream.rest.now_ms() + self._second_read_ms) / 1000 + 0.2)
        self._line_up(reading, wait_s)

    def _waits(self, reading: Reading, found: Recovered) -> bool:
        """Fills that are shown and not told are waited for: as a base the snapshot would explain them away. False = no longer."""
        if reading.late >= MAX_LATE:
            return False
        wait_s = self._second_read_ms / 1000 * 2**reading.late
        self._log.warning(
            "fills are not told yet, reading again",
            action="readback",
            stream=reading.stream.spec.id,
            since_ms=found.untold_ms,
            delay_s=wait_s,
        )
        self._line_up(reading, wait_s)
        reading.late += 1
        return True

    def _carry_out(self, reading: Reading, mark: Watermark) -> Recovered:
        """Drive the venue's plan: each yielded call is carried out and its OK reply sent back in. One that failed is made again: a
        plan of many calls, begun anew each time one of them fails or comes too fast, would never end."""
        stream, patient = reading.stream, mark.scope != "orders"
        share = AUDIT_SHARE if reading.audit else RESERVED_SHARE if reading.urgent else PATIENT_SHARE
        share = share if patient else ORDERS_SHARE
        plan = stream.rest.exchange.recover(stream.spec, mark, stream.rest.now_ms())
        try:
            call, replies, failures = next(plan), 0, 0
            while True:
                try:
                    reply = stream.rest.call(
                        call, stream.credentials, lambda: reading.cancelled, reserved_share=share, patient=patient
                    )
                except (ConnectionFailed, ExchangeRefused) as error:
                    outcome = _outcome(error)
                    if outcome is Outcome.PERMANENT:
                        call, failures = plan.throw(error), 0
                    elif self._worth_another(reading, outcome, replies, failures):
                        failures += 1
                    else:
                        raise
                else:
                    call, replies, failures = plan.send(reply), replies + 1, 0
        except StopIteration as end:
            found: Recovered = end.value
            return found

    def _worth_another(self, reading: Reading, outcome: Outcome | None, replies: int, failures: int) -> bool:
        """After a pause, for what may succeed then. What came too fast finds no permit before the exchange's wait is over. An
        exchange that has answered nothing yet may be away: this thread is not kept waiting for it."""
        if outcome is Outcome.RATE:
            return failures < MAX_TOO_FAST
        if outcome is not Outcome.TRANSIENT or not replies or failures >= MAX_FAILURES:
            return False
        return not self._stop.wait(delay_s(failures, self._random)) and not reading.cancelled

    def _refused(self, reading: Reading, error: ExchangeRefused) -> None:
        verdict = error.verdict
        if isinstance(verdict, Verdict) and verdict.outcome in REFUSED:
            reading.stream.rejected(verdict)
        else:
            self._again(reading, str(error))

    def _again(self, reading: Reading, why: str) -> None:
        if not reading.under_way or self._stop.is_set():
            return
        reading.attempt += 1
        self._log.warning(
            "read-back failed, will be tried again",
            action="readback",
            stream=reading.stream.spec.id,
            attempt=reading.attempt,
            error=why,
        )
        pause_s = delay_s(reading.attempt, self._random, cap_s=30.0)
        self._line_up(reading, pause_s)


def _outcome(error: ConnectionFailed | ExchangeRefused) -> Outcome | None:
    if isinstance(error, ConnectionFailed):
        return None if isinstance(error, NoPermit) else Outcome.TRANSIENT
    return error.verdict.outcome if isinstance(error.verdict, Verdict) else None


def _is_ahead(found: Recovered, since_ms: int) -> bool:
    """Does the snapshot show a fill of since then that no call tells yet? Where the socket drops it, it would be explained away by
    that snapshot as a base."""
    return not found.explained and found.untold_ms >= since_ms > 0


def _is_young(mark: Watermark, now_ms: int) -> bool:
    """May the base stay as it is? What follows it is read again by the next read."""
    return mark.base is not None and now_ms - mark.base.at_ms < YOUNG_MS


def _untold(found: Recovered) -> str:
    return f"fills at {found.untold_ms} ms, which the exchange does not tell"
