"""Bybit: frames and replies in the documented shapes (exchanges/bybit.md), with values of our own."""

# ruff: noqa: E501  # a frame reads best on one line
from __future__ import annotations

import json
from typing import Any

from fleet.core.exchange import Outcome
from tests.contract.samples import Pair, Sample, Samples

AT = 1_790_000_000_123
UUID = "9aac161b-8ed6-450d-9cab-c5cc67c21784"
EXEC = "0ab1bdf7-4219-438b-b30a-32ec863018f7"
ORDER: dict[str, Any] = {
    "category": "linear", "symbol": "ETHUSDT", "orderId": UUID, "orderLinkId": "mine-1", "side": "Buy", "orderType": "Limit", "cancelType": "UNKNOWN",
    "price": "2313.00", "qty": "0.02", "timeInForce": "GTC", "orderStatus": "New", "reduceOnly": False, "leavesQty": "0.02", "leavesValue": "46.26",
    "cumExecQty": "0.00", "cumExecValue": "0", "avgPrice": "", "positionIdx": 0, "cumExecFee": "0", "cumFeeDetail": {}, "createdTime": str(AT - 9),
    "updatedTime": str(AT), "rejectReason": "EC_NoError", "stopOrderType": "", "triggerPrice": "", "takeProfit": "", "closeOnTrigger": False,
}  # fmt: skip
EXECUTION: dict[str, Any] = {
    "category": "linear", "symbol": "ETHUSDT", "orderId": UUID, "orderLinkId": "mine-1", "side": "Sell", "execId": EXEC, "execType": "Trade",
    "execPrice": "2317.30", "execQty": "0.02", "execValue": "46.346", "execFee": "0.0254903", "feeRate": "0.00055", "feeCurrency": "USDT", "execPnl": "0.05",
    "isMaker": False, "execTime": str(AT), "leavesQty": "0", "closedSize": "0.02", "seq": 140612148849382, "extraFees": [], "markPrice": "2317.1",
}  # fmt: skip
POSITION: dict[str, Any] = {
    "category": "linear", "symbol": "ETHUSDT", "positionIdx": 0, "side": "Sell", "size": "0.02", "entryPrice": "2317.3", "unrealisedPnl": "0.005",
    "leverage": "10", "markPrice": "2317.1", "updatedTime": str(AT), "createdTime": "1", "seq": 8327597863, "positionStatus": "Normal", "tradeMode": 0,
}  # fmt: skip
COIN = {
    "coin": "USDT",
    "walletBalance": "37.87866827",
    "equity": "37.9",
    "availableToWithdraw": "",
    "locked": "0",
    "unrealisedPnl": "0",
}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def private(topic: str, *rows: dict[str, Any]) -> bytes:
    return _json({"id": "5923240c6880ab-c59f", "topic": topic, "creationTime": AT + 2, "data": rows})


def public(topic: str, data: object, kind: str = "snapshot", **more: int) -> bytes:
    return _json({"topic": topic, "type": kind, "ts": AT, "data": data, **more})


def reply(*rows: dict[str, Any], cursor: str = "") -> bytes:
    return _json(
        {
            "retCode": 0,
            "retMsg": "OK",
            "result": {"list": rows, "nextPageCursor": cursor},
            "retExtInfo": {},
            "time": AT + 900,
        }
    )


