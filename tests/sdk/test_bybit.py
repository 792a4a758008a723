"""pybit and ccxt against the simulated Bybit, unmodified but for their URLs: they log in, hear of orders and fills that equal
the ledger, read them back by REST, and get their own authentication error for a wrong key."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.simulator import Simulator, eventually

pytestmark = pytest.mark.sdk
unified_trading = pytest.importorskip("pybit.unified_trading")
exceptions = pytest.importorskip("pybit.exceptions")
ccxt = pytest.importorskip("ccxt")
ccxt_pro = pytest.importorskip("ccxt.pro")

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(("bybit",), rate=40) as running:
        # pybit notes a request after sending it: an answer that takes no time at all would find nothing noted
        running.settings(reply_delay_s=0.05)
        yield running


@pytest.fixture
def key(sim: Simulator, request: pytest.FixtureRequest) -> str:
    name = f"key-{request.node.name}"
    sim.account(name, f"secret-{name}", exchange="bybit", market="unified")
    return name


@pytest.fixture(autouse=True)
def urls(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    root = sim.endpoints["FLEET_BYBIT_WS_URL"]
    monkeypatch.setattr(unified_trading, "PRIVATE_WSS", f"{root}/v5/private")
    monkeypatch.setattr(unified_trading, "PUBLIC_WSS", f"{root}/v5/public/{{CHANNEL_TYPE}}")


def http(sim: Simulator, key: str, secret: str = "") -> Any:
    client = unified_trading.HTTP(api_key=key, api_secret=secret or f"secret-{key}")
    client.endpoint = sim.endpoints["FLEET_BYBIT_REST_URL"]
    return client


def ledger(sim: Simulator, key: str, kind: str, field: str) -> set[str]:
    return {row[field] for row in sim.ledger(type=kind, api_key=key)}


def place(sim: Simulator, key: str) -> None:
    """Orders by the control interface, on both categories."""
    for symbol, fills in (("BTCUSDT", 3), ("spot/BTCUSDT", 2), ("ETHUSDT", 1), ("ETHUSDT", 0)):
        sim.order(key, symbol, "buy", "0.03", "3000", fills=fills, market="unified")


# ── pybit ────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_pybit_private_stream_equals_the_ledger(sim: Simulator, key: str) -> None:
    rows: dict[str, Rows] = {name: [] for name in ("order", "execution", "position", "wallet")}
    socket = unified_trading.WebSocket(
        testnet=False, channel_type="private", api_key=key, api_secret=f"secret-{key}", private_auth_expire=5
    )
    try:
        eventually(lambda: socket.auth, what="login")
        for name, found in rows.items():
            keep: Callable[[dict[str, Any]], None] = lambda message, found=found: found.extend(message["data"])  # type: ignore[misc]  # noqa: E731
            getattr(socket, f"{name}_stream")(callback=keep)
        eventually(lambda: len(sim.connections(only_open=True, api_key=key)[0]["subscriptions"]) == 4)
        place(sim, key)
        client = http(sim, key)
        made = client.place_order(
            category="linear", symbol="SOLUSDT", side="Buy", orderType="Market", qty="2", orderLinkId="mine"
        )["result"]
        rests = client.place_order(
            category="spot", symbol="ETHUSDT", side="Buy", orderType="Limit", qty="0.1", price="100"
        )["result"]
        client.cancel_order(category="spot", symbol="ETHUSDT", orderId=rests["orderId"])
        eventually(lambda: any(row["orderStatus"] == "Cancelled" for row in rows["order"]))
        eventually(lambda: {row["execId"] for row in rows["execution"]} == ledger(sim, key, "fill", "trade_id"))
    finally:
        socket.exit()
    assert {row["orderId"] for row in rows["order"]} == ledger(sim, key, "order", "order_id")
    assert made["orderId"] in {row["orderId"] for row in rows["execution"]} and len(rows["execution"]) == 7
    assert {row["category"] for row in rows["execution"]} == {"linear", "spot"}
    assert {row["symbol"] for row in rows["position"]} == {"BTCUSDT", "ETHUSDT", "SOLUSDT"}
    assert {coin["coin"] for row in rows["wallet"] for coin in row["coin"]} >= {"USDT", "BTC"}


def test_pybit_rest_equals_the_ledger(sim: Simulator, key: str) -> None:
    for _ in range(30):
        sim.order(key, "BTCUSDT", "sell", "0.004", "86000", fills=4, market="unified")
    client = http(sim, key)
    rows: Rows = []
    cursor = ""
    while True:
        result = client.get_executions(category="linear", limit=50, **({"cursor": cursor} if cursor else {}))["result"]
        rows += result["list"]
        cursor = result["nextPageCursor"]
        if not cursor:
            break
    assert len(rows) == 120 and {row["execId"] for row in rows} == ledger(sim, key, "fill", "trade_id")
    assert client.get_positions(category="linear", settleCoin="USDT")["result"]["list"][0]["size"] == "0.12"
    assert client.get_wallet_balance(accountType="UNIFIED")["result"]["list"][0]["accountType"] == "UNIFIED"
    assert client.get_api_key_information()["result"]["apiKey"] == key
    assert len(client.get_order_history(category="linear", limit=50)["result"]["list"]) == 30


def test_pybit_wrong_keys(sim: Simulator, key: str, caplog: pytest.LogCaptureFixture) -> None:
    for client, code in ((http(sim, "nobody", "x"), 10003), (http(sim, key, "wrong"), 10004)):
        with pytest.raises(exceptions.InvalidRequestError) as refused:
            client.get_wallet_balance(accountType="UNIFIED")
        assert refused.value.status_code == code
    socket = unified_trading.WebSocket(testnet=False, channel_type="private", api_key=key, api_secret="wrong")
    eventually(lambda: socket.exited, what="pybit gives up")
    assert "Authorization for Unified V5 (Auth) failed" in caplog.text and not socket.auth


@pytest.mark.parametrize("category", ["linear", "spot"])
def test_pybit_public_streams(sim: Simulator, category: str) -> None:
    seen: dict[str, Rows] = {name: [] for name in ("orderbook", "ticker", "trade", "kline")}

    def keep(name: str) -> Callable[[dict[str, Any]], None]:
        return lambda message: seen[name].append(copy.deepcopy(message))  # pybit goes on with the same object

    socket = unified_trading.WebSocket(testnet=False, channel_type=category)
    try:
        socket.orderbook_stream(depth=50, symbol="BTCUSDT", callback=keep("orderbook"))
        socket.ticker_stream(symbol="BTCUSDT", callback=keep("ticker"))
        socket.trade_stream(symbol="BTCUSDT", callback=keep("trade"))
        socket.kline_stream(interval=1, symbol="BTCUSDT", callback=keep("kline"))
        eventually(lambda: len(seen["orderbook"]) > 20 and all(seen.values()))
    finally:
        socket.exit()
    updates = [message["data"]["u"] for message in seen["orderbook"]]
    assert updates == list(range(updates[0], updates[0] + len(updates)))
    book = seen["orderbook"][-1]["data"]
    assert len(book["b"]) == len(book["a"]) == 50
    assert max(float(price) for price, _ in book["b"]) < min(float(price) for price, _ in book["a"])
    assert ("markPrice" in seen["ticker"][-1]["data"]) is (category == "linear")


# ── ccxt ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def pointed_at(sim: Simulator, exchange: Any) -> Any:
    """Every URL of a ccxt exchange, at the simulator."""

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: moved(value) for name, value in node.items()}
        for old, setting in (("wss://stream.{hostname}", "WS"), ("https://api.{hostname}", "REST")):
            if isinstance(node, str) and node.startswith(old):
                return sim.endpoints[f"FLEET_BYBIT_{setting}_URL"] + node.removeprefix(old)
        return node

    exchange.urls["api"] = moved(exchange.urls["api"])
    return exchange


def options(key: str, secret: str = "") -> dict[str, Any]:
    return {"apiKey": key, "secret": secret or f"secret-{key}", "enableRateLimit": False}


def test_ccxt_rest_equals_the_ledger(sim: Simulator, key: str) -> None:
    exchange = pointed_at(sim, ccxt.bybit(options(key)))
    exchange.load_markets()
    place(sim, key)
    order = exchange.create_order("SOL/USDT:USDT", "market", "buy", 2)
    trades = [
        t for s in ("BTC/USDT:USDT", "ETH/USDT:USDT", "SOL/USDT:USDT", "BTC/USDT") for t in exchange.fetch_my_trades(s)
    ]
    assert {trade["id"] for trade in trades} == ledger(sim, key, "fill", "trade_id") and len(trades) == 7
    assert order["id"] in {trade["order"] for trade in trades}
    assert {o["status"] for o in exchange.fetch_open_orders("ETH/USDT:USDT")} == {"open"}
    assert {p["symbol"]: p["contracts"] for p in exchange.fetch_positions(["BTC/USDT:USDT"])} == {"BTC/USDT:USDT": 0.03}
    assert exchange.fetch_balance()["USDT"]["total"] < 1_000_000
    assert (
        exchange.fetch_ticker("BTC/USDT:USDT")["last"] > 0 and len(exchange.fetch_ohlcv("BTC/USDT", "1m", limit=5)) == 5
    )


def test_ccxt_wrong_keys(sim: Simulator, key: str) -> None:
    for wrong in (options("nobody", "x"), options(key, "wrong")):
        exchange = pointed_at(sim, ccxt.bybit(wrong))
        exchange.markets_by_id, exchange.markets = {}, {}
        with pytest.raises(ccxt.AuthenticationError):
            exchange.private_get_v5_account_wallet_balance({"accountType": "UNIFIED"})


def test_ccxt_pro_streams_equal_the_ledger(sim: Simulator, key: str) -> None:
    """What ccxt has kept of its streams is compared: a call of watch returns what was there when it was woken."""

    async def until(check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not check():
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)

    async def run() -> tuple[Any, Any]:
        exchange = pointed_at(sim, ccxt_pro.bybit(options(key)))
        try:
            await exchange.load_markets()
            watched = [
                asyncio.ensure_future(exchange.watch_my_trades()),
                asyncio.ensure_future(exchange.watch_orders()),
            ]
            await until(lambda: len(_subscribed(sim, key)) == 2)
            await asyncio.to_thread(place, sim, key)
            await asyncio.wait_for(asyncio.gather(*watched), 10)
            trades, orders = ledger(sim, key, "fill", "trade_id"), ledger(sim, key, "order", "order_id")
            assert (len(trades), len(orders)) == (6, 4)
            await until(lambda: {trade["id"] for trade in exchange.myTrades} == trades)
            await until(lambda: {order["id"] for order in exchange.orders} == orders)
            book = await asyncio.wait_for(exchange.watch_order_book("BTC/USDT:USDT"), 10)
            return dict(book), await asyncio.wait_for(exchange.watch_ticker("BTC/USDT"), 10)
        finally:
            await exchange.close()

    book, ticker = asyncio.run(run())
    assert book["bids"][0][0] < book["asks"][0][0] and ticker["last"] > 0


def _subscribed(sim: Simulator, key: str) -> set[str]:
    return {name for socket in sim.connections(only_open=True, api_key=key) for name in socket["subscriptions"]}


def test_ccxt_pro_wrong_key(sim: Simulator, key: str) -> None:
    async def run() -> None:
        exchange = pointed_at(sim, ccxt_pro.bybit(options(key, "wrong")))
        exchange.has["fetchCurrencies"] = False  # it would ask by REST, signed, and fail there first
        try:
            await exchange.load_markets()
            await asyncio.wait_for(exchange.watch_orders(), 10)
        finally:
            await exchange.close()

    with pytest.raises(ccxt.AuthenticationError):
        asyncio.run(run())
