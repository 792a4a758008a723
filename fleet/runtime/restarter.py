"""`python -m fleet.runtime.restarter`: has supervisord start again at once what ended. One per host; standard library alone.

supervisord notices at once that a program ended, but looks only once a second for programs to start (its main loop polls for
1 s). Output of a child ends that poll. In: supervisord's children, from /proc. Out: a line for each that ended, just after
supervisord has noticed. Without this program a restart takes up to a second longer; nothing else depends on it.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path

LOOK_S = 1.0  # for new programs
NOTICE_S = (
    0.01,
    0.05,
)  # pauses before each line: supervisord has taken the end in by then, on a busy host by the second


def children(pid: int) -> set[int]:
    """Pids of `pid`'s children. Raises OSError where the kernel does not tell."""
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


class Ends:
    """The ends of other processes, as a poll."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._known: dict[int, int] = {}  # pid → pidfd

    def watch(self, pids: set[int]) -> None:
        """Also these. Raises OSError where the kernel has no pidfd (Linux before 5.3)."""
        for pid in pids - self._known.keys():
            try:
                self._known[pid] = fd = os.pidfd_open(pid)
            except ProcessLookupError:
                continue  # ended since it was listed
            self._poll.register(fd, select.POLLIN)

    def wait(self, timeout_s: float) -> set[int]:
        """Pids that have ended."""
        readable = {fd for fd, _ in self._poll.poll(timeout_s * 1000)}
        ended = {pid for pid, fd in self._known.items() if fd in readable}
        for pid in ended:
            fd = self._known.pop(pid)
            self._poll.unregister(fd)
            os.close(fd)
        return ended


def main() -> int:
    """Watch until SIGTERM, or until supervisord is gone."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ends, parent = Ends(), os.getppid()
    while os.getppid() == parent:
        try:
            ends.watch(children(parent) - {os.getpid()})
        except OSError as error:
            print(
                f"this kernel does not tell when a program ends ({error}): restarts take up to 1 s longer", flush=True
            )
            return 0
        ended = ends.wait(LOOK_S)
        for pause_s in NOTICE_S if ended else ():
            time.sleep(pause_s)
            print("ended:", *sorted(ended), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
