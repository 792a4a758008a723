"""Child processes of the demo: each in a session of its own, its output in a file, gone when the demo is gone.

In: a command; out: a running process that can be stopped in time, and the list of whatever is still alive of it.
A terminal's Ctrl-C reaches only the demo itself, which then stops its children in order.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

from fleet.services.spawn import LEASH

KILL_S = 5.0


class Child:
    """One running command (absolute path first). Start it from the main thread: the kernel ties its life to that thread."""

    def __init__(self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path) -> None:
        self.log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(int(signal.SIGTERM)), "-", *command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, deadline_s: float) -> bool:
        """SIGTERM, and SIGKILL to its whole session after `deadline_s`. True if SIGTERM was enough."""
        if self.running():
            self._process.terminate()
        try:
            self._process.wait(deadline_s)
            return True
        except subprocess.TimeoutExpired:
            self.kill()
            return False

    def kill(self) -> None:
        """SIGKILL to everything of its session."""
        for process in [*session_of(self.pid)]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        self._process.wait(KILL_S)

    def tail(self, lines: int = 5) -> str:
        """The end of its output, for error messages."""
        text = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return " | ".join(text[-lines:])


def session_of(session_id: int) -> list[psutil.Process]:
    """Every live process whose session or process group is `session_id`, and their descendants."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        try:
            if process.status() == psutil.STATUS_ZOMBIE:
                continue
            if session_id in (os.getsid(process.pid), os.getpgid(process.pid)):
                found[process.pid] = process
                for descendant in process.children(recursive=True):
                    found[descendant.pid] = descendant
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return list(found.values())


def send(pid: int, signum: signal.Signals) -> bool:
    """Signal a process; False if it is gone, or 0: that is nobody's, and would mean our own group."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, signum)
    except ProcessLookupError:
        return False
    return True


def wait_until(condition: object, deadline_s: float, every_s: float = 0.05) -> bool:
    """Poll a callable until it is true; False after `deadline_s`."""
    assert callable(condition)
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True
