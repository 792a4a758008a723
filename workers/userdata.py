"""The worker process, `python -m workers userdata`: its parts in the order they start and the order they stop.

In: settings. Out: exit code. One process per slot; the slot lock proves that the former process of the slot is dead (R8).
The main thread holds nothing back: it wakes each second, sweeps each health check interval, and ends on SIGTERM.
"""

from __future__ import annotations

import random
import ssl
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from fleet import exchanges
from fleet.core.exchange import Exchange
from fleet.core.model import AccountSpec
from fleet.core.names import TOPIC_STREAMS, USER_STARTED, USER_TOPICS, Keys
from fleet.runtime import logs
from fleet.runtime.http import Http
from fleet.runtime.kafka_io import Producer
from fleet.runtime.metrics import Metrics, port_of
from fleet.runtime.postgres import Postgres
from fleet.runtime.redis_store import Budget, Poke, RedisStore
from fleet.runtime.secrets import Keyring
from fleet.runtime.settings import Settings
from fleet.runtime.shutdown import Checklist, die_with_parent, install_stop, lock_slot
from fleet.runtime.startup import wait_turn
from workers.accounts import Accounts
from workers.connection import Connection, tls_context
from workers.credentials import CredentialDesk
from workers.dial import Wire
from workers.egress import Egress
from workers.health import HealthCheck
from workers.heartbeat import Heartbeat, LeaseGate
from workers.inbox import Inbox
from workers.publish import Publisher
from workers.reach import Crowd
from workers.readback import ReadBack
from workers.rest import VenueRest
from workers.rest_queue import LEAST_THREADS, THREADS
from workers.rotation import Rotation
from workers.shard import Shard
from workers.shared_socket import SharedSockets
from workers.stream import Worker

SHUTDOWN_S = 28.0  # inside supervisord's 30
SLOT_WAIT_S = 5.0  # a dying predecessor gets this long to let the slot go
REST_TIMEOUT_S = 10.0
DEFAULT_EGRESS = "default"
GIL_TURN_S = 0.05  # whoever waits for the interpreter wakes each turn: at Python's 5 ms a thousand of them took all of a processor


def run(settings: Settings) -> int:
    """Stream this slot's accounts until SIGTERM. Raises SettingsError, SecretsError, SlotTaken before anything starts."""
    settings.need("postgres_dsn", "keyring_file")
    die_with_parent()
    sys.setswitchinterval(GIL_TURN_S)
    stop = install_stop()
    slot = settings.slot_or_default()
    keyring = Keyring.load(settings.keyring_file)
    with lock_slot(settings.run_dir, settings.fleet, slot, SLOT_WAIT_S) as lock:
        number = slot.rpartition(":")[2]
        logs.configure(settings, f"worker_{int(number):02d}")
        try:
            return UserData(settings, slot, keyring, lock.name).run_until(stop)
        finally:
            logs.close()


