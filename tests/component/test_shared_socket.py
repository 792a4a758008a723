"""Many spot accounts on one WebSocket API socket: as correct as a socket each, and one account's trouble disturbs no neighbour."""

from __future__ import annotations

import itertools
import json
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from fleet import exchanges
from fleet.core.errors import ConnectionFailed
from fleet.core.exchange import Outcome, Reply, Verdict
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
from workers.shared_socket import SharedConnection, SharedSockets
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

    def confirm(self, spec: AccountSpec, credentials: Credentials, rest: VenueRest, cancelled: object) -> bool:
        return True


class Shard:
    """Streams that share sockets."""

    def __init__(
        self,
        simulator: Simulator,
        most: int,
        send_interval_s: float = SEND_INTERVAL_S,
        accounts: int = ACCOUNTS,
        one_account: bool = False,
    ) -> None:
        self.simulator, self.kafka, self.stop, self.desk = simulator, ListKafka(), threading.Event(), NoDesk()
        self.since = max((row["seq"] for row in simulator.ledger(type="fill")), default=0)
        self.keys = {
            f"acc-{n}": Credentials(f"shared{next(NUMBERS)}".ljust(64, "k"), f"{n}" * 32) for n in range(accounts)
        }
        if one_account:
            self.keys = dict.fromkeys(self.keys, self.keys["acc-0"])
        for key in set(self.keys.values()):
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

    def told(self) -> list[str]:
        """By which account each fill was told that came from a stream."""
        fills = [r for r in self.kafka.records if r["type"] == "fill" and r["source"] == "stream"]
        return sorted(r["account_id"] for r in fills)

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


def test_two_rows_of_one_account_get_a_socket_each(simulator: Simulator) -> None:
    """The venue subscribes an account once a socket: the second row would be live there, and deaf."""
    shard = Shard(simulator, most=1000, accounts=2, one_account=True)
    try:
        until(shard.live, 30.0, "both rows live")
        assert len(shard.sockets()) == 2
        (api_key,) = {key.api_key for key in shard.keys.values()}
        simulator.order(api_key, "BTCUSDT", "buy", "0.01", "50000", fills=2, market="spot")
        until(lambda: shard.told() == ["acc-0", "acc-0", "acc-1", "acc-1"], 10.0, "the fills, by both streams")
    finally:
        shard.close()


class Line:
    """A socket of which the test is the venue."""

    def __init__(self) -> None:
        self.frames: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.sent: list[dict[str, Any]] = []
        self.last_rx = time.monotonic()

    def read(self, timeout_s: float) -> list[bytes]:
        try:
            return [self.frames.get(timeout=timeout_s)]
        except queue.Empty:
            return []

    def send(self, payload: bytes) -> None:
        self.sent.append(json.loads(payload))

    def ping(self) -> None:
        return None

    def close(self, code: int = 1000) -> None:
        return None


class Lines:
    """Places on sockets that the test answers by hand; account "b" keeps the first of them open."""

    def __init__(self) -> None:
        venue = exchanges.for_account("binance", "spot")
        assert venue.sharing is not None
        self.sharing, self.dialled, self.shared = replace(venue.sharing, send_interval_s=0.0), [Line()], SharedSockets()
        self.places = [self.shared.open("u", "b", self.sharing, self._dial, lambda: None, lambda: False)]
        self.first = self.dialled[0]

    def _dial(self) -> Any:
        return self.dialled[-1]

    def open(self, account_id: str) -> SharedConnection:
        self.dialled.append(Line())
        place = self.shared.open("u", account_id, self.sharing, self._dial, lambda: None, lambda: False)
        self.places.append(place)
        return place

    def close(self) -> None:
        for place in self.places:
            place.close()


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    yield made
    made.close()


def asks(key: str) -> bytes:
    return json.dumps({"id": key, "method": "userDataStream.subscribe.signature", "params": {}}).encode()


