"""python-binance and ccxt against the simulated Binance, spot and USDⓈ-M, unmodified but for their URLs: they log in, hear of
orders and fills that equal the ledger, read them back by REST, and get their own authentication error for a wrong key."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from fleet.runtime.secrets import new_ed25519
from tests.support.simulator import Simulator

pytestmark = pytest.mark.sdk
binance = pytest.importorskip("binance")
binance_exceptions = pytest.importorskip("binance.exceptions")
ccxt = pytest.importorskip("ccxt")
ccxt_pro = pytest.importorskip("ccxt.pro")

MARKETS = ["spot", "usdm"]
PRICE = {"BTCUSDT": "84000", "ETHUSDT": "3100"}
WAIT_S = 15.0


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(("binance_spot", "binance_usdm"), rate=40) as running:
        yield running


@pytest.fixture(params=MARKETS)
def market(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def key(sim: Simulator, market: str, request: pytest.FixtureRequest) -> str:
    name = "".join(c for c in request.node.name if c.isalnum())  # keys have no character that a URL would encode
    sim.account(name, f"secret-{name}", exchange="binance", market=market)
    return name


def place(sim: Simulator, key: str, market: str) -> None:
    for symbol, side, fills in (("BTCUSDT", "buy", 3), ("ETHUSDT", "sell", 1), ("ETHUSDT", "buy", 0)):
        sim.order(key, symbol, side, "0.03", PRICE[symbol], fills=fills, market=market)


def ledger(sim: Simulator, key: str, kind: str, field: str) -> set[str]:
    return {str(row[field]) for row in sim.ledger(type=kind, api_key=key)}


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 60))


async def until(enough: Any, what: str) -> None:
    async with asyncio.timeout(WAIT_S):
        while not enough():
            await asyncio.sleep(0.02)
    assert enough(), what


# ── python-binance ───────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(autouse=True)
def urls(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    client, sockets = binance.AsyncClient, binance.BinanceSocketManager
    spot, usdm = "FLEET_BINANCE_SPOT", "FLEET_BINANCE_USDM"
    monkeypatch.setattr(client, "API_URL", sim.endpoints[f"{spot}_REST_URL"] + "/api")
    monkeypatch.setattr(client, "FUTURES_URL", sim.endpoints[f"{usdm}_REST_URL"] + "/fapi")
    monkeypatch.setattr(client, "WS_API_URL", sim.endpoints[f"{spot}_WSAPI_URL"] + "/ws-api/v3")
    monkeypatch.setattr(sockets, "STREAM_URL", sim.endpoints[f"{spot}_WS_URL"] + "/")
    monkeypatch.setattr(sockets, "FSTREAM_URL", sim.endpoints[f"{usdm}_WS_URL"] + "/")


async def connected(key: str, secret: str = "") -> Any:
    return await binance.AsyncClient.create(key, secret or f"secret-{key}")


def test_python_binance_private_stream_equals_the_ledger(sim: Simulator, market: str, key: str) -> None:
    async def work() -> None:
        client = await connected(key)
        manager = binance.BinanceSocketManager(client)
        orders: set[str] = set()
        fills: set[str] = set()

        async def listen(stream: Any) -> None:
            while True:
                message = await stream.recv()
                o = message if message["e"] == "executionReport" else message.get("o", {})
                if message["e"] in ("executionReport", "ORDER_TRADE_UPDATE"):
                    orders.add(str(o["i"]))
                    if o["x"] == "TRADE":
                        fills.add(str(o["t"]))

        try:
            async with manager.user_socket() if market == "spot" else manager.futures_user_socket() as stream:
                listening = asyncio.create_task(listen(stream))
                await until(lambda: sim.connections(only_open=True, api_key=key), "the private socket")
                place(sim, key, market)
                make = client.create_order if market == "spot" else client.futures_create_order
                await make(symbol="BTCUSDT", side="BUY", type="MARKET", quantity="0.010")
                resting = await make(
                    symbol="BTCUSDT", side="BUY", type="LIMIT", timeInForce="GTC", quantity="0.010", price="60000"
                )
                cancel = client.cancel_order if market == "spot" else client.futures_cancel_order
                cancelled = await cancel(symbol="BTCUSDT", orderId=resting["orderId"])
                assert cancelled["status"] == "CANCELED"
                expected = ledger(sim, key, "fill", "trade_id")
                assert len(expected) == 5
                await until(lambda: fills == expected and orders == ledger(sim, key, "order", "order_id"), "events")
                listening.cancel()
            read = client.get_my_trades if market == "spot" else client.futures_account_trades
            trades = [t for symbol in PRICE for t in await read(symbol=symbol)]
            assert {str(t["id"]) for t in trades} == expected
            orders_of = client.get_all_orders if market == "spot" else client.futures_get_all_orders
            rows = [o for symbol in PRICE for o in await orders_of(symbol=symbol)]
            assert {str(o["orderId"]) for o in rows} == orders
            account = await (client.get_account() if market == "spot" else client.futures_account())
            assert account["canTrade"]
        finally:
            await client.close_connection()

    run(work())


def test_python_binance_wrong_keys(market: str, key: str) -> None:
    async def work() -> None:
        for api_key, secret, code in ((key, "wrong", -1022), ("k" * 64, "x", -2015)):
            client = await connected(api_key, secret)
            try:
                with pytest.raises(binance_exceptions.BinanceAPIException) as refused:
                    await (client.get_account() if market == "spot" else client.futures_account())
                assert refused.value.code == code
                if market == "spot":
                    with pytest.raises(binance_exceptions.BinanceAPIException) as socket_refused:
                        async with binance.BinanceSocketManager(client).user_socket():
                            pass
                    assert str(code) in str(socket_refused.value)
            finally:
                await client.close_connection()

    run(work())


def test_python_binance_signs_with_an_ed25519_key(sim: Simulator, market: str, key: str) -> None:
    async def work() -> None:
        pem, other = new_ed25519(), new_ed25519()
        sim.account(f"{key}edwards", pem, exchange="binance", market=market)
        place(sim, f"{key}edwards", market)
        for secret, works in ((pem, True), (other, False)):
            client = await binance.AsyncClient.create(f"{key}edwards", private_key=secret)
            read = client.get_my_trades if market == "spot" else client.futures_account_trades
            try:
                if works:
                    trades = [t for symbol in PRICE for t in await read(symbol=symbol)]
                    assert {str(t["id"]) for t in trades} == ledger(sim, f"{key}edwards", "fill", "trade_id")
                else:
                    with pytest.raises(binance_exceptions.BinanceAPIException) as refused:
                        await read(symbol="BTCUSDT")
                    assert refused.value.code == -1022
            finally:
                await client.close_connection()

    run(work())


def test_python_binance_public_streams(sim: Simulator) -> None:
    """Candles, trades and the library's own order book, kept from differences and a snapshot."""

    async def work() -> None:
        client = await connected("")
        manager = binance.BinanceSocketManager(client)
        try:
            names = ["btcusdt@trade", "btcusdt@kline_1m", "btcusdt@bookTicker", "btcusdt@ticker"]
            seen: set[str] = set()
            async with manager.multiplex_socket(names) as stream:
                while seen < set(names):
                    seen.add((await stream.recv())["stream"])
            async with binance.DepthCacheManager(client, symbol="BTCUSDT", bm=manager) as depth:
                for _ in range(10):
                    cache = await depth.recv()
            bids, asks = cache.get_bids(), cache.get_asks()
            assert len(bids) > 100 and bids[0][0] < asks[0][0]
        finally:
            await client.close_connection()

    run(work())


