"""The simulated Bybit at the wire: logins, codes, limits, faults; and the adapter against it, over real HTTP and a real socket."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, get_args

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fleet.core.book import Book
from fleet.core.errors import ExchangeRefused
from fleet.core.events import Depth, Fill, Order, Position, UserRecord
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Recovered, Reply
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Watermark
from fleet.exchanges import hosts
from fleet.exchanges.bybit import EXCHANGE
from tests.support.simulator import Simulator, eventually

SPEC = AccountSpec("acc", "u", "bybit", "unified", "l", False, 1, 0)
KEY = Credentials("key-1", "secret-1")


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(("bybit",), rate=40) as running:
        running.account("key-1", "secret-1", exchange="bybit", market="unified")
        yield running


def now_ms() -> int:
    return int(time.time() * 1000)


def root(sim: Simulator) -> str:
    return sim.endpoints["FLEET_BYBIT_WS_URL"]


def rest(
    sim: Simulator,
    method: str,
    path: str,
    query: str = "",
    body: dict[str, Any] | None = None,
    *,
    key: str = "key-1",
    secret: str = "secret-1",
    at_ms: int | None = None,
) -> tuple[int, Any]:
    """A call straight to the simulator. → HTTP status, decoded body or text."""
    data = b"" if body is None else json.dumps(body).encode()
    stamp = str(now_ms() if at_ms is None else at_ms)
    payload = f"{stamp}{key}5000".encode() + (query.encode() if method == "GET" else data)
    headers = {
        "X-BAPI-API-KEY": key, "X-BAPI-TIMESTAMP": stamp, "X-BAPI-RECV-WINDOW": "5000",
        "X-BAPI-SIGN": hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest(), "Content-Type": "application/json",
    } if key else {}  # fmt: skip
    url = sim.endpoints["FLEET_BYBIT_REST_URL"] + path + (f"?{query}" if query else "")
    request = urllib.request.Request(url, data=data or None, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        return error.code, json.loads(text) if text.startswith("{") else text


def login(key: str = "key-1", secret: str = "secret-1", ahead_ms: int = 10_000) -> dict[str, Any]:
    expires = now_ms() + ahead_ms
    proof = hmac.new(secret.encode(), f"GET/realtime{expires}".encode(), hashlib.sha256).hexdigest()
    return {"req_id": "1", "op": "auth", "args": [key, expires, proof]}


def ask(socket: ClientConnection, request: dict[str, Any]) -> dict[str, Any]:
    """Send, and read on to the answer (anything without a topic)."""
    socket.send(json.dumps(request))
    while True:
        answer: dict[str, Any] = json.loads(socket.recv(5))
        if "topic" not in answer:
            return answer


# ── Private socket ───────────────────────────────────────────────────────────────────────────────────────────────
def test_login_and_subscription(sim: Simulator) -> None:
    with connect(root(sim) + "/v5/private") as socket:
        refused = ask(socket, {"req_id": "0", "op": "subscribe", "args": ["order"]})
        assert (refused["success"], refused["req_id"]) == (False, "0")
        for wrong in (login(secret="no"), login(key="nobody"), login(ahead_ms=-1000), {"op": "auth", "args": []}):
            answer = ask(socket, wrong)
            assert {k: answer[k] for k in ("success", "ret_msg", "op")} == {
                "success": False,
                "ret_msg": "Params Error",
                "op": "auth",
            }
            assert "retCode" not in answer
        assert ask(socket, login())["success"] is True
        assert ask(socket, {"op": "subscribe", "args": ["order", "order.linear"]})["success"] is False
        assert (
            ask(socket, {"op": "subscribe", "args": ["nonsense"]})["ret_msg"]
            == "error:handler not found,topic:nonsense"
        )
        answer = ask(socket, {"op": "subscribe", "args": ["order", "execution.linear", "position", "wallet"]})
        assert answer["success"] is True and "req_id" not in answer
        assert ask(socket, {"req_id": "t", "op": "ping"})["op"] == "pong"
        placed = sim.order("key-1", "ETHUSDT", "buy", "0.1", "3100", market="unified")
        sim.order("key-1", "spot/ETHUSDT", "buy", "0.1", "3100", market="unified")
        frames = [json.loads(socket.recv(5)) for _ in range(7)]
    assert [f["topic"] for f in frames] == [
        "order",
        "execution.linear",
        "position",
        "order",
        "wallet",
        "order",
        "wallet",
    ]
    execution = frames[1]["data"][0]
    assert (execution["execId"], execution["category"]) == (placed["trade_ids"][0], "linear")
    assert frames[3]["data"][0]["orderStatus"] == "Filled"


def test_the_second_shape_of_a_refused_login(sim: Simulator) -> None:
    sim.settings(login_echoes=1)
    try:
        with connect(root(sim) + "/v5/private") as socket:
            answer = ask(socket, login(secret="no"))
    finally:
        sim.settings(login_echoes=0)
    assert "op" not in answer and answer["request"]["op"] == "auth"
    (reply,) = EXCHANGE.parse_user(json.dumps(answer).encode(), "acc", 1)
    assert isinstance(reply, Reply) and (reply.key, reply.verdict.outcome) == ("1", Outcome.INVALID)


def test_idle_sockets_are_cut_without_a_close_frame(sim: Simulator) -> None:
    sim.settings(idle_public_s=0.3, idle_private_s=0.3)
    try:
        for path in ("/v5/public/linear", "/v5/private"):
            with connect(root(sim) + path) as socket, pytest.raises(ConnectionClosed) as closed:
                socket.recv(5)
            assert closed.value.rcvd is None
    finally:
        sim.settings(idle_public_s=61.0, idle_private_s=600.0)


# ── Public sockets ───────────────────────────────────────────────────────────────────────────────────────────────
def test_subscription_errors_leave_the_socket_open(sim: Simulator) -> None:
    with connect(root(sim) + "/v5/public/spot") as socket:
        many = [f"tickers.X{n}" for n in range(11)]
        assert ask(socket, {"req_id": "1", "op": "subscribe", "args": many})["ret_msg"] == "args size >10"
        for bad in ("orderbook.30.BTCUSDT", "tickers.btcusdt", "allLiquidation.BTCUSDT", "order", "kline.7.BTCUSDT"):
            answer = ask(socket, {"req_id": "2", "op": "subscribe", "args": [bad]})
            assert answer["ret_msg"] == f"error:handler not found,topic:{bad}" and answer["success"] is False
        good = {"req_id": "3", "op": "subscribe", "args": ["tickers.BTCUSDT"]}
        assert (ask(socket, good)["ret_msg"], ask(socket, good)["ret_msg"][:24]) == (
            "subscribe",
            "error:already subscribed",
        )
        assert ask(socket, {"op": "unsubscribe", "args": ["tickers.BTCUSDT"]})["success"] is True
        assert ask(socket, {"op": "dance"})["ret_msg"] == "error:invalid op"
        assert ask(socket, {"op": "subscribe", "args": []})["success"] is False
        socket.send("no json")
        assert "Failed to decode" in json.loads(socket.recv(5))["ret_msg"]
        assert ask(socket, {"req_id": "9", "op": "ping"})["ret_msg"] == "pong"


def test_paths_and_dial_limit(sim: Simulator) -> None:
    for path in ("/v5/nothing", "/realtime"):
        with pytest.raises(Exception, match="404"):
            connect(root(sim) + path)
    sim.settings(dials_per_5min=0)
    try:
        with pytest.raises(Exception, match="403"):
            connect(root(sim) + "/v5/private")
    finally:
        sim.settings(dials_per_5min=500)


@pytest.mark.parametrize("path", ["/v5/public/linear", "/v5/public/spot"])
def test_books_follow_their_snapshot_by_one(sim: Simulator, path: str) -> None:
    """The adapter's book stays valid, and equals the simulator's own at the same update."""
    parse, books = EXCHANGE.market_data.parse, {s: Book(EXCHANGE.market_data.book) for s in ("BTCUSDT", "ETHUSDT")}
    updates = 0
    with connect(root(sim) + path) as socket:
        socket.send(json.dumps({"req_id": "1", "op": "subscribe", "args": [f"orderbook.50.{s}" for s in books]}))
        while updates < 40:
            for item in parse(str(socket.recv(5)).encode(), path, 1):
                if isinstance(item, Depth):
                    books[item.symbol].feed(item)
                    updates += 1
                    assert books[item.symbol].valid, books[item.symbol].reason
        with connect(root(sim) + path) as other:
            other.send(json.dumps({"req_id": "1", "op": "subscribe", "args": ["orderbook.50.BTCUSDT"]}))
            other.recv(5)
            (snapshot,) = parse(str(other.recv(5)).encode(), path, 1)
        assert isinstance(snapshot, Depth)
        while books["BTCUSDT"].last_seq < snapshot.last_seq:
            for item in parse(str(socket.recv(5)).encode(), path, 1):
                if isinstance(item, Depth) and item.last_seq <= snapshot.last_seq:
                    books[item.symbol].feed(item)
    fresh = Book(EXCHANGE.market_data.book)
    fresh.load(snapshot)
    book = books["BTCUSDT"]
    assert (book.best_bid(), book.best_ask(), book.sizes()) == (fresh.best_bid(), fresh.best_ask(), (50, 50))


def test_a_dropped_update_is_met_by_subscribing_again(sim: Simulator) -> None:
    market, book = EXCHANGE.market_data, Book(EXCHANGE.market_data.book)
    path = "/v5/public/linear"
    topics = market.topics(["BTCUSDT"], ["depth"])
    again = market.again
    assert again is not None
    with connect(root(sim) + path) as socket:
        socket.send(market.subscribe(topics, 1).decode())
        was_valid = renewed = False
        deadline = time.monotonic() + 10
        while not (renewed and book.valid):
            assert time.monotonic() < deadline
            for item in market.parse(str(socket.recv(5)).encode(), path, 1):
                if isinstance(item, Depth):
                    book.feed(item)
            if book.valid and not was_valid:
                was_valid = True
                sim.fault("drop_event", stream="orderbook.50.BTCUSDT", count=1)
            if book.needs_stream and not renewed:
                renewed = True
                for frame in again(topics, 2):
                    socket.send(frame.decode())


def test_stalled_socket_still_answers_pings(sim: Simulator) -> None:
    with connect(root(sim) + "/v5/public/linear") as socket:
        assert ask(socket, {"req_id": "1", "op": "subscribe", "args": ["tickers.BTCUSDT"]})["success"] is True
        ident = sim.fault("stall", path="/v5/public/linear")
        try:
            assert ask(socket, {"req_id": "2", "op": "ping"})["ret_msg"] == "pong"
        finally:
            sim.end_fault(ident)


# ── REST ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def code(answer: tuple[int, Any]) -> int:
    assert answer[0] == 200, answer
    return int(answer[1]["retCode"])


def test_codes_of_signed_calls(sim: Simulator) -> None:
    path = "/v5/account/wallet-balance"
    query = "accountType=UNIFIED"
    assert code(rest(sim, "GET", path, query)) == 0
    assert code(rest(sim, "GET", path, query, key="nobody")) == 10003
    assert code(rest(sim, "GET", path, query, secret="no")) == 10004
    assert code(rest(sim, "GET", path, query, at_ms=now_ms() - 6000)) == 10002
    assert code(rest(sim, "GET", path, query, at_ms=now_ms() + 2000)) == 10002
    assert code(rest(sim, "GET", path, query, key="")) == 10001
    assert code(rest(sim, "GET", path, "accountType=SPOT")) == 10001
    assert code(rest(sim, "GET", "/v5/position/list", "category=linear")) == 10001
    assert code(rest(sim, "GET", "/v5/order/realtime", "category=linear")) == 10001
    week = f"category=linear&startTime=1&endTime={8 * 86_400_000}"
    assert code(rest(sim, "GET", "/v5/execution/list", week)) == 10001
    assert rest(sim, "GET", "/v5/nothing")[0] == 404


@pytest.mark.parametrize(
    ("state", "wanted", "probe"), [("invalid", 10003, 10003), ("ip_banned", 10010, 10010), ("no_permission", 10005, 0)]
)
def test_states_of_an_account(sim: Simulator, state: str, wanted: int, probe: int) -> None:
    sim.account(f"key-{state}", "s", exchange="bybit", market="unified")
    sim.set_state(f"key-{state}", state)
    assert code(rest(sim, "GET", "/v5/account/info", key=f"key-{state}", secret="s")) == wanted
    assert code(rest(sim, "GET", "/v5/user/query-api", key=f"key-{state}", secret="s")) == probe
    with connect(root(sim) + "/v5/private") as socket:
        assert ask(socket, login(f"key-{state}", "s"))["success"] is False


def test_limits_of_user_and_address() -> None:
    with Simulator(("bybit",), rate=0) as sim:
        sim.account("key-1", "secret-1", exchange="bybit", market="unified")
        sim.settings(probes_per_s=2)
        codes = [code(rest(sim, "GET", "/v5/user/query-api")) for _ in range(3)]
        assert codes == [0, 0, 10006]
        sim.settings(calls_per_5s=5)
        answers = [rest(sim, "GET", "/v5/market/time", key="") for _ in range(4)]
        assert answers[-1] == (403, "403, access too frequent")


def test_orders_by_rest(sim: Simulator) -> None:
    def post(path: str, **body: Any) -> tuple[int, dict[str, Any]]:
        answer = rest(sim, "POST", f"/v5/order/{path}", body=body)
        return code(answer), answer[1]["result"]

    status, placed = post(
        "create", category="linear", symbol="SOLUSDT", side="Buy", orderType="Limit", qty="1", price="100", orderLinkId="mine"
    )  # fmt: skip
    assert status == 0 and placed["orderLinkId"] == "mine" and len(placed["orderId"]) == 36
    again = {"category": "linear", "symbol": "SOLUSDT", "side": "Buy", "orderType": "Limit", "qty": "1", "price": "100"}
    assert post("create", **again, orderLinkId="mine")[0] == 110072
    assert post("create", **again | {"qty": "0.01"})[0] == 10001
    assert post("create", **again | {"side": "Up"})[0] == 10001
    assert post("create", **again | {"qty": "9999999"})[0] == 110007
    assert post("create", **again, reduceOnly=True)[0] == 110017
    assert post("create", **again, positionIdx=1)[0] == 10001
    assert post("amend", category="linear", symbol="SOLUSDT", orderId=placed["orderId"], price="101")[0] == 0
    open_ = rest(sim, "GET", "/v5/order/realtime", "category=linear&symbol=SOLUSDT")[1]["result"]["list"]
    assert [(row["orderId"], row["price"]) for row in open_] == [(placed["orderId"], "101")]
    assert post("cancel", category="linear", symbol="SOLUSDT", orderLinkId="mine")[0] == 0
    assert post("cancel", category="linear", symbol="SOLUSDT", orderId=placed["orderId"])[0] == 110001
    spot = {"category": "spot", "symbol": "BTCUSDT", "side": "Buy", "orderType": "Market"}
    status, bought = post("create", **spot, qty="100")  # quote coin
    assert status == 0 and bought["orderId"].isdigit()
    row = rest(sim, "GET", "/v5/execution/list", f"category=spot&orderId={bought['orderId']}")[1]["result"]["list"][0]
    assert float(row["execValue"]) <= 100 and row["feeCurrency"] == "BTC" and "category" not in row
    assert post("create", **spot | {"side": "Sell"}, qty="999")[0] == 170131
    resting = [
        post("create", **spot | {"orderType": "Limit", "price": "100.00"}, qty="0.5")[1]["orderId"] for _ in range(2)
    ]
    assert [row["orderId"] for row in post("cancel-all", category="spot", symbol="BTCUSDT")[1]["list"]] == resting


def test_market_rest_agrees_with_itself(sim: Simulator) -> None:
    def result(path: str, query: str) -> Any:
        answer = rest(sim, "GET", f"/v5/market/{path}", query, key="")
        assert code(answer) == 0
        return answer[1]["result"]

    book = result("orderbook", "category=linear&symbol=BTCUSDT&limit=5")
    assert len(book["b"]) == len(book["a"]) == 5 and float(book["b"][0][0]) < float(book["a"][0][0])
    candles = result("kline", "category=spot&symbol=BTCUSDT&interval=60&limit=3")["list"]
    starts = [int(candle[0]) for candle in candles]
    assert len(starts) == 3 and starts == sorted(starts, reverse=True)
    assert result("recent-trade", "category=spot&symbol=BTCUSDT")["category"] == "spot"
    assert result("tickers", "category=linear&symbol=BTCUSDT")["list"][0]["markPrice"]
    listed = result("instruments-info", "category=spot")["list"]
    assert {row["symbol"] for row in listed} >= {"BTCUSDT", "ETHUSDT"} and result(
        "instruments-info", "category=option"
    )["list"] == []
    assert code(rest(sim, "GET", "/v5/market/kline", "category=linear&symbol=NOPE&interval=1", key="")) == 10001


# ── The adapter against it ───────────────────────────────────────────────────────────────────────────────────────
class Client:
    """The least that drives the adapter's read-back."""

    def __init__(self, sim: Simulator, credentials: Credentials = KEY) -> None:
        self.hosts, self.credentials = hosts(EXCHANGE, False, sim.endpoints), credentials

    def send(self, call: HttpCall) -> HttpReply:
        at_ms = now_ms()
        request = EXCHANGE.sign(call, self.credentials, at_ms, False)
        wire = urllib.request.Request(self.hosts.rest + request.target, headers=dict(request.headers))
        with urllib.request.urlopen(wire, timeout=5) as answer:
            reply = HttpReply(answer.status, {}, answer.read(), at_ms)
        verdict = EXCHANGE.classify(reply)
        if verdict.outcome is not Outcome.OK:
            raise ExchangeRefused(call.path, verdict)
        return reply

    def read(self, mark: Watermark) -> Recovered:
        plan = EXCHANGE.recover(SPEC, mark, now_ms())
        try:
            call = next(plan)
            while True:
                call = plan.send(self.send(call))
        except StopIteration as end:
            found: Recovered = end.value
            return found


