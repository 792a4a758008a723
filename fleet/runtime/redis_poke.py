"""Being woken through Redis: pokes in, nothing else than an earlier look out. Runs in workers and coordinators."""

from __future__ import annotations

import time
from typing import Any

from fleet.core.errors import StoreUnavailable
from fleet.core.names import Keys
from fleet.runtime.deadline import Deadline
from fleet.runtime.redis_connection import FAILURES, connect


class Poke:
    """The worker's end of `:ch:<slot>`. Pub/sub loses messages without an error, so it only ever shortens a wait (R15)."""

    def __init__(self, url: str, keys: Keys, slot: str, timeout_s: float = 0.5) -> None:
        self._deadline = Deadline(timeout_s)  # of the subscription; a wait has a time of its own
        self._client = connect(url, timeout_s, keys.gen, self._deadline)
        self._channel = keys.channel(slot)
        self._pubsub: Any = None

    def wait(self, timeout_s: float) -> bool:
        """True as soon as something was published, or a subscription began (what was published before it is unknown: look);
        False after `timeout_s`. Raises StoreUnavailable at once."""
        try:
            until = time.monotonic() + timeout_s
            if self._pubsub is None:
                client: Any = self._client
                self._pubsub = client.pubsub()
                with self._deadline:
                    self._pubsub.subscribe(self._channel)
            while (left_s := until - time.monotonic()) > 0:
                if self._pubsub.get_message(timeout=left_s) is not None:
                    while self._pubsub.get_message(timeout=0) is not None:
                        pass
                    return True
            return False
        except FAILURES as error:
            self.close()
            raise StoreUnavailable(f"redis: {type(error).__name__}") from error

    def close(self) -> None:
        pubsub, self._pubsub = self._pubsub, None
        if pubsub is not None:
            try:
                pubsub.close()
            except FAILURES:  # the connection is gone either way
                self._client.connection_pool.disconnect()
        self._client.close()