# ── ccxt ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def pointed_at(sim: Simulator, exchange: Any, market: str) -> Any:
    """Every URL that is used of a ccxt exchange, at the simulator."""
    spot, usdm, api = "FLEET_BINANCE_SPOT", "FLEET_BINANCE_USDM", exchange.urls["api"]
    rest = sim.endpoints[f"{spot}_REST_URL"]
    api |= {"public": f"{rest}/api/v3", "private": f"{rest}/api/v3", "v1": f"{rest}/api/v1"}
    for version in ("", "V2", "V3"):
        for kind in ("fapiPublic", "fapiPrivate"):
            root = sim.endpoints[f"{usdm}_REST_URL"]
            api[kind + version] = f"{root}/fapi/{version.lower() or 'v1'}"
    if "ws" in api:
        api["ws"] |= {
            "spot": sim.endpoints[f"{spot}_WS_URL"] + "/ws",
            "linear": sim.endpoints[f"{usdm}_WS_URL"] + "/ws",
        }
        api["ws"]["ws-api"]["spot"] = sim.endpoints[f"{spot}_WSAPI_URL"] + "/ws-api/v3"
    exchange.options["fetchMarkets"] = {"types": ["spot" if market == "spot" else "linear"]}
    exchange.options["fetchCurrencies"] = exchange.options["fetchMargins"] = False  # another product's API
    exchange.has["fetchCurrencies"] = False
    return exchange


