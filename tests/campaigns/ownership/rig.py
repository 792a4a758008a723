"""The fleet of the campaign: own services, the simulated exchange, one supervisord per host, a pulse of orders, a journal of Kafka.

In: how many hosts, workers and accounts. Out: handles to do harm with, and what can be seen from outside. Runs in the campaign's
process; everything ends with the context. Each host reaches Redis and Postgres through proxies of its own.
"""

from __future__ import annotations

import operator
import os
import secrets
import shutil
import socket
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psutil

from fleet.core.errors import StoreUnavailable
from fleet.core.model import Credentials, Ownership
from fleet.core.names import Keys
from fleet.demo.place import REPOSITORY
from fleet.demo.run import fleet_command
from fleet.demo.simulated import Control, Simulated
from fleet.exchanges import for_account
from fleet.runtime.account_rows import AccountRows, NewAccount
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.secrets import Keyring
from fleet.services import Services
from fleet.services.stacked import Stacked
from tests.campaigns.ownership.dials import pacing_s
from tests.campaigns.ownership.hosts import Host
from tests.campaigns.ownership.journal import Journal
from tests.campaigns.ownership.judge import Socket, Usage
from tests.campaigns.ownership.traffic import Pulse, Trading, pulse_s
from tests.campaigns.recovery.bounds import beyond, dials_in_span
from tests.support.proxy import Proxy
from tests.support.services import free_ports

VENUE = ("binance", "usdm")
PORTS_PER_HOST = 40
KEPT = ("PATH", "HOME", "CI", "TMPDIR", "JAVA_HOME")


def now_ms() -> int:
    return int(time.time() * 1000)