class Session:
    """A private socket opened as the adapter says."""

    def __init__(self, sim: Simulator) -> None:
        client = Client(sim)
        self._open = ExitStack()
        self.socket = self._open.enter_context(connect(EXCHANGE.user_url(client.hosts, "")))
        for step in EXCHANGE.opening(KEY, now_ms()):
            self.socket.send(step.frame.decode())
            (reply,) = self.parse(self.socket.recv(5))
            assert isinstance(reply, Reply) and (reply.key, reply.verdict.outcome) == (step.key, Outcome.OK)

    def close(self) -> None:
        self._open.close()

    @staticmethod
    def parse(raw: str | bytes) -> list[Any]:
        return list(EXCHANGE.parse_user(raw.encode() if isinstance(raw, str) else raw, "acc", now_ms()))

    def told(self) -> list[Any]:
        """Everything until nothing came for a moment."""
        items: list[Any] = []
        while True:
            try:
                items += self.parse(self.socket.recv(0.5))
            except TimeoutError:
                return items


ORDERS = (
    ("BTCUSDT", "buy", 2),
    ("spot/BTCUSDT", "buy", 1),
    ("BTCUSDT", "sell", 3),
    ("spot/ETHUSDT", "sell", 0),
    ("ETHUSDT", "sell", 1),
)


