"""Every fault kind does what the table of contracts.md says, and ends. In: faults; out: what a client feels, what
the ledger says.
"""

from __future__ import annotations

import http.client
import json
import socket as socket_module
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.support.simulator import ControlRefused, Simulator, eventually, rest

SECRET = "the secret"
EVENTS = "ORDER_TRADE_UPDATE"


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(rate=100) as running:
        running.settings(weight_limit=1_000_000)
        yield running


@pytest.fixture
def key(sim: Simulator, request: pytest.FixtureRequest) -> str:
    name = str(request.node.name).replace("_", "")[:60].ljust(64, "0")
    sim.account(name, SECRET)
    return name


def dial(url: str) -> ClientConnection:
    return connect(url, ping_interval=None, proxy=None, max_size=None, open_timeout=10, legacy=True)


def private(sim: Simulator, key: str) -> ClientConnection:
    listen_key = rest(sim, "POST", "/fapi/v1/listenKey", key)[1]["listenKey"]
    return dial(f"{sim.ws_url}/private/ws?listenKey={listen_key}&events={EVENTS}")


def market(sim: Simulator, name: str = "btcusdt@aggTrade") -> ClientConnection:
    return dial(f"{sim.ws_url}/market/ws/{name}")


def silent(socket: ClientConnection, seconds: float = 0.6) -> bool:
    try:
        socket.recv(seconds)
    except TimeoutError:
        return True
    return False


def drained(socket: ClientConnection) -> None:
    """Read what was written before the fault."""
    while not silent(socket, 0.3):
        pass


def states(socket: ClientConnection, count: int) -> list[str]:
    return [json.loads(socket.recv(5))["o"]["X"] for _ in range(count)]


def close_code(socket: ClientConnection) -> int | None:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            socket.recv(5)
    return closed.value.rcvd.code if closed.value.rcvd else None


def test_cut_resets_only_what_it_names(sim: Simulator, key: str) -> None:
    other = "o" * 64
    sim.account(other, SECRET)
    mine, theirs = private(sim, key), private(sim, other)
    sim.fault("cut", api_key=key)
    assert close_code(mine) is None, "no close frame: the TCP connection is reset"
    assert silent(theirs)
    with private(sim, key) as again:
        sim.order(key, "BTCUSDT", "buy", "0.01", "84000", fills=0)
        assert states(again, 1) == ["NEW"]
    entry = sim.connections(api_key=key)[0]
    assert entry["closed_at"] >= entry["opened_at"]
    theirs.close()


def test_close_sends_the_code(sim: Simulator, key: str) -> None:
    with private(sim, key) as socket:
        sim.fault("close", api_key=key, code=1011, reason="restart")
        assert close_code(socket) == 1011


@pytest.mark.parametrize("kind", ["half_open", "stall"])
def test_half_open_and_stall_take_open_sockets_only_and_end(sim: Simulator, kind: str) -> None:
    old = market(sim)
    old.recv(5)
    ident = sim.fault(kind, path="/market")
    drained(old)
    pong = old.ping()
    assert pong.wait(0.7) is (kind == "stall"), "a stalled socket still answers pings, a half-open one does not"
    with market(sim) as fresh:
        fresh.recv(5)
    assert silent(old)
    last = sim.ledger(type="trade")[-1]
    assert last["sockets"] == [], "the truth tells that nobody got it"
    sim.end_fault(ident)
    old.recv(5)
    old.close()


def test_stall_of_one_stream(sim: Simulator) -> None:
    with dial(sim.ws_url + "/market/stream?streams=btcusdt@aggTrade/ethusdt@aggTrade") as socket:
        socket.recv(5)
        ident = sim.fault("stall", stream="btcusdt@aggTrade", seconds=20)
        eventually(lambda: all(json.loads(socket.recv(5))["stream"] == "ethusdt@aggTrade" for _ in range(20)), 10)
        sim.end_fault(ident)
        eventually(lambda: json.loads(socket.recv(5))["stream"] == "btcusdt@aggTrade", 10)


def test_a_fault_ends_by_its_seconds(sim: Simulator) -> None:
    with market(sim) as socket:
        sim.fault("half_open", path="/market", seconds=0.5)
        time.sleep(0)
        eventually(lambda: not silent(socket, 0.1), 5, "data again")


def test_refuse_and_accept_again(sim: Simulator) -> None:
    ident = sim.fault("refuse")
    for url in (sim.ws_url, sim.rest_url):
        parts = urlsplit(url)
        with pytest.raises(ConnectionRefusedError):
            socket_module.create_connection((parts.hostname, parts.port), timeout=2)
    sim.end_fault(ident)
    assert rest(sim, "GET", "/fapi/v1/ping")[0] == 200
    sim.fault("refuse", path="/market", count=1)
    with pytest.raises((OSError, EOFError, Exception)) as failed:
        market(sim)
    assert not isinstance(failed.value, InvalidStatus)
    market(sim).close()


