"""A worker has registered: only shortens the wait (R15), by half a tick of every restarted account's gap.

In: messages on the channel of ARRIVALS in Redis, from workers/heartbeat.py. Out: a wake-up of the reconciler. Runs on its own
thread of the coordinator, with its own connection.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator.background import Background
from fleet.core.errors import StoreUnavailable
from fleet.runtime.redis_store import Poke

WAIT_S = 1.0  # also how long a stop may take
RETRY_S = 1.0
TOGETHER_S = 0.05  # a host's workers arrive together: one pass for all


class Arrivals(Background):
    """Call `start()`, later `stop()`. That Redis is away is the reconciler's to say: this thread tries again."""

    def __init__(self, poke: Callable[[], Poke], wake: Callable[[], None]) -> None:
        super().__init__("arrivals")
        self._factory, self._wake = poke, wake

    def _run(self) -> None:
        poke = self._factory()
        while not self._stop.is_set():
            try:
                if poke.wait(WAIT_S):
                    self._wake()
                    self._stop.wait(TOGETHER_S)
            except StoreUnavailable:
                self._stop.wait(RETRY_S)
        poke.close()