def test_a_subscription_whose_asker_has_left_is_ended(lines: Lines) -> None:
    place = lines.open("a")
    place.send(asks("key-a"))
    place.close()  # told to stop, or the reply took too long
    lines.first.frames.put(b'{"id":"key-a","status":200,"result":{"subscriptionId":1}}')
    until(lambda: len(lines.first.sent) == 2, 3.0, "a frame after the subscription's")
    assert lines.first.sent[1]["method"] == "userDataStream.unsubscribe"
    assert lines.first.sent[1]["params"] == {"subscriptionId": 1}


@pytest.mark.parametrize("code", [-2035, -2042])
def test_who_is_refused_on_a_socket_gets_another_one(lines: Lines, code: int) -> None:
    place = lines.open("a")
    place.send(asks("key-a"))
    assert [frame["id"] for frame in lines.first.sent] == ["key-a"]
    refusal = json.dumps({"id": "key-a", "status": 400, "error": {"code": code, "msg": "x"}}).encode()
    lines.first.frames.put(refusal)
    assert place.read(3.0) == [refusal]
    venue = exchanges.for_account("binance", "spot")
    assert venue.parse_user(refusal, "a", 1) == [Reply("key-a", Verdict(Outcome.TRANSIENT, str(code)))]  # dials again
    place.close()
    elsewhere = lines.open("a")
    elsewhere.send(asks("again"))
    assert [frame["id"] for frame in lines.dialled[-1].sent] == ["again"] and len(lines.first.sent) == 1
    lines.open("c").send(asks("key-c"))
    assert lines.first.sent[-1]["id"] == "key-c", "the others may still join the first one"


def test_who_leaves_a_silent_socket_does_not_come_back_to_it(lines: Lines) -> None:
    place = lines.open("a")
    lines.first.last_rx -= 11.0  # half-open; "b" has not noticed yet
    place.close()
    lines.open("a").send(asks("again"))
    assert [frame["id"] for frame in lines.dialled[-1].sent] == ["again"] and lines.first.sent == []


def test_a_dial_that_waits_holds_up_nobody_who_leaves_or_dials_elsewhere_or_is_told_to_stop(lines: Lines) -> None:
    """It may wait for a ban's end. A stream that cannot leave meanwhile is not released, for which its worker is fenced."""
    over, stop, told = threading.Event(), threading.Event(), queue.SimpleQueue[str]()
    dialling = threading.Event()

    def banned() -> Line:
        dialling.set()
        assert over.wait(10.0)
        return Line()

    def begin(url: str, account_id: str, dial: Callable[[], Any], cancelled: Callable[[], bool]) -> threading.Thread:
        def run() -> None:
            try:
                lines.shared.open(url, account_id, lines.sharing, dial, lambda: None, cancelled).close()
                told.put(f"{account_id} had a place")
            except ConnectionFailed:
                told.put(f"{account_id} stopped")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    threads = [begin("v", "a", banned, lambda: False)]
    assert dialling.wait(5.0)
    threads.append(begin("v", "c", Line, stop.is_set))
    try:
        threads.append(begin("w", "d", Line, lambda: False))
        assert told.get(timeout=1.0) == "d had a place"
        leaving = threading.Thread(target=lines.places[0].close)
        threads.append(leaving)
        leaving.start()
        leaving.join(1.0)
        assert not leaving.is_alive()
        stop.set()
        assert told.get(timeout=4.0) == "c stopped"
        over.set()
        assert told.get(timeout=4.0) == "a had a place"
    finally:
        over.set()
        for thread in threads:
            thread.join(5.0)


def test_a_place_whose_reader_is_gone_says_so() -> None:
    def refused() -> Connection:
        raise ConnectionFailed("refused")

    venue = exchanges.for_account("binance", "spot")
    assert venue.sharing is not None
    with pytest.raises(ConnectionFailed, match="refused"):
        SharedSockets().open("wss://x", "a", venue.sharing, refused, lambda: None, lambda: False)
