"""A thread of the coordinator beside the leader's loop, from `start()` to `stop()`.

In: a name, and what to run. Out: whether it still runs: where one of these threads has died, another coordinator should lead.
"""

from __future__ import annotations

import threading


class Background:
    """Subclasses have `_run`, which returns soon after `_stop` is set."""

    def __init__(self, name: str) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self, timeout_s: float) -> None:
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        raise NotImplementedError