def test_socket_and_rest_tell_the_same_events(sim: Simulator) -> None:
    client, session = Client(sim), Session(sim)
    first = client.read(Watermark(proven_ms=now_ms() - 1000))
    mark = Watermark(proven_ms=now_ms())
    for event in first.events:
        mark.advance(event)
    mark.prove(first.snapshot, mark.proven_ms)
    since = max((row["seq"] for row in sim.ledger()), default=0)
    for symbol, side, parts in ORDERS:
        sim.order("key-1", symbol, side, "0.03", "3000", fills=parts, market="unified")
    told = session.told()
    session.close()
    assert all(isinstance(item, get_args(UserRecord)) for item in told), [
        i for i in told if not isinstance(i, get_args(UserRecord))
    ]
    found = client.read(mark)
    streamed = {event.id for event in told}
    fills = {event.id for event in told if isinstance(event, Fill)}
    assert len(fills) == 7 and {event.id for event in found.events if isinstance(event, Fill)} == fills
    ledger = {(r["symbol"], r["trade_id"], r["order_id"]) for r in sim.ledger(since, type="fill", api_key="key-1")}
    assert {(e.symbol, e.trade_id, e.order_id) for e in found.events if isinstance(e, Fill)} == ledger
    for kind in (Order, Position):
        read = {event.id for event in found.events if isinstance(event, kind)}
        assert read and read <= streamed, kind
    for event in found.events:
        mark.advance(event)
    mark.prove(found.snapshot, found.snapshot.at_ms)
    assert [event for event in client.read(mark).events if event.id not in streamed] == []


