"""A whole fleet for a test: simulator, supervisord and its programs, against the shared services. In: an environment; out: handles.

It is built from the demo's own parts, so what the tests prove holds for the demo too.
"""

from __future__ import annotations

import os
import secrets
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from fleet.core.model import Credentials
from fleet.core.names import Keys
from fleet.demo.place import REPOSITORY
from fleet.demo.run import fleet_command
from fleet.demo.simulated import Control, Simulated
from fleet.demo.supervised import Supervised
from fleet.exchanges import for_account
from fleet.runtime.account_rows import AccountRows, NewAccount
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.secrets import Keyring
from fleet.runtime.settings import Settings
from fleet.services.stacked import Stacked
from tests.support.services import SharedServices, free_ports

VENUE = ("binance", "usdm")
DATABASE_S = 60.0  # to make or drop a database: it waits for every backend of the server
Value = TypeVar("Value")


def eventually(condition: Callable[[], Value], within_s: float, what: str = "", every_s: float = 0.05) -> Value:
    """The first true value of `condition`; an AssertionError that says `what` after `within_s`."""
    end = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {within_s} s: {what or condition}"
        time.sleep(every_s)


@contextmanager
def fresh_env(services: SharedServices, directory: Path) -> Iterator[dict[str, str]]:
    """Settings of a fleet of its own on the shared services, with an empty database that is dropped at the end."""
    name = f"system_{uuid.uuid4().hex[:12]}"
    admin = Postgres(services.postgres.dsn, application="tests", statement_timeout_s=DATABASE_S)
    admin.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    ports = free_ports(40)
    try:
        yield services.env | {
            "FLEET_NAME": f"t{uuid.uuid4().hex[:10]}",
            "FLEET_POSTGRES_DSN": services.postgres.dsn.rsplit("/", 1)[0] + "/" + name,
            "FLEET_CLICKHOUSE_DSN": str(directory / "clickhouse"),
            "FLEET_KEYRING_FILE": str(directory / "keyring"),
            "FLEET_RUN_DIR": str(directory / "run"),
            "FLEET_LOG_DIR": str(directory / "logs"),
            "FLEET_METRICS_BASE_PORT": str(ports),
            "FLEET_CONSOLE_PORT": str(ports + 39),
        }
    finally:
        admin.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        admin.close()


class Fleet(Stacked):
    """A running fleet. Use it as a context manager; everything ends with it."""

    def __init__(
        self,
        env: Mapping[str, str],
        directory: Path,
        *,
        workers: int = 2,
        accounts: int = 0,
        venue: tuple[str, str] = VENUE,
    ) -> None:
        super().__init__()
        self.directory, self.venue = directory, venue
        self.logs = Path(env["FLEET_LOG_DIR"])
        self.workers = workers
        self.credentials: dict[str, Credentials] = {}  # account id → what the exchange knows
        self._number = 0
        self._env = dict(env)
        self._accounts = accounts

    def form(self) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        Path(self._env["FLEET_RUN_DIR"]).mkdir(exist_ok=True)
        simulator = Simulated(self.directory, REPOSITORY, [for_account(*self.venue).name], seed=1)
        self._stack.callback(simulator.stop)
        self.control: Control = simulator.ready()
        self._stack.callback(self.control.close)
        self.simulator_pid = simulator.pid
        keyring = self.directory / "fleet-keyring"
        self.keyring = Keyring.create(keyring)
        self.env = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "CI") if name in os.environ},
            **simulator.endpoints,
            "FLEET_WORKERS": str(self.workers),
            **self._env,
            "FLEET_KEYRING_FILE": str(keyring),
        }
        self.settings = Settings.from_env(self.env)
        self.pg = Postgres(self.settings.postgres_dsn, application="test")
        self._stack.callback(self.pg.close)
        fleet_command("migrate", self.env)
        self.rows = AccountRows(self.pg)
        for _ in range(self._accounts):
            self.add_account()
        store = RedisStore(self.settings.redis_url, Keys(self.settings.fleet), timeout_s=2.0)
        self._stack.callback(store.close)
        self.view = FleetView(store, self.settings.dead_after_s)
        self.processes = Supervised(self.env, self.logs)
        self._stack.callback(self.processes.kill)

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────
    def new_credentials(self) -> Credentials:
        """An API key the exchange knows, and nobody uses yet."""
        credentials = Credentials(secrets.token_hex(32), secrets.token_hex(32))
        self.control.add_account(*self.venue, credentials)
        return credentials

    def add_account(self, credentials: Credentials | None = None) -> str:
        """An account at the exchange and in Postgres; its id."""
        credentials = credentials or self.new_credentials()
        self._number += 1
        account_id = self.rows.add(NewAccount(f"user-{self._number}", *self.venue, "test"), credentials, self.keyring)
        self.credentials[account_id] = credentials
        return account_id

    def wait_live(self, count: int, within_s: float = 40.0) -> None:
        """Until `count` accounts are live under their owners' present tokens."""
        eventually(
            lambda: len(self.view.live()) == count, within_s, f"{count} accounts live, have {len(self.view.live())}"
        )

    # ── the exchange's side ──────────────────────────────────────────────────────────────────────────────────────
    def sockets(self, api_key: str) -> list[dict[str, Any]]:
        """Open private sockets of one account, as the simulator sees them."""
        return [c for c in self.control.connections() if c.get("api_key") == api_key and c.get("closed_at") is None]

    def streaming(self, account_id: str) -> bool:
        """Exactly one open private socket."""
        return len(self.sockets(self.credentials[account_id].api_key)) == 1

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────
    def log_text(self) -> str:
        """Everything the fleet wrote to files."""
        return "\n".join(p.read_text(errors="replace") for p in sorted(self.logs.iterdir()) if p.is_file())
