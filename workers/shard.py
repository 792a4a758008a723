"""The accounts of one worker process: desired view in, running streams out. Runs in the worker.

The inbox thread calls `apply` with what this worker should run; the shard starts and stops streams so that it comes true.
A stream is started only under a token higher than any seen for its account (R2), and a new token of a running account first
ends the old stream, then starts the new one. Nothing here blocks: threads end by themselves and `apply` looks again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from fleet.core.model import AccountSpec, Desired, StreamStatus
from fleet.runtime.logs import get
from workers.progress import Progress
from workers.stream import AccountStream, Worker

STACK_BYTES = 512 * 1024
STOP_TOGETHER, STOP_PAUSE_S = 32, 0.02  # streams of a lost lease are woken so many at a time


class Shard:
    """All streams of this process. `_lock` guards what it holds of them; streams guard themselves."""

    def __init__(
        self, worker: Worker, note_address: Callable[[str, str], None] = lambda account, address: None
    ) -> None:
        """`note_address` hears, before an account starts, which source address the leader gave it ("" = none)."""
        self.incarnation = ""  # set by the heartbeat: one life of this process as the fleet knows it
        self._worker, self._note_address = worker, note_address
        self._lock = threading.Lock()
        self._streams: dict[str, AccountStream] = {}
        self._cut: set[AccountStream] = set()  # of a lost lease, not ended yet
        self._highest: dict[str, int] = {}  # highest token seen for an account, running or not
        self._log = get("shard")
        threading.stack_size(STACK_BYTES)

    def apply(self, desired: dict[str, Desired]) -> None:
        """Make the running streams match `desired`. Accounts that are absent or revoked are stopped; stops come first."""
        with self._lock:
            self._cut = {stream for stream in self._cut if not stream.ended}
            ending = {stream.account_id for stream in self._cut}
            for account_id, stream in list(self._streams.items()):
                want = desired.get(account_id)
                if stream.ended and (want is None or want.state != "run" or want.token > stream.token):
                    if want is None or want.token > stream.token:
                        del self._streams[account_id]
                elif want is None or want.state != "run" or want.token > stream.token:
                    stream.stop()
            for account_id, want in desired.items():
                if (
                    want.state == "run"
                    and account_id not in self._streams
                    and account_id not in ending  # its former socket is to be closed first
                    and want.token > self._highest.get(account_id, -1)
                ):
                    self._note_address(account_id, want.egress_ip)
                    self._start(account_id, want.token)

    def _start(self, account_id: str, token: int) -> None:
        self._highest[account_id] = token
        stream = self._streams[account_id] = AccountStream(account_id, token, self._worker)
        stream.start()

    def statuses(self) -> list[StreamStatus]:
        """Every stream, ended ones too until the desired view drops them (a revoke is acknowledged by `stopped`)."""
        with self._lock:
            return [stream.status() for stream in self._streams.values()]

    def streams(self) -> list[AccountStream]:
        with self._lock:
            return list(self._streams.values())

    def count(self) -> int:
        return len(self._streams)

    def count_at(self, spec: AccountSpec) -> int:
        """Streams under way at the venue of `spec`."""
        return sum(stream.running and stream.spec.venue == spec.venue for stream in self.streams())

    def running(self) -> Iterable[tuple[int, Progress]]:
        """(token, progress) of every stream that is under way, for saving watermarks."""
        return [(s.token, s.progress) for s in self.streams() if s.running]

    def abort_all(self, reason: str) -> None:
        """The lease is lost (R4, R5b): nothing read so far is published any more from here on, and the sockets are cut, a few at a
        time by a thread of their own: the caller has to beat, and a thousand threads woken together would keep it from that."""
        with self._lock:
            streams = list(self._streams.values())
            self._cut.update(streams)
            self._streams.clear()
        for stream in streams:
            stream.revoke()
        self._worker.publisher.clear()
        if streams:
            threading.Thread(target=_stop_all, args=(streams,), name="aborter").start()
            self._log.warning("all streams stopped", action="abort_all", reason=reason, streams=len(streams))

    def drain(self, timeout_s: float) -> bool:
        """Stop every stream and wait until each has flushed; False = some had not ended within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        streams = self.streams()
        for stream in streams:
            stream.stop()
        return all(stream.join(max(0.0, deadline_s - time.monotonic())) for stream in streams)


def _stop_all(streams: list[AccountStream]) -> None:
    for number, stream in enumerate(streams, start=1):
        stream.stop()
        if number % STOP_TOGETHER == 0:
            time.sleep(STOP_PAUSE_S)