ORDER_FIELDS = {
    "order_id": UUID, "client_order_id": "mine-1", "side": "buy", "position_side": "both", "order_type": "limit", "time_in_force": "gtc", "status": "new",
    "price": "2313.00", "stop_price": "", "qty": "0.02", "filled_qty": "0.00", "avg_price": "", "reduce_only": False, "symbol": "ETHUSDT", "ts_event": AT,
    "account_id": "acc", "source": "stream",
}  # fmt: skip
FILL_FIELDS = {
    "trade_id": EXEC, "order_id": UUID, "client_order_id": "mine-1", "side": "sell", "position_side": "", "price": "2317.30", "qty": "0.02",
    "fee": "0.0254903", "fee_asset": "USDT", "liquidity": "taker", "realized_pnl": "0.05", "ts_event": AT, "symbol": "ETHUSDT",
}  # fmt: skip
FUNDING = EXECUTION | {
    "execType": "Funding",
    "execId": "f-1",
    "orderId": "1682668800-ETHUSDT-460579-Buy",
    "side": "Buy",
    "execFee": "0.01",
}
AUTH_ECHO = {
    "success": False,
    "ret_msg": "Params Error",
    "conn_id": "c",
    "req_id": "",
    "request": {"req_id": "auth", "op": "auth", "args": ["key", 1, "sig"]},
}

