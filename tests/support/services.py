"""One set of real services for a whole pytest run, shared by its xdist workers.

Comes in: requests by name ("postgres redis") on a Unix socket. Goes out: one JSON line each, once those services run. The keeper
is a process of its own (`python -m tests.support.services DIR CONTROLLER_PID`), started by the first test that needs a service;
it starts each service at its first request and stops everything when the pytest controller is gone, however it went.

`FLEET_TEST_SERVICES_DIR=/some/dir` makes the keeper outlive the run: start it once by `python -m tests.support.services /some/dir`
and every later run with that variable reuses it.
"""

from __future__ import annotations

import fcntl
import json
import os
import random
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from fleet.services import Broker, ServiceFailed, ServiceMissing, Services

ROOT = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 120.0  # the first run downloads Kafka
ASK_TIMEOUT_S = 10.0  # to be connected to the keeper, and to send one line
ALL = ("postgres", "redis", "kafka")


class Keeper:
    """The keeper's loop: answers requests one after the other, ends with the controller or by SIGTERM."""

    def __init__(self, directory: Path, controller: int | None) -> None:
        self.directory = directory
        self.running: dict[str, Services] = {}
        self.watched = [] if controller is None else [os.pidfd_open(controller)]

    def serve(self) -> None:
        path = self.directory / "socket"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen(64)
            try:
                while not set(self.watched) & set(select.select([listener.fileno(), *self.watched], [], [])[0]):
                    with listener.accept()[0] as connection:
                        self._answer(connection)
            finally:
                path.unlink(missing_ok=True)
                for services in self.running.values():
                    services.stop()
                if self.watched:  # the directory is the run's; a controller that was killed does not remove it
                    shutil.rmtree(self.directory, ignore_errors=True)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(ASK_TIMEOUT_S)
        try:
            names = connection.makefile().readline().split()
        except OSError as error:  # a test that was stopped as it asked must not keep the others waiting
            print(f"no request: {error}", file=sys.stderr)
            return
        try:
            reply: dict[str, Any] = {"services": self._ensure(names)}
        except ServiceMissing as error:
            reply = {"missing": str(error)}
        except ServiceFailed as error:
            reply = {"failed": str(error)}
        try:
            connection.sendall(json.dumps(reply).encode() + b"\n")
        except OSError as error:  # the test that asked is gone; the next one may still come
            print(f"reply not delivered: {error}", file=sys.stderr)

    def _ensure(self, names: list[str]) -> dict[str, dict[str, Any]]:
        absent = [name for name in names if name not in self.running]
        if absent:
            prefer: Broker | None = "kafka" if os.environ.get("CI") == "true" else None
            started = Services.start(self.directory / absent[0], only=absent, progress=_say, prefer_broker=prefer)
            self.running |= dict.fromkeys(absent, started)
        return {name: _describe(name, self.running[name]) for name in names}


def _describe(name: str, services: Services) -> dict[str, Any]:
    if name == "postgres":
        return {"dsn": services.postgres.dsn, "port": services.postgres.port, "pid": services.postgres.pid}
    if name == "redis":
        return {"url": services.redis.url, "port": services.redis.port, "pid": services.redis.pid}
    broker = services.kafka
    return {"bootstrap": broker.bootstrap, "kind": broker.kind, "port": broker.port, "pid": broker.pid}


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Shared:
    """A test process's view of the keeper. Each `need` starts what is not running yet; the first one starts the keeper."""

    def __init__(self, directory: Path, controller: int | None) -> None:
        self.directory = directory
        self.controller = controller
        self._known: dict[str, dict[str, Any]] = {}

    def need(self, *names: str) -> dict[str, dict[str, Any]]:
        """What the named services answer to. Raises ServiceMissing, ServiceFailed."""
        if not set(names) <= set(self._known):
            reply = json.loads(self._ask(" ".join(names)))
            if "missing" in reply:
                raise ServiceMissing(reply["missing"])
            if "failed" in reply:
                raise ServiceFailed(reply["failed"])
            self._known |= reply["services"]
        return {name: self._known[name] for name in names}

    def _ask(self, line: str) -> str:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "keeper.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one worker starts the keeper, the others find it
            connection = self._connect() or self._launch()
        with connection:
            connection.settimeout(START_TIMEOUT_S)
            connection.sendall(line.encode() + b"\n")
            return connection.makefile().readline()

    def _connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(ASK_TIMEOUT_S)
        try:
            connection.connect(str(self.directory / "socket"))
        except OSError:
            connection.close()
            return None
        return connection

    def _launch(self) -> socket.socket:
        command = [sys.executable, "-m", "tests.support.services", str(self.directory)]
        if self.controller is not None:
            command.append(str(self.controller))
        with (self.directory / "keeper.log").open("ab") as log:
            keeper = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + 15
        while time.monotonic() < end and keeper.poll() is None:
            connection = self._connect()
            if connection is not None:
                (self.directory / "keeper.pid").write_text(str(keeper.pid))
                return connection
            time.sleep(0.02)
        raise ServiceFailed(f"the keeper of the services did not start: {(self.directory / 'keeper.log').read_text()}")


def missing(error: ServiceMissing) -> NoReturn:
    """Skip on a laptop, fail in CI."""
    if os.environ.get("CI") == "true":
        pytest.fail(str(error), pytrace=False)
    pytest.skip(str(error))


@dataclass(frozen=True)
class SharedPostgres:
    dsn: str
    port: int
    pid: int


@dataclass(frozen=True)
class SharedRedis:
    url: str
    port: int
    pid: int


@dataclass(frozen=True)
class SharedKafka:
    bootstrap: str
    kind: str  # 'kafka' or 'tansu'
    port: int
    pid: int


@dataclass(frozen=True)
class SharedServices:
    """The run's services, each started when a test first touches it. Shared: do not stop, pause or flush them
    (`own_services` gives a test its own)."""

    shared: Shared

    def _get(self, *names: str) -> dict[str, dict[str, Any]]:
        try:
            return self.shared.need(*names)
        except ServiceMissing as error:
            missing(error)

    @property
    def postgres(self) -> SharedPostgres:
        return SharedPostgres(**self._get("postgres")["postgres"])

    @property
    def redis(self) -> SharedRedis:
        return SharedRedis(**self._get("redis")["redis"])

    @property
    def kafka(self) -> SharedKafka:
        return SharedKafka(**self._get("kafka")["kafka"])

    @property
    def env(self) -> dict[str, str]:
        """FLEET_* settings of all three; starts them together."""
        self._get(*ALL)
        return {
            "FLEET_POSTGRES_DSN": self.postgres.dsn,
            "FLEET_REDIS_URL": self.redis.url,
            "FLEET_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
        }


def stop_keeper(directory: Path, timeout_s: float = 20.0) -> None:
    """Ask this run's keeper to stop and wait until it has."""
    try:
        pid = int((directory / "keeper.pid").read_text())
        fd = os.pidfd_open(pid)
        signal.pidfd_send_signal(fd, signal.SIGTERM)
    except (FileNotFoundError, ProcessLookupError):
        return
    select.select([fd], [], [], timeout_s)
    os.close(fd)


def free_ports(count: int) -> int:
    """The first of `count` consecutive loopback ports that nobody listens on now."""
    for _ in range(200):
        first = random.randrange(12000, 19900, count)
        with ExitStack() as probes:
            try:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
        return first
    raise OSError("no free range of ports")


def main(argv: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    directory = Path(argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    Keeper(directory, int(argv[2]) if len(argv) > 2 else None).serve()


if __name__ == "__main__":
    main(sys.argv)
