"""Is the exchange there? Who of a crowd of streams may dial now. One per venue and source address, used by the accounts' threads.

In: who wants to dial and how urgently, and what came of it. Out: leave to dial. The first few dial at once, and each that is
answered lets one more in, up to MOST, so a crowd is let through in a few round trips. When several streams in a row found nobody,
the exchange is away: then one at a time tries, less and less often, and the others keep their permits for when it is back,
instead of spending on an outage what the exchange allows.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator

from fleet.core.errors import ConnectionFailed

FIRST = 8  # streams that dial together before anybody was answered; and so many that find nobody mean: it is away
MOST = 16  # streams that dial one venue from one address together at most
TOGETHER = 16  # ... and one process, past its permits: the interpreter runs one thread at a time, in no order. Not fewer than MOST,
# or permits would be spent long before their handshakes, and the exchange count more of these in a window than we did
TOGETHER_WAIT_S = 10.0  # as long as one dial may take: exchanges that are away must not hold the others up for longer
AT_WORK = 2  # streams that work without a pause together: more of them get no further, and the lease thread stands behind each
AT_WORK_WAIT_S = 60.0
FIRST_TRIAL_S, LONGEST_TRIAL_S = 0.5, 8.0  # from one trial to the next while it is away
LOOK_S = 2.0  # how often somebody who waits looks whether the exchange is to be tried again ...
LOOKS_PER_S = 25.0  # ... and of a crowd, all of them together


class Crowd:
    """Streams of a process that have work to do at once, to all venues and from all addresses (they dial, or were cut): so few at a
    time that the lease thread, which needs the interpreter a dozen times a beat, gets its turn (32 busy threads: 1.1 s a beat; 160
    dials, or a thousand streams that were cut together, cost the lease)."""

    def __init__(self) -> None:
        self._places, self._at_work = threading.BoundedSemaphore(TOGETHER), threading.BoundedSemaphore(AT_WORK)

    def place(self) -> contextlib.AbstractContextManager[None]:
        """Wait for a place to dial from, not for ever, and hold it."""
        return _held(self._places, TOGETHER_WAIT_S)

    def work(self) -> contextlib.AbstractContextManager[None]:
        """The same for work that waits for nothing."""
        return _held(self._at_work, AT_WORK_WAIT_S)


@contextlib.contextmanager
def _held(places: threading.BoundedSemaphore, wait_s: float) -> Iterator[None]:
    taken = places.acquire(timeout=wait_s)
    try:
        yield
    finally:
        if taken:
            places.release()


class Turn:
    """One stream's turn to dial; `woken` by whoever lets it in or cancels it."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.admitted = self.gone = False


class Reach:
    """Thread-safe. `enter` before a dial, `leave` after it, whatever came of it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._width = FIRST  # how many may dial together
        self._inside = 0
        self._queue: list[tuple[int, int, Turn]] = []  # heap, most urgent first
        self._numbers = itertools.count()
        self._unanswered: set[str] = set()  # who found nobody since anybody was answered
        self._trials = 0
        self._next_trial_s = 0.0

    def enter(self, urgency: int, cancelled: Callable[[], bool], turn: Turn) -> None:
        """Wait for leave to dial; higher `urgency` first. Raises ConnectionFailed when cancelled: set `turn.woken` then."""
        with self._lock:
            heapq.heappush(self._queue, (-urgency, next(self._numbers), turn))
        while True:
            with self._lock:
                if not turn.admitted:
                    self._admit()
                if turn.admitted:
                    return
                if cancelled():
                    turn.gone = True
                    raise ConnectionFailed("cancelled while waiting to dial")
                turn.woken.clear()
                look_s = max(LOOK_S, len(self._queue) / LOOKS_PER_S)
            turn.woken.wait(look_s)

    def leave(self, who: str, answered: bool | None) -> None:
        """The dial is over. `answered`: did the exchange say anything? None = given up before that."""
        with self._lock:
            self._inside -= 1
            if answered:
                self._width = min(self._width + 1, MOST)
                self._unanswered.clear()
                self._trials = 0
            elif answered is False:
                self._unanswered.add(who)
                if self._away:
                    self._width = FIRST
            self._admit()

    @property
    def _away(self) -> bool:
        return len(self._unanswered) >= FIRST

    def _admit(self) -> None:
        while self._queue and self._may_enter():
            _, _, turn = heapq.heappop(self._queue)
            if turn.gone:
                continue
            self._inside += 1
            if self._away:
                pause_s = min(LONGEST_TRIAL_S, FIRST_TRIAL_S * 2.0 ** min(self._trials, 10))
                self._trials, self._next_trial_s = self._trials + 1, self._clock() + pause_s
            turn.admitted = True
            turn.woken.set()

    def _may_enter(self) -> bool:
        if self._away:
            return self._inside == 0 and self._clock() >= self._next_trial_s
        return self._inside < self._width