def test_events_dropped_from_the_socket_are_read_back(sim: Simulator) -> None:
    client, session = Client(sim), Session(sim)
    mark = Watermark(proven_ms=now_ms())
    first = client.read(mark)
    for event in first.events:
        mark.advance(event)
    mark.prove(first.snapshot, mark.proven_ms)
    ident = sim.fault("drop_event", api_key="key-1", event="execution")
    placed = [
        sim.order("key-1", s, "buy", "0.02", "3000", fills=2, market="unified") for s in ("ETHUSDT", "spot/ETHUSDT")
    ]
    told = session.told()
    session.close()
    sim.end_fault(ident)
    assert not any(isinstance(event, Fill) for event in told)
    fills = [event for event in client.read(mark).events if isinstance(event, Fill)]
    assert {e.trade_id for e in fills} == {t for p in placed for t in p["trade_ids"]}
    assert {e.source for e in fills} == {"rest"} and len({e.id for e in fills}) == 4


def test_pages_of_a_long_gap(sim: Simulator) -> None:
    """More fills than a page, more orders than a page: the cursors lead through all of them."""
    sim.account("key-2", "secret-2", exchange="bybit", market="unified")
    mark = Watermark(proven_ms=now_ms() - 1000)
    for _ in range(60):
        sim.order("key-2", "BTCUSDT", "buy", "0.004", "86000", fills=4, market="unified")
    found = Client(sim, Credentials("key-2", "secret-2")).read(mark)
    ledger = {r["trade_id"] for r in sim.ledger(type="fill", api_key="key-2")}
    assert len(ledger) == 240 and {e.trade_id for e in found.events if isinstance(e, Fill)} == ledger
    assert len({e.order_id for e in found.events if isinstance(e, Order)}) == 60


