"""The simulated Binance spot at the wire, through the adapter and beside it: WebSocket API, many accounts on one socket, codes,
limits, market streams, and that REST and socket tell the same."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, get_args

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fleet.core.book import Book
from fleet.core.errors import ExchangeRefused
from fleet.core.events import Balance, Depth, Event, Fill, MarketRecord, Order, Trade
from fleet.core.exchange import Goodbye, HttpCall, HttpReply, Outcome, Recovered, Reply, TicketExpired, Verdict
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Watermark
from fleet.exchanges import hosts
from fleet.exchanges.binance_spot import EXCHANGE, session
from fleet.runtime.secrets import new_ed25519, with_signer
from tests.support.simulator import Simulator, eventually

SPEC = AccountSpec("acc", "u", "binance", "spot", "l", False, 1, 0)


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(("binance_spot",), rate=60) as running:
        yield running


@pytest.fixture
def key(sim: Simulator, request: pytest.FixtureRequest) -> str:
    name = "".join(c for c in request.node.name if c.isalnum())
    sim.account(name, f"secret-{name}", market="spot")
    return name


def now_ms() -> int:
    return int(time.time() * 1000)


def credentials(key: str) -> Credentials:
    return Credentials(key, f"secret-{key}")


def call(sim: Simulator, call_: HttpCall, who: Credentials) -> HttpReply:
    """One REST call. Raises ExchangeRefused with the adapter's verdict."""
    request = EXCHANGE.sign(call_, who, now_ms(), False)
    url = sim.endpoints["FLEET_BINANCE_SPOT_REST_URL"] + request.target
    wire = urllib.request.Request(url, method=request.method, headers=dict(request.headers))
    at_ms = now_ms()
    try:
        with urllib.request.urlopen(wire, timeout=5) as answer:
            reply = HttpReply(answer.status, dict(answer.headers), answer.read(), at_ms)
    except urllib.error.HTTPError as error:
        reply = HttpReply(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read(), at_ms)
    verdict = EXCHANGE.classify(reply)
    if verdict.outcome is not Outcome.OK:
        raise ExchangeRefused(call_.path, verdict)
    return reply


def read(sim: Simulator, mark: Watermark, who: Credentials) -> tuple[Recovered, int]:
    """One read-back, taken into the watermark; and its weight."""
    plan, weight = EXCHANGE.recover(SPEC, mark, now_ms()), 0
    try:
        wanted = next(plan)
        while True:
            weight += wanted.weight
            try:
                reply = call(sim, wanted, who)
            except ExchangeRefused as error:
                wanted = plan.throw(error)
            else:
                wanted = plan.send(reply)
    except StopIteration as end:
        found: Recovered = end.value
    for event in found.events:
        mark.advance(event)
    mark.prove(found.snapshot, found.snapshot.at_ms)
    return found, weight


