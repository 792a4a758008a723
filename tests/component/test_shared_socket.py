"""Many spot accounts on one WebSocket API socket: as correct as a socket each, and one account's trouble disturbs no neighbour."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fleet import exchanges
from fleet.core.errors import ConnectionFailed
from fleet.core.model import AccountSpec, Credentials, StreamState
from fleet.core.recovery import Watermark
from fleet.runtime.http import Http
from fleet.runtime.metrics import Metrics
from fleet.runtime.settings import Settings
from tests.component.test_stream import ListKafka, NoLimit, Open, until
from tests.support.simulator import Simulator
from workers.accounts import Loaded
from workers.connection import Connection
from workers.dial import Wire
from workers.publish import Publisher
from workers.readback import ReadBack
from workers.rest import VenueRest
from workers.shared_socket import SharedSockets
from workers.stream import AccountStream, Worker

ACCOUNTS = 8
NUMBERS = itertools.count()
SEND_INTERVAL_S = 0.3  # the venue's own is 0.5; the twin takes five messages a second


class Rows:
    """Stands for Postgres: each account with its own key; nobody is deactivated."""

    def __init__(self, keys: dict[str, Credentials]) -> None:
        self.keys, self.now_ms = keys, int(time.time() * 1000)

    def load(self, account_id: str) -> Loaded:
        spec = AccountSpec(account_id, "u", "binance", "spot", account_id, False, 1, self.now_ms)
        return Loaded(spec, self.keys[account_id], Watermark(proven_ms=self.now_ms), False)

    def save(self, progresses: object) -> None:
        return None

    def save_last(self, token: int, progress: object) -> None:
        return None


class NoDesk:
    """Remembers strikes; the keys stay."""

    def __init__(self) -> None:
        self.struck: list[str] = []

    def strike(self, spec: AccountSpec, verdict: object) -> None:
        self.struck.append(spec.id)

    def confirm(self, spec: AccountSpec, credentials: Credentials, rest: VenueRest) -> bool:
        return True


class Shard:
    """Streams that share sockets."""

    def __init__(
        self, simulator: Simulator, most: int, send_interval_s: float = SEND_INTERVAL_S, accounts: int = ACCOUNTS
    ) -> None:
        self.simulator, self.kafka, self.stop, self.desk = simulator, ListKafka(), threading.Event(), NoDesk()
        self.since = max((row["seq"] for row in simulator.ledger(type="fill")), default=0)
        self.keys = {
            f"acc-{n}": Credentials(f"shared{next(NUMBERS)}".ljust(64, "k"), f"{n}" * 32) for n in range(accounts)
        }
        for key in self.keys.values():
            simulator.account(key.api_key, key.secret, market="spot")
        settings = Settings.from_env({**simulator.env, "FLEET_SECOND_READ_S": "1"})
        self.metrics = Metrics()
        self.publisher = Publisher(lambda: self.kafka, Open(), 1 << 24, self.metrics).start()
        self.readback = ReadBack(margin_s=3.0, second_read_s=1.0, random=random.random, stop=self.stop).start()
        venue = exchanges.for_account("binance", "spot")
        assert venue.sharing is not None
        sharing = replace(venue.sharing, most=most, send_interval_s=send_interval_s)
        hosts = exchanges.hosts(venue, False, settings.endpoints)
        rest = VenueRest(venue, False, Http(hosts.rest), NoLimit(), "default", self.metrics, self.stop)
        shared = SharedSockets()

        def connect(rest: VenueRest, url: str, account_id: str, cancelled: Callable[[], bool]) -> Wire:
            return shared.open(url, account_id, sharing, lambda: Connection.open(url), lambda: None, cancelled)

        worker = Worker(
            settings=settings, slot="test:0", incarnation=lambda: "inc", gate=Open(), publisher=self.publisher,
            readback=self.readback, accounts=Rows(self.keys), desk=self.desk, metrics=self.metrics,  # type: ignore[arg-type]
            venue=lambda spec: rest, user_url=lambda exchange, testnet, ticket: exchange.user_url(hosts, ticket),
            connect=connect, shares=lambda exchange: True, random=random.random,
        )  # fmt: skip
        self.streams = {account: AccountStream(account, 1, worker) for account in self.keys}
        for stream in self.streams.values():
            stream.start()

    def live(self, *without: str) -> bool:
        return all(s.state is StreamState.LIVE for a, s in self.streams.items() if a not in without)

    def trade(self, *without: str) -> None:
        for account, key in self.keys.items():
            if account not in without:
                self.simulator.order(key.api_key, "BTCUSDT", "buy", "0.01", "50000", fills=2, market="spot")

    def sockets(self) -> list[dict[str, Any]]:
        ours = {key.api_key for key in self.keys.values()}
        rows = self.simulator.connections(only_open=True)
        return [row for row in rows if ours & {row.get("api_key"), *(row.get("api_keys") or ())}]

    def missing(self) -> set[tuple[str, str]]:
        ids = {key.api_key: account for account, key in self.keys.items()}
        ledger = self.simulator.ledger(self.since, type="fill")
        owed = {(ids[row["api_key"]], str(row["trade_id"])) for row in ledger if row["api_key"] in ids}
        return owed - {(r["account_id"], r["trade_id"]) for r in self.kafka.records if r["type"] == "fill"}

    def close(self) -> None:
        for stream in self.streams.values():
            stream.stop()
        assert all(stream.join(10.0) for stream in self.streams.values())
        self.publisher.close(3.0)
        self.stop.set()
        self.readback.join(3.0)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(("binance_spot",), plain=True) as simulator:
        yield simulator


@pytest.fixture
def shard(simulator: Simulator) -> Iterator[Shard]:
    made = Shard(simulator, most=1000)
    yield made
    made.close()


def test_one_socket_carries_them_all_and_each_gets_its_own(shard: Shard) -> None:
    until(shard.live, 30.0, "all accounts live")
    assert len(shard.sockets()) == 1
    shard.trade()
    until(lambda: not shard.missing(), 10.0, "fills")
    assert {r["source"] for r in shard.kafka.records if r["type"] == "fill"} == {"stream"}


def test_a_revoked_key_disturbs_no_neighbour(shard: Shard) -> None:
    until(shard.live, 30.0, "all accounts live")
    victim = "acc-3"
    shard.simulator.set_state(shard.keys[victim].api_key, "invalid")
    shard.streams[victim].read_back()
    until(lambda: shard.desk.struck == [victim], 15.0, "a strike against the revoked key")
    shard.trade(victim)
    until(lambda: not shard.missing(), 10.0, "the neighbours' fills")
    assert shard.live(victim) and all(s.reconnects == 0 for a, s in shard.streams.items() if a != victim)
    assert shard.desk.struck == [victim]
    shard.simulator.set_state(shard.keys[victim].api_key, "active")


def test_a_cut_concerns_all_and_loses_nothing(shard: Shard) -> None:
    until(shard.live, 30.0, "all accounts live")
    shard.simulator.fault("reject", path="/ws-api", status=503, seconds=2)
    shard.simulator.fault("cut", path="/ws-api", count=1)
    until(lambda: not shard.sockets(), 5.0, "the cut")
    shard.trade()
    until(lambda: not shard.missing(), 40.0, "what was missed")
    until(shard.live, 40.0, "live again")


def test_rotation_moves_an_account_to_another_socket(shard: Shard) -> None:
    until(shard.live, 30.0, "all accounts live")
    for stream in shard.streams.values():
        stream.rotate()
    until(lambda: len(shard.sockets()) == 2, 10.0, "a second socket")
    shard.trade()
    until(lambda: len(shard.sockets()) == 1 and shard.live() and not shard.missing(), 30.0, "one socket again")
    fills = [r["id"] for r in shard.kafka.records if r["type"] == "fill"]
    assert len(set(fills)) == len(fills) and all(s.reconnects == 0 for s in shard.streams.values())


def test_a_signature_does_not_age_while_it_waits_for_its_turn(simulator: Simulator) -> None:
    shard = Shard(simulator, most=1000, send_interval_s=1.2)  # the last waits 8 s, the exchange takes 5 s
    try:
        until(shard.live, 30.0, "all accounts live")
        assert len(shard.sockets()) == 1 and all(s.reconnects == 0 for s in shard.streams.values())
        dials = [line for line in shard.metrics.render().decode().splitlines() if line.startswith("fleet_dials_total")]
        assert len(dials) == 1 and dials[0].endswith(f" {ACCOUNTS}.0"), dials  # nobody was refused
    finally:
        shard.close()


def test_the_cap_opens_another_socket(simulator: Simulator) -> None:
    shard = Shard(simulator, most=3)
    try:
        until(shard.live, 30.0, "all accounts live")
        assert len(shard.sockets()) == 3
        shard.streams["acc-0"].stop()
        until(lambda: shard.streams["acc-0"].ended, 10.0)
        shard.trade("acc-0")
        until(lambda: not shard.missing(), 10.0, "the others' fills")
    finally:
        shard.close()


def test_a_place_whose_reader_is_gone_says_so() -> None:
    def refused() -> Connection:
        raise ConnectionFailed("refused")

    venue = exchanges.for_account("binance", "spot")
    assert venue.sharing is not None
    with pytest.raises(ConnectionFailed, match="refused"):
        SharedSockets().open("wss://x", "a", venue.sharing, refused, lambda: None, lambda: False)
