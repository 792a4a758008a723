"""Each adapter against its simulated exchange, over real HTTP and a real socket: what the socket told and what REST tells
are the same events; a watermark proven by one read explains the next."""

from __future__ import annotations

import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, get_args

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fleet.core.errors import ExchangeRefused
from fleet.core.events import Balance, Event, Fill, MarketRecord, Order, Position, UserRecord
from fleet.core.exchange import Exchange, HttpCall, HttpReply, Outcome, Recovered, Reply, TicketExpired
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Watermark, missed
from fleet.exchanges import exchanges, hosts
from tests.support.simulator import Simulator

CREDENTIALS = Credentials("key-1", "secret-1")
SPEC = AccountSpec("acc", "u", "binance", "usdm", "l", False, 1, 0)
VENUE = exchanges()["binance_usdm"]


def now_ms() -> int:
    return int(time.time() * 1000)


class Client:
    """The least that drives an adapter: HTTP by urllib, one socket by websockets."""

    def __init__(self, venue: Exchange, sim: Simulator) -> None:
        self.venue, self.hosts = venue, hosts(venue, False, sim.endpoints)
        self.weight = 0

    def send(self, call: HttpCall, credentials: Credentials = CREDENTIALS) -> HttpReply:
        at_ms = now_ms()
        request = self.venue.sign(call, credentials, at_ms, False)
        self.weight += call.weight
        wire = urllib.request.Request(
            self.hosts.rest + request.target, method=request.method, headers=dict(request.headers)
        )
        try:
            with urllib.request.urlopen(wire, timeout=5) as answer:
                reply = HttpReply(
                    answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read(), at_ms
                )
        except urllib.error.HTTPError as error:
            reply = HttpReply(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read(), at_ms)
        verdict = self.venue.classify(reply)
        if verdict.outcome is not Outcome.OK:
            raise ExchangeRefused(call.path, verdict)
        return reply

    def read(self, mark: Watermark) -> Recovered:
        self.weight = 0
        plan = self.venue.recover(SPEC, mark, now_ms())
        try:
            call = next(plan)
            while True:
                try:
                    reply = self.send(call)
                except ExchangeRefused as error:
                    call = plan.throw(error)
                else:
                    call = plan.send(reply)
        except StopIteration as end:
            found: Recovered = end.value
            return found

    def dial(self) -> Listener:
        assert self.venue.ticket is not None and self.venue.ticket_of is not None
        ticket = self.venue.ticket_of(self.send(self.venue.ticket))
        return Listener(
            self.venue.user_url(self.hosts, ticket), lambda raw: self.venue.parse_user(raw, "acc", now_ms())
        )


class Listener:
    """Opens a socket in a thread and keeps what the adapter made of its messages. `hello` is sent first."""

    def __init__(self, url: str, parse: Callable[[bytes], list[Any]], hello: bytes = b"") -> None:
        self.items: list[Any] = []
        self._url, self._parse, self._hello = url, parse, hello
        self._socket: ClientConnection | None = None
        self._open = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._open.wait(10)

    def _run(self) -> None:
        with connect(self._url) as socket:
            self._socket = socket
            if self._hello:
                socket.send(self._hello.decode())
            self._open.set()
            try:
                for raw in socket:
                    self.items += self._parse(raw.encode() if isinstance(raw, str) else raw)
            except ConnectionClosed:
                return

    def wait(self, enough: Callable[[list[Any]], bool], timeout_s: float = 10.0) -> list[Any]:
        deadline = time.monotonic() + timeout_s
        while not enough(self.items):
            assert time.monotonic() < deadline, f"not seen in {timeout_s} s; last: {self.items[-3:]}"
            time.sleep(0.01)
        return list(self.items)

    def close(self) -> None:
        assert self._socket is not None
        self._socket.close()
        self._thread.join(5)


@pytest.fixture(scope="module")
def sim() -> Any:
    with Simulator(rate=40) as running:
        running.account("key-1", "secret-1")
        yield running


