"""python-okx and ccxt against the simulated OKX, unmodified but for their URLs: they log in, hear of orders and fills that equal
the ledger, read them back by REST, and get their own authentication error for a wrong key."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.simulator import Simulator

pytestmark = pytest.mark.sdk
certifi = pytest.importorskip("certifi")
okx_account = pytest.importorskip("okx.Account")
okx_trade = pytest.importorskip("okx.Trade")
okx_market = pytest.importorskip("okx.MarketData")
okx_public = pytest.importorskip("okx.PublicData")
ws_private = pytest.importorskip("okx.websocket.WsPrivateAsync")
ws_public = pytest.importorskip("okx.websocket.WsPublicAsync")
ccxt = pytest.importorskip("ccxt")
ccxt_pro = pytest.importorskip("ccxt.pro")

SWAP = "BTC-USDT-SWAP"
Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(("okx",), rate=40) as running:
        running.settings(dials_per_s=100)
        yield running


@pytest.fixture(scope="module")
def tls() -> Iterator[Simulator]:
    """python-okx dials sockets with TLS only."""
    with Simulator(("okx",), rate=40, plain=False) as running:
        running.settings(dials_per_s=100)
        yield running


@pytest.fixture
def trusted(tls: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator's own CA, where the library looks for those of the world."""
    ca_file = tls.endpoints["FLEET_TLS_CA_FILE"]
    monkeypatch.setenv("SSL_CERT_FILE", ca_file)
    monkeypatch.setattr(certifi, "where", lambda: ca_file)


@pytest.fixture
def okx_key(tls: Simulator, trusted: None, request: pytest.FixtureRequest) -> str:
    name = f"key-{request.node.name}"
    tls.account(name, f"secret-{name}", exchange="okx", market="unified", passphrase="phrase")
    return name


@pytest.fixture
def key(sim: Simulator, request: pytest.FixtureRequest) -> str:
    name = f"key-{request.node.name}"
    sim.account(name, f"secret-{name}", exchange="okx", market="unified", passphrase="phrase")
    return name


def client(
    sim: Simulator, module: Any, name: str, key: str, secret: str = "", phrase: str = "phrase", flag: str = "0"
) -> Any:
    rest = sim.endpoints["FLEET_OKX_REST_URL"]
    return getattr(module, name)(key, secret or f"secret-{key}", phrase, flag=flag, domain=rest)


def ledger(sim: Simulator, key: str, kind: str, field: str) -> set[str]:
    return {row[field] for row in sim.ledger(type=kind, api_key=key)}


def place(sim: Simulator, key: str) -> None:
    """Orders by the control interface, derivative and spot."""
    for symbol, fills in ((SWAP, 3), ("BTC-USDT", 2), ("ETH-USDT-SWAP", 1), ("ETH-USDT", 0)):
        sim.order(key, symbol, "buy", "0.03", "3000", fills=fills, market="unified")


# ── python-okx ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_python_okx_private_stream_equals_the_ledger(tls: Simulator, okx_key: str) -> None:
    messages: Rows = []

    async def run() -> None:
        socket = ws_private.WsPrivateAsync(
            apiKey=okx_key,
            passphrase="phrase",
            secretKey=f"secret-{okx_key}",
            url=tls.endpoints["FLEET_OKX_WS_URL"] + "/ws/v5/private",
        )
        await socket.connect()
        reading = asyncio.ensure_future(socket.consume())
        args = [
            {"channel": "orders", "instType": "ANY"},
            {"channel": "positions", "instType": "ANY"},
            {"channel": "account"},
        ]
        await socket.subscribe(args, lambda message: messages.append(json.loads(message)))
        await _until(lambda: sum(m.get("event") == "subscribe" for m in messages) == 3)
        await asyncio.to_thread(place, tls, okx_key)
        trade = client(tls, okx_trade, "TradeAPI", okx_key)
        made = trade.place_order(
            instId="SOL-USDT-SWAP", tdMode="cross", side="buy", ordType="market", sz="2", clOrdId="mine"
        )
        rests = trade.place_order(instId="ETH-USDT", tdMode="cash", side="buy", ordType="limit", sz="0.1", px="100")
        assert made["code"] == rests["code"] == "0"
        assert trade.cancel_order(instId="ETH-USDT", ordId=rests["data"][0]["ordId"])["code"] == "0"
        fills = ledger(tls, okx_key, "fill", "trade_id")
        assert len(fills) == 7
        await _until(lambda: {o["tradeId"] for o in _rows(messages, "orders") if o["fillSz"] != "0"} == fills)
        await _until(lambda: any(o["state"] == "canceled" for o in _rows(messages, "orders")))
        reading.cancel()
        await socket.factory.close()

    asyncio.run(run())
    assert {o["ordId"] for o in _rows(messages, "orders")} == ledger(tls, okx_key, "order", "order_id")
    assert {p["instId"] for p in _rows(messages, "positions")} == {SWAP, "ETH-USDT-SWAP", "SOL-USDT-SWAP"}
    assert {d["ccy"] for a in _rows(messages, "account") for d in a["details"]} >= {"USDT", "BTC"}


