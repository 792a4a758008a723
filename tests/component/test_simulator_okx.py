"""The simulated OKX at the wire: codes of REST and sockets, limits, pings, notices, paging, books, the replayed capture.

Spoken to directly, without the adapter, except where its books judge the sequence."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from fleet.core.book import Book
from fleet.core.events import Depth
from fleet.core.exchange import HttpReply
from fleet.exchanges import exchanges
from tests.support.captures import DIRECTORY, received
from tests.support.simulator import Simulator, eventually

PRIVATE, PUBLIC, BUSINESS = "/ws/v5/private", "/ws/v5/public", "/ws/v5/business"
SWAP = "BTC-USDT-SWAP"


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(("okx",), rate=60) as running:
        running.settings(dials_per_s=1000, rest_limits=0)
        yield running


@pytest.fixture
def key(sim: Simulator, request: pytest.FixtureRequest) -> str:
    name = f"key-{request.node.name}"
    sim.account(name, "secret", exchange="okx", market="unified", passphrase="phrase")
    return name


def sign(secret: str, text: str) -> str:
    return base64.b64encode(hmac.new(secret.encode(), text.encode(), hashlib.sha256).digest()).decode()


def rest(
    sim: Simulator, target: str, key: str = "", *, secret: str = "secret", phrase: str = "phrase", at: str = "", body: Any = None,
    **headers: str,
) -> tuple[int, dict[str, Any]]:  # fmt: skip
    method = "GET" if body is None else "POST"
    payload = "" if body is None else json.dumps(body)
    if key:
        at = at or time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        headers = {
            "OK-ACCESS-KEY": key, "OK-ACCESS-PASSPHRASE": phrase, "OK-ACCESS-TIMESTAMP": at,
            "OK-ACCESS-SIGN": sign(secret, f"{at}{method}{target}{payload}"), **headers,
        }  # fmt: skip
    request = urllib.request.Request(
        sim.endpoints["FLEET_OKX_REST_URL"] + target, data=payload.encode() or None, method=method,
        headers={k: v for k, v in headers.items() if v != "-"},
    )  # fmt: skip
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


class Socket:
    def __init__(self, raw: ClientConnection) -> None:
        self.raw = raw
        self.seen: list[dict[str, Any]] = []

    def say(self, op: str, *args: dict[str, Any], ident: str = "") -> None:
        self.raw.send(json.dumps({**({"id": ident} if ident else {}), "op": op, "args": list(args)}))

    def next(self, timeout_s: float = 5.0) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.raw.recv(timeout=timeout_s))
        self.seen.append(message)
        return message

    def until(self, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = 8.0) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.next(max(0.01, deadline - time.monotonic()))
            if wanted(message):
                return message

    def login(self, key: str, secret: str = "secret", phrase: str = "phrase", at: str = "") -> dict[str, Any]:
        at = at or str(int(time.time()))
        self.say(
            "login",
            {"apiKey": key, "passphrase": phrase, "timestamp": at, "sign": sign(secret, f"{at}GET/users/self/verify")},
        )
        return self.next()

    def closed(self, timeout_s: float = 8.0) -> int:
        with pytest.raises(ConnectionClosed) as ended:
            deadline = time.monotonic() + timeout_s
            while True:
                self.raw.recv(timeout=max(0.01, deadline - time.monotonic()))
        assert ended.value.rcvd is not None
        return int(ended.value.rcvd.code)


@contextmanager
def dialled(sim: Simulator, path: str) -> Iterator[Socket]:
    with connect(sim.endpoints["FLEET_OKX_WS_URL"] + path) as raw:
        yield Socket(raw)


# ── REST ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_rest_refuses_with_the_real_codes(sim: Simulator, key: str) -> None:
    config = "/api/v5/account/config"
    assert rest(sim, config, key)[1]["code"] == "0"
    sim.account(f"{key}-demo", "secret", exchange="okx", market="unified", passphrase="phrase", demo=True)
    demo = {"x-simulated-trading": "1"}
    tries: list[tuple[int, str, dict[str, Any]]] = [
        (401, "50119", {"key": "nobody"}), (401, "50113", {"secret": "wrong"}), (401, "50105", {"phrase": "wrong"}),
        (401, "50102", {"at": "2020-12-08T09:08:57.715Z"}), (401, "50112", {"at": "1704876947"}),
        (401, "50103", {"OK-ACCESS-KEY": "-"}), (401, "50104", {"OK-ACCESS-PASSPHRASE": "-"}),
        (401, "50106", {"OK-ACCESS-SIGN": "-"}), (401, "50107", {"OK-ACCESS-TIMESTAMP": "-"}),
        (401, "50101", {"key": f"{key}-demo"}), (200, "0", {"key": f"{key}-demo", **demo}), (200, "0", demo),
    ]  # fmt: skip
    for status, code, how in tries:
        got_status, body = rest(sim, config, how.pop("key", key), **how)
        assert (got_status, body["code"]) == (status, code), how
    for state, code in (("invalid", "50119"), ("ip_banned", "50110"), ("no_permission", "50120"), ("active", "0")):
        sim.set_state(key, state)
        assert rest(sim, config, key)[1]["code"] == code
    assert rest(sim, "/api/v5/nonsense")[0] == 404
    assert rest(sim, "/api/v5/market/books?instId=NO-SUCH")[1]["code"] == "51001"
    assert rest(sim, "/api/v5/trade/orders-history", key)[1]["code"] == "50014"


def test_rest_limits_are_per_user_and_endpoint(sim: Simulator, key: str) -> None:
    sim.settings(rest_limits=1)
    try:
        codes = [rest(sim, "/api/v5/account/config", key) for _ in range(7)]
        assert [body["code"] for _, body in codes].count("0") == 5 and codes[-1] == (
            429,
            {"code": "50011", "data": [], "msg": "Too Many Requests"},
        )
        assert rest(sim, "/api/v5/account/balance", key)[1]["code"] == "0"
    finally:
        sim.settings(rest_limits=0)


def test_orders_by_rest_and_their_refusals(sim: Simulator, key: str) -> None:
    base = {"instId": SWAP, "tdMode": "cross", "side": "buy", "ordType": "limit", "sz": "0.5", "px": "100"}

    def place(**change: Any) -> dict[str, Any]:
        _, body = rest(sim, "/api/v5/trade/order", key, body={**base, **change})
        row: dict[str, Any] = body["data"][0]
        assert (body["code"] == "0") is (row["sCode"] == "0")
        return row

    refused = [
        ({"instId": "NO-SUCH"}, "51001"), ({"ordType": "odd"}, "51000"), ({"side": "up"}, "51000"), ({"tdMode": "odd"}, "51000"),
        ({"sz": ""}, "50014"), ({"sz": "x"}, "51000"), ({"sz": "-1"}, "51000"), ({"sz": "0.0001"}, "51121"), ({"px": ""}, "50014"),
        ({"posSide": "long"}, "51000"), ({"sz": "100000000"}, "51008"),
    ]  # fmt: skip
    for change, code in refused:
        assert place(**change)["sCode"] == code, change
    resting = place(clOrdId="mine1")["ordId"]
    taken = place(ordType="market", px="")["ordId"]
    assert place(ordType="ioc")["sCode"] == "0" and place(ordType="post_only", px="900000")["sCode"] == "0"
    spot = place(instId="BTC-USDT", tdMode="cash", ordType="market", sz="1000")["ordId"]  # buys for 1000 USDT
    pending = rest(sim, "/api/v5/trade/orders-pending", key)[1]["data"]
    assert [(o["ordId"], o["clOrdId"], o["state"]) for o in pending] == [(resting, "mine1", "live")]
    _, amended = rest(sim, "/api/v5/trade/amend-order", key, body={"instId": SWAP, "clOrdId": "mine1", "newPx": "101"})
    assert amended["data"][0]["ordId"] == resting
    assert (
        rest(sim, "/api/v5/trade/amend-order", key, body={"instId": SWAP, "ordId": resting})[1]["data"][0]["sCode"]
        == "50014"
    )
    assert rest(sim, f"/api/v5/trade/order?instId={SWAP}&ordId={resting}", key)[1]["data"][0]["px"] == "101"
    _, ended = rest(sim, "/api/v5/trade/cancel-order", key, body={"instId": SWAP, "ordId": resting})
    assert ended["code"] == "0"
    for path, spec in (("cancel-order", {}), ("amend-order", {"newPx": "102"})):
        row = rest(sim, f"/api/v5/trade/{path}", key, body={"instId": SWAP, "ordId": resting, **spec})[1]["data"][0]
        assert row["sCode"] in ("51400", "51503")
    done = rest(sim, "/api/v5/trade/orders-history?instType=SWAP", key)[1]["data"]
    assert [o["state"] for o in done] == ["canceled", "canceled", "filled", "canceled"]
    assert [o["ordId"] for o in done] == sorted((o["ordId"] for o in done), reverse=True)
    kept = rest(sim, "/api/v5/trade/orders-history-archive?instType=SWAP", key)[1]["data"]
    assert [o["ordId"] for o in kept] == [taken]
    fills = rest(sim, "/api/v5/trade/fills", key)[1]["data"]
    assert {f["ordId"] for f in fills} == {taken, spot} and 0.01 < float(fills[0]["fillSz"]) < 0.013
    assert {f["feeCcy"] for f in fills} == {"USDT", "BTC"}
    assert all(f["fee"].startswith("-") for f in fills)
    for query, code in (
        ("", "50014"),
        ("?instId=NO", "51001"),
        (f"?instId={SWAP}", "50014"),
        (f"?instId={SWAP}&ordId=5", "51603"),
    ):
        assert rest(sim, f"/api/v5/trade/order{query}", key)[1]["code"] == code
    _, positions = rest(sim, "/api/v5/account/positions?instType=SWAP", key)
    assert [(p["instId"], p["pos"], p["posSide"]) for p in positions["data"]] == [(SWAP, "0.5", "net")]


def test_fills_page_backwards_by_bill(sim: Simulator, key: str) -> None:
    for _ in range(30):
        sim.order(key, SWAP, "buy", "0.08", "84000", fills=8, market="unified")
    found: list[str] = []
    after = ""
    while True:
        page = rest(sim, f"/api/v5/trade/fills-history?instType=SWAP{after}", key)[1]["data"]
        found += [row["tradeId"] for row in page]
        if len(page) < 100:
            break
        after = f"&after={page[-1]['billId']}"
    assert len(found) == 240 and set(found) == {r["trade_id"] for r in sim.ledger(type="fill", api_key=key)}
    newest = rest(sim, "/api/v5/trade/fills?before=5&limit=10", key)[1]["data"]
    assert [row["tradeId"] for row in newest] == found[:10]  # `before` alone: still the newest page


def test_public_calls_answer(sim: Simulator) -> None:
    for path in (
        "public/time", "public/instruments?instType=SWAP", "public/instruments?instType=SPOT&instId=BTC-USDT",
        "public/mark-price?instType=SWAP", f"public/funding-rate?instId={SWAP}", "market/tickers?instType=SPOT",
        f"market/ticker?instId={SWAP}", f"market/books?instId={SWAP}&sz=5", f"market/candles?instId={SWAP}&bar=1H&limit=3",
        f"market/trades?instId={SWAP}&limit=2",
    ):  # fmt: skip
        status, body = rest(sim, f"/api/v5/{path}")
        assert (status, body["code"]) == (200, "0") and body["data"], path
    for path in ("market/candles?bar=1m", f"market/candles?instId={SWAP}&bar=7m", "public/instruments?instType=ODD"):
        assert rest(sim, f"/api/v5/{path}")[1]["code"] != "0"


# ── Private sockets ──────────────────────────────────────────────────────────────────────────────────────────────
def test_login_and_its_refusals(sim: Simulator, key: str) -> None:
    with dialled(sim, PRIVATE) as socket:
        socket.say("subscribe", {"channel": "account"}, ident="early")
        assert socket.next()["code"] == "60011"
        now = str(int(time.time()))
        for how, code in (
            ({"key": "nobody"}, "60032"), ({"key": key, "secret": "wrong"}, "60007"), ({"key": key, "phrase": "wrong"}, "60024"),
            ({"key": key, "at": f"{now}000"}, "60006"), ({"key": key, "at": "soon"}, "60004"), ({"key": key, "at": "1"}, "60006"),
        ):  # fmt: skip
            answer = socket.login(**how)
            assert (answer["event"], answer["code"], "id" in answer) == ("error", code, False), how
        assert socket.login(key) == {"event": "login", "code": "0", "msg": "", "connId": socket.seen[0]["connId"]}
        assert socket.login(key)["code"] == "60031"
        for arg, code in (
            ({"channel": "positions"}, "60018"),
            ({"channel": "fills"}, "64003"),
            ({"channel": "tickers", "instId": SWAP}, "60018"),
        ):
            socket.say("subscribe", arg, ident="x1")
            answer = socket.next()
            assert (answer["id"], answer["event"], answer["code"]) == ("x1", "error", code)
        for raw, code in (
            ("{", "60012"),
            ('{"op":"subscribe","args":[]}', "60013"),
            ('{"op":"dance","args":[{}]}', "60019"),
        ):
            socket.raw.send(raw)
            assert socket.next()["code"] == code
        socket.say("subscribe", {"channel": "account"}, ident="not-alphanumeric")
        assert socket.next()["code"] == "60033"
    sim.settings(close_failed_logins=1)
    with dialled(sim, PRIVATE) as socket:
        assert socket.login("nobody")["code"] == "60032" and socket.closed() == 4001
    sim.settings(close_failed_logins=0)


def test_snapshots_counts_and_pushes(sim: Simulator, key: str) -> None:
    sim.order(key, SWAP, "buy", "1", "84000", market="unified")
    with dialled(sim, PRIVATE) as socket:
        socket.login(key)
        quiet = '{"updateInterval":"0"}'
        for channel, arg in (("orders", {"instType": "ANY"}), ("positions", {"instType": "ANY", "extraParams": quiet}),
                             ("account", {"extraParams": quiet}), ("balance_and_position", {})):  # fmt: skip
            socket.say("subscribe", {"channel": channel, **arg}, ident="a1")
            ack, count = socket.next(), socket.next()
            assert (ack["event"], ack["id"], ack["arg"]["channel"]) == ("subscribe", "a1", channel)
            assert "extraParams" not in ack["arg"]
            assert (count["event"], count["channel"], count["connCount"]) == ("channel-conn-count", channel, "1")
            if channel != "orders":
                first = socket.next()
                kind = first["data"][0]["eventType"] if channel == "balance_and_position" else first["eventType"]
                assert kind == "snapshot" and first["arg"]["uid"]
        placed = sim.order(key, SWAP, "sell", "1", "84100", fills=1, market="unified")
        pushes = [socket.next() for _ in range(5)]
        assert [p["arg"]["channel"] for p in pushes] == [
            "orders",
            "orders",
            "balance_and_position",
            "account",
            "positions",
        ]
        row = pushes[1]["data"][0]
        assert (row["state"], row["tradeId"], row["fillSz"], row["fillPnl"]) == (
            "filled",
            placed["trade_ids"][0],
            "1",
            "100",
        )
        assert pushes[4]["data"][0]["pos"] == "0" and pushes[2]["data"][0]["eventType"] == "filled"
        sim.call("POST", "/deposits", {"api_key": key, "asset": "USDT", "amount": "5"})
        assert socket.next()["data"][0]["eventType"] == "transferred"


def test_paged_snapshots_and_periodic_pushes(sim: Simulator, key: str) -> None:
    sim.settings(page_rows=2, periodic_s=0.3)
    try:
        with dialled(sim, PRIVATE) as socket:
            socket.login(key)
            socket.say("subscribe", {"channel": "account"})
            pages = [socket.until(lambda m: "data" in m) for _ in range(3)]
            assert [(p["curPage"], p["lastPage"]) for p in pages] == [(1, False), (2, False), (3, True)]
            socket.until(lambda m: m.get("curPage") == 1)  # and again, by the clock
    finally:
        sim.settings(page_rows=0, periodic_s=5.0)


def test_positions_in_long_short_mode_have_no_sign(sim: Simulator) -> None:
    sim.account("hedged", "secret", exchange="okx", market="unified", passphrase="phrase", hedge_mode=True)
    sim.order("hedged", SWAP, "sell", "2", "84000", market="unified", position_side="short")
    (row,) = rest(sim, "/api/v5/account/positions", "hedged")[1]["data"]
    assert (row["pos"], row["posSide"]) == ("2", "short")


def test_more_sockets_of_a_channel_than_allowed(sim: Simulator, key: str) -> None:
    sim.settings(connections_per_channel=1)
    try:
        with dialled(sim, PRIVATE) as one, dialled(sim, PRIVATE) as two:
            for socket in (one, two):
                socket.login(key)
                socket.say("subscribe", {"channel": "account"})
            assert one.until(lambda m: "connCount" in m)["event"] == "channel-conn-count"
            assert two.next()["event"] == "subscribe"  # the acknowledgement comes first all the same
            assert two.next()["event"] == "channel-conn-count-error"
    finally:
        sim.settings(connections_per_channel=30)


def test_idle_sockets_notices_and_deleted_keys(sim: Simulator, key: str) -> None:
    sim.settings(idle_s=0.8, upgrade_close_s=0.5)
    try:
        with dialled(sim, PUBLIC) as silent, dialled(sim, PUBLIC) as asking:
            began = time.monotonic()
            while time.monotonic() - began < 1.6:
                asking.raw.send("ping")
                assert asking.raw.recv(timeout=2) == "pong"
                time.sleep(0.2)
            assert silent.closed() == 4004
        sim.settings(idle_s=30)
        with dialled(sim, PRIVATE) as socket:
            socket.login(key)
            sim.fault("expire_listen_key", exchange="okx", api_key=key)
            assert (notice := socket.next())["code"] == "64008" and notice["event"] == "notice"
            assert socket.closed() == 1000
        with dialled(sim, PRIVATE) as socket:
            socket.login(key)
            sim.set_state(key, "invalid")
            assert socket.closed() == 4007
    finally:
        sim.settings(idle_s=30, upgrade_close_s=60)


def test_requests_dials_and_sizes_are_limited(sim: Simulator) -> None:
    with dialled(sim, PUBLIC) as socket:
        socket.raw.send(json.dumps({"op": "subscribe", "args": [{"channel": "tickers", "instId": "x" * 70_000}]}))
        assert socket.closed() == 1009
    sim.settings(requests_per_hour=2)
    with dialled(sim, PUBLIC) as socket:
        codes = []
        for _ in range(3):
            socket.say("subscribe", {"channel": "nonsense", "instId": "X"})
            codes.append(socket.next()["code"])
        assert codes == ["60018", "60018", "60014"]
    sim.settings(requests_per_hour=480, dials_per_s=3)
    try:
        time.sleep(1.05)  # the dials before are forgotten
        statuses = []
        for _ in range(5):
            try:
                with dialled(sim, PUBLIC):
                    statuses.append(101)
            except InvalidStatus as refused:
                statuses.append(refused.response.status_code)
                assert refused.response.headers["Retry-After"] == "1"
        assert statuses == [101, 101, 101, 429, 429]
    finally:
        sim.settings(dials_per_s=1000)
    with pytest.raises(InvalidStatus) as unknown, dialled(sim, "/ws/v5/odd"):
        pass
    assert unknown.value.response.status_code == 404


# ── Public sockets ───────────────────────────────────────────────────────────────────────────────────────────────
def test_channels_belong_to_a_path(sim: Simulator) -> None:
    for path, channel, code in (
        (PUBLIC, "candle1m", "64001"), (BUSINESS, "tickers", "64002"), (PUBLIC, "candle7m", "60018"),
        (PUBLIC, "books-l2-tbt", "64003"), (PUBLIC, "account", "60018"), (PUBLIC, "orders-algo", "60018"),
        (PUBLIC, "liquidation-orders", "60018"),
    ):  # fmt: skip
        with dialled(sim, path) as socket:
            socket.say("subscribe", {"channel": channel, "instId": SWAP}, ident="q")
            answer = socket.next()
            assert (answer["code"], answer["id"]) == (code, "q"), channel


def test_every_channel_speaks(sim: Simulator) -> None:
    channels = [
        "tickers", "trades", "books", "books5", "bbo-tbt", "mark-price", "index-tickers", "funding-rate",
        "open-interest", "price-limit",
    ]  # fmt: skip
    with dialled(sim, PUBLIC) as socket:
        args = [{"channel": c, "instId": "BTC-USDT" if c == "index-tickers" else SWAP} for c in channels]
        socket.say("subscribe", *args, {"channel": "liquidation-orders", "instType": "SWAP"}, ident="all")
        wanted = {*channels, "liquidation-orders"}
        eventually(lambda: socket.next() and {m["arg"]["channel"] for m in socket.seen if "data" in m} == wanted, 30)
        assert [m["arg"]["channel"] for m in socket.seen if m.get("event") == "subscribe"] == [
            *channels,
            "liquidation-orders",
        ]
        socket.say("unsubscribe", *args)
        socket.until(lambda m: m.get("event") == "unsubscribe" and m["arg"]["channel"] == "price-limit")
        assert all(m["arg"]["channel"] == "liquidation-orders" for m in [socket.next() for _ in range(3)])
    with dialled(sim, BUSINESS) as socket:
        socket.say("subscribe", {"channel": "candle1m", "instId": SWAP}, {"channel": "trades-all", "instId": SWAP})
        candle = socket.until(lambda m: m["arg"]["channel"] == "candle1m" and "data" in m)
        assert len(candle["data"][0]) == 9 and candle["data"][0][8] in "01"
        assert "count" not in socket.until(lambda m: m["arg"]["channel"] == "trades-all" and "data" in m)["data"][0]


def test_books_are_one_series_on_every_connection_and_in_rest(sim: Simulator) -> None:
    market = exchanges()["okx"].market_data
    assert market.parse_snapshot is not None
    arg = {"channel": "books", "instId": "ETH-USDT-SWAP"}
    with dialled(sim, PUBLIC) as first:
        first.say("subscribe", arg)
        for _ in range(10):
            first.next()
        with dialled(sim, PUBLIC) as second:
            second.say("subscribe", arg)
            _, body = rest(sim, "/api/v5/market/books?instId=ETH-USDT-SWAP&sz=400")
            for _ in range(12):
                second.next()
        for _ in range(14):
            first.next()
    late = Book(exchanges()["okx"].market_data.book)  # missed its snapshot: REST's must fit
    for n, seen in enumerate((first.seen, second.seen)):
        book = Book(exchanges()["okx"].market_data.book)
        for message in seen:
            for item in market.parse(json.dumps(message).encode(), PUBLIC, 1):
                if isinstance(item, Depth):
                    book.feed(item)
                    assert book.valid, (n, book.reason)
                    if n == 0 and item.kind == "update":
                        late.feed(item)
    snapshot = market.parse_snapshot(HttpReply(200, {}, json.dumps(body).encode()), "ETH-USDT-SWAP", 1)
    assert late.needs_snapshot and late.load(snapshot) and late.valid
    assert (late.best_bid(), late.best_ask(), late.last_seq) == _book_of(market, first.seen)


def _book_of(market: Any, seen: list[dict[str, Any]]) -> tuple[Any, Any, int]:
    book = Book(exchanges()["okx"].market_data.book)
    for message in seen:
        for item in market.parse(json.dumps(message).encode(), PUBLIC, 1):
            if isinstance(item, Depth):
                book.feed(item)
    return book.best_bid(), book.best_ask(), book.last_seq


def test_trade_ids_cover_their_counts(sim: Simulator) -> None:
    with dialled(sim, PUBLIC) as socket:
        socket.say("subscribe", {"channel": "trades", "instId": "SOL-USDT-SWAP"})
        rows = [socket.until(lambda m: "data" in m)["data"][0] for _ in range(40)]
    for before, after in zip(rows, rows[1:], strict=False):
        assert int(after["tradeId"]) - int(after["count"]) == int(before["tradeId"])
    seen = rest(sim, "/api/v5/market/trades?instId=SOL-USDT-SWAP&limit=500")[1]["data"]  # match by match
    ids = [int(row["tradeId"]) for row in seen]
    assert ids == list(range(ids[0], ids[0] - 500, -1)) or len(ids) < 500
    assert {int(row["tradeId"]) for row in rows} & set(ids)
    older = rest(sim, f"/api/v5/market/history-trades?instId=SOL-USDT-SWAP&limit=3&after={ids[0]}")[1]["data"]
    assert [int(row["tradeId"]) for row in older] == ids[1:4]


def test_the_capture_is_replayed_completely() -> None:
    frames = [json.loads(frame) for _, frame in received("okx.ws.gz")]
    pushes = [frame for frame in frames if "data" in frame]
    args = list({json.dumps(frame["arg"]): frame["arg"] for frame in pushes}.values())
    market = exchanges()["okx"].market_data
    with Simulator(("okx",), replay=[DIRECTORY / "okx.ws.gz"]) as sim, dialled(sim, PUBLIC) as socket:
        socket.say("subscribe", *args, ident="1")
        eventually(lambda: socket.next(10) and sum("data" in m for m in socket.seen) == len(pushes), 60)
        state = sim.replay()
        ledger = [row for row in sim.ledger() if row["api_key"] is None]
        trades = rest(sim, "/api/v5/market/trades?instId=BTC-USDT&limit=500")[1]["data"]
    assert (state["frames"], state["sent"], state["done"]) == (392, 392, True) and len(ledger) == 392
    told = [m for m in socket.seen if "data" in m]
    assert [r["tradeId"] for r in reversed(trades)] == [
        m["data"][0]["tradeId"] for m in told if m["arg"] == {"channel": "trades", "instId": "BTC-USDT"}
    ]
    assert [(m["arg"], m.get("action")) for m in told] == [(m["arg"], m.get("action")) for m in pushes]
    books: dict[str, Book] = {}
    items = [item for m in told for item in market.parse(json.dumps(m).encode(), PUBLIC, 1)]
    assert len({item.id for item in items}) == 392  # type: ignore[union-attr]
    for item in items:
        if isinstance(item, Depth):
            book = books.setdefault(item.symbol, Book(exchanges()["okx"].market_data.book))
            book.feed(item)
            assert book.valid
    assert len(books) == 3
