"""Read-backs: what a gap may have missed, read again by REST and handed to the stream's progress. Runs in the worker.

A few REST threads serve all accounts of the worker, most urgent first, so that no socket reader ever waits for REST and a
crowd of reconnecting accounts shares the exchange's weight limit in order. The dialogue itself (which calls, windows, paging)
is the venue's pure plan, `Exchange.recover`; this module only carries it out.

After the first read the live frames that were held are released; REST lags the engine, so a second read follows
`second_read_s` later, and only then is the gap closed and the watermark moved. A read that starts that late anyway is both.
Failures are retried for ever, with backoff; the live stream goes on meanwhile.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

from fleet.core.backoff import delay_s
from fleet.core.errors import ConnectionFailed, ExchangeRefused, LeaseLost
from fleet.core.events import Fill
from fleet.core.exchange import Outcome, Recovered, Verdict
from fleet.core.model import AccountSpec, Credentials
from fleet.runtime.logs import get
from workers.progress import Progress
from workers.rest import VenueRest

THREADS = 6
LIVE_LAG_MS = 5000  # REST may tell an event a little before the socket does: that is not loss
URGENT, ROUTINE = 0, 10

Job = Callable[[], None]
Priority = tuple[int, int]  # URGENT or ROUTINE, then lower first


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
    """One read-back of one account: first read, second read, done. Given up by `cancel` when a newer one replaces it."""

    def __init__(self, stream: Readable, subscribed_ms: int, *, audit: bool = False) -> None:
        self.stream = stream
        self.subscribed_ms = subscribed_ms  # exchange time from which the socket delivers
        self.audit = audit
        self.reads = 0
        self.attempt = 0
        self.recovered = 0
        self.deaf_since_ms = (
            0  # exchange time of the oldest fill that only REST told us (audits; order times may differ by venue)
        )
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class ReadBack:
    """The worker's REST threads and their queue, by urgency, then by time."""

    def __init__(
        self,
        *,
        margin_s: float,
        second_read_s: float,
        random: Callable[[], float],
        stop: threading.Event,
        threads: int = THREADS,
    ) -> None:
        self._margin_ms, self._second_read_s, self._random, self._stop = (
            int(margin_s * 1000),
            second_read_s,
            random,
            stop,
        )
        self._changed = threading.Condition()  # guards _later and _ready
        self._later: list[tuple[float, int, Priority, Job]] = []  # heap of jobs that are not due yet, by time
        self._ready: list[tuple[Priority, int, Job]] = []  # heap of jobs that are, by urgency, then in order of arrival
        self._numbers = itertools.count()
        self._log = get("readback")
        self._threads = [threading.Thread(target=self._run, name=f"rest-{n}") for n in range(threads)]

    def start(self) -> ReadBack:
        for thread in self._threads:
            thread.start()
        return self

    def join(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def request(self, stream: Readable, subscribed_ms: int, *, audit: bool = False) -> Reading:
        """Ask for a read-back since the stream's watermark; it starts as soon as a thread is free."""
        reading = Reading(stream, subscribed_ms, audit=audit)
        self.submit(lambda: self._read(reading), 0.0, self._priority(reading))
        return reading

    def submit(self, job: Job, delay_s: float = 0.0, priority: Priority = (URGENT, 0)) -> None:
        """Run `job` in a REST thread after `delay_s` (listen-key renewals too)."""
        with self._changed:
            heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._numbers), priority, job))
            self._changed.notify()

    def _priority(self, reading: Reading) -> Priority:
        """Gaps before audits; among them the account that traded last comes first: it has most to lose."""
        return (ROUTINE if reading.audit else URGENT, -reading.stream.progress.last_event_ms)

    # ── the threads ──────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        while not self._stop.is_set():
            job = self._next()
            if job is None:
                continue
            try:
                job()
            except LeaseLost:
                continue  # the stream's own thread ends it
            except Exception:  # noqa: BLE001  # a bug in one account's job must not take the REST threads from the others
                self._log.exception("REST job failed", action="rest")

    def _next(self) -> Job | None:
        with self._changed:
            self._collect_due()
            if not self._ready:
                self._changed.wait(min(0.5, self._later[0][0] - time.monotonic()) if self._later else 0.5)
                self._collect_due()
            return heapq.heappop(self._ready)[2] if self._ready else None

    def _collect_due(self) -> None:
        now_s = time.monotonic()
        while self._later and self._later[0][0] <= now_s:
            _, number, priority, job = heapq.heappop(self._later)
            heapq.heappush(self._ready, (priority, number, job))

    def _read(self, reading: Reading) -> None:
        stream = reading.stream
        if reading.cancelled:
            return
        started_ms = stream.rest.now_ms()
        try:
            found = self._carry_out(reading)
        except ConnectionFailed as error:
            self._again(reading, str(error))
            return
        except ExchangeRefused as error:
            self._refused(reading, error)
            return
        except (ValueError, LookupError) as error:  # a reply that is not what the sheet says: visible, and tried again
            self._log.exception("read-back: unexpected reply", action="readback", stream=stream.spec.id)
            self._again(reading, type(error).__name__)
            return
        if reading.cancelled:
            return
        reading.reads += 1
        reading.attempt = 0
        published = stream.progress.recovered(found.events)
        if stream.progress.overflowed:
            return  # Kafka's buffer is full again: the stream asks anew once there is room
        reading.recovered += len(published)
        old = [e.ts_event for e in published if isinstance(e, Fill) and e.ts_event < started_ms - LIVE_LAG_MS]
        reading.deaf_since_ms = min(old, default=0)
        late_enough = started_ms >= reading.subscribed_ms + self._second_read_s * 1000
        if late_enough or reading.audit:
            self._complete(reading, found)
        else:
            # A base for the second read, which is cheap then if it explains. What REST did not show yet makes the two
            # disagree, and is read again from the margin before this. Where something could not be read, the second one tries
            # all of it again, and it is the one that says so.
            if not found.unrecoverable:
                stream.progress.prove(found.snapshot, reading.subscribed_ms - self._margin_ms)
            wait_s = max(0.5, (reading.subscribed_ms - stream.rest.now_ms()) / 1000 + self._second_read_s + 0.2)
            self.submit(lambda: self._read(reading), wait_s, self._priority(reading))

    def _carry_out(self, reading: Reading) -> Recovered:
        """Drive the venue's plan: each yielded call is carried out and its OK reply sent back in."""
        stream = reading.stream
        mark = stream.progress.mark_for_reading(self._margin_ms)
        plan = stream.rest.exchange.recover(stream.spec, mark, stream.rest.now_ms())
        try:
            call = next(plan)
            while True:
                try:
                    reply = stream.rest.call(call, stream.credentials, lambda: reading.cancelled)
                except ExchangeRefused as error:
                    if not (isinstance(error.verdict, Verdict) and error.verdict.outcome is Outcome.PERMANENT):
                        raise
                    call = plan.throw(error)
                else:
                    call = plan.send(reply)
        except StopIteration as end:
            found: Recovered = end.value
            return found

    def _refused(self, reading: Reading, error: ExchangeRefused) -> None:
        verdict = error.verdict
        if isinstance(verdict, Verdict) and (
            verdict.outcome is Outcome.INVALID or (verdict.outcome is Outcome.ELSEWHERE and reading.stream.known_here)
        ):
            reading.stream.rejected(verdict)
        else:
            self._again(reading, str(error))

    def _again(self, reading: Reading, why: str) -> None:
        if reading.cancelled or self._stop.is_set():
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
        self.submit(lambda: self._read(reading), pause_s, self._priority(reading))

    def _complete(self, reading: Reading, found: Recovered) -> None:
        """The second read is in: the account is complete up to where the socket took over (an audit: up to its snapshot)."""
        stream = reading.stream
        until_ms = found.snapshot.at_ms - self._margin_ms if reading.audit else reading.subscribed_ms
        stream.progress.prove(found.snapshot, until_ms)
        if not reading.audit:
            stream.progress.close_gap(found.unrecoverable)
        stream.proven(reading)
