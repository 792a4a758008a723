"""Starting processes that die with this one, and finding free ports for them. Used by every service of this package.

Linux sends the parent-death signal when the *thread* that started a child ends, so every child is started by one thread that
lives as long as the process. Ports lie below the kernel's ephemeral range: no outgoing connection can take one while its
server is stopped, so a service comes back on the same port.
"""

from __future__ import annotations

import fcntl
import os
import queue
import random
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

LEASH = Path(__file__).with_name("leash.py")
FIRST_PORT, LAST_PORT = 20000, 32000
KEPT_ENVIRONMENT = ("PATH", "HOME", "JAVA_HOME", "TMPDIR", "MAVEN_OPTS", "MAVEN_ARGS", "SSL_CERT_FILE")


def free_port() -> int:
    """A loopback TCP port nobody listens on, ours until this process ends: no other process gets it from here."""
    directory = Path(tempfile.gettempdir()) / f"streamfleet-ports-{os.getuid()}"
    directory.mkdir(mode=0o700, exist_ok=True)
    for _ in range(200):
        port = random.randint(FIRST_PORT, LAST_PORT)
        lock = os.open(directory / str(port), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        if _lockable(lock) and _bindable(port):
            return port  # the descriptor stays open: its lock is the reservation
        os.close(lock)
    raise OSError(f"no free port between {FIRST_PORT} and {LAST_PORT}")


def _lockable(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _bindable(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class _Spawner:
    """The one thread that starts processes. Daemonic: it must not end before the process does."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._orders: queue.SimpleQueue[tuple[list[str], Path, Path, Future[subprocess.Popen[bytes]]]] = (
            queue.SimpleQueue()
        )
        threading.Thread(target=self._loop, name="services-spawner", daemon=True).start()

    def spawn(self, command: list[str], directory: Path, log: Path) -> subprocess.Popen[bytes]:
        done: Future[subprocess.Popen[bytes]] = Future()
        self._orders.put((command, directory, log, done))
        return done.result()

    def _loop(self) -> None:
        while True:
            command, directory, log, done = self._orders.get()
            try:
                with log.open("ab") as out:
                    done.set_result(
                        subprocess.Popen(
                            command,
                            cwd=directory,
                            env=_environment(),
                            stdin=subprocess.DEVNULL,
                            stdout=out,
                            stderr=out,
                            process_group=0,  # a terminal's Ctrl-C reaches us, and we stop the services in order
                        )
                    )
            except Exception as error:  # noqa: BLE001 - raised in the thread that asked
                done.set_exception(error)


_spawner: _Spawner | None = None
_spawner_lock = threading.Lock()  # guards _spawner


def _environment() -> dict[str, str]:
    """What a service inherits: no FLEET_* setting of ours is its business."""
    kept = {name: os.environ[name] for name in KEPT_ENVIRONMENT if name in os.environ}
    return {**kept, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}


def spawn(
    command: Sequence[str], directory: Path, log: Path, *, death_signal: int, owner: tuple[int, int] | None = None
) -> subprocess.Popen[bytes]:
    """Start `command` (absolute path first) in `directory`, its output appended to `log`; it gets `death_signal` when we die.

    `owner` is the uid and gid to run under; None keeps ours. Raises OSError.
    """
    global _spawner
    with _spawner_lock:
        if _spawner is None or _spawner.pid != os.getpid():  # the second: we are a fork, and threads do not survive it
            _spawner = _Spawner()
        spawner = _spawner
    identity = "-" if owner is None else f"{owner[0]}:{owner[1]}"
    leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), str(int(death_signal)), identity]
    return spawner.spawn([*leash, *command], directory, log)