class Socket:
    """A WebSocket whose messages are taken when asked for."""

    def __init__(self, url: str) -> None:
        self._open = ExitStack()
        self.wire: ClientConnection = self._open.enter_context(connect(url))

    def ask(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        self.wire.send(json.dumps({"id": 1, "method": method, **({"params": params} if params is not None else {})}))
        while True:
            answer: dict[str, Any] = json.loads(self.wire.recv(5))
            if "id" in answer:
                return answer

    def login(self, who: Credentials) -> Verdict:
        self.wire.send(session.subscription(who, now_ms(), "s").decode())
        (item,) = self.items(lambda items: bool(items))
        assert isinstance(item, Reply) and item.key == "s"
        return item.verdict

    def items(self, enough: Callable[[list[Any]], bool], account: str = "acc") -> list[Any]:
        """What the adapter makes of the messages until there is enough. Raises TimeoutError after 10 s."""
        found: list[Any] = []
        deadline = time.monotonic() + 10
        while not enough(found):
            raw = self.wire.recv(max(0.0, deadline - time.monotonic()))
            found += EXCHANGE.parse_user(raw.encode() if isinstance(raw, str) else raw, account, now_ms())
        return found

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def private(sim: Simulator) -> Socket:
    return Socket(EXCHANGE.user_url(hosts(EXCHANGE, False, sim.endpoints), ""))


def signed(who: Credentials, **params: Any) -> dict[str, Any]:
    params = {"apiKey": who.api_key, "timestamp": now_ms(), **params}
    payload = "&".join(f"{name}={params[name]}" for name in sorted(params))
    return params | {"signature": hmac.new(who.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()}


def orders(sim: Simulator, key: str) -> None:
    for symbol, side, price, fills in (
        ("BTCUSDT", "buy", "84000", 2), ("ETHUSDT", "sell", "3100", 1), ("BTCUSDT", "sell", "84000", 3),
        ("ETHBTC", "buy", "0.03", 0),
    ):  # fmt: skip
        sim.order(key, symbol, side, "0.03", price, fills=fills, market="spot")


# ── User data ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_socket_and_rest_tell_the_same_events(sim: Simulator, key: str) -> None:
    who, mark = credentials(key), Watermark(proven_ms=now_ms() - 1000)
    read(sim, mark, who)
    with private(sim) as socket:
        assert socket.login(who).outcome is Outcome.OK
        orders(sim, key)
        told = socket.items(lambda items: sum(isinstance(i, Balance) for i in items) == 16)
    # The engine stamps a burst with increasing ms, ahead of the clock: what is read before then is counted as after the base.
    eventually(lambda: now_ms() > max(e.ts_event for e in told), what="the clock to pass the last stamp")
    found, _ = read(sim, mark, who)
    ledger = {(r["symbol"], r["trade_id"], r["order_id"]) for r in sim.ledger(type="fill", api_key=key)}
    assert {(e.symbol, e.trade_id, e.order_id) for e in found.events if isinstance(e, Fill)} == ledger and len(
        ledger
    ) == 6
    assert {e.id for e in told if isinstance(e, Fill)} == {e.id for e in found.events if isinstance(e, Fill)}
    for kind in (Order, Balance):  # REST tells the last state of each
        ids = {e.id for e in found.events if isinstance(e, kind)}
        assert ids and ids <= {e.id for e in told if isinstance(e, kind)}, kind
    again, weight = read(sim, mark, who)
    # The account, the open orders of one symbol, and at most the orders of the three symbols that were used just now.
    assert again.events == [] and weight <= 20 + 6 + 3 * 20


def test_dropped_fills_are_found_by_the_next_read(sim: Simulator, key: str) -> None:
    who, mark = credentials(key), Watermark(proven_ms=now_ms() - 1000)
    read(sim, mark, who)
    with private(sim) as socket:
        socket.login(who)
        sim.fault("drop_event", api_key=key, event="executionReport", count=2)
        placed = sim.order(key, "BTCUSDT", "buy", "0.01", "84000", fills=2, market="spot")
        told = socket.items(lambda items: sum(isinstance(i, Balance) for i in items) == 5)
    for event in told:
        if not isinstance(event, Fill | Order | Balance):
            continue
        mark.advance(event)
    found, _ = read(sim, mark, who)
    fills = {e.trade_id for e in told if isinstance(e, Fill)}
    assert len(fills) == 1 and fills | {e.trade_id for e in found.events if isinstance(e, Fill)} == set(
        placed["trade_ids"]
    )


def test_many_accounts_share_a_socket_and_do_not_disturb_each_other(sim: Simulator, key: str) -> None:
    names = [f"{key}{n}" for n in range(4)]
    for name in names:
        sim.account(name, f"secret-{name}", market="spot")
    with private(sim) as socket:
        for number, name in enumerate(names):
            answer = socket.ask("userDataStream.subscribe.signature", signed(credentials(name)))
            assert answer["result"] == {"subscriptionId": number}
        assert socket.ask("userDataStream.subscribe.signature", signed(credentials(names[1])))["error"]["code"] == -2035
        sim.set_state(names[0], "invalid")
        assert socket.ask("account.status", signed(credentials(names[0])))["error"]["code"] == -2015
        for number, name in enumerate(names):
            sim.order(name, "BTCUSDT", "buy", "0.01", "84000", market="spot")
            assert json.loads(socket.wire.recv(5))["subscriptionId"] == number
            for _ in range(3):
                socket.wire.recv(5)
        assert socket.ask("session.subscriptions")["result"] == [{"subscriptionId": n} for n in range(4)]
        socket.wire.send(json.dumps({"id": 2, "method": "userDataStream.unsubscribe", "params": {"subscriptionId": 2}}))
        assert json.loads(socket.wire.recv(5))["result"] == {}
        ended = json.loads(socket.wire.recv(5))
        assert (ended["subscriptionId"], ended["event"]["e"]) == (2, "eventStreamTerminated")
        assert socket.ask("userDataStream.unsubscribe", {"subscriptionId": 2})["error"]["code"] == -2036
        assert len(socket.ask("session.subscriptions")["result"]) == 3


def test_the_end_of_a_subscription_and_of_a_server_are_told(sim: Simulator, key: str) -> None:
    with private(sim) as socket, Socket(sim.endpoints["FLEET_BINANCE_SPOT_WS_URL"] + "/stream") as market:
        socket.login(credentials(key))
        sim.fault("expire_listen_key", api_key=key)
        assert any(isinstance(i, TicketExpired) for i in socket.items(bool))
        assert socket.login(credentials(key)).outcome is Outcome.OK
        sim.settings(shutdown_lead_s=0.2, announce_shutdown=1)
        assert socket.items(bool) == [Goodbye("serverShutdown")]
        raw = market.wire.recv(5)
        assert EXCHANGE.market_data.parse(str(raw).encode(), "/stream", 1) == [Goodbye("serverShutdown")]
        with pytest.raises(ConnectionClosed) as closed:
            socket.wire.recv(5)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1001
    sim.settings(shutdown_lead_s=10.0)


def test_a_deposit_is_told(sim: Simulator, key: str) -> None:
    with private(sim) as socket:
        socket.login(credentials(key))
        sim.call("POST", "/deposits", {"api_key": key, "asset": "BTC", "amount": "1.5"})
        items = socket.items(lambda found: len(found) == 2)
        assert items[0].event == "balanceUpdate" and items[0].data["d"] == "1.50000000"
        assert (items[1].asset, items[1].wallet) == ("BTC", "1001.50000000")


# ── Codes and limits ─────────────────────────────────────────────────────────────────────────────────────────────
def test_refusals_by_both_doors(sim: Simulator, key: str) -> None:
    who = credentials(key)
    for wrong, code in (
        (Credentials(key, "x"), "-1022"),
        (Credentials("k" * 64, "x"), "-2015"),
        (Credentials("k", "x"), "-2014"),
    ):
        with pytest.raises(ExchangeRefused) as refused:
            call(sim, EXCHANGE.probe, wrong)
        assert refused.value.verdict == Verdict(Outcome.INVALID, code)
        with private(sim) as socket:
            assert socket.login(wrong) == Verdict(Outcome.INVALID, code)
    with private(sim) as socket:
        old = signed(who) | {"timestamp": 1}
        assert socket.ask("userDataStream.subscribe.signature", old)["error"]["code"] == -1021
        assert socket.ask("userDataStream.subscribe.signature", {})["error"]["code"] == -1102
        assert socket.ask("userDataStream.subscribe")["error"]["code"] == -1002  # no session.logon
        assert socket.ask("session.logon", signed(who))["error"]["code"] == -4056  # Ed25519 only
        assert socket.ask("userDataStream.start", {"apiKey": key})["status"] == 410
        assert socket.ask("account.status", {"apiKey": key})["error"]["code"] == -1102
        assert socket.ask("no.such")["status"] == 400
        socket.wire.send("{")
        assert json.loads(socket.wire.recv(5))["id"] is None
        assert socket.ask("session.status")["result"]["userDataStream"] is False
    for path, params, code in (
        ("/api/v3/myTrades", {"symbol": "BTCUSDT", "fromId": "1", "startTime": "1"}, "-1128"),
        ("/api/v3/myTrades", {"symbol": "BTCUSDT", "startTime": "1", "endTime": "86400002"}, "-1127"),
        ("/api/v3/myTrades", {}, "-1102"),
        ("/api/v3/myTrades", {"symbol": "NOPE"}, "-1121"),
        ("/api/v3/order", {"symbol": "BTCUSDT", "orderId": "1"}, "-2013"),
        ("/api/v3/order", {"symbol": "BTCUSDT", "orderId": "x"}, "-1100"),
        ("/api/v3/userDataStream", {}, "-1000"),
    ):  # fmt: skip
        with pytest.raises(ExchangeRefused) as refused:
            call(sim, HttpCall("GET", path, tuple(params.items()), 1, "signed"), who)
        assert getattr(refused.value.verdict, "code", "") == code, path


def test_orders_by_the_websocket_api(sim: Simulator, key: str) -> None:
    who, order = (
        credentials(key),
        {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01000"},
    )
    with private(sim) as socket:
        assert (
            socket.ask("order.place", signed(who, **order, price="1.00", newClientOrderId="mine"))["result"]["status"]
            == "NEW"
        )
        assert socket.ask("openOrders.status", signed(who))["result"][0]["clientOrderId"] == "mine"
        done = socket.ask("order.cancel", signed(who, symbol="BTCUSDT", origClientOrderId="mine"))["result"]
        assert (done["status"], done["origClientOrderId"]) == ("CANCELED", "mine") and done["clientOrderId"] != "mine"
        assert socket.ask("order.place", signed(who, **order, price="0.001"))["error"]["code"] == -1013
        too_much = order | {"quantity": "90000.00000"}
        assert socket.ask("order.place", signed(who, **too_much, price="80000.00"))["error"]["code"] == -2010
        filled = socket.ask("order.place", signed(who, symbol="BTCUSDT", side="SELL", type="MARKET", quantity="0.01"))[
            "result"
        ]
        assert filled["status"] == "FILLED" and len(filled["fills"]) == 1
        assert socket.ask("time")["result"]["serverTime"] > 0


def test_weight_dials_and_messages_are_limited(key: str) -> None:
    with Simulator(("binance_spot",)) as sim:
        sim.account(key, f"secret-{key}", market="spot")
        sim.settings(weight_limit=60, dials_per_5min=2)
        with pytest.raises(ExchangeRefused) as refused:
            for _ in range(8):  # a minute may end in between
                call(sim, EXCHANGE.probe, credentials(key))
        verdict = refused.value.verdict
        assert isinstance(verdict, Verdict) and verdict.outcome is Outcome.RATE and 0 < verdict.wait_s <= 60
        with private(sim) as socket:
            assert socket.login(credentials(key)).outcome is Outcome.RATE
        with Socket(sim.endpoints["FLEET_BINANCE_SPOT_WS_URL"] + "/ws") as market:
            with pytest.raises(ConnectionClosed):
                for n in range(20):
                    market.wire.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": n}))
                    market.wire.recv(5)
        with pytest.raises(InvalidStatus) as third:
            private(sim)
        assert third.value.response.status_code == 429 and int(third.value.response.headers["Retry-After"]) > 0


def test_public_trades_count_by_one_also_where_an_account_trades(sim: Simulator, key: str) -> None:
    """What the stream told, `trades` and `historicalTrades` tell again: each id once, an account's executions among them."""
    market = EXCHANGE.market_data
    with Socket(market.url(hosts(EXCHANGE, False, sim.endpoints), "/stream")) as socket:
        socket.wire.send(market.subscribe(market.topics(["LTCUSDT"], ["trade"]), 1).decode())
        told: list[Trade] = []
        placed = sim.order(key, "LTCUSDT", "buy", "0.03", "104", fills=3, market="spot")
        while len(told) < 40 or not set(placed["trade_ids"]) <= {t.trade_id for t in told}:
            items = market.parse(str(socket.wire.recv(5)).encode(), "/stream", now_ms())
            told += [item for item in items if isinstance(item, Trade)]
    ids = [int(t.trade_id) for t in told]
    assert ids == list(range(ids[0], ids[0] + len(ids)))
    for path, extra in (("/api/v3/trades", ()), ("/api/v3/historicalTrades", (("fromId", str(ids[0])),))):
        params = (("symbol", "LTCUSDT"), *extra, ("limit", "1000"))
        rows = json.loads(call(sim, HttpCall("GET", path, params), Credentials("", "")).body)
        found = {row["id"]: (row["price"], row["qty"]) for row in rows}
        assert all(found[int(t.trade_id)] == (t.price, t.qty) for t in told), path
        assert [row["id"] for row in rows] == list(range(rows[0]["id"], rows[0]["id"] + len(rows)))


# ── Market streams ───────────────────────────────────────────────────────────────────────────────────────────────
def test_every_kind_of_public_stream_arrives(sim: Simulator) -> None:
    market = EXCHANGE.market_data
    kinds = ["ticker", "book_ticker", "depth", "trade", "kline_1m", "kline_1s"]
    topics = market.topics(["BTCUSDT"], kinds)
    seen: set[str] = set()
    with Socket(market.url(hosts(EXCHANGE, False, sim.endpoints), "/stream")) as socket:
        socket.wire.send(market.subscribe(topics, 12).decode())
        deadline = time.monotonic() + 10
        while seen < {t.name for t in topics}:
            assert time.monotonic() < deadline, seen
            for item in market.parse(str(socket.wire.recv(5)).encode(), "/stream", now_ms()):
                assert isinstance(item, Event | Reply)
                if isinstance(item, get_args(MarketRecord)):
                    seen.add(market.topic_of(item))


def test_differences_and_snapshot_make_a_book(sim: Simulator) -> None:
    market, book = EXCHANGE.market_data, Book(EXCHANGE.market_data.book)
    assert market.snapshot is not None and market.parse_snapshot is not None
    topics, applied = market.topics(["ETHBTC"], ["depth"]), 0
    with Socket(market.url(hosts(EXCHANGE, False, sim.endpoints), "/stream")) as socket:
        socket.wire.send(market.subscribe(topics, 1).decode())
        while applied < 20:
            for item in market.parse(str(socket.wire.recv(5)).encode(), "/stream", now_ms()):
                if isinstance(item, Depth):
                    applied += len(book.feed(item))
            if book.needs_snapshot:
                reply = call(sim, market.snapshot("ETHBTC"), Credentials("", ""))
                applied += len(book.load(market.parse_snapshot(reply, "ETHBTC", now_ms())))
    assert book.valid and min(book.sizes()) >= 100


def test_an_ed25519_key_signs_and_logs_on(sim: Simulator) -> None:
    """By REST and on the socket through the adapter; and as the exchange's own `session.logon`, which keeps other kinds out."""
    pair = with_signer(Credentials("edwards" * 8, new_ed25519()))
    sim.account(pair.api_key, pair.secret, market="spot")
    assert call(sim, EXCHANGE.probe, pair).status == 200
    other = with_signer(Credentials(pair.api_key, new_ed25519()))
    with pytest.raises(ExchangeRefused) as refused:
        call(sim, EXCHANGE.probe, other)
    assert refused.value.verdict == Verdict(Outcome.INVALID, "-1022")
    with private(sim) as socket:
        assert socket.login(other).code == "-1022" and socket.login(pair).outcome is Outcome.OK
        sim.order(pair.api_key, "BTCUSDT", "buy", "0.01", "84000", market="spot")
        socket.items(lambda items: any(isinstance(i, Fill) for i in items))
    with private(sim) as socket:
        assert socket.ask("userDataStream.subscribe")["error"]["code"] == -1002
        params: dict[str, Any] = {"apiKey": pair.api_key, "timestamp": now_ms()}
        told = socket.ask("session.logon", params | {"signature": session.sign_frame(params, pair)})
        assert told["result"]["apiKey"] == pair.api_key
        assert socket.ask("account.status", {"timestamp": now_ms()})["status"] == 200
        assert socket.ask("userDataStream.subscribe")["result"] == {"subscriptionId": 0}
        assert socket.ask("session.status")["result"]["userDataStream"] is True
        sim.order(pair.api_key, "BTCUSDT", "buy", "0.01", "84000", market="spot")
        socket.items(lambda items: any(isinstance(i, Fill) for i in items))
        assert socket.ask("session.logout")["result"]["apiKey"] is None
        socket.items(lambda items: any(isinstance(i, Goodbye | TicketExpired) for i in items))
        assert "error" in socket.ask("account.status", {"timestamp": now_ms()})