USER = [
    Sample("order new", private("order", ORDER), [("Order", ORDER_FIELDS)]),
    Sample(
        "order filled",
        private("order", ORDER | {"orderStatus": "Filled", "cumExecQty": "0.02", "avgPrice": "2313"}),
        [("Order", {"status": "filled", "avg_price": "2313"})],
    ),
    Sample(
        "order partly filled, hedge mode",
        private("order", ORDER | {"orderStatus": "PartiallyFilled", "cumExecQty": "0.01", "positionIdx": 2}),
        [("Order", {"status": "partially_filled", "position_side": "short"})],
    ),
    Sample(
        "order cancelled, conditional and rejected in one message",
        private(
            "order",
            ORDER | {"orderStatus": "Cancelled"},
            ORDER | {"orderStatus": "Untriggered", "triggerPrice": "2000"},
            ORDER | {"orderStatus": "Rejected"},
        ),
        [
            ("Order", {"status": "canceled"}),
            ("Order", {"status": "new", "stop_price": "2000"}),
            ("Order", {"status": "rejected"}),
        ],
    ),
    Sample(
        "spot order, numeric id, no update time",
        private(
            "order.spot",
            ORDER
            | {
                "category": "spot",
                "orderId": "1523347543495541248",
                "updatedTime": "",
                "orderStatus": "PartiallyFilledCanceled",
                "cumExecQty": "",
            },
        ),
        [("Order", {"status": "canceled", "position_side": "", "ts_event": AT + 2, "filled_qty": "0"})],
    ),
    Sample(
        "option order",
        private("order", ORDER | {"category": "option", "symbol": "ETH-30DEC22-1400-C", "leavesQty": ""}),
        [("Order", {"symbol": "ETH-30DEC22-1400-C"})],
    ),
    Sample(
        "an order status of the future",
        private("order", ORDER | {"orderStatus": "Parked"}),
        [("Unknown", {"type": "order status Parked"})],
    ),
    Sample(
        "event contract on the order topic",
        private("order", {"category": "event", "transId": "1"}, ORDER),
        [("Unknown", {"type": "order of another category"}), ("Order", {"status": "new"})],
    ),
    Sample(
        "a bad row beside a good one",
        private("order", {"category": "linear"}, ORDER),
        [("Malformed", {}), ("Order", {"status": "new"})],
    ),
    Sample("fill", private("execution", EXECUTION), [("Fill", FILL_FIELDS)]),
    Sample(
        "fills of two orders, maker, spot, fee in the base",
        private(
            "execution",
            EXECUTION,
            EXECUTION
            | {
                "category": "spot",
                "execId": "2100000000007764263",
                "orderId": "7",
                "side": "Buy",
                "isMaker": True,
                "feeCurrency": "ETH",
                "execPnl": "",
            },
        ),
        [
            ("Fill", {}),
            (
                "Fill",
                {
                    "trade_id": "2100000000007764263",
                    "liquidity": "maker",
                    "fee_asset": "ETH",
                    "realized_pnl": "0",
                    "side": "buy",
                },
            ),
        ],
    ),
    Sample(
        "liquidation, fee currency not told",
        private("execution", EXECUTION | {"execType": "BustTrade", "feeCurrency": "", "symbol": "ETHPERP"}),
        [("Fill", {"fee_asset": "USDC"})],
    ),
    Sample(
        "inverse fill, fee currency not told",
        private("execution", EXECUTION | {"category": "inverse", "feeCurrency": "", "symbol": "BTCUSD"}),
        [("Fill", {"fee_asset": "BTC"})],
    ),
    Sample(
        "funding",
        private("execution", FUNDING),
        [("AccountEvent", {"event": "execution.Funding", "symbol": "ETHUSDT", "ts_event": AT})],
    ),
    Sample("a trade without a side", private("execution", EXECUTION | {"side": ""}), [("Malformed", {})]),
    Sample(
        "event contract on the execution topic",
        private("execution", {"category": "event", "transId": "1"}),
        [("Unknown", {})],
    ),
    Sample(
        "position",
        private("position", POSITION),
        [
            (
                "Position",
                {
                    "qty": "-0.02",
                    "position_side": "both",
                    "entry_price": "2317.3",
                    "unrealized_pnl": "0.005",
                    "ts_event": AT,
                },
            )
        ],
    ),
    Sample(
        "flat position, hedge mode",
        private("position", POSITION | {"side": "", "size": "0", "positionIdx": 1}),
        [("Position", {"qty": "0", "position_side": "long"})],
    ),
    Sample("position of another product", private("position", POSITION | {"category": "event"}), [("Unknown", {})]),
    Sample(
        "wallet, changed coins only",
        private(
            "wallet",
            {
                "accountType": "UNIFIED",
                "totalEquity": "5",
                "coin": [COIN, COIN | {"coin": "BTC", "walletBalance": "1.5", "availableToWithdraw": "1"}],
            },
        ),
        [
            (
                "Balance",
                {"asset": "USDT", "wallet": "37.87866827", "available": None, "symbol": "", "ts_event": AT + 2},
            ),
            ("Balance", {"asset": "BTC", "available": "1"}),
        ],
    ),
    Sample(
        "a topic that nobody subscribed",
        private("greeks", {"baseCoin": "ETH", "totalDelta": "1"}),
        [("Unknown", {"type": "greeks"}), ("AccountEvent", {"event": "greeks"})],
    ),
    Sample(
        "the faster twin of a fill",
        private("execution.fast", {"category": "linear", "execId": EXEC}),
        [("Unknown", {"type": "execution.fast"}), ("AccountEvent", {})],
    ),
    Sample(
        "logged in",
        b'{"success":true,"ret_msg":"","conn_id":"c-1","req_id":"auth","op":"auth"}',
        [("Reply", {"key": "auth"})],
    ),
    Sample(
        "subscribed, no request id",
        b'{"success":true,"ret_msg":"","op":"subscribe","conn_id":"cejreassvfrsfvb9v1a0-2m"}',
        [("Reply", {"key": "subscribe"})],
    ),
    Sample(
        "pong",
        b'{"req_id":"ping","op":"pong","args":["1675418560633"],"conn_id":"cfcb4ocsvfriu23r3er0-1b"}',
        [("Pong", {})],
    ),
    Sample(
        "login refused",
        b'{"success":false,"ret_msg":"Params Error","op":"auth","conn_id":"c"}',
        [("Reply", {"key": "auth"})],
    ),
    Sample("login refused, the request echoed", _json(AUTH_ECHO), [("Reply", {"key": "auth"})]),
    Sample(
        "login refused with a code",
        b'{"retCode":10004,"retMsg":"Invalid sign","op":"auth","connId":"c"}',
        [("Reply", {"key": "auth"})],
    ),
    Sample("an object of no kind", b"{}", [("Unknown", {"type": ""})]),
    Sample("not JSON", b"not json", [("Malformed", {})]),
    Sample("an array", b"[]", [("Malformed", {})]),
]