def test_an_order_cancelled_in_the_gap_and_one_that_rests(sim: Simulator) -> None:
    client = Client(sim)
    resting = [
        sim.order("key-1", s, "buy", "0.02", "2000", fills=0, market="unified")["order_id"]
        for s in ("ETHUSDT", "spot/ETHUSDT", "BTCUSDT")
    ]
    mark = Watermark(proven_ms=now_ms())
    first = client.read(Watermark(proven_ms=now_ms() - 5000))
    for event in first.events:
        mark.advance(event)
    mark.prove(first.snapshot, now_ms())
    assert set(resting) <= {order_id for _, order_id in mark.open_orders()}
    for order_id in resting[:2]:
        sim.cancel("key-1", "ETHUSDT", order_id)
    mark.proven_ms = now_ms() - 1
    found = client.read(mark)
    assert {e.order_id for e in found.events if isinstance(e, Order) and e.status == "canceled"} == set(resting[:2])
    assert {key.partition("|")[2] for key in found.snapshot.closed_orders} == set(resting[:2])


def test_funding_is_an_execution_that_is_no_fill(sim: Simulator) -> None:
    client, session = Client(sim), Session(sim)
    mark = Watermark(proven_ms=now_ms() - 1)
    sim.call("POST", "/deposits", {"api_key": "key-1", "asset": "USDT", "amount": "-0.5", "kind": "FUNDING_FEE"})
    told = [item.id for item in session.told() if getattr(item, "event", "") == "execution.Funding"]
    session.close()
    assert len(told) == 1
    found = eventually(
        lambda: [e.id for e in client.read(mark).events if getattr(e, "event", "") == "execution.Funding"]
    )
    assert found == told
