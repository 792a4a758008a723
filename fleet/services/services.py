"""The set of services of one machine: start them together, hand out their settings, stop them all.

Comes in: a directory and names. Goes out: `Services` with one attribute a service and `env`, the FLEET_* settings.
Everything ends with this process: by `stop` (also at exit), and by the kernel if it dies without a word (see `leash`).
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from fleet.services.daemon import Daemon, Progress, ServiceMissing
from fleet.services.kafka import Kafka
from fleet.services.postgres import Postgres
from fleet.services.redis import Redis
from fleet.services.tansu import Tansu

SERVICES = ("postgres", "redis", "kafka", "clickhouse")
Broker = Literal["kafka", "tansu"]
TEMPORARY_PREFIX = "streamfleet-services-"


class Services:
    """Running services. A context manager; `start` is the way to one."""

    def __init__(self, directory: Path, *, temporary: bool, progress: Progress | None) -> None:
        self.directory = directory
        self._temporary = temporary
        self._progress: Progress = progress or (lambda line: None)
        self._owner_pid = os.getpid()
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None
        self._broker: Kafka | Tansu | None = None
        self.clickhouse: Path | None = None  # the engine runs in the process that opens this directory

    @classmethod
    def start(
        cls,
        directory: Path | str | None = None,
        only: Iterable[str] = SERVICES,
        progress: Progress | None = None,
        prefer_broker: Broker | None = None,
    ) -> Self:
        """Start the services named in `only` together and wait until all serve (≤ 15 s once downloaded).

        `directory` keeps their data and logs; None takes a temporary one that `stop` removes. `progress` gets one line each
        time there is something to wait for, from any thread. Without `prefer_broker`, Apache Kafka runs, and Tansu where
        Java or Maven is missing. Raises ServiceMissing (one line, names what to install), ServiceFailed.
        """
        if not sys.platform.startswith("linux"):
            raise ServiceMissing("the embedded services need Linux (parent-death signals, /proc)")
        names = tuple(only)
        unknown = set(names) - set(SERVICES)
        if unknown:
            raise ValueError(f"unknown services {sorted(unknown)}; known: {', '.join(SERVICES)}")
        temporary = directory is None
        root = _temporary_directory() if directory is None else Path(directory).resolve()
        root.mkdir(parents=True, exist_ok=True)
        services = cls(root, temporary=temporary, progress=progress)
        atexit.register(services.stop)
        try:
            services._create(names, prefer_broker)
            services._start_all(prefer_broker)
        except BaseException:  # also Ctrl-C: nothing may be left running
            services.stop()
            raise
        return services

    @property
    def postgres(self) -> Postgres:
        if self._postgres is None:
            raise _absent("postgres")
        return self._postgres

    @property
    def redis(self) -> Redis:
        if self._redis is None:
            raise _absent("redis")
        return self._redis

    @property
    def kafka(self) -> Kafka | Tansu:
        """The broker, whichever it is: `.kind` says."""
        if self._broker is None:
            raise _absent("kafka")
        return self._broker

    @property
    def env(self) -> dict[str, str]:
        """FLEET_* settings that point at what runs here."""
        env: dict[str, str] = {}
        if self._postgres is not None:
            env["FLEET_POSTGRES_DSN"] = self._postgres.dsn
        if self._redis is not None:
            env["FLEET_REDIS_URL"] = self._redis.url
        if self._broker is not None:
            env["FLEET_KAFKA_BOOTSTRAP"] = self._broker.bootstrap
        if self.clickhouse is not None:
            env["FLEET_CLICKHOUSE_DSN"] = str(self.clickhouse)
        return env

    def stop(self) -> None:
        """Stop everything and remove a temporary directory. Safe to call twice; a fork of the owner stops nothing."""
        if os.getpid() != self._owner_pid:
            return
        atexit.unregister(self.stop)
        daemons = self._daemons()
        if daemons:
            with ThreadPoolExecutor(len(daemons)) as pool:
                list(pool.map(Daemon.close, daemons))
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.stop()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _daemons(self) -> list[Daemon]:
        return [daemon for daemon in (self._postgres, self._redis, self._broker) if daemon is not None]

    def _create(self, names: tuple[str, ...], prefer_broker: Broker | None) -> None:
        if "postgres" in names:
            self._postgres = Postgres(self.directory, self._progress)
        if "redis" in names:
            self._redis = Redis(self.directory, self._progress)
        if "kafka" in names:
            self._broker = self._create_broker(prefer_broker)
        if "clickhouse" in names:
            self.clickhouse = self.directory / "clickhouse"
            self.clickhouse.mkdir(exist_ok=True)

    def _create_broker(self, prefer: Broker | None) -> Kafka | Tansu:
        if prefer == "tansu":
            return Tansu(self.directory, self._progress)
        try:
            return Kafka(self.directory, self._progress)
        except ServiceMissing as missing:
            if prefer == "kafka":
                raise
            return self._fall_back(missing)

    def _fall_back(self, missing: ServiceMissing) -> Tansu:
        self._progress(f"{missing}; using Tansu, which is in memory only")
        try:
            return Tansu(self.directory, self._progress)
        except ServiceMissing as also:
            raise ServiceMissing(f"{missing}; or {also}") from missing

    def _start_all(self, prefer_broker: Broker | None) -> None:
        starts: list[Callable[[], object]] = [daemon.start for daemon in self._daemons() if daemon is not self._broker]
        if self._broker is not None:
            starts.append(partial(self._start_broker, self._broker, prefer_broker))
        if not starts:
            return
        with ThreadPoolExecutor(len(starts), thread_name_prefix="services-start") as pool:
            started = [pool.submit(start) for start in starts]
            try:
                for future in as_completed(started):
                    future.result()
            except BaseException:
                for daemon in self._daemons():  # interrupts the others, whose threads the pool waits for
                    daemon.close()
                raise

    def _start_broker(self, broker: Kafka | Tansu, prefer: Broker | None) -> None:
        try:
            broker.start()
        except ServiceMissing as missing:  # it could not be downloaded
            if prefer == "kafka":
                raise
            self._broker = self._fall_back(missing)
            self._broker.start()


def _absent(name: str) -> LookupError:
    return LookupError(f"the service {name} was not asked for")


def _temporary_directory() -> Path:
    """A new directory, locked for our life; those of processes that died without removing theirs are removed."""
    root = Path(tempfile.gettempdir())
    for old in root.glob(f"{TEMPORARY_PREFIX}*"):
        try:
            with (old / "owner.lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(old, ignore_errors=True)
        except OSError:  # held by a living process, half made, or somebody else's
            continue
    directory = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX))
    _held.append(os.open(directory / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    fcntl.flock(_held[-1], fcntl.LOCK_EX)
    return directory


_held: list[int] = []  # open until the process ends: the lock says that we live