LINEAR, SPOT = "/v5/public/linear", "/v5/public/spot"
TICKER = {
    "symbol": "BTCUSDT", "tickDirection": "MinusTick", "price24hPcnt": "-0.15", "lastPrice": "66666.60", "prevPrice24h": "79206.20", "highPrice24h": "79266.30",
    "lowPrice24h": "65076.90", "markPrice": "66666.10", "indexPrice": "66650.19", "openInterest": "492373.72", "turnover24h": "4936790807.6521",
    "volume24h": "73191.3870", "nextFundingTime": "1760342400000", "fundingRate": "-0.005", "bid1Price": "66666.60", "bid1Size": "23789.165", "ask1Price": "66666.70",
    "ask1Size": "23775.469",
}  # fmt: skip
BOOK = {
    "s": "BTCUSDT",
    "b": [["86723.40", "0.194"], ["86723.30", "0.002"]],
    "a": [["86723.50", "5.959"]],
    "u": 173678160,
    "seq": 814547787693,
}
CANDLE = {
    "start": 1672324800000, "end": 1672325099999, "interval": "5", "open": "16649.5", "close": "16677", "high": "16677", "low": "16608", "volume": "2.081",
    "turnover": "34666.4005", "confirm": False, "timestamp": 1672324988882,
}  # fmt: skip
TRADE = {
    "T": AT - 3,
    "s": "BTCUSDT",
    "S": "Buy",
    "v": "0.001",
    "p": "16578.50",
    "L": "PlusTick",
    "i": "20f43950-d8dd-5b31-9112-a178eb6023af",
    "BT": False,
    "seq": 1,
}
LIQUIDATION = {"T": AT - 9, "s": "BTCUSDT", "S": "Buy", "v": "2846", "p": "0.02456"}
MARKET = [
    Sample(
        "linear ticker, snapshot",
        public("tickers.BTCUSDT", TICKER, cs=9532239429),
        [
            (
                "Ticker",
                {
                    "last": "66666.60",
                    "bid": "66666.60",
                    "ask_qty": "23775.469",
                    "open_24h": "79206.20",
                    "quote_volume_24h": "4936790807.6521",
                    "market": "linear",
                },
            ),
            (
                "MarkPrice",
                {"mark": "66666.10", "index": "66650.19", "funding_rate": "-0.005", "next_funding": 1760342400000},
            ),
        ],
        LINEAR,
    ),
    Sample(
        "linear ticker, mark price only",
        public("tickers.BTCUSDT", {"symbol": "BTCUSDT", "markPrice": "86716.30"}, "delta", cs=5),
        [("MarkPrice", {"mark": "86716.30", "index": None, "next_funding": None})],
        LINEAR,
    ),
    Sample(
        "linear ticker, funding rate only",
        public("tickers.BTCUSDT", {"symbol": "BTCUSDT", "fundingRate": "0.0002"}, "delta", cs=8),
        [("MarkPrice", {"mark": None, "index": None, "funding_rate": "0.0002"})],
        LINEAR,
    ),
    Sample(
        "linear ticker, ask only",
        public("tickers.BTCUSDT", {"symbol": "BTCUSDT", "ask1Size": "5"}, "delta", cs=6),
        [("Ticker", {"ask_qty": "5", "ask": None, "last": None})],
        LINEAR,
    ),
    Sample(
        "linear ticker, nothing of ours",
        public("tickers.BTCUSDT", {"symbol": "BTCUSDT", "openInterest": "5"}, "delta", cs=7),
        [],
        LINEAR,
    ),
    Sample(
        "spot ticker",
        public("tickers.BTCUSDT", {"symbol": "BTCUSDT", "lastPrice": "21109.77", "volume24h": "6780.8"}, cs=2588407389),
        [("Ticker", {"market": "spot", "last": "21109.77"})],
        SPOT,
    ),
    Sample(
        "book, snapshot",
        public("orderbook.50.BTCUSDT", BOOK, cts=AT - 4),
        [
            (
                "Depth",
                {
                    "kind": "snapshot",
                    "bids": [("86723.40", "0.194"), ("86723.30", "0.002")],
                    "first_seq": 173678160,
                    "last_seq": 173678160,
                    "prev_seq": None,
                    "ts_event": AT - 4,
                    "market": "linear",
                },
            )
        ],
        LINEAR,
    ),
    Sample(
        "book, delta",
        public("orderbook.50.BTCUSDT", BOOK | {"u": 173678161, "a": [["86723.50", "0"]]}, "delta", cts=AT),
        [("Depth", {"kind": "update", "asks": [("86723.50", "0")], "first_seq": 173678161})],
        SPOT,
    ),
    Sample(
        "book, service restarted",
        public("orderbook.50.BTCUSDT", BOOK | {"u": 1}, "delta"),
        [("Depth", {"kind": "snapshot", "last_seq": 1, "ts_event": AT})],
        LINEAR,
    ),
    Sample(
        "best quotes",
        public("orderbook.1.BTCUSDT", BOOK | {"b": [["1.5", "2"]]}, cts=AT),
        [("Ticker", {"bid": "1.5", "bid_qty": "2", "ask": "86723.50", "last": None})],
        LINEAR,
    ),
    Sample(
        "best quotes, one side empty",
        public("orderbook.1.BTCUSDT", BOOK | {"b": [], "u": 7}),
        [("Ticker", {"bid": None, "ask": "86723.50"})],
        LINEAR,
    ),
    Sample(
        "candle, open",
        public("kline.5.BTCUSDT", [CANDLE]),
        [
            (
                "Kline",
                {
                    "interval": "5m",
                    "closed": False,
                    "open_time": 1672324800000,
                    "close": "16677",
                    "ts_event": AT,
                    "symbol": "BTCUSDT",
                },
            )
        ],
        LINEAR,
    ),
    Sample(
        "candle, closed",
        public("kline.D.BTCUSDT", [CANDLE | {"interval": "D", "confirm": True}]),
        [("Kline", {"interval": "1d", "closed": True, "market": "spot"})],
        SPOT,
    ),
    Sample(
        "trades",
        public("publicTrade.BTCUSDT", [TRADE, TRADE | {"i": "2290000000068683542", "S": "Sell"}]),
        [
            ("Trade", {"side": "buy", "trade_id": TRADE["i"], "price": "16578.50", "ts_event": AT - 3}),
            ("Trade", {"side": "sell"}),
        ],
        SPOT,
    ),
    Sample(
        "liquidations: of a long, the same again, of a short",
        public("allLiquidation.BTCUSDT", [LIQUIDATION, LIQUIDATION, LIQUIDATION | {"S": "Sell"}]),
        [
            ("Liquidation", {"side": "sell", "price": "0.02456", "qty": "2846", "ts_event": AT - 9}),
            ("Liquidation", {"side": "sell"}),
            ("Liquidation", {"side": "buy"}),
        ],
        LINEAR,
    ),
    Sample("a topic of the future", public("adlAlert.BTCUSDT", [1]), [("Unknown", {"type": "adlAlert"})], LINEAR),
    Sample("a price as a number", public("publicTrade.BTCUSDT", [TRADE | {"p": 16578.5}]), [("Malformed", {})], LINEAR),
    Sample(
        "subscribed, spot",
        b'{"success":true,"ret_msg":"subscribe","conn_id":"13ac3a8f","req_id":"4","op":"subscribe"}',
        [("Reply", {"key": "4"})],
        SPOT,
    ),
    Sample(
        "no such symbol",
        b'{"success":false,"ret_msg":"error:handler not found,topic:orderbook.50.NOPEUSDT","conn_id":"d","req_id":"5","op":"subscribe"}',
        [("Reply", {"key": "5"})],
        LINEAR,
    ),
    Sample(
        "option socket's answer",
        b'{"success":true,"conn_id":"461834ff","data":{"failTopics":[],"successTopics":["orderbook.25.X"]},"type":"COMMAND_RESP"}',
        [("Reply", {"key": "", "topics": ("orderbook.25.X",)})],
    ),
    Sample(
        "pong of a public socket",
        b'{"success":true,"ret_msg":"pong","conn_id":"6356e46e","req_id":"ping","op":"ping"}',
        [("Pong", {})],
        LINEAR,
    ),
    Sample("pong of an option socket", b'{"args":["1672916271846"],"op":"pong"}', [("Pong", {})]),
]

