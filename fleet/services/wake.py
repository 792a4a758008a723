"""Continues paused processes when the process that paused them dies, so that its death signal can end them.

Comes in: `wake.py PARENT_PID PID…`. Goes out: SIGCONT to each PID once PARENT_PID is gone. Run by path by `daemon.Daemon.pause`
for a server whose death signal is not SIGKILL (a stopped process takes no other), and ended by `resume`.
"""

from __future__ import annotations

import os
import select
import signal
import sys


def main(argv: list[str]) -> None:
    parent, paused = int(argv[1]), [int(pid) for pid in argv[2:]]
    try:
        select.select([os.pidfd_open(parent)], [], [])
    except ProcessLookupError:  # gone already
        pass
    for pid in paused:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    main(sys.argv)
