"""Stopping in order: signals and the parent's death in, one stop event and an ordered checklist out. Used by every process.

Also the slot lock: a `flock` held for the life of a worker process, whose being free proves the previous life dead (R8).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from structlog.typing import FilteringBoundLogger

from fleet.core.errors import FleetError

PR_SET_PDEATHSIG = 1
ENV_PARENT = "FLEET_PARENT_PID"  # set by deploy/run, so that a parent which died before our first line is noticed
ENV_SUPERVISED = "SUPERVISOR_ENABLED"  # set by supervisord in its children
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
LATE_STEP_S = 0.25  # what a step still gets when the deadline has passed

_stop: threading.Event | None = None


def install_stop() -> threading.Event:
    """The process's stop event, set by SIGTERM and SIGINT. Main thread only; a second call returns the same event.

    The interpreter writes the signal's number into a pipe and a thread sets the event: `Event.set()` inside a signal
    handler could deadlock with the main thread's own `Event.wait()`, and this way a main thread busy in C stops nobody.
    """
    global _stop
    if _stop is not None:
        return _stop
    stop = threading.Event()
    read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(write_fd, False)
    for number in STOP_SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)

    def watch() -> None:
        while not stop.is_set():
            if any(number in STOP_SIGNALS for number in os.read(read_fd, 64)):
                stop.set()

    threading.Thread(target=watch, name="stop-signal", daemon=True).start()
    _stop = stop
    return stop


def die_with_parent(signum: int = signal.SIGTERM, *, only_supervised: bool = True) -> None:
    """Have the kernel send `signum` to this process when its parent dies; exit at once if the parent is dead already.

    Does nothing outside supervisord unless `only_supervised` is False: Linux ties the signal to the parent *thread*, so a
    process that was started from a short-lived thread would be stopped for no reason. supervisord has one thread.
    """
    if only_supervised and ENV_SUPERVISED not in os.environ:
        return
    parent = int(os.environ.get(ENV_PARENT) or os.getppid())
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, int(signum), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died between our start and the call above
        os._exit(1)


class SlotTaken(FleetError):
    """Another live process of this host holds the slot. `pid` is its process id, 0 if unknown."""

    retryable = True

    def __init__(self, slot: str, pid: int) -> None:
        super().__init__(f"slot {slot} is held by process {pid or '?'}")
        self.slot, self.pid = slot, pid


class SlotLock:
    """An exclusive `flock` on a file that holds our pid. The kernel frees it at the very death of the process. `name` is the
    lock's own: of two processes that hold locks by the same name, the former is dead."""

    def __init__(self, path: Path, fd: int, name: str) -> None:
        self.path, self.name = path, name
        self._fd = fd

    def release(self) -> None:
        """Give the slot up; the file stays, because removing it would let two processes lock two files of one name."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> SlotLock:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.release()


def lock_slot(run_dir: str, fleet: str, slot: str, wait_s: float = 0.0) -> SlotLock:
    """Take the slot for the life of this process, waiting up to `wait_s` for a dying holder. Raises SlotTaken, OSError."""
    Path(run_dir).mkdir(parents=True, exist_ok=True)
    path = Path(run_dir) / re.sub(r"[^A-Za-z0-9_.-]", "_", f"streamfleet-{fleet}-{slot}.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    end = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                pid, _ = _read_lock(fd)
                os.close(fd)
                raise SlotTaken(slot, int(pid) if pid.isdigit() else 0) from None
            time.sleep(0.02)
    name = _read_lock(fd)[1] or uuid.uuid4().hex[:16]  # stays with the file
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n{name}\n".encode(), 0)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()  # a copied disk copies the file
    return SlotLock(path, fd, f"{name}.{boot}")


def _read_lock(fd: int) -> tuple[str, str]:
    """(pid, name) in the file, "" where there is none."""
    pid, _, name = os.pread(fd, 60, 0).decode("ascii", "replace").partition("\n")
    return pid.strip(), name.strip()


class Checklist:
    """Shutdown steps in order under one deadline: `add` them in the order they must happen, then `run` once.

    A step gets the seconds that are left and should return within them. One that raises or overruns is reported and the
    next one runs all the same: a broken Kafka must not keep Redis from hearing that the worker is gone.
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[float], object]]] = []

    def add(self, name: str, step: Callable[[float], object]) -> None:
        self._steps.append((name, step))

    def run(self, total_s: float, log: FilteringBoundLogger) -> list[str]:
        """Run every step; the names of those that failed or overran, in order."""
        end = time.monotonic() + total_s
        failed: list[str] = []
        for name, step in self._steps:
            started = time.monotonic()
            left_s = max(end - started, 0.0)
            error = _run_step(name, step, left_s, max(left_s, LATE_STEP_S))
            took_s = round(time.monotonic() - started, 3)
            if error:
                failed.append(name)
                log.warning("shutdown step failed", action="shutdown", step=name, took_s=took_s, error=error)
            else:
                log.info("shutdown step done", action="shutdown", step=name, took_s=took_s)
        return failed


def _run_step(name: str, step: Callable[[float], object], left_s: float, wait_s: float) -> str:
    """Run one step in a thread of its own, so that a hung one is left behind; "" or what went wrong."""
    outcome = ["did not return within the deadline"]

    def call() -> None:
        try:
            step(left_s)
            outcome[0] = ""
        except Exception as error:  # noqa: BLE001 - reported by the caller; the other steps must run
            outcome[0] = f"{type(error).__name__}: {error}"

    thread = threading.Thread(target=call, name=f"shutdown-{name}", daemon=True)
    thread.start()
    thread.join(wait_s)
    return outcome[0]