FILLED = ORDER | {"orderStatus": "Filled", "cumExecQty": "0.02", "avgPrice": "2317.3"}


def rest_row(row: dict[str, Any], **change: Any) -> dict[str, Any]:
    return {name: value for name, value in (row | change).items() if name != "category"}


PAIRS = [
    Pair(
        "a fill with its order, position and funding",
        [private("execution", EXECUTION, FUNDING), private("position", POSITION), private("order", FILLED)],
        {
            "/v5/execution/list?category=linear": reply(
                rest_row(EXECUTION, feeCurrency="", execQty="0.020"), rest_row(FUNDING)
            ),
            "/v5/order/history?category=linear": reply(rest_row(FILLED, cumExecQty="0.020")),
            "/v5/position/list?category=linear": reply(rest_row(POSITION, avgPrice="2317.3", entryPrice="")),
        },
        ("Fill", "Order", "Position", "AccountEvent"),
        "ETHUSDT",
    ),
    Pair(
        "an order cancelled, and one open",
        [private("order", ORDER | {"orderStatus": "Cancelled"}, ORDER | {"orderId": "other", "orderStatus": "New"})],
        {
            "/v5/order/history?category=linear": reply(rest_row(ORDER, orderStatus="Cancelled")),
            "/v5/order/realtime?category=linear": reply(rest_row(ORDER, orderId="other")),
        },
        ("Order",),
    ),
]

