"""One service process: start until ready, stop, kill, pause, and start again on the same port with the same data.

Comes in: what a subclass says of its server (command, readiness, signals). Goes out: a running child of this process.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from fleet.core.errors import FleetError
from fleet.services.spawn import free_port, spawn

Progress = Callable[[str], None]  # one line for a human, while something takes long

READY_TIMEOUT_S = 60.0
POLL_S = 0.02
KILL_S = 10.0  # from SIGKILL to the end
WAKE = Path(__file__).with_name("wake.py")
LOG_TAIL_LINES = 5


class ServiceMissing(FleetError):
    """A prerequisite is not installed. The text is one line that names what to install."""


class ServiceFailed(FleetError):
    """A service did not start, or does not answer. The text holds the end of its log."""


class Daemon:
    """A server process. Subclasses say how it is prepared and started, and when it is ready.

    Thread-safe as far as tests need: `close` may interrupt a `start` that runs in another thread.
    """

    name = "service"
    stop_signal = signal.SIGTERM
    death_signal = signal.SIGKILL  # what the kernel sends when the process that started us dies

    def __init__(self, directory: Path, progress: Progress | None = None) -> None:
        self.directory = directory
        self.progress: Progress = progress or (lambda line: None)
        self.owner: tuple[int, int] | None = None  # uid and gid of the process; None: ours
        self.port = 0  # chosen by the first start, kept by the next ones
        self._process: subprocess.Popen[bytes] | None = None
        self._waker: subprocess.Popen[bytes] | None = None  # while paused; see wake.py
        self._lock = threading.Lock()  # guards _process and _closed: no process may start once we are closed
        self._closed = False

    # ── what a subclass says ─────────────────────────────────────────────────────────────────────────────────────
    def prepare(self) -> None:
        """Download and initialise; called before each start, quick when it is done already. Raises ServiceMissing."""

    def command(self) -> list[str]:
        """The program by absolute path, and its arguments."""
        raise NotImplementedError

    def ready(self) -> bool:
        """Does it serve? Called every 20 ms; returns within a second and raises nothing but OSError, which means no."""
        raise NotImplementedError

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def log(self) -> Path:
        return self.directory / f"{self.name}.log"

    @property
    def pid(self) -> int:
        """Process id of the server. Raises ServiceFailed if it does not run."""
        process = self._process
        if process is None or process.poll() is not None:
            raise ServiceFailed(f"{self.name} is not running")
        return process.pid

    @property
    def running(self) -> bool:
        process = self._process
        return process is not None and process.poll() is None

    def start(self, timeout_s: float = READY_TIMEOUT_S) -> Self:
        """Prepare, start and wait until it serves; does nothing if it runs. Raises ServiceMissing, ServiceFailed."""
        if self.running:
            return self
        self.directory.mkdir(parents=True, exist_ok=True)
        self.prepare()
        if self.port == 0:
            self.port = free_port()
        process = self._spawn(self.command(), self.log)
        end = time.monotonic() + timeout_s
        while not (process.poll() is None and self._answers() and process.poll() is None):
            if process.poll() is not None:
                raise ServiceFailed(f"{self.name} ended with {process.returncode}: {self._log_tail()}")
            if time.monotonic() > end:
                self.kill()
                raise ServiceFailed(f"{self.name} was not ready within {timeout_s:g} s: {self._log_tail()}")
            time.sleep(POLL_S)
        return self

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop in order, by force after `timeout_s`. Does nothing if it does not run."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self.resume()
        process.send_signal(self.stop_signal)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """kill -9 of the server and all its processes, as a crash of the machine's service would look."""
        for parent in self._family()[:1]:
            _halt(parent)  # or it forks while we look, and the child keeps the next server from starting
        for process in self._family():
            _signal(process, signal.SIGKILL)
        if self._process is not None:
            self._process.wait(KILL_S)
        self._end_waker()

    def pause(self) -> None:
        """SIGSTOP: it holds its sockets and answers nothing. Raises ServiceFailed if it does not run."""
        if not self.running:
            raise ServiceFailed(f"{self.name} is not running")
        family = self._family()
        if self.death_signal != signal.SIGKILL and self._waker is None:
            pids = [str(process.pid) for process in family]
            self._waker = subprocess.Popen(
                [sys.executable, "-I", "-S", str(WAKE), str(os.getpid()), *pids], process_group=0
            )
        for process in family:  # parent first, so that it starts no child behind our back
            _signal(process, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT; harmless when it is not paused."""
        for process in reversed(self._family()):
            _signal(process, signal.SIGCONT)
        self._end_waker()

    def close(self, timeout_s: float = 10.0) -> None:
        """Stop for good; a `start` or a download under way in another thread ends with ServiceFailed."""
        with self._lock:
            self._closed = True
        self.stop(timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────
    def run(self, command: Sequence[str], log: Path, each: Callable[[], None] | None = None) -> int:
        """Run a preparing command to its end and return its exit code; `each` is called every 20 ms meanwhile."""
        process = self._spawn(command, log)
        while True:
            try:
                return process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                if each is not None:
                    each()

    def _spawn(self, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._closed:
                raise ServiceFailed(f"{self.name} was closed")
            self._process = spawn(command, self.directory, log, death_signal=self.death_signal, owner=self.owner)
            return self._process

    def _end_waker(self) -> None:
        if self._waker is not None:
            self._waker.kill()
            self._waker.wait(KILL_S)
            self._waker = None

    def _answers(self) -> bool:
        try:
            return self.ready()
        except OSError:
            return False

    def _family(self) -> list[psutil.Process]:
        if not self.running:
            return []
        try:
            parent = psutil.Process(self.pid)
            return [parent, *parent.children(recursive=True)]
        except (psutil.NoSuchProcess, ServiceFailed):
            return []

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").split("\n")
        except OSError as error:
            return f"no log ({error})"
        return " | ".join([line.strip() for line in lines if line.strip()][-LOG_TAIL_LINES:]) or "its log is empty"


def _halt(process: psutil.Process) -> None:
    """SIGSTOP, and wait until it took effect."""
    _signal(process, signal.SIGSTOP)
    deadline_s = time.monotonic() + KILL_S
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE) and time.monotonic() < deadline_s:
            time.sleep(0.001)


def _signal(process: psutil.Process, signum: int) -> None:
    try:
        process.send_signal(signum)
    except psutil.NoSuchProcess:
        return


def own_files(path: Path, owner: tuple[int, int] | None) -> None:
    """Make `path` a private directory of `owner`."""
    path.mkdir(mode=0o700, exist_ok=True)
    if owner is not None:
        os.chown(path, *owner)