class Rig(Stacked):
    """A running fleet; `services` are this rig's alone, because it stops, freezes and empties them."""

    def __init__(
        self,
        directory: Path,
        services: Services,
        *,
        hosts: int = 2,
        workers: int = 1,
        accounts: int = 30,
        settings: dict[str, str] | None = None,
        addresses: int = 0,
        pulse: float = 0.0,
        rate: float = 0.0,
    ) -> None:
        """`pulse`: seconds from one order of an account to the next, 0 = by their number. `rate`: user events a second, with fills,
        besides. `addresses`: loopback addresses that all workers may dial from, each with its budgets; 0 = the system's choice."""
        super().__init__()
        self.directory, self.services, self.pulse_s, self.rate = directory, services, pulse or pulse_s(accounts), rate
        self._hosts, self._workers, self._count = hosts, workers, accounts
        self.addresses = [f"127.0.0.{2 + number}" for number in range(addresses)]
        self._more = (settings or {}) | ({"FLEET_EGRESS_IPS": ",".join(self.addresses)} if addresses else {})
        self.trading: Trading | None = None
        self.hosts: dict[str, Host] = {}
        self.all_hosts: list[Host] = []  # those too that were dropped
        self.redis_proxies: dict[str, Proxy] = {}
        self.postgres_proxies: dict[str, Proxy] = {}
        self.credentials: dict[str, Credentials] = {}  # account id → what the exchange knows, active accounts only
        self.removed: dict[str, str] = {}  # account id → API key of accounts that may not stream any more

    def form(self) -> None:
        simulator = Simulated(self.directory, REPOSITORY, [for_account(*VENUE).name], seed=1)
        self._stack.callback(simulator.stop)
        self.exchange = psutil.Process(simulator.pid)
        self.control: Control = simulator.ready()
        self._stack.callback(self.control.close)
        keyring = self.directory / "keyring"
        self.keyring = Keyring.create(str(keyring))
        fleet = f"o{uuid.uuid4().hex[:10]}"
        env = {
            **{name: os.environ[name] for name in KEPT if name in os.environ},
            **simulator.endpoints,
            **self.services.env,
            "FLEET_NAME": fleet,
            "FLEET_KEYRING_FILE": str(keyring),
            "FLEET_PYTHON": sys.executable,
            "FLEET_CLICKHOUSE_DSN": str(self.directory / "clickhouse"),
            **self._more,
        }
        self.env = env
        fleet_command("migrate", env)
        self.pg = Postgres(self.services.postgres.dsn, application="campaign")
        self._stack.callback(self.pg.close)
        self.rows = AccountRows(self.pg)
        for _ in range(self._count):
            self.add_account()
        self.store = RedisStore(env["FLEET_REDIS_URL"], Keys(fleet), timeout_s=2.0)
        self._stack.callback(self.store.close)
        self.keys = Keys(fleet)
        self.view = FleetView(self.store, dead_after_s=7.0)
        self.journal = self._stack.enter_context(Journal(self.services.kafka.bootstrap))
        for _ in range(self._hosts):
            self.add_host()
        pulse = self._stack.enter_context(Pulse(self, simulator.ready()))
        if self.rate:
            kafka = self.services.kafka.bootstrap
            self.trading = self._stack.enter_context(Trading(self.control, kafka, self.rate, pulse))

    def add_host(self) -> Host:
        """Another host, named by the next letter, with proxies of its own before Redis and Postgres."""
        name = "abcdefgh"[len(self.redis_proxies)]
        redis = self.redis_proxies[name] = self._stack.enter_context(Proxy(self.services.redis.port))
        postgres = self.postgres_proxies[name] = self._stack.enter_context(Proxy(self.services.postgres.port))
        dsn = self.services.postgres.dsn
        stores = {
            "FLEET_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "FLEET_POSTGRES_DSN": dsn.replace(f":{self.services.postgres.port}/", f":{postgres.port}/"),
        }
        host = Host(name, self.directory, self.env | stores | self._more, self._workers, free_ports(PORTS_PER_HOST))
        self.hosts[name] = host
        self.all_hosts.append(host)
        self._stack.callback(host.kill)
        return host

    def drop_host(self, host: Host) -> None:
        """Stop a host in order, for good."""
        host.supervised.stop()
        del self.hosts[host.name]

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────
    def add_account(self) -> str:
        credentials = Credentials(secrets.token_hex(32), secrets.token_hex(32))
        self.control.add_account(*VENUE, credentials)
        account = self.rows.add(NewAccount(f"user-{uuid.uuid4().hex[:8]}", *VENUE, "test"), credentials, self.keyring)
        self.credentials[account] = credentials
        return account

    def end_account(self, account: str, *, remove: bool) -> None:
        """Deactivate or delete an account."""
        if remove:
            self.rows.remove(account)
        else:
            self.rows.deactivate(account, "campaign")
        self.removed[account] = self.credentials.pop(account).api_key

    # ── harm done to Redis' data ─────────────────────────────────────────────────────────────────────────────────
    def redis_command(self, *words: str) -> None:
        """One command on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.services.redis.port), timeout=5.0) as connection:
            connection.sendall((" ".join(words) + "\r\n").encode())
            answer = connection.recv(64)
        assert answer.startswith(b"+OK"), answer

    def empty_redis(self) -> None:
        """Remove the files of a Redis that does not run."""
        for path in (self.services.redis.directory / "redis").rglob("*"):
            if path.is_file():
                path.unlink()

    def copy_redis(self, name: str) -> Path:
        """What Redis has on disk now: the data of a replica that will lag behind."""
        return Path(shutil.copytree(self.services.redis.directory / "redis", self.directory / name, dirs_exist_ok=True))

    def restore_redis(self, copy: Path) -> None:
        """Put older data in the place of a Redis that does not run."""
        self.empty_redis()
        shutil.copytree(copy, self.services.redis.directory / "redis", dirs_exist_ok=True)

    # ── what can be seen ─────────────────────────────────────────────────────────────────────────────────────────
    def sockets(self) -> list[Socket]:
        """Every private socket the exchange has seen."""
        return [c for c in self.control.connections() if c.get("api_key")]

    def pacing_s(self, dials: int, sockets: Sequence[Socket] | None = None) -> float:
        """How long the venue's dial limits alone make the last of so many dials wait, if they all begin now."""
        return pacing_s(
            self.sockets() if sockets is None else sockets,
            for_account(*VENUE).limits.dial,
            dials,
            self.addresses or ["127.0.0.1"],
            time.time(),
        )

    def usage(self) -> dict[str, Usage]:
        """What the processes of a kind hold now, over all hosts (accounts move between them); {} while a process comes or goes."""
        total: dict[str, Usage] = {}
        try:
            for kind, one in (row for host in self.hosts.values() for row in host.usage()):
                total[kind] = Usage(*map(operator.add, total[kind], one)) if kind in total else one
        except psutil.Error:
            return {}
        return total

    def beyond_limits(self) -> list[str]:
        """I7: where a dial or weight limit of the venue was exceeded, by the exchange's own counts."""
        return beyond(self.control.calls(), dials_in_span(self.control.connections()))

    def owners(self) -> dict[str, Ownership]:
        return self.store.owners()[0]

    def incarnations(self) -> dict[str, str]:
        """Slot → incarnation now registered."""
        return {slot: record.view.incarnation for slot, record in self.store.observe().workers.items()}

    def leading_host(self) -> str:
        """The host whose coordinator leads; "" while nobody does."""
        leader = self.store.leader()
        pid = int(leader.split(":")[1]) if leader else -1
        return next((name for name, host in self.hosts.items() if host.coordinator() == pid), "")

    def lead_from(self, name: str, within_s: float = 30.0) -> None:
        """Make sure that the coordinator of this host leads: others are told to step down in order."""
        end = time.monotonic() + within_s
        while (leading := self.leading_host()) != name:
            if leading and (pid := self.hosts[leading].coordinator()):
                os.kill(pid, 15)
                wait_for(lambda: self.leading_host() not in ("", leading), 15.0)
            assert time.monotonic() < end, f"host {name} does not lead"
            time.sleep(0.1)

    def unhealthy(self, since_ms: int) -> str:
        """What is not yet as it should be, "" if everything is: one socket and one live owner per active account, and a record
        of that owner since `since_ms`; nothing for an account that was ended."""
        try:
            owners, live = self.owners(), self.view.live()
        except StoreUnavailable as error:
            return f"redis: {error}"
        open_now: dict[str, int] = {}
        for each in self.sockets():
            if each["closed_at"] is None:
                open_now[each["api_key"]] = open_now.get(each["api_key"], 0) + 1
        for account, credentials in self.credentials.items():
            owner, line = owners.get(account), self.journal.latest.get(account)
            if open_now.get(credentials.api_key, 0) != 1:
                return f"{account}: {open_now.get(credentials.api_key, 0)} sockets"
            if owner is None or account not in live:
                return f"{account}: no live owner"
            if line is None or line.token != owner.token or line.made_ms <= since_ms:
                return f"{account}: nothing heard of its owner yet"
        left = [account for account, key in self.removed.items() if open_now.get(key)]
        return f"{left[0]}: still streams" if left else ""

    def settle(self, since_ms: int, within_s: float) -> str:
        """Wait until all is well; "" or what was still wrong."""
        wait_for(lambda: not self.unhealthy(since_ms), within_s, every_s=0.3)
        return self.unhealthy(since_ms)


def wait_for(condition: Callable[[], Any], within_s: float, every_s: float = 0.05) -> bool:
    end = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(every_s)
    return True


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
