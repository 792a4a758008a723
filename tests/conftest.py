"""Fixtures every test may use: shared real services, a fresh fleet environment, a keyring.

A service that is not installed skips its tests on a laptop and fails them when CI=true.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from fleet.runtime.postgres import Postgres
from fleet.services import Broker, ServiceMissing, Services
from tests.support.services import Shared, SharedServices, free_ports, missing, stop_keeper

# The real clients are an extra of their own (`make sdk`): they pin old versions of what we use.
collect_ignore = [] if importlib.util.find_spec("ccxt") else ["sdk"]

RUN_DIR = "STREAMFLEET_TEST_RUN"  # set by the controller, inherited by the xdist workers
RUN_PID = "STREAMFLEET_TEST_CONTROLLER"
KEPT_DIR = "FLEET_TEST_SERVICES_DIR"

DATABASE_S = 60.0  # to make or drop a database: it waits for every backend of the server
FUZZ_EXAMPLES = 10_000  # `make fuzz`: 100 times the default

settings.register_profile("fuzz", max_examples=FUZZ_EXAMPLES, deadline=None)
settings.register_profile("suite", deadline=None)  # a busy machine is no failure
settings.load_profile("suite")  # until --hypothesis-profile says otherwise


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # the controller, or the one process without xdist
        os.environ[RUN_DIR] = tempfile.mkdtemp(prefix="streamfleet-test-")
        os.environ[RUN_PID] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput") and RUN_DIR in os.environ:
        directory = Path(os.environ.pop(RUN_DIR))
        stop_keeper(directory)
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def services() -> SharedServices:
    kept = os.environ.get(KEPT_DIR)
    if kept:
        return SharedServices(Shared(Path(kept), None))
    return SharedServices(Shared(Path(os.environ[RUN_DIR]), int(os.environ[RUN_PID])))


@pytest.fixture
def own_services(tmp_path: Path) -> Iterator[Callable[..., Services]]:
    """A function like `Services.start(only=…)` whose services belong to this test: to stop, kill, pause and flush."""
    started: list[Services] = []
    prefer: Broker | None = "kafka" if os.environ.get("CI") == "true" else None

    def start(*only: str) -> Services:
        try:
            directory = tmp_path / f"services-{len(started)}"
            started.append(Services.start(directory, only=only, prefer_broker=prefer))
        except ServiceMissing as error:
            missing(error)
        return started[-1]

    with ExitStack() as ends:  # all of them, whatever one of them raises
        yield start
        for each in started:
            ends.callback(each.stop)


@pytest.fixture
def database(services: SharedServices) -> Iterator[str]:
    """DSN of a fresh, empty database in the shared Postgres."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    admin = Postgres(services.postgres.dsn, application="tests", statement_timeout_s=DATABASE_S)
    admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    yield services.postgres.dsn.rsplit("/", 1)[0] + "/" + name
    admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    admin.close()


@pytest.fixture
def keyring_file(tmp_path: Path) -> Path:
    """A keyring with one fresh key, mode 0600."""
    from fleet.runtime.secrets import Keyring  # imported here, so that tests of other parts do not need it

    path = tmp_path / "keyring"
    Keyring.create(str(path))
    return path


@pytest.fixture
def fleet_env(services: SharedServices, database: str, keyring_file: Path, tmp_path: Path) -> dict[str, str]:
    """Settings of a fleet of its own on the shared services: fresh name, empty database, own directories and ports.

    The schema is not applied (`fleet migrate`, or the fixture `migrated_env`). Kafka's topics are shared: tell your
    records from others' by your account ids.
    """
    env = services.env
    for name in ("run", "log", "clickhouse"):
        (tmp_path / name).mkdir()
    ports = free_ports(40)
    return env | {
        "FLEET_NAME": f"t{uuid.uuid4().hex[:10]}",
        "FLEET_POSTGRES_DSN": database,
        "FLEET_CLICKHOUSE_DSN": str(tmp_path / "clickhouse"),
        "FLEET_KEYRING_FILE": str(keyring_file),
        "FLEET_RUN_DIR": str(tmp_path / "run"),
        "FLEET_LOG_DIR": str(tmp_path / "log"),
        "FLEET_METRICS_BASE_PORT": str(ports),
        "FLEET_CONSOLE_PORT": str(ports + 39),
    }


@pytest.fixture
def migrated_env(fleet_env: dict[str, str]) -> dict[str, str]:
    """`fleet_env` with the schema applied and the topics created."""
    from fleet.runtime.kafka_io import create_topics
    from fleet.runtime.postgres import migrate

    store = Postgres(fleet_env["FLEET_POSTGRES_DSN"], application="tests")
    migrate(store)
    store.close()
    create_topics(fleet_env["FLEET_KAFKA_BOOTSTRAP"])
    return fleet_env
