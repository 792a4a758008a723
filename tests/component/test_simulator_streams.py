"""The simulated sockets behave as the sheet says. In: URLs and messages; out: frames, closes, ledger rows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from fleet.demo import simulated
from tests.support.simulator import Simulator, eventually, rest

SECRET = "the secret"
EVENTS = "ORDER_TRADE_UPDATE/ACCOUNT_UPDATE/TRADE_LITE/ALGO_UPDATE/ACCOUNT_CONFIG_UPDATE/listenKeyExpired"
CAPTURE = Path("/work/shared/captures/binance_usdm.ws.gz")


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(rate=100) as running:
        running.settings(weight_limit=1_000_000)
        yield running


def dial(url: str) -> ClientConnection:
    return connect(url, ping_interval=None, proxy=None, max_size=None, open_timeout=10, legacy=True)


def listen_key(sim: Simulator, api_key: str) -> str:
    found: str = rest(sim, "POST", "/fapi/v1/listenKey", api_key)[1]["listenKey"]
    return found


def account(sim: Simulator, letter: str) -> str:
    sim.account(letter * 64, SECRET)
    return letter * 64


def take(socket: ClientConnection, count: int, timeout_s: float = 10) -> list[dict[str, Any]]:
    return [json.loads(socket.recv(timeout_s)) for _ in range(count)]


def silent(socket: ClientConnection, seconds: float = 0.5) -> bool:
    try:
        socket.recv(seconds)
    except TimeoutError:
        return True
    return False


def ask(socket: ClientConnection, request: dict[str, Any] | str) -> dict[str, Any]:
    """Send a control message and return its reply, skipping data."""
    socket.send(request if isinstance(request, str) else json.dumps(request))
    while True:
        reply: dict[str, Any] = json.loads(socket.recv(5))
        if "e" not in reply and "stream" not in reply:
            return reply


# ── private ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_one_order_is_told_in_the_exchanges_order_and_agrees_with_rest(sim: Simulator) -> None:
    key = account(sim, "a")
    with dial(f"{sim.ws_url}/private/ws?listenKey={listen_key(sim, key)}&events={EVENTS}") as socket:
        placed = sim.order(key, "BTCUSDT", "buy", "0.03", "84000", fills=3)
        events = take(socket, 10)
    assert [e["e"] for e in events] == ["ORDER_TRADE_UPDATE"] + [
        "TRADE_LITE",
        "ACCOUNT_UPDATE",
        "ORDER_TRADE_UPDATE",
    ] * 3
    orders = [e["o"] for e in events if e["e"] == "ORDER_TRADE_UPDATE"]
    assert [o["X"] for o in orders] == ["NEW", "PARTIALLY_FILLED", "PARTIALLY_FILLED", "FILLED"]
    assert [str(o["t"]) for o in orders[1:]] == placed["trade_ids"] and orders[0]["t"] == 0
    assert {str(o["i"]) for o in orders} == {placed["order_id"]}
    trades = rest(sim, "GET", "/fapi/v1/userTrades", key, SECRET, symbol="BTCUSDT")[1]
    assert [t["time"] for t in trades] == [o["T"] for o in orders[1:]]
    assert [Decimal(t["commission"]) for t in trades] == [Decimal(o["n"]) for o in orders[1:]]
    update = events[-2]
    balance = rest(sim, "GET", "/fapi/v3/balance", key, SECRET)[1][0]
    assert (Decimal(update["a"]["B"][0]["wb"]), update["T"]) == (Decimal(balance["balance"]), balance["updateTime"])
    position = rest(sim, "GET", "/fapi/v3/positionRisk", key, SECRET)[1][0]
    told = update["a"]["P"][0]
    assert [Decimal(told[f]) for f in ("pa", "ep", "bep")] == [
        Decimal(position[f]) for f in ("positionAmt", "entryPrice", "breakEvenPrice")
    ]
    assert position["updateTime"] == update["T"]
    rows = sim.ledger(api_key=key)
    assert [r["type"] for r in rows].count("fill") == 3
    assert all(len(r["sockets"]) == 1 for r in rows)
    assert [r["trade_id"] for r in rows if r["type"] == "fill"] == placed["trade_ids"]


def test_every_private_url_form(sim: Simulator) -> None:
    key = account(sim, "b")
    value = listen_key(sim, key)
    forms = {
        f"/private/ws?listenKey={value}&events=ORDER_TRADE_UPDATE": "raw", f"/private/ws?listenKey={value}": "raw",
        f"/private/ws/{value}": "raw", f"/private/stream?listenKey={value}&events=ORDER_TRADE_UPDATE": "combined",
        f"/private/stream?streams={value}": "combined",
    }  # fmt: skip
    sockets = [(dial(sim.ws_url + path), form) for path, form in forms.items()]
    subscribed = dial(sim.ws_url + "/private/stream")
    assert ask(subscribed, {"method": "SUBSCRIBE", "params": [value], "id": 7}) == {"result": None, "id": 7}
    sockets.append((subscribed, "combined"))
    sim.order(key, "BTCUSDT", "buy", "0.01", "84000", fills=0)
    for socket, form in sockets:
        event = take(socket, 1)[0]
        if form == "combined":
            assert event["stream"] == value
            event = event["data"]
        assert event["e"] == "ORDER_TRADE_UPDATE"
        socket.close()
    eventually(
        lambda: not [c for c in sim.connections(only_open=True) if c["api_key"] == key], what="closed sockets are noted"
    )


def test_events_filter_and_two_accounts_on_one_socket(sim: Simulator) -> None:
    one, two = account(sim, "c"), account(sim, "d")
    a, b = listen_key(sim, one), listen_key(sim, two)
    path = f"/private/stream?listenKey={a}&events=ORDER_TRADE_UPDATE&listenKey={b}&events=ACCOUNT_UPDATE"
    with dial(sim.ws_url + path) as socket:
        for key in (one, two):
            sim.order(key, "BTCUSDT", "sell", "0.01", "84000")
        assert [(e["stream"], e["data"]["e"]) for e in take(socket, 3)] == [
            (a, "ORDER_TRADE_UPDATE"),
            (a, "ORDER_TRADE_UPDATE"),
            (b, "ACCOUNT_UPDATE"),
        ]
        assert silent(socket)


def test_an_invented_listen_key_upgrades_and_stays_silent(sim: Simulator) -> None:
    key = account(sim, "e")
    listen_key(sim, key)
    with dial(f"{sim.ws_url}/private/ws?listenKey={'Z' * 64}&events={EVENTS}") as socket:
        placed = sim.order(key, "BTCUSDT", "sell", "0.01", "84000")
        assert silent(socket)
    assert placed["trade_ids"] and all(r["sockets"] == [] for r in sim.ledger(api_key=key))


def test_listen_key_expiry_and_delete(sim: Simulator) -> None:
    key = account(sim, "f")
    value = listen_key(sim, key)
    with dial(f"{sim.ws_url}/private/ws?listenKey={value}&events={EVENTS}") as socket:
        sim.fault("expire_listen_key", api_key=key)
        told = take(socket, 1)[0]
        assert (told["e"], told["listenKey"]) == ("listenKeyExpired", value) and isinstance(told["E"], int)
        sim.order(key, "BTCUSDT", "sell", "0.01", "84000")
        assert silent(socket), "the socket stays open and tells nothing"
    fresh = listen_key(sim, key)
    assert fresh != value
    with dial(f"{sim.ws_url}/private/ws?listenKey={fresh}&events={EVENTS}") as socket:
        assert rest(sim, "DELETE", "/fapi/v1/listenKey", key)[0] == 200
        sim.order(key, "BTCUSDT", "sell", "0.01", "84000")
        assert silent(socket)


def test_listen_key_runs_out_by_itself() -> None:
    with Simulator(rate=0) as sim:
        sim.settings(listen_key_ttl_s=0.5)
        key = account(sim, "g")
        with dial(f"{sim.ws_url}/private/ws?listenKey={listen_key(sim, key)}&events={EVENTS}") as socket:
            assert take(socket, 1)[0]["e"] == "listenKeyExpired"


def test_other_user_events(sim: Simulator) -> None:
    key = account(sim, "h")
    with dial(f"{sim.ws_url}/private/ws?listenKey={listen_key(sim, key)}&events={EVENTS}") as socket:
        rest(sim, "POST", "/fapi/v1/leverage", key, SECRET, symbol="BTCUSDT", leverage="25")
        assert take(socket, 1)[0]["ac"] == {"s": "BTCUSDT", "l": 25}
        rest(sim, "POST", "/fapi/v1/algoOrder", key, SECRET, algoType="CONDITIONAL", symbol="BTCUSDT", side="BUY",
        type="STOP_MARKET",
             quantity="0.1", triggerPrice="99000")  # fmt: skip
        assert take(socket, 1)[0]["o"]["X"] == "NEW"
        sim.call("POST", "/deposits", {"api_key": key, "asset": "USDT", "amount": "10"})
        deposit = take(socket, 1)[0]["a"]
        assert (deposit["m"], deposit["B"][0]["bc"], deposit["P"]) == ("DEPOSIT", "10", [])
        placed = sim.order(key, "BTCUSDT", "buy", "0.5", "80000", fills=0)
        assert take(socket, 1)[0]["o"]["x"] == "NEW"
        rest(
            sim,
            "PUT",
            "/fapi/v1/order",
            key,
            SECRET,
            symbol="BTCUSDT",
            side="BUY",
            orderId=placed["order_id"],
            quantity="0.5",
            price="81000",
        )
        assert take(socket, 1)[0]["o"]["x"] == "AMENDMENT"
        sim.cancel(key, "BTCUSDT", placed["order_id"])
        assert take(socket, 1)[0]["o"]["x"] == "CANCELED"


# ── public ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_trades_are_contiguous_and_rest_fills_the_gap(sim: Simulator) -> None:
    with dial(sim.ws_url + "/market/ws/btcusdt@aggTrade") as socket:
        seen = take(socket, 20)
    ids = [e["a"] for e in seen]
    assert ids == list(range(ids[0], ids[0] + 20))
    assert all(b["f"] > a["l"] for a, b in zip(seen, seen[1:], strict=False))
    rows = rest(sim, "GET", "/fapi/v1/aggTrades", symbol="BTCUSDT", fromId=str(ids[5]), limit="3")[1]
    assert [(r["a"], r["p"], r["T"]) for r in rows] == [(e["a"], e["p"], e["T"]) for e in seen[5:8]]
    ledger = {r["trade_id"]: r for r in sim.ledger(type="trade") if r["stream"] == "btcusdt@aggTrade"}
    assert {str(i) for i in ids} <= set(ledger) and all(ledger[str(i)]["api_key"] is None for i in ids)


def test_books_chain_and_meet_the_snapshot(sim: Simulator) -> None:
    for name in ("ethusdt@depth@100ms", "ethusdt@depth", "ethusdt@depth@500ms"):
        with dial(f"{sim.ws_url}/public/ws/{name}") as socket:
            events = take(socket, 3)
            last = rest(sim, "GET", "/fapi/v1/depth", symbol="ETHUSDT", limit="1000")[1]["lastUpdateId"]
            events += take(socket, 4)
        assert all(b["pu"] == a["u"] for a, b in zip(events, events[1:], strict=False))
        assert all(e["U"] <= e["u"] for e in events)
        first = next(e for e in events if e["u"] >= last)
        assert first["U"] <= last <= first["u"] or first["pu"] == last


def test_a_book_built_from_diffs_equals_the_next_snapshot(sim: Simulator) -> None:
    with dial(f"{sim.ws_url}/public/ws/solusdt@depth@100ms") as socket:
        take(socket, 1)
        snapshot = rest(sim, "GET", "/fapi/v1/depth", symbol="SOLUSDT", limit="1000")[1]
        book = {side: {p: Decimal(q) for p, q in snapshot[side]} for side in ("bids", "asks")}
        last = snapshot["lastUpdateId"]
        for _ in range(20):
            event = take(socket, 1)[0]
            if event["u"] <= last:
                continue
            for side, changes in (("bids", event["b"]), ("asks", event["a"])):
                for price, qty in changes:
                    book[side].pop(price, None)
                    if Decimal(qty):
                        book[side][price] = Decimal(qty)
            last = event["u"]
        for _ in range(20):
            again = rest(sim, "GET", "/fapi/v1/depth", symbol="SOLUSDT", limit="1000")[1]
            if again["lastUpdateId"] == last:
                break
            event = take(socket, 1)[0]
            for side, changes in (("bids", event["b"]), ("asks", event["a"])):
                for price, qty in changes:
                    book[side].pop(price, None)
                    if Decimal(qty):
                        book[side][price] = Decimal(qty)
            last = event["u"]
    assert again["lastUpdateId"] == last
    assert book == {side: {p: Decimal(q) for p, q in again[side]} for side in ("bids", "asks")}


def test_every_kind_of_stream_delivers(sim: Simulator) -> None:
    market = ["btcusdt@aggTrade", "btcusdt@kline_1m", "btcusdt@kline_1h", "btcusdt@markPrice@1s", "btcusdt@ticker",
    "btcusdt@miniTicker",
              "!markPrice@arr@1s", "!miniTicker@arr", "!ticker@arr", "btcusdt_perpetual@continuousKline_1m", "btcusdt@forceOrder",
              "!forceOrder@arr"]  # fmt: skip
    public = [
        "btcusdt@bookTicker",
        "btcusdt@depth5@100ms",
        "btcusdt@depth20",
        "btcusdt@depth@100ms",
        "!bookTicker",
        "btcusdt@trade",
    ]
    sim.settings(liquidation_interval_s=0.5)
    for path, names in (("/market", market), ("/public", public)):
        with dial(f"{sim.ws_url}{path}/stream?streams={'/'.join(names)}") as socket:
            seen: set[str] = set()
            deadline = time.monotonic() + 15
            while set(names) - seen and time.monotonic() < deadline:
                frame = json.loads(socket.recv(10))
                seen.add(frame["stream"])
                if frame["stream"] == "!markPrice@arr@1s":
                    assert {row["st"] for row in frame["data"]} == {1, 2}
            assert seen == set(names)


def test_wrong_path_wrong_name_and_unrouted(sim: Simulator) -> None:
    with dial(sim.ws_url + "/public/stream") as socket:
        names = ["btcusdt@aggTrade", "nopeusdt@depth", "BTCUSDT@depth", "btcusdt@depth@250ms"]
        assert ask(socket, {"method": "SUBSCRIBE", "params": names, "id": 1}) == {"result": None, "id": 1}
        assert silent(socket)
        assert ask(socket, {"method": "LIST_SUBSCRIPTIONS", "id": "x" * 36}) == {"result": names, "id": "x" * 36}
    with dial(sim.ws_url + "/ws/btcusdt@depth@100ms/btcusdt@aggTrade") as socket:
        assert {e["e"] for e in take(socket, 5)} == {"depthUpdate"}, "unrouted sockets get public data only"
    with dial(sim.ws_url + "/market/ws/1"):
        pass


def test_control_messages(sim: Simulator) -> None:
    with dial(sim.ws_url + "/market/ws") as socket:
        assert ask(socket, {"method": "GET_PROPERTY", "params": ["combined"], "id": 2}) == {"result": False, "id": 2}
        assert ask(socket, {"method": "SET_PROPERTY", "params": ["combined", True], "id": 5}) == {
            "result": None,
            "id": 5,
        }
        assert ask(socket, {"method": "SUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 1}) == {
            "result": None,
            "id": 1,
        }
        assert take(socket, 1)[0]["stream"] == "btcusdt@aggTrade"
        assert ask(socket, {"method": "UNSUBSCRIBE", "params": ["btcusdt@aggTrade"], "id": 3})["result"] is None
        assert silent(socket)
        assert ask(socket, {"method": "SET_PROPERTY", "params": ["x", True], "id": 6}) == {
            "code": 0,
            "msg": "Unknown property",
            "id": 6,
        }
        assert ask(socket, {"method": "SET_PROPERTY", "params": ["combined", 1], "id": 6})["code"] == 1
        assert ask(socket, {"method": "NOPE", "id": 7})["code"] == 2
        assert ask(socket, "{not json")["code"] == 3


def test_limits_close_with_1008(sim: Simulator) -> None:
    with dial(sim.ws_url + "/market/ws") as socket:
        for i in range(3):
            ask(socket, {"method": "SUBSCRIBE", "params": [f"s{i}x{j}@aggTrade" for j in range(341)], "id": i})
        assert (
            ask(socket, {"method": "SUBSCRIBE", "params": ["a@aggTrade", "b@aggTrade"], "id": 9})["error"]["code"] == 4
        )
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(5)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1008
    with dial(sim.ws_url + "/market/ws") as socket:
        with pytest.raises(ConnectionClosed) as closed:
            for i in range(40):
                socket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": i}))
            while True:
                socket.recv(5)
        assert closed.value.rcvd is not None and (closed.value.rcvd.code, closed.value.rcvd.reason) == (
            1008,
            "Too many requests",
        )


def test_pings_pong_deadline_and_lifetime() -> None:
    with Simulator(rate=0) as sim:
        sim.settings(first_ping_s=0.2, ping_interval_s=0.3, pong_deadline_s=60)
        with dial(sim.ws_url + "/market/ws") as socket:
            assert silent(socket, 1.5), "pings are answered by the client library and the socket lives"
        sim.settings(pong_deadline_s=0.5, ping_interval_s=30)
        with dial(sim.ws_url + "/market/ws") as socket, pytest.raises(ConnectionClosed):
            socket.recv(5)
        sim.settings(pong_deadline_s=60, lifetime_s=0.5)
        with dial(sim.ws_url + "/market/ws") as socket, pytest.raises(ConnectionClosed):
            socket.recv(5)


def test_tls_and_subscription_over_it() -> None:
    import ssl

    with Simulator(rate=50, plain=False) as sim:
        assert sim.ws_url.startswith("wss://") and sim.rest_url.startswith("https://")
        context = ssl.create_default_context(cafile=sim.env["FLEET_TLS_CA_FILE"])
        with connect(sim.ws_url + "/market/ws/btcusdt@aggTrade", ssl=context, proxy=None) as socket:
            assert take(socket, 3)[0]["e"] == "aggTrade"


def test_closed_candle_comes_once() -> None:
    with Simulator(rate=30) as sim, dial(sim.ws_url + "/market/ws/btcusdt@kline_1m") as socket:
        frames: list[dict[str, Any]] = []
        while not any(f["k"]["x"] for f in frames):
            frames += take(socket, 1, 65)
        frames += take(socket, 3)
        final = [f["k"] for f in frames if f["k"]["x"]]
        assert len(final) == 1 and frames[-1]["k"]["t"] == final[0]["T"] + 1
        assert all(f["k"]["t"] == final[0]["t"] for f in frames[: [f["k"]["x"] for f in frames].index(True)])
        row = next(
            r
            for r in rest(sim, "GET", "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit="5")[1]
            if r[0] == final[0]["t"]
        )
        assert row[1:6] == [final[0][n] for n in "ohlcv"] and row[8] == final[0]["n"]


# ── load and replay ──────────────────────────────────────────────────────────────────────────────────────────────────
def test_load_makes_about_the_wanted_rate_and_stops() -> None:
    with Simulator(rate=0) as sim:
        keys = sim.accounts(5)
        sim.load(200, 2)
        eventually(lambda: sim.call("GET", "/load") and json.loads(sim.call("GET", "/load"))["events_per_s"] == 0, 15)
        events = json.loads(sim.call("GET", "/load"))["events"]
        assert 100 <= events <= 450
        rows = sim.ledger(market="0")
        assert {r["api_key"] for r in rows} == {key for key, _ in keys}
        for key, secret in keys[:2]:
            told = [
                r["trade_id"] for r in rows if r["type"] == "fill" and r["api_key"] == key and r["symbol"] == "BTCUSDT"
            ]
            found = rest(sim, "GET", "/fapi/v1/userTrades", key, secret, symbol="BTCUSDT", limit="1000")[1]
            assert [str(t["id"]) for t in found] == told


@pytest.mark.skipif(not CAPTURE.exists(), reason="the recorded capture is not here")
def test_replay_sends_every_frame_of_the_capture() -> None:
    with Simulator(rate=10, replay=[CAPTURE]) as sim:
        streams: list[str] = sim.replay()["replays"][0]["streams"]
        groups = {
            "/public": [s for s in streams if "depth" in s or "book" in s],
            "/market": [s for s in streams if "depth" not in s and "book" not in s],
        }
        sockets = [dial(f"{sim.ws_url}{path}/stream?streams={'/'.join(names)}") for path, names in groups.items()]
        frames: list[dict[str, Any]] = []
        while len(frames) < 1535:
            for socket in sockets:
                try:
                    while True:
                        frames.append(json.loads(socket.recv(0.2)))
                except TimeoutError:
                    if sim.replay()["done"] and silent(socket, 1):
                        continue
        state = sim.replay()
        assert (state["frames"], state["sent"], state["done"]) == (1535, 1535, True)
        assert {f["stream"] for f in frames} == set(streams)
        assert abs(frames[0]["data"]["E"] - time.time() * 1000) < 200_000, "times are moved to now"
        snapshot = rest(sim, "GET", "/fapi/v1/depth", symbol="SUSHIUSDT", limit="1000")[1]
        assert snapshot["lastUpdateId"] == max(f["data"]["u"] for f in frames if f["stream"] == "sushiusdt@depth@100ms")
        for socket in sockets:
            socket.close()


def test_the_ledger_is_read_whole_in_pages(sim: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    key = account(sim, "p")
    for _ in range(4):
        sim.order(key, "BTCUSDT", "BUY", "0.010", "60000")
    monkeypatch.setattr(simulated, "LEDGER_PAGE", 3)
    control = simulated.Control(sim.endpoints["admin"])
    try:
        rows = control.ledger(0, market=False)
    finally:
        control.close()
    assert len(rows) > 2 * 3
    assert rows == sim.ledger(market="0")
    assert len(sim.ledger(market="0", limit="3")) == 3