DOCUMENTED = {
    "10003": Outcome.ELSEWHERE,
    **dict.fromkeys(("10004", "33004", "-2015"), Outcome.INVALID),
    **dict.fromkeys(("-1", "10002"), Outcome.CLOCK),
    **dict.fromkeys(("10006", "10018", "10009"), Outcome.RATE),
    **dict.fromkeys(("10000", "10016", "10019"), Outcome.TRANSIENT),
    **dict.fromkeys(("10005", "10007", "10008", "10010", "10024", "10027", "10028", "100028"), Outcome.PERMANENT),
    **dict.fromkeys(("10001", "10014", "10017", "110001"), Outcome.PERMANENT),
}

SAMPLES = Samples(
    user=USER,
    market=MARKET,
    pairs=PAIRS,
    errors=[
        (200, b'{"retCode":0,"retMsg":"","result":{},"time":1}', {}, Outcome.OK),
        (200, b"<html>proxy</html>", {}, Outcome.TRANSIENT),
        (502, b'{"retCode":0}', {}, Outcome.TRANSIENT),
        (200, b'{"retCode":10003,"retMsg":"API key is invalid."}', {}, Outcome.ELSEWHERE),
        (200, b'{"retCode":10006,"retMsg":"Too many visits!","time":1}', {}, Outcome.RATE),
        (401, b"", {}, Outcome.TRANSIENT),
        (403, b"403, access too frequent", {}, Outcome.RATE),
        (403, b"<html>The Amazon CloudFront distribution is configured to block access</html>", {}, Outcome.TRANSIENT),
        (429, b"", {}, Outcome.RATE),
        (404, b"", {}, Outcome.TRANSIENT),
    ],
    documented_codes=DOCUMENTED,
    code_reply='{"retCode":%s,"retMsg":"text that is never read","result":{},"time":1790000000123}',
    quiet={
        "/v5/account/wallet-balance": reply({"accountType": "UNIFIED", "coin": [COIN]}),
    },
    empty=reply(),
    clock=(
        b'{"retCode":0,"retMsg":"OK","result":{"timeSecond":"1790000000","timeNano":"1790000000123456789"},"time":1790000000123}',
        1_790_000_000_123,
    ),
    ticket=None,
    snapshot=None,
    quiet_calls=18,
)
