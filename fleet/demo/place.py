"""Where a demo lives: one temporary directory, free ports, the settings every process of it gets.

In: the options; out: paths and an environment. Nothing here is shared with another fleet on the machine.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CONSOLE_PORT = 9090
PREFIX = "streamfleet-demo-"
OWNER = "owner.lock"
METRICS_OFFSET_OF_WORKERS = 10
KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "USER", "TERM", "JAVA_HOME", "FLEET_LOG_LEVEL",
    "FLEET_ACCOUNTS_PER_SOCKET",
)  # fmt: skip


class Place:
    """The demo's directory; `remove()` deletes it."""

    def __init__(self) -> None:
        sweep()
        self.root = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._owner = (self.root / OWNER).open("w")  # locked for our life: see sweep
        fcntl.flock(self._owner, fcntl.LOCK_EX)
        self.fleet = self.root.name.removeprefix("streamfleet-")
        self.logs = self._folder("logs")
        self.run = self._folder("run")
        self.services = self._folder("services")
        self.keyring = self.root / "keyring"

    def _folder(self, name: str) -> Path:
        path = self.root / name
        path.mkdir(mode=0o700)
        return path

    def env(self, workers: int, *parts: Mapping[str, str]) -> dict[str, str]:
        """The environment of supervisord and its children: what a process needs of ours, this place, and `parts`."""
        env = {name: os.environ[name] for name in KEPT if name in os.environ}
        env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env.get('PATH', os.defpath)}"
        env |= {
            "PYTHONUNBUFFERED": "1",
            "FLEET_NAME": self.fleet,
            "FLEET_WORKERS": str(workers),
            "FLEET_KEYRING_FILE": str(self.keyring),
            "FLEET_LOG_DIR": str(self.logs),
            "FLEET_RUN_DIR": str(self.run),
            "FLEET_METRICS_BASE_PORT": str(free_ports(METRICS_OFFSET_OF_WORKERS + workers)),
            "FLEET_CONSOLE_PORT": str(CONSOLE_PORT if is_free(CONSOLE_PORT) else free_ports(1)),
        }
        for part in parts:
            env |= part
        return env

    def keep_logs(self, target: Path) -> None:
        """Copy what the processes wrote to `target`."""
        target.mkdir(parents=True, exist_ok=True)
        for path in [*self.logs.iterdir(), *self.root.glob("*.log")]:
            if path.is_file():
                shutil.copy(path, target / path.name)

    def remove(self) -> None:
        self._owner.close()
        shutil.rmtree(self.root, ignore_errors=True)


def sweep() -> None:
    """Remove the directories of demos that were killed before they could."""
    for old in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            with (old / OWNER).open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
        except OSError:  # held by a living demo, half made, or somebody else's
            continue


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> int:
    """The first of `count` adjacent free loopback ports, below those of the embedded services (20000 and up)."""
    for _ in range(200):
        first = random.randrange(10_000, 20_000 - count)
        if all(is_free(port) for port in range(first, first + count)):
            return first
    raise OSError(f"no {count} adjacent free ports on loopback")