class UserData:
    """Everything of one worker process."""

    def __init__(self, settings: Settings, slot: str, keyring: Keyring, lock: str) -> None:
        self.settings, self.slot = settings, slot
        self.log = logs.get("userdata").bind(shard=slot)
        self.halt = threading.Event()  # ends the inner threads, after the streams have drained
        self.metrics = Metrics(settings.metrics_namespace)
        self.keys = Keys(settings.fleet)
        self.gate = LeaseGate()
        self.tls = tls_context(settings.tls_ca_file)
        self.egress = Egress(settings.egress_ips)
        self.rests = VenueRests(
            settings, self.egress, Budget(self._store(), 1 / (settings.workers + 1)), self.metrics, self.halt
        )
        self.publisher = Publisher(
            lambda: Producer(settings.kafka_bootstrap, slot, may_send=self.gate.valid).prepare(
                (*USER_TOPICS, TOPIC_STREAMS)
            ),
            self.gate,
            settings.buffer_bytes,
            self.metrics,
        )
        self.readback = ReadBack(
            margin_s=settings.recover_margin_s,
            second_read_s=settings.second_read_s,
            random=random.random,
            stop=self.halt,
            threads=max(LEAST_THREADS, THREADS // max(1, len(settings.egress_ips))),  # they stand in one another's way
        )
        self.accounts = Accounts(self._postgres("accounts"), keyring, self.halt)
        self.shard = Shard(self._worker(), self.egress.note)
        self.rotation = Rotation(self.shard.streams)
        self.heartbeat = Heartbeat(
            settings,
            self._store,
            partial(self._postgres, "witness"),
            self.shard,
            slot,
            gate=self.gate,
            rotation=self.rotation,
            lock=lock,
        )
        self.inbox = Inbox(
            self._store,
            lambda: Poke(settings.redis_url, self.keys, slot, settings.redis_timeout_s),
            self.shard,
            slot,
            self.heartbeat,
        )
        self.health = HealthCheck(self.shard.streams, settings.max_consecutive_failures, slot)

    def _worker(self) -> Worker:
        settings = self.settings

        def user_url(exchange: Exchange, is_testnet: bool, ticket: str) -> str:
            return exchange.user_url(exchanges.hosts(exchange, is_testnet, settings.endpoints), ticket)

        return Worker(
            settings=settings,
            slot=self.slot,
            incarnation=lambda: self.shard.incarnation,
            gate=self.gate,
            publisher=self.publisher,
            readback=self.readback,
            accounts=self.accounts,
            desk=CredentialDesk(self.accounts, lambda spec: self.shard.count_at(spec)),
            metrics=self.metrics,
            venue=self.rests.of,
            user_url=user_url,
            connect=Sockets(settings, self.egress, self.tls, self.metrics).connect,
            shares=partial(shares, settings),
            random=random.random,
        )

    def _store(self) -> RedisStore:
        return RedisStore(self.settings.redis_url, self.keys, self.settings.redis_timeout_s)

    def _postgres(self, role: str) -> Postgres:
        return Postgres(self.settings.postgres_dsn, application=f"fleet worker {self.slot} {role}")

    def run_until(self, stop: threading.Event) -> int:
        close_metrics = self.metrics.serve(
            port_of(self.settings.metrics_base_port, f"worker_{self.slot.rpartition(':')[2]}")
        )
        wait_turn(stop)  # market data first, when the whole fleet starts
        self.publisher.start()
        self.readback.start()
        self.accounts.start(self.shard.running)
        self.heartbeat.start()
        self.inbox.start()
        self.log.info(USER_STARTED, action="start", incarnation=self.shard.incarnation)
        sweep_s = time.monotonic()
        broken = False
        while not broken and not stop.wait(1.0):
            self.metrics.buffer_bytes().set(self.publisher.pending_bytes())
            broken = not all(part.alive() for part in (self.heartbeat, self.inbox, self.publisher, self.accounts))
            self.rotation.tick()
            if time.monotonic() - sweep_s >= self.settings.health_check_interval_s:
                sweep_s = time.monotonic()
                self.health.sweep()
        if broken:
            self.log.error("a thread that everything needs has died: starting over", action="broken")
        failed = self._shut_down()
        close_metrics()
        return 1 if failed or broken else 0

    def _shut_down(self) -> list[str]:
        """User data, then Kafka, then the databases (contracts.md), all under one deadline."""
        steps = Checklist()
        steps.add("announce", lambda left_s: self.heartbeat.drain())
        steps.add("inbox", lambda left_s: self.inbox.stop(min(2.0, left_s)))
        steps.add("streams", lambda left_s: self.shard.drain(left_s * 0.6))
        steps.add("kafka", lambda left_s: self.publisher.close(left_s * 0.6))
        steps.add("rest and watermarks", self._halt)
        steps.add("heartbeat", lambda left_s: self.heartbeat.stop(min(3.0, left_s), gone=True))
        return steps.run(SHUTDOWN_S, self.log)

    def _halt(self, left_s: float) -> None:
        self.halt.set()
        self.readback.join(left_s * 0.4)
        self.accounts.join(left_s * 0.4)


class Sockets:
    """Opens connections for account streams: each its own, or a place on a shared one where venue and settings say so."""

    def __init__(self, settings: Settings, egress: Egress, tls: ssl.SSLContext, metrics: Metrics) -> None:
        self._settings, self._egress, self._tls, self._metrics = settings, egress, tls, metrics
        self._shared = SharedSockets()

    def connect(self, rest: VenueRest, url: str, account_id: str, cancelled: Callable[[], bool]) -> Wire:
        """Raises ConnectionFailed or DialRefused."""
        source_ip = self._egress.of(account_id)
        exchange = rest.exchange
        sharing = exchange.sharing
        gauge = self._metrics.userdata_connections(exchange.exchange)

        def own() -> Connection:
            with rest.crowd.place():
                return Connection.open(url, source_ip=source_ip, tls=self._tls, cancelled=cancelled)

        def common() -> Connection:
            rest.dial_permit(cancelled)
            connection = own()
            gauge.inc()
            return connection

        if sharing is None or not shares(self._settings, exchange):
            return own()
        most = min(sharing.most, self._settings.accounts_per_socket)
        place = f"{source_ip or ''} {url}"
        return self._shared.open(place, account_id, replace(sharing, most=most), common, gauge.dec, cancelled)


def shares(settings: Settings, exchange: Exchange) -> bool:
    """Do this venue's accounts share private sockets?"""
    return exchange.sharing is not None and settings.accounts_per_socket > 1


class VenueRests:
    """The REST doors of this process: one per venue, environment and egress address, made when first needed."""

    def __init__(
        self, settings: Settings, egress: Egress, permits: Budget, metrics: Metrics, stop: threading.Event
    ) -> None:
        self._settings, self._egress = settings, egress
        self._permits, self._metrics, self._stop = permits, metrics, stop
        self._crowd = Crowd()
        self._lock = threading.Lock()  # guards _made
        self._made: dict[tuple[str, bool, str | None], VenueRest] = {}

    def of(self, spec: AccountSpec) -> VenueRest:
        """The door for one account. Raises KeyError if no exchange folder serves its (exchange, market)."""
        exchange = exchanges.for_account(spec.exchange, spec.market)
        source_ip = self._egress.of(spec.id)
        with self._lock:
            key = (exchange.name, spec.is_testnet, source_ip)
            if key not in self._made:
                roots = exchanges.hosts(exchange, spec.is_testnet, self._settings.endpoints)
                http = Http(
                    roots.rest, source_ip=source_ip, ca_file=self._settings.tls_ca_file, timeout_s=REST_TIMEOUT_S
                )
                self._made[key] = VenueRest(
                    exchange,
                    spec.is_testnet,
                    http,
                    self._permits,
                    source_ip or DEFAULT_EGRESS,
                    self._metrics,
                    self._stop,
                    self._crowd,
                    self._settings.workers,
                )
            return self._made[key]