def test_socket_and_rest_tell_the_same_events(sim: Simulator) -> None:
    client = Client(VENUE, sim)
    mark = Watermark(proven_ms=now_ms() - 1000)
    first = client.read(mark)
    for event in first.events:
        mark.advance(event)
    mark.prove(first.snapshot, first.snapshot.at_ms)
    listener = client.dial()
    try:
        for symbol, side, fills in (
            ("BTCUSDT", "buy", 2),
            ("ETHUSDT", "sell", 1),
            ("BTCUSDT", "sell", 3),
            ("ETHUSDT", "sell", 0),
        ):
            sim.order("key-1", symbol, side, "0.030", "83000", fills=fills)
        told = listener.wait(
            lambda items: sum(isinstance(i, Fill) for i in items) == 6 and isinstance(items[-1], Order | Balance)
        )
        ledger = {(r["symbol"], r["trade_id"], r["order_id"]) for r in sim.ledger(type="fill")}
        told = listener.wait(
            lambda items: (
                len({(i.symbol, i.order_id) for i in items if isinstance(i, Order)}) == 4
                and now_ms() > max(i.ts_event for i in items if isinstance(i, Event))
            )  # the twin gives each event its own ms
        )
    finally:
        listener.close()
    found = client.read(mark)
    events = [i for i in told if isinstance(i, get_args(UserRecord))]
    streamed = {e.id for e in events}
    assert len(events) == len(told) and found.unrecoverable == ""
    assert {e.id for e in found.events if isinstance(e, Fill)} == {e.id for e in events if isinstance(e, Fill)}
    assert {(e.symbol, e.trade_id, e.order_id) for e in found.events if isinstance(e, Fill)} == ledger
    for kind in (Order, Position, Balance):  # REST tells the last state of each
        read = {e.id for e in found.events if isinstance(e, kind)}
        assert read and read <= streamed, kind
    for event in missed(list(found.events), set()):
        mark.advance(event)
    mark.prove(found.snapshot, found.snapshot.at_ms)
    again = client.read(mark)
    assert missed(again.events, streamed) == []
    assert (
        client.weight <= 13
    )  # 7 of it for orders that may have come and gone, 2 of these conditional: the account is active


def test_what_was_lost_between_two_reads_is_found_by_the_second(sim: Simulator) -> None:
    client = Client(VENUE, sim)
    mark = Watermark(proven_ms=now_ms() - 60_000)
    found = client.read(mark)
    known = {event.id for event in found.events}
    for event in found.events:
        mark.advance(event)
    mark.prove(found.snapshot, found.snapshot.at_ms)
    for _ in range(3):
        placed = sim.order("key-1", "BTCUSDT", "buy", "0.010", "83000", fills=1)
        fresh = missed(client.read(mark).events, known)
        assert [e.order_id for e in fresh if isinstance(e, Fill)] == [str(placed["order_id"])]
        for event in fresh:
            known.add(event.id)
            mark.advance(event)


def test_wrong_credentials_are_told_by_code(sim: Simulator) -> None:
    client = Client(VENUE, sim)
    for credentials in (Credentials("key-1", "wrong"), Credentials("nobody", "secret-1")):
        with pytest.raises(ExchangeRefused) as refused:
            client.send(VENUE.probe, credentials)
        assert refused.value.verdict.outcome is Outcome.INVALID  # type: ignore[attr-defined]
        assert "secret" not in str(refused.value)


def test_expired_listen_key_is_told(sim: Simulator) -> None:
    client = Client(VENUE, sim)
    listener = client.dial()
    try:
        sim.fault("expire_listen_key", api_key="key-1")
        listener.wait(lambda items: any(isinstance(i, TicketExpired) for i in items))
    finally:
        listener.close()
    assert VENUE.renewal is not None
    with pytest.raises(ExchangeRefused) as refused:
        client.send(VENUE.renewal.call)
    assert refused.value.verdict.outcome is Outcome.TICKET_GONE  # type: ignore[attr-defined]


def test_every_kind_of_public_stream_arrives(sim: Simulator) -> None:
    client, market = Client(VENUE, sim), VENUE.market_data
    kinds = [k for k in market.kinds if not k.startswith("kline_")] + ["kline_1m"]
    topics = market.topics(["BTCUSDT"], kinds)
    seen: set[str] = set()
    for path in sorted({t.path for t in topics}):
        here = [t for t in topics if t.path == path]
        parse: Callable[[bytes], list[Any]] = lambda raw, path=path: market.parse(raw, path, now_ms())  # type: ignore[misc]  # noqa: E731
        listener = Listener(market.url(client.hosts, path), parse, market.subscribe(here, 12))
        try:
            wanted = {t.name for t in here if t.kind != "liquidation"}
            items = listener.wait(
                lambda items, wanted=wanted: (
                    wanted  # type: ignore[misc]
                    <= {market.topic_of(i) for i in items if isinstance(i, get_args(MarketRecord))}
                )
            )
        finally:
            listener.close()
        assert [i.key for i in items if isinstance(i, Reply)] == ["12"]
        assert all(isinstance(i, Event | Reply) for i in items)
        seen |= {type(i).__name__ for i in items}
    assert {"Trade", "Kline", "Ticker", "Depth", "MarkPrice"} <= seen
