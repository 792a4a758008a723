"""LISTEN on `exchange_accounts_changed`: only shortens the wait (R15).

In: Postgres notifications (payload = account id). Out: `desired.changed(ids)`. Runs on its own thread of the coordinator.
Nothing is queued while disconnected, so every (re)connection asks for a full reload.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from coordinator.background import Background
from fleet.core.errors import StoreUnavailable
from fleet.runtime.logs import get
from fleet.runtime.postgres import Listener

WAIT_S = 1.0  # also how long a stop may take
RETRY_S = 1.0


class Notifications(Background):
    """Call `start()`, later `stop()`."""

    def __init__(self, listener: Callable[[], Listener], changed: Callable[[Iterable[str]], None]) -> None:
        super().__init__("notify")
        self._factory, self._changed = listener, changed
        self._log = get("notify")

    def _run(self) -> None:
        listener = self._factory()
        listening = False
        while not self._stop.is_set():
            try:
                ids = listener.wait(WAIT_S if listening else 0.0)
                if not listening:
                    listening = True
                    self._log.info("listening for changed accounts", action="listen")
                    ids = [*ids, ""]
                if ids:
                    self._changed(ids)
            except StoreUnavailable as error:
                if listening:
                    self._log.warning("not listening: changes wait for the tick", action="listen", error=str(error))
                listening = False
                self._stop.wait(RETRY_S)
        listener.close()