def test_reject_handshakes_with_status_and_retry_after(sim: Simulator) -> None:
    sim.fault("reject", status=429, retry_after=30, count=2, path="/market")
    for _ in range(2):
        with pytest.raises(InvalidStatus) as refused:
            market(sim)
        assert refused.value.response.status_code == 429 and refused.value.response.headers["Retry-After"] == "30"
    market(sim).close()
    sim.fault("reject", status=418, retry_after=9, count=1, path="/fapi/v1/listenKey")
    market(sim).close()
    status, _, headers = rest(sim, "POST", "/fapi/v1/listenKey", "whoever")
    assert (status, headers["retry-after"]) == (418, "9")
    assert {"path": "/market/ws", "status": 429, "count": 2, "exchange": "binance", "market": "usdm"} in sim.calls()[
        "handshakes"
    ]


def test_rest_error_by_path_key_and_count(sim: Simulator, key: str) -> None:
    sim.fault("rest_error", status=503, code=-1008, path="/fapi/v3/balance", api_key=key, count=1)
    assert rest(sim, "GET", "/fapi/v3/account", key, SECRET)[0] == 200
    status, body, _ = rest(sim, "GET", "/fapi/v3/balance", key, SECRET)
    assert (status, body["code"]) == (503, -1008)
    assert rest(sim, "GET", "/fapi/v3/balance", key, SECRET)[0] == 200
    sim.fault("rest_error", status=401, count=1)
    status, body, headers = rest(sim, "GET", "/fapi/v3/balance", key, SECRET)
    assert status == 401 and "<html>" in body and headers["content-type"] == "text/html", (
        "a proxy's page, not the exchange's verdict"
    )


def test_rest_lags_the_engine(sim: Simulator, key: str) -> None:
    ident = sim.fault("rest_lag", ms=60_000, api_key=key)
    sim.order(key, "BTCUSDT", "buy", "0.01", "84000")
    assert rest(sim, "GET", "/fapi/v1/userTrades", key, SECRET, symbol="BTCUSDT")[1] == []
    assert rest(sim, "GET", "/fapi/v1/allOrders", key, SECRET, symbol="BTCUSDT")[1] == []
    assert rest(sim, "GET", "/fapi/v3/positionRisk", key, SECRET)[1] == []
    sim.end_fault(ident)
    assert len(rest(sim, "GET", "/fapi/v1/userTrades", key, SECRET, symbol="BTCUSDT")[1]) == 1


def test_drop_duplicate_and_reorder_user_events(sim: Simulator, key: str) -> None:
    with private(sim, key) as socket:
        sim.fault("drop_event", api_key=key, event="ORDER_TRADE_UPDATE", count=1)
        sim.order(key, "BTCUSDT", "buy", "0.01", "84000")
        assert states(socket, 1) == ["FILLED"]
        rows = sim.ledger(api_key=key, type="order")
        assert [(r["status"], bool(r["sockets"])) for r in rows] == [("new", False), ("filled", True)]
        sim.fault("duplicate_event", api_key=key, event="ORDER_TRADE_UPDATE", count=1)
        sim.order(key, "BTCUSDT", "buy", "0.01", "84000")
        assert states(socket, 3) == ["NEW", "NEW", "FILLED"]
        sim.fault("reorder", api_key=key, event="ORDER_TRADE_UPDATE", count=1)
        sim.order(key, "BTCUSDT", "buy", "0.02", "84000", fills=1)
        told = states(socket, 2)
        assert told == ["NEW", "FILLED"], "the successor was an event this socket did not ask for"
        sim.fault("reorder", api_key=key, count=1)
        sim.order(key, "BTCUSDT", "buy", "0.02", "84000", fills=0)
        assert states(socket, 1) == ["NEW"], "a held event does not wait for ever"


def test_dropped_market_frames_leave_user_events_alone(sim: Simulator, key: str) -> None:
    with market(sim) as trades, private(sim, key) as user:
        first = json.loads(trades.recv(5))["a"]
        sim.fault("drop_event", stream="btcusdt@aggTrade", count=2)
        eventually(lambda: json.loads(trades.recv(5))["a"] > first + 20, 10)
        sim.order(key, "BTCUSDT", "buy", "0.01", "84000", fills=0)
        assert states(user, 1) == ["NEW"]
    missed = [
        r
        for r in sim.ledger(type="trade")
        if r["sockets"] == [] and r["stream"] == "btcusdt@aggTrade" and int(r["trade_id"]) > first
    ]
    assert len(missed) >= 2


