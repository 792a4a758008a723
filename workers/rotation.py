"""A rotation asked for by an operator (`fleet rotate`): every socket of this worker is replaced, make before break, by turns.

In: the word to begin, from the heartbeat thread; a tick each second, from the main thread. Out: streams told to rotate, and
how many are left. Runs in each `workers userdata` process. While a stream waits for its dial permit it does not read, so only
a few may wait at once.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Protocol

from fleet.core.model import StreamState

AT_ONCE = 3
CONNECTED = (StreamState.LIVE, StreamState.RECOVERING, StreamState.ROTATING)


class Rotating(Protocol):
    """What of workers.stream.AccountStream is used here."""

    state: StreamState

    def rotate(self) -> None: ...
    @property
    def rotating(self) -> bool: ...


class Rotation:
    """At most one at a time; `begin` during a rotation starts it over."""

    def __init__(self, streams: Callable[[], Iterable[Rotating]]) -> None:
        self._streams = streams
        self._lock = threading.Lock()  # guards the two below
        self._waiting: deque[Rotating] = deque()
        self._turning: list[Rotating] = []

    def begin(self) -> None:
        with self._lock:
            self._waiting = deque(self._streams())

    def left(self) -> int:
        """Sockets that are still to be replaced."""
        with self._lock:
            return len(self._waiting) + len(self._turning)

    def tick(self) -> None:
        """Start the next ones. A stream that is not connected has no socket to replace: its next one is new anyway."""
        with self._lock:
            self._turning = [stream for stream in self._turning if stream.rotating and stream.state in CONNECTED]
            while self._waiting and len(self._turning) < AT_ONCE:
                stream = self._waiting.popleft()
                if stream.state in CONNECTED:
                    stream.rotate()
                    self._turning.append(stream)
