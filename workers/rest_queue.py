"""REST threads and their queue, one for each venue and address: read-backs, audits, listen-key renewals. Runs in the worker.

In: jobs, each with the time from which it may run and a deadline. Out: the jobs carried out, earliest deadline first, so that the
urgent ones go ahead and none of the others waits for ever. A third of the threads take only jobs whose deadline has come: were
all of them held up by an exchange's weight limit on behalf of the patient, the urgent would have nobody to ask for them. What has
no deadline at all (`WHENEVER`) is taken by one thread, when nothing else waits.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections.abc import Callable

from fleet.core.errors import LeaseLost
from fleet.runtime.logs import get

THREADS, LEAST_THREADS = 6, 2
IDLE_S = 0.5  # a thread with nothing to do looks again this often whether it is to stop
WHENEVER = math.inf

Job = Callable[[], None]


class RestQueue:
    """Deadlines are seconds of the monotonic clock; 0.0 is before everything else."""

    def __init__(self, stop: threading.Event, threads: int = THREADS) -> None:
        self._stop = stop
        self._changed = threading.Condition()  # guards _later and _ready
        self._later: list[tuple[float, int, float, Job]] = []  # heap of jobs that may not run yet, by time
        self._ready: list[tuple[float, int, Job]] = []  # heap of jobs that may, by deadline, then in order of arrival
        self._numbers = itertools.count()
        self._log = get("rest")
        urgent = max(threads // 3, min(1, threads - 1))
        self._threads = [
            threading.Thread(target=self._run, args=(n < urgent, n == threads - 1), name=f"rest-{n}")
            for n in range(threads)
        ]

    def start(self) -> None:
        """Raises RuntimeError where the machine gives no thread; the next call starts those that are lacking."""
        for thread in self._threads:
            if thread.ident is None:
                thread.start()

    def join(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.notify_all()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline - time.monotonic()))

    def submit(self, job: Job, delay_s: float = 0.0, deadline_s: float = 0.0) -> None:
        """Run `job` in a REST thread after `delay_s`."""
        with self._changed:
            heapq.heappush(self._later, (time.monotonic() + delay_s, next(self._numbers), deadline_s, job))
            self._changed.notify_all()

    def _run(self, urgent_only: bool, has_time: bool) -> None:
        while not self._stop.is_set():
            job = self._next(urgent_only, has_time)
            if job is None:
                continue
            try:
                job()
            except LeaseLost:
                continue  # the stream's own thread ends it
            except Exception:  # noqa: BLE001  # a bug in one account's job must not take the REST threads from the others
                self._log.exception("REST job failed", action="rest")

    def _next(self, urgent_only: bool, has_time: bool) -> Job | None:
        with self._changed:
            job = self._take(urgent_only, has_time)
            if job is None:
                self._changed.wait(min(IDLE_S, self._later[0][0] - time.monotonic()) if self._later else IDLE_S)
                job = self._take(urgent_only, has_time)
            return job

    def _take(self, urgent_only: bool, has_time: bool) -> Job | None:
        now_s = time.monotonic()
        while self._later and self._later[0][0] <= now_s:
            _, number, deadline_s, job = heapq.heappop(self._later)
            heapq.heappush(self._ready, (deadline_s, number, job))
        if not self._ready or (urgent_only and self._ready[0][0] > now_s):
            return None
        if self._ready[0][0] == WHENEVER and not has_time:
            return None
        return heapq.heappop(self._ready)[2]