def _rows(messages: Rows, channel: str) -> Rows:
    return [row for m in messages if "data" in m and m["arg"]["channel"] == channel for row in m["data"]]


async def _until(check: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_python_okx_rest_equals_the_ledger(tls: Simulator, okx_key: str) -> None:
    for _ in range(30):
        tls.order(okx_key, SWAP, "sell", "0.004", "86000", fills=4, market="unified")
    trade, account = client(tls, okx_trade, "TradeAPI", okx_key), client(tls, okx_account, "AccountAPI", okx_key)
    rows: Rows = []
    after = ""
    while True:
        page = trade.get_fills_history(instType="SWAP", after=after)["data"]
        rows += page
        if len(page) < 100:
            break
        after = page[-1]["billId"]
    assert len(rows) == 120 and {row["tradeId"] for row in rows} == ledger(tls, okx_key, "fill", "trade_id")
    assert account.get_positions(instType="SWAP")["data"][0]["pos"] == "-0.12"
    assert float(account.get_account_balance(ccy="USDT")["data"][0]["details"][0]["cashBal"]) > 0
    assert account.get_account_config()["data"][0]["posMode"] == "net_mode"
    assert len(trade.get_orders_history("SWAP")["data"]) == 30 and trade.get_order_list()["data"] == []


def test_python_okx_wrong_keys(tls: Simulator, okx_key: str) -> None:
    """The library raises nothing for a refusal: the code is its error. Its default header (demo) is refused to a live key."""
    live = f"{okx_key}-live"
    tls.account(live, "s", exchange="okx", market="unified", passphrase="phrase", demo=False)
    for how, code in (
        ({"key": "nobody", "secret": "x"}, "50119"), ({"key": okx_key, "secret": "wrong"}, "50113"),
        ({"key": okx_key, "phrase": "wrong"}, "50105"),
        ({"key": live, "secret": "s", "flag": "1"}, "50101"), ({"key": live, "secret": "s"}, "0"),
    ):  # fmt: skip
        assert client(tls, okx_account, "AccountAPI", **how).get_account_config()["code"] == code
    messages: Rows = []

    async def run() -> None:
        url = tls.endpoints["FLEET_OKX_WS_URL"] + "/ws/v5/private"
        socket = ws_private.WsPrivateAsync(apiKey=okx_key, passphrase="phrase", secretKey="wrong", url=url)
        await socket.connect()
        reading = asyncio.ensure_future(socket.consume())
        socket.callback = lambda message: messages.append(json.loads(message))
        await socket.login()
        await _until(lambda: bool(messages))
        reading.cancel()
        await socket.factory.close()

    asyncio.run(run())
    assert (messages[0]["event"], messages[0]["code"]) == ("error", "60007")


def test_python_okx_public(tls: Simulator, trusted: None) -> None:
    rest = tls.endpoints["FLEET_OKX_REST_URL"]
    market, public = okx_market.MarketAPI(flag="0", domain=rest), okx_public.PublicAPI(flag="0", domain=rest)
    assert len(market.get_orderbook(SWAP, sz="20")["data"][0]["bids"]) == 20
    assert len(market.get_candlesticks(SWAP, bar="1m", limit="5")["data"]) == 5
    assert {row["instType"] for row in public.get_instruments("SWAP")["data"]} == {"SWAP"}
    messages: Rows = []

    async def run() -> None:
        socket = ws_public.WsPublicAsync(url=tls.endpoints["FLEET_OKX_WS_URL"] + "/ws/v5/public")
        await socket.connect()
        reading = asyncio.ensure_future(socket.consume())
        channels = ("tickers", "trades", "books", "mark-price", "funding-rate")
        args = [{"channel": channel, "instId": SWAP} for channel in channels]
        await socket.subscribe(args, lambda message: messages.append(json.loads(message)))
        await _until(
            lambda: all(_rows(messages, channel) for channel in channels) and len(_rows(messages, "books")) > 20
        )
        reading.cancel()
        await socket.factory.close()

    asyncio.run(run())
    books = _rows(messages, "books")
    assert books[0]["prevSeqId"] == -1
    assert all(b["prevSeqId"] == a["seqId"] for a, b in zip(books, books[1:], strict=False))


# ── ccxt ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def pointed_at(sim: Simulator, exchange: Any) -> Any:
    """Every URL of a ccxt exchange, at the simulator."""

    def moved(node: Any) -> Any:
        if isinstance(node, dict):
            return {name: moved(value) for name, value in node.items()}
        for old, setting in (
            ("wss://ws.okx.com:443", "WS"),
            ("https://{hostname}", "REST"),
            ("https://www.okx.com", "REST"),
        ):
            if isinstance(node, str) and node.startswith(old):
                return sim.endpoints[f"FLEET_OKX_{setting}_URL"] + node.removeprefix(old)
        return node

    exchange.urls["api"] = moved(exchange.urls["api"])
    return exchange


def options(key: str, secret: str = "", phrase: str = "phrase") -> dict[str, Any]:
    return {"apiKey": key, "secret": secret or f"secret-{key}", "password": phrase, "enableRateLimit": False}


def test_ccxt_rest_equals_the_ledger(sim: Simulator, key: str) -> None:
    exchange = pointed_at(sim, ccxt.okx(options(key)))
    exchange.load_markets()
    place(sim, key)
    order = exchange.create_order("SOL/USDT:USDT", "market", "buy", 2)
    trades = [t for kind in ("swap", "spot") for t in exchange.fetch_my_trades(params={"type": kind})]
    assert {trade["id"] for trade in trades} == ledger(sim, key, "fill", "trade_id") and len(trades) == 7
    assert order["id"] in {trade["order"] for trade in trades}
    assert {o["status"] for o in exchange.fetch_open_orders("ETH/USDT")} == {"open"}
    assert {p["symbol"]: p["contracts"] for p in exchange.fetch_positions(["BTC/USDT:USDT"])} == {"BTC/USDT:USDT": 0.03}
    assert exchange.fetch_balance()["USDT"]["total"] < 1_000_000
    assert (
        exchange.fetch_ticker("BTC/USDT:USDT")["last"] > 0 and len(exchange.fetch_ohlcv("BTC/USDT", "1m", limit=5)) == 5
    )


def test_ccxt_wrong_keys(sim: Simulator, key: str) -> None:
    exchange = pointed_at(sim, ccxt.okx(options(key, "wrong")))
    with pytest.raises(ccxt.AuthenticationError):
        exchange.private_get_account_config()
    with pytest.raises(ccxt.AuthenticationError):
        pointed_at(sim, ccxt.okx(options(key, phrase="wrong"))).private_get_account_config()
    with pytest.raises(ccxt.ExchangeError):  # 50119 is not an authentication error to ccxt
        pointed_at(sim, ccxt.okx(options("nobody"))).private_get_account_config()


def test_ccxt_pro_streams_equal_the_ledger(sim: Simulator, key: str) -> None:
    """What ccxt has kept of its streams is compared: a call of watch returns what was there when it was woken."""

    async def run() -> tuple[Any, Any]:
        exchange = pointed_at(sim, ccxt_pro.okx(options(key)))
        try:
            await exchange.load_markets()
            watched = [
                asyncio.ensure_future(exchange.watch_my_trades()),
                asyncio.ensure_future(exchange.watch_orders()),
            ]
            await _until(lambda: any(name.startswith("orders") for name in _subscribed(sim, key)))
            await asyncio.to_thread(place, sim, key)
            await asyncio.wait_for(asyncio.gather(*watched), 10)
            trades, orders = ledger(sim, key, "fill", "trade_id"), ledger(sim, key, "order", "order_id")
            assert (len(trades), len(orders)) == (6, 4)
            await _until(lambda: {trade["id"] for trade in exchange.myTrades} == trades)
            await _until(lambda: {order["id"] for order in exchange.orders} == orders)
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
        exchange = pointed_at(sim, ccxt_pro.okx(options(key, "wrong")))
        exchange.has["fetchCurrencies"] = False  # it would ask by REST, signed, and fail there first
        try:
            await exchange.load_markets()
            await asyncio.wait_for(exchange.watch_orders(), 10)
        finally:
            await exchange.close()

    with pytest.raises(ccxt.AuthenticationError):
        asyncio.run(run())