def options(key: str, market: str, secret: str = "") -> dict[str, Any]:
    kind = "spot" if market == "spot" else "future"
    return {"apiKey": key, "secret": secret or f"secret-{key}", "options": {"defaultType": kind}}


def symbols(market: str) -> list[str]:
    return ["BTC/USDT", "ETH/USDT"] if market == "spot" else ["BTC/USDT:USDT", "ETH/USDT:USDT"]


def test_ccxt_rest_equals_the_ledger(sim: Simulator, market: str, key: str) -> None:
    exchange = pointed_at(sim, ccxt.binance(options(key, market)), market)
    place(sim, key, market)
    exchange.create_order(symbols(market)[0], "market", "buy", 0.01)
    resting = exchange.create_order(symbols(market)[0], "limit", "buy", 0.01, 60000)
    assert exchange.cancel_order(resting["id"], symbols(market)[0])["status"] == "canceled"
    trades = [t for symbol in symbols(market) for t in exchange.fetch_my_trades(symbol)]
    assert {t["id"] for t in trades} == ledger(sim, key, "fill", "trade_id") and len(trades) == 5
    orders = [o for symbol in symbols(market) for o in exchange.fetch_orders(symbol)]
    assert {o["id"] for o in orders} == ledger(sim, key, "order", "order_id")
    assert exchange.fetch_balance()["total"]["USDT"] > 0
    assert len(exchange.fetch_open_orders(symbols(market)[1])) == 1


def test_ccxt_wrong_keys(sim: Simulator, market: str, key: str) -> None:
    for api_key, secret in ((key, "wrong"), ("k" * 64, "x")):
        exchange = pointed_at(sim, ccxt.binance(options(api_key, market, secret)), market)
        exchange.load_markets()
        with pytest.raises(ccxt.AuthenticationError):
            exchange.fetch_balance()


def test_ccxt_pro_streams_equal_the_ledger(sim: Simulator, market: str, key: str) -> None:
    async def work() -> None:
        exchange = pointed_at(sim, ccxt_pro.binance(options(key, market)), market)
        found: dict[str, set[str]] = {"orders": set(), "trades": set()}

        async def watch(what: str, call: Any) -> None:
            while True:
                found[what] |= {row["id"] for row in await call()}

        try:
            await exchange.load_markets()
            tasks = [
                asyncio.create_task(watch("orders", exchange.watch_orders)),
                asyncio.create_task(watch("trades", exchange.watch_my_trades)),
            ]
            await until(lambda: sim.connections(only_open=True, api_key=key), "the private socket")
            place(sim, key, market)
            for what, kind, field in (("trades", "fill", "trade_id"), ("orders", "order", "order_id")):
                expected = ledger(sim, key, kind, field)
                await until(lambda what=what, expected=expected: found[what] >= expected, what)
                assert found[what] == expected
            book = await exchange.watch_order_book(symbols(market)[0])
            assert book["bids"][0][0] < book["asks"][0][0]
            assert await exchange.watch_trades(symbols(market)[0])
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        finally:
            await exchange.close()

    run(work())
