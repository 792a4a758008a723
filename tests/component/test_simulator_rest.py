"""The simulated Binance REST refuses and answers as the sheet says. In: calls; out: statuses, codes, headers, rows."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.simulator import Simulator, eventually, rest, signed_query

KEY, SECRET = "k" * 64, "the secret"
TRADER = "t" * 64


@pytest.fixture(scope="module")
def sim() -> Iterator[Simulator]:
    with Simulator(rate=20) as running:
        running.settings(weight_limit=1_000_000)
        running.account(KEY, SECRET)
        running.account(TRADER, SECRET)
        yield running


def code(answer: tuple[int, Any, dict[str, str]]) -> tuple[int, int]:
    return answer[0], answer[1]["code"]


def now() -> int:
    return int(time.time() * 1000)


def test_signatures_keys_and_clocks(sim: Simulator) -> None:
    path = "/fapi/v3/balance"
    assert rest(sim, "GET", path, KEY, SECRET)[0] == 200
    assert code(rest(sim, "GET", path, KEY, "wrong secret")) == (400, -1022)
    assert code(rest(sim, "GET", path, "short", SECRET)) == (401, -2014)
    assert code(rest(sim, "GET", path, "x" * 64, SECRET)) == (401, -2015)
    assert code(rest(sim, "GET", path, "", SECRET)) == (401, -2014)
    assert code(rest(sim, "GET", path, KEY, SECRET, now_ms=now() - 6000)) == (400, -1021)
    assert code(rest(sim, "GET", path, KEY, SECRET, now_ms=now() + 2000)) == (400, -1021)
    assert rest(sim, "GET", path, KEY, SECRET, now_ms=now() - 6000, recvWindow="10000")[0] == 200
    assert code(rest(sim, "GET", path, KEY, SECRET, recvWindow="60001")) == (400, -1131)
    assert code(rest(sim, "GET", path, KEY)) == (400, -1102)
    assert code(rest(sim, "GET", path + "x")) == (404, -5000)


def test_signature_may_span_query_and_form(sim: Simulator) -> None:
    """totalParams is query and body without a separator; the signature may be in the body."""
    query, body = "symbol=BTCUSDT&side=BUY", "type=MARKET&quantity=0.01&timestamp=" + str(now())
    import hashlib
    import hmac

    signature = hmac.new(SECRET.encode(), (query + body).encode(), hashlib.sha256).hexdigest()
    connection = http.client.HTTPConnection(urlsplit(sim.rest_url).netloc, timeout=5)
    headers = {"X-MBX-APIKEY": KEY, "Content-Type": "application/x-www-form-urlencoded"}
    connection.request("POST", "/fapi/v1/order?" + query, f"{body}&signature={signature}", headers)
    response = connection.getresponse()
    assert response.status == 200, response.read()
    connection.close()


def test_account_states(sim: Simulator) -> None:
    key = "s" * 64
    sim.account(key, SECRET)
    for state, expected in (("invalid", (401, -2015)), ("no_permission", (401, -2015)), ("ip_banned", (418, -1003))):
        sim.set_state(key, state)
        assert code(rest(sim, "GET", "/fapi/v3/balance", key, SECRET)) == expected
        assert code(rest(sim, "POST", "/fapi/v1/listenKey", key)) == expected
    assert "retry-after" in rest(sim, "GET", "/fapi/v3/balance", key, SECRET)[2]
    sim.set_state(key, "active")
    assert rest(sim, "GET", "/fapi/v3/balance", key, SECRET)[0] == 200


def test_listen_keys(sim: Simulator) -> None:
    key = "l" * 64
    sim.account(key, SECRET)
    path = "/fapi/v1/listenKey"
    assert code(rest(sim, "PUT", path, key)) == (400, -1125)
    first = rest(sim, "POST", path, key)[1]["listenKey"]
    assert len(first) == 64
    assert (
        rest(sim, "POST", path, key)[1] == {"listenKey": first} == rest(sim, "PUT", path, key, listenKey="ignored")[1]
    )
    assert rest(sim, "DELETE", path, key)[1] == {}
    assert code(rest(sim, "DELETE", path, key)) == (400, -1125)
    assert rest(sim, "POST", path, key)[1]["listenKey"] != first
    sim.fault("expire_listen_key", api_key=key)
    assert code(rest(sim, "PUT", path, key)) == (400, -1125)


def test_rest_and_order_placement_agree(sim: Simulator) -> None:
    placed = sim.order(TRADER, "ETHUSDT", "sell", "0.5", "3000.10", fills=2)
    rows = rest(sim, "GET", "/fapi/v1/userTrades", TRADER, SECRET, symbol="ETHUSDT")[1]
    assert [str(r["id"]) for r in rows] == placed["trade_ids"]
    assert sum(Decimal(r["qty"]) for r in rows) == Decimal("0.5")
    order = rest(sim, "GET", "/fapi/v1/order", TRADER, SECRET, symbol="ETHUSDT", orderId=placed["order_id"])[1]
    assert (order["status"], order["updateTime"]) == ("FILLED", rows[-1]["time"])
    position = rest(sim, "GET", "/fapi/v3/positionRisk", TRADER, SECRET)[1][0]
    assert (Decimal(position["positionAmt"]), position["updateTime"]) == (Decimal("-0.5"), rows[-1]["time"])
    balance = rest(sim, "GET", "/fapi/v3/balance", TRADER, SECRET)[1][0]
    assert balance["updateTime"] == rows[-1]["time"]
    income = rest(sim, "GET", "/fapi/v1/income", TRADER, SECRET, startTime=str(order["time"]))[1]
    assert {r["symbol"] for r in income} == {"ETHUSDT"} and {r["incomeType"] for r in income} == {"COMMISSION"}
    again = rest(sim, "GET", "/fapi/v1/userTrades", TRADER, SECRET, symbol="ETHUSDT", fromId=str(rows[0]["id"] + 1))[1]
    assert [r["id"] for r in again] == [rows[1]["id"]]
    assert len(rest(sim, "GET", "/fapi/v2/positionRisk", TRADER, SECRET)[1]) >= 20
    account = rest(sim, "GET", "/fapi/v3/account", TRADER, SECRET)[1]
    assert account["assets"][0]["walletBalance"] == balance["balance"] and len(account["positions"]) == 1


def test_history_rules(sim: Simulator) -> None:
    path, day = "/fapi/v1/userTrades", 86_400_000
    assert code(rest(sim, "GET", path, KEY, SECRET)) == (400, -1102)
    assert code(rest(sim, "GET", path, KEY, SECRET, symbol="NOPE")) == (400, -1121)
    both = {"fromId": "1", "startTime": str(now() - day)}
    assert code(rest(sim, "GET", path, KEY, SECRET, symbol="BTCUSDT", **both)) == (400, -1128)
    wide = {"startTime": str(now() - 8 * day), "endTime": str(now())}
    assert code(rest(sim, "GET", path, KEY, SECRET, symbol="BTCUSDT", **wide)) == (400, -4165)
    assert code(rest(sim, "GET", path, KEY, SECRET, symbol="BTCUSDT", limit="1001")) == (400, -1130)
    assert rest(sim, "GET", "/fapi/v1/allOrders", KEY, SECRET)[0] == 200
    assert code(rest(sim, "GET", "/fapi/v1/order", KEY, SECRET, symbol="BTCUSDT", orderId="1")) == (400, -2013)


def test_orders_by_rest(sim: Simulator) -> None:
    def new(**params: str) -> tuple[int, Any, dict[str, str]]:
        return rest(sim, "POST", "/fapi/v1/order", KEY, SECRET, symbol="SOLUSDT", **params)

    resting = new(side="BUY", type="LIMIT", quantity="1", price="100.00", timeInForce="GTC", newClientOrderId="mine")
    assert resting[1]["status"] == "NEW" and "avgPrice" not in resting[1] and "x-mbx-order-count-10s" in resting[2]
    ident = str(resting[1]["orderId"])
    open_orders = rest(sim, "GET", "/fapi/v1/openOrders", KEY, SECRET, symbol="SOLUSDT")[1]
    assert [str(o["orderId"]) for o in open_orders] == [ident]
    cancelled = rest(sim, "DELETE", "/fapi/v1/order", KEY, SECRET, symbol="SOLUSDT", origClientOrderId="mine")
    assert cancelled[1]["status"] == "CANCELED"
    assert code(rest(sim, "DELETE", "/fapi/v1/order", KEY, SECRET, symbol="SOLUSDT", orderId=ident)) == (400, -2011)
    market = new(side="SELL", type="MARKET", quantity="2", newOrderRespType="RESULT")
    assert market[1]["status"] == "FILLED"
    assert code(new(side="BUY", type="LIMIT", quantity="0.001", price="100", timeInForce="GTC")) == (400, -1111)
    assert code(new(side="BUY", type="LIMIT", quantity="1", price="100.001", timeInForce="GTC")) == (400, -4014)
    assert code(new(side="BUY", type="LIMIT", quantity="1", price="900.00", timeInForce="GTX")) == (400, -5022)
    assert code(new(side="BUY", type="LIMIT", quantity="0.01", price="100.00", timeInForce="GTC")) == (400, -4164)
    assert code(new(side="SELL", type="MARKET", quantity="1000000")) == (400, -2019)
    assert code(new(side="SELL", type="STOP_MARKET", quantity="1", stopPrice="1")) == (400, -4120)
    assert code(new(side="SELL", type="MARKET", quantity="1", reduceOnly="true")) == (400, -2022)
    algo = rest(sim, "POST", "/fapi/v1/algoOrder", KEY, SECRET, algoType="CONDITIONAL", symbol="SOLUSDT", side="SELL",
    type="STOP_MARKET",
                quantity="1", triggerPrice="90")  # fmt: skip
    assert [o["algoId"] for o in rest(sim, "GET", "/fapi/v1/openAlgoOrders", KEY, SECRET)[1]] == [algo[1]["algoId"]]
    assert rest(sim, "DELETE", "/fapi/v1/algoOrder", KEY, SECRET, algoId=str(algo[1]["algoId"]))[0] == 200
    assert rest(sim, "GET", "/fapi/v1/openAlgoOrders", KEY, SECRET)[1] == []


def test_public_data(sim: Simulator) -> None:
    info = rest(sim, "GET", "/fapi/v1/exchangeInfo")[1]
    assert len(info["symbols"]) >= 20 and {"BTCUSDT", "ETHUSDT", "SUSHIUSDT"} <= {s["symbol"] for s in info["symbols"]}
    klines = rest(sim, "GET", "/fapi/v1/klines", symbol="BTCUSDT", interval="1m", limit="100")[1]
    assert len(klines) == 100 and all(
        b[0] - a[0] == 60_000 and b[1] == a[4] for a, b in zip(klines, klines[1:], strict=False)
    )
    hour = rest(sim, "GET", "/fapi/v1/klines", symbol="BTCUSDT", interval="1h", limit="5")[1]
    assert all(row[6] - row[0] == 3_599_999 and row[0] % 3_600_000 == 0 for row in hour)
    assert code(rest(sim, "GET", "/fapi/v1/klines", symbol="BTCUSDT", interval="1s")) == (400, -1120)
    assert code(rest(sim, "GET", "/fapi/v1/depth", symbol="btcusdt")) == (400, -1121)
    assert code(rest(sim, "GET", "/fapi/v1/depth", symbol="BTCUSDT", limit="7")) == (400, -4021)
    depth = rest(sim, "GET", "/fapi/v1/depth", symbol="BTCUSDT", limit="100")[1]
    assert len(depth["bids"]) == 100 and Decimal(depth["bids"][0][0]) < Decimal(depth["asks"][0][0])
    eventually(lambda: rest(sim, "GET", "/fapi/v1/aggTrades", symbol="BTCUSDT")[1], 20, "idle symbols trade too")
    old = str(now() - 49 * 3_600_000)
    assert code(rest(sim, "GET", "/fapi/v1/aggTrades", symbol="BTCUSDT", startTime=old)) == (400, -4166)
    assert rest(sim, "GET", "/fapi/v1/premiumIndex", symbol="BTCUSDT")[1]["nextFundingTime"] > now()
    assert len(rest(sim, "GET", "/fapi/v1/ticker/24hr")[1]) == len(info["symbols"])


def test_weight_limit_429_then_ban() -> None:
    with Simulator(rate=0) as sim:
        sim.account(KEY, SECRET)
        sim.settings(weight_limit=100, ban_after=3, ban_s=2)
        if time.time() % 60 >= 59:
            time.sleep(1.2)  # the window is the UTC minute: do not start at its very end
        first = rest(sim, "GET", "/fapi/v1/openOrders", KEY, SECRET)
        assert (first[0], first[2]["x-mbx-used-weight-1m"]) == (200, "40")
        refused_400 = rest(sim, "GET", "/fapi/v1/depth", symbol="NOPE", limit="1000")
        assert refused_400[2]["x-mbx-used-weight-1m"] == "60", "a refused call costs its weight"
        assert rest(sim, "GET", "/fapi/v1/openOrders", KEY, SECRET)[0] == 200
        for _ in range(3):
            over = rest(sim, "GET", "/fapi/v1/time")
            assert code(over) == (429, -1003) and 0 < int(over[2]["retry-after"]) <= 60
        banned = rest(sim, "GET", "/fapi/v1/time")
        assert (
            code(banned) == (418, -1003) and "banned until" in banned[1]["msg"] and int(banned[2]["retry-after"]) == 2
        )
        eventually(lambda: rest(sim, "GET", "/fapi/v1/time")[0] in (200, 429), 5, "the ban ends")
        assert sum(row["weight"] for row in sim.calls()["weight_per_minute"]) >= 100
        statuses = {(row["path"], row["status"]) for row in sim.calls()["rest"]}
        assert {("/fapi/v1/time", 429), ("/fapi/v1/time", 418), ("/fapi/v1/openOrders", 200)} <= statuses


def test_keep_alive_and_pipelining(sim: Simulator) -> None:
    connection = http.client.HTTPConnection(urlsplit(sim.rest_url).netloc, timeout=5)
    for _ in range(3):
        connection.request("GET", "/fapi/v3/balance?" + signed_query(SECRET, {}), headers={"X-MBX-APIKEY": KEY})
        assert connection.getresponse().read().startswith(b"[")
    connection.close()


def test_a_refused_order_says_why(sim: Simulator) -> None:
    from tests.support.simulator import ControlRefused

    for spec in ({"symbol": "NOPE"}, {"side": "up"}, {"qty": "0"}, {"api_key": "nobody"}):
        body = {
            "api_key": KEY,
            "market": "usdm",
            "symbol": "BTCUSDT",
            "side": "buy",
            "qty": "1",
            "price": "1",
            "fills": 1,
            **spec,
        }
        with pytest.raises(ControlRefused):
            sim.call("POST", "/orders", body)