def test_garbage_does_not_end_the_socket(sim: Simulator, key: str) -> None:
    with private(sim, key) as socket:
        sim.fault("garbage", api_key=key, count=3)
        for _ in range(3):
            socket.recv(5)
        sim.order(key, "BTCUSDT", "buy", "0.01", "84000", fills=0)
        assert states(socket, 1) == ["NEW"]
        sim.fault("garbage", api_key=key, form="utf8")
        with pytest.raises(ConnectionClosed):
            socket.recv(5)


@pytest.mark.parametrize("kind", ["fragment", "slow"])
def test_fragmented_and_slow_frames_arrive_whole(sim: Simulator, key: str, kind: str) -> None:
    with private(sim, key) as socket:
        ident = sim.fault(kind, api_key=key, bytes_per_s=20_000)
        sim.order(key, "BTCUSDT", "buy", "0.05", "84000", fills=5)
        assert states(socket, 6) == ["NEW", *["PARTIALLY_FILLED"] * 4, "FILLED"]
        sim.end_fault(ident)
        sim.order(key, "BTCUSDT", "buy", "0.05", "84000", fills=0)
        assert states(socket, 1) == ["NEW"]


def test_slow_rest(sim: Simulator) -> None:
    sim.fault("slow", path="/fapi/v1/ping", ms=700, count=1)
    begun = time.monotonic()
    assert rest(sim, "GET", "/fapi/v1/ping")[0] == 200 and time.monotonic() - begun >= 0.7


def test_maintenance_closes_and_refuses_everything(sim: Simulator, key: str) -> None:
    socket = market(sim)
    ident = sim.fault("maintenance")
    assert close_code(socket) == 1001
    assert rest(sim, "GET", "/fapi/v1/time")[0] == 503
    with pytest.raises(InvalidStatus):
        market(sim)
    sim.end_fault(ident)
    assert rest(sim, "GET", "/fapi/v1/time")[0] == 200
    market(sim).close()


def test_clock_skew_moves_time_and_refuses_ours(sim: Simulator, key: str) -> None:
    ident = sim.fault("clock_skew", ms=60_000)
    assert abs(rest(sim, "GET", "/fapi/v1/time")[1]["serverTime"] - time.time() * 1000 - 60_000) < 2000
    assert rest(sim, "GET", "/fapi/v3/balance", key, SECRET)[1]["code"] == -1021
    sim.end_fault(ident)
    assert rest(sim, "GET", "/fapi/v3/balance", key, SECRET)[0] == 200
    with market(sim) as socket:
        socket.recv(5)


def test_another_venues_fault_concerns_nobody_here(sim: Simulator) -> None:
    ident = sim.fault("maintenance", exchange="okx")
    assert rest(sim, "GET", "/fapi/v1/time")[0] == 200
    sim.end_fault(ident)


def test_wrong_faults_are_refused(sim: Simulator) -> None:
    before = faults_in_force(sim)
    for spec in (
        {"kind": "nope"},
        {"kind": "cut", "count": 0},
        {"kind": "stall", "seconds": "x"},
        {"kind": "cut", "path": 5},
        {"kind": ["cut"]},
        {"kind": "clock_skew", "ms": None},
        {"kind": "reject", "status": "x"},
        {"kind": "close", "code": "x"},
        {"kind": "cut", "seconds": float("nan")},
    ):
        with pytest.raises(ControlRefused, match="400"):
            sim.call("POST", "/faults", spec)
    assert faults_in_force(sim) == before  # none that breaks what it befalls later
    with pytest.raises(ControlRefused):
        sim.call("POST", "/load", {"events_per_s": float("nan")})
    with pytest.raises(ControlRefused):
        sim.call("DELETE", "/faults/99999")


def test_an_unfinished_request_is_answered_only_when_complete(sim: Simulator) -> None:
    connection = http.client.HTTPConnection(urlsplit(sim.rest_url).netloc, timeout=5)
    connection.connect()
    assert connection.sock is not None
    connection.sock.sendall(b"GET /fapi/v1/ping HTTP/1.1\r\nHost: x\r\n")
    connection.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.sock.recv(100)
    connection.sock.sendall(b"\r\n")
    connection.sock.settimeout(5)
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 200")
    connection.close()


def faults_in_force(sim: Simulator) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(sim.call("GET", "/faults"))["active"]
    return found


def test_used_up_faults_are_gone(sim: Simulator) -> None:
    before = len(faults_in_force(sim))
    sim.fault("rest_error", path="/fapi/v1/ping", count=1)
    assert len(faults_in_force(sim)) == before + 1
    rest(sim, "GET", "/fapi/v1/ping")
    assert len(faults_in_force(sim)) == before
