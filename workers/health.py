"""The 60 s health check of account streams: the safety net under the detectors of workers/stream.py. Runs in the worker.

In: the streams. Out: one warning per stream and sweep after `limit` consecutive failures, and an aborted socket where a
stream claims to be connected while its socket has been silent for longer than any detector allows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from fleet.core.exchange import Outcome, Verdict
from fleet.core.lifecycle import CONNECTED, ENDED
from fleet.runtime.logs import get
from workers.stream import AccountStream

STUCK_S = 90.0  # a connected stream whose socket is silent for this long escaped its own detector


class HealthCheck:
    """Counts consecutive failures per stream."""

    def __init__(self, streams: Callable[[], Iterable[AccountStream]], limit: int, slot: str) -> None:
        self._streams, self._limit = streams, limit
        self._failures: dict[str, int] = {}
        self._log = get("health").bind(shard=slot)

    def sweep(self) -> dict[str, int]:
        """Look at every stream once; → consecutive failures of those that are not well."""
        failures: dict[str, int] = {}
        for stream in self._streams():
            silent_s = stream.silent_s(time.monotonic())
            if stream.state in ENDED or (stream.state in CONNECTED and silent_s < STUCK_S):
                continue
            failures[stream.account_id] = count = self._failures.get(stream.account_id, 0) + 1
            if stream.state in CONNECTED:
                stream.give_up(Verdict(Outcome.TRANSIENT, "stuck"))
            if count >= self._limit:
                self._log.warning(
                    "stream fails its health checks",
                    action="health_check",
                    stream=stream.account_id,
                    state=str(stream.state),
                    attempt=count,
                )
        self._failures = failures
        return failures
