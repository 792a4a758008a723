"""Binance Spot: frames and replies in the documented shapes (exchanges/binance.md), with values of our own."""

# ruff: noqa: E501  # a frame reads best on one line
from __future__ import annotations

import json
from typing import Any

from fleet.core.exchange import Outcome
from tests.contract.samples import Pair, Sample, Samples

AT = 1_790_000_000_123
REPORT: dict[str, Any] = {
    "e": "executionReport", "E": AT + 1, "s": "ETHBTC", "c": "mine-1", "S": "BUY", "o": "LIMIT", "f": "GTC", "q": "1.00000000",
    "p": "0.10264410", "P": "0.00000000", "F": "0.00000000", "g": -1, "C": "", "x": "NEW", "X": "NEW", "r": "NONE", "i": 4293153,
    "l": "0.00000000", "z": "0.00000000", "L": "0.00000000", "n": "0", "N": None, "T": AT, "t": -1, "I": 8641984, "w": True,
    "m": False, "M": False, "O": AT, "Z": "0.00000000", "Y": "0.00000000", "Q": "0.00000000", "W": AT, "V": "NONE",
}  # fmt: skip
FILLED = {
    "x": "TRADE", "X": "FILLED", "l": "1.00000000", "z": "1.00000000", "L": "0.10264400", "Z": "0.10264400", "t": 0, "m": True,
    "n": "0.00100000", "N": "ETH", "w": False,
}  # fmt: skip
ORDER_FIELDS = {
    "order_id": "4293153", "client_order_id": "mine-1", "side": "buy", "position_side": "", "order_type": "limit",
    "time_in_force": "gtc", "status": "new", "price": "0.10264410", "stop_price": "0.00000000", "qty": "1.00000000",
    "filled_qty": "0.00000000", "avg_price": "0", "reduce_only": False, "symbol": "ETHBTC", "ts_event": AT, "account_id": "acc",
    "source": "stream",
}  # fmt: skip
FILL_FIELDS = {
    "trade_id": "0", "order_id": "4293153", "client_order_id": "mine-1", "side": "buy", "position_side": "", "price": "0.10264400",
    "qty": "1.00000000", "fee": "0.00100000", "fee_asset": "ETH", "liquidity": "maker", "realized_pnl": "0", "ts_event": AT,
}  # fmt: skip
POSITION = {
    "e": "outboundAccountPosition", "E": AT + 2, "u": AT,
    "B": [{"a": "ETH", "f": "10000.00000000", "l": "2.50000000"}, {"a": "BTC", "f": "0.00000000", "l": "0.00000000"}],
}  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def told(event: dict[str, Any], subscription: int = 0) -> bytes:
    return _json({"subscriptionId": subscription, "event": event})


def report(**fields: Any) -> bytes:
    return told(REPORT | fields)


USER = [
    Sample("order new", report(), [("Order", ORDER_FIELDS)]),
    Sample("of the 8th account on a socket", told(REPORT, 7), [("Order", ORDER_FIELDS)]),
    Sample("raw", _json(REPORT), [("Order", ORDER_FIELDS)]),
    Sample("keys in another order", _json({"event": dict(reversed(REPORT.items())), "subscriptionId": 0}), [("Order", ORDER_FIELDS)]),
    Sample("cancelled: C is the order's own client id, c the request's", report(x="CANCELED", X="CANCELED", c="web_9", C="mine-1"),
           [("Order", {"status": "canceled", "client_order_id": "mine-1"})]),
    Sample("waits for its list", report(X="PENDING_NEW"), [("Order", {"status": "new"})]),
    Sample("rejected", report(x="REJECTED", X="REJECTED", r="INSUFFICIENT_BALANCE"), [("Order", {"status": "rejected"})]),
    Sample("self-trade prevention", report(x="TRADE_PREVENTION", X="EXPIRED_IN_MATCH", v=3, A="1.0"), [("Order", {"status": "expired"})]),
    Sample("fill with trade id 0, before the order it changed", report(**FILLED),
           [("Fill", FILL_FIELDS), ("Order", {"status": "filled", "filled_qty": "1.00000000", "avg_price": "0.102644"})]),
    Sample("partial fill, sold, no commission told", report(**FILLED | {"X": "PARTIALLY_FILLED", "S": "SELL", "n": None, "N": None, "m": False, "l": "0.50000000", "z": "0.50000000"}),
           [("Fill", {"side": "sell", "liquidity": "taker", "fee": "0", "fee_asset": "", "qty": "0.50000000"}),
            ("Order", {"status": "partially_filled", "avg_price": "0.205288"})]),
    Sample("filled by smart order routing: an allocation instead of a trade",
           report(**FILLED | {"t": -1, "a": 1234, "b": "ONE_PARTY_TRADE_REPORT", "k": "SOR", "uS": True}),
           [("Fill", FILL_FIELDS | {"trade_id": "alloc-1234"}), ("Order", {"status": "filled", "filled_qty": "1.00000000"})]),
    Sample("an order status of the future", report(X="PARKED"), [("Unknown", {"type": "order status PARKED"})]),
    Sample("wallets", told(POSITION), [
        ("Balance", {"asset": "ETH", "wallet": "10002.50000000", "available": "10000.00000000", "symbol": "", "ts_event": AT, "change": None}),
        ("Balance", {"asset": "BTC", "wallet": "0.00000000", "available": "0.00000000"}),
    ]),
    Sample("deposit", told({"e": "balanceUpdate", "E": AT + 4, "a": "BTC", "d": "100.00000000", "T": AT}),
           [("AccountEvent", {"event": "balanceUpdate", "ts_event": AT, "symbol": ""})]),
    Sample("lock from outside", told({"e": "externalLockUpdate", "E": AT + 4, "a": "NEO", "d": "10.00000000", "T": AT}),
           [("AccountEvent", {"event": "externalLockUpdate", "ts_event": AT})]),
    Sample("order list", told({"e": "listStatus", "E": AT + 1, "s": "ETHBTC", "g": 2, "c": "OCO", "l": "EXEC_STARTED", "L": "EXECUTING", "r": "NONE", "C": "x", "T": AT,
                               "O": [{"s": "ETHBTC", "i": 17, "c": "a"}, {"s": "ETHBTC", "i": 18, "c": "b"}]}),
           [("AccountEvent", {"event": "listStatus", "symbol": "ETHBTC", "ts_event": AT})]),
    Sample("the subscription is over", told({"e": "eventStreamTerminated", "E": AT}), [("TicketExpired", {})]),
    Sample("shutdown, WebSocket API form", _json({"event": {"e": "serverShutdown", "E": AT}}), [("Goodbye", {"reason": "serverShutdown"})]),
    Sample("shutdown, raw form", _json({"e": "serverShutdown", "E": AT}), [("Goodbye", {"reason": "serverShutdown"})]),
    Sample("a type of the future is counted and kept", told({"e": "newThing", "E": "soon", "x": "1.10"}),
           [("Unknown", {"type": "newThing"}), ("AccountEvent", {"event": "newThing", "data": {"e": "newThing", "E": "soon", "x": "1.10"}})]),
    Sample("subscribed", b'{"id":"subscribe","status":200,"result":{"subscriptionId":0},"rateLimits":[]}', [("Reply", {"key": "subscribe"})]),
    Sample("wrong secret", b'{"id":"subscribe","status":400,"error":{"code":-1022,"msg":"Signature for this request is not valid."}}',
           [("Reply", {"key": "subscribe"})]),
    Sample("key revoked in mid-session", b'{"id":null,"status":401,"error":{"code":-2015,"msg":"x"}}', [("Reply", {"key": ""})]),
    Sample("subscribed already", b'{"id":"subscribe","status":400,"error":{"code":-2035,"msg":"x"}}', [("Reply", {"key": "subscribe"})]),
    Sample("not JSON", b"<html>", [("Malformed", {})]),
    Sample("a price as a number", report(p=2313.5), [("Malformed", {})]),
    Sample("a quantity that is none", report(**FILLED | {"l": "much"}), [("Malformed", {})]),
    Sample("neither object nor array", b"5", [("Malformed", {})]),
]  # fmt: skip

DAY = {
    "e": "24hrTicker", "E": AT, "s": "BNBBTC", "p": "0.00150000", "P": "2.500", "w": "0.06050000", "x": "0.06000000",
    "c": "0.06150000", "Q": "1.20000000", "b": "0.06140000", "B": "10.00000000", "a": "0.06160000", "A": "7.00000000",
    "o": "0.06000000", "h": "0.06200000", "l": "0.05900000", "v": "10000.00000000", "q": "605.00000000", "O": 1, "C": 2, "F": 100,
    "L": 18250, "n": 18151,
}  # fmt: skip
DAY_FIELDS = {
    "last": "0.06150000", "bid": "0.06140000", "bid_qty": "10.00000000", "ask": "0.06160000", "ask_qty": "7.00000000",
    "open_24h": "0.06000000", "high_24h": "0.06200000", "low_24h": "0.05900000", "volume_24h": "10000.00000000",
    "quote_volume_24h": "605.00000000", "ts_event": AT, "symbol": "BNBBTC",
}  # fmt: skip
QUOTE = b'{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000","a":"25.36520000","A":"40.66000000"}'
QUOTE_FIELDS = {
    "bid": "25.35190000",
    "bid_qty": "31.21000000",
    "ask": "25.36520000",
    "ask_qty": "40.66000000",
    "last": None,
    "ts_event": 77,
}
DEPTH = b'{"e":"depthUpdate","E":1672515782136,"s":"BNBBTC","U":157,"u":160,"b":[["0.00240000","10.00000000"]],"a":[["0.00260000","0.00000000"]]}'


def combined(name: str, payload: bytes) -> bytes:
    return b'{"stream":"' + name.encode() + b'","data":' + payload + b"}"


MARKET = [
    Sample("trade", combined("bnbbtc@trade", b'{"e":"trade","E":1672515782137,"s":"BNBBTC","t":12345,"p":"0.00100000","q":"100.00000000","T":1672515782136,"m":true,"M":true}'),
           [("Trade", {"trade_id": "12345", "price": "0.00100000", "qty": "100.00000000", "side": "sell", "ts_event": 1672515782136, "symbol": "BNBBTC"})]),
    Sample("trade, raw, with the order ids of before 2024", b'{"e":"trade","E":1,"s":"BNBBTC","t":1,"p":"1","q":"2","b":88,"a":50,"T":1,"m":false,"M":true}',
           [("Trade", {"side": "buy"})]),
    Sample("candle", combined("bnbbtc@kline_1s", _json({"e": "kline", "E": AT, "s": "BNBBTC", "k": {
        "t": 1790000000000, "T": 1790000000999, "s": "BNBBTC", "i": "1s", "f": 100, "L": 200, "o": "0.00100000", "c": "0.00200000",
        "h": "0.00250000", "l": "0.00150000", "v": "1000.00000000", "n": 100, "x": True, "q": "1.00000000", "V": "5", "Q": "5", "B": "0"}})),
           [("Kline", {"interval": "1s", "open_time": 1790000000000, "close_time": 1790000000999, "open": "0.00100000", "high": "0.00250000",
                       "low": "0.00150000", "close": "0.00200000", "volume": "1000.00000000", "closed": True})]),
    Sample("candle that goes on", _json({"e": "kline", "E": AT, "s": "BNBBTC", "k": {
        "t": 1790000000000, "T": 1790000059999, "i": "1m", "o": "1", "c": "1", "h": "1", "l": "1", "v": "1", "x": False}}), [("Kline", {"closed": False})]),
    Sample("day ticker with quotes", combined("bnbbtc@ticker", _json(DAY)), [("Ticker", DAY_FIELDS)]),
    Sample("best bid and ask: no type, no time", combined("bnbusdt@bookTicker", QUOTE), [("Ticker", QUOTE_FIELDS)]),
    Sample("best bid and ask, raw", QUOTE, [("Ticker", QUOTE_FIELDS)]),
    Sample("best bid and ask, keys in another order", combined("bnbusdt@bookTicker", b'{"s":"BNBUSDT","u":1,"b":"25.1","B":"3","a":"25.2","A":"4"}'),
           [("Ticker", {"bid": "25.1", "ask_qty": "4"})]),
    Sample("best bid as a number", combined("bnbusdt@bookTicker", QUOTE.replace(b'"25.35190000"', b"25.3519")), [("Malformed", {})]),
    Sample("book difference", combined("bnbbtc@depth@100ms", DEPTH),
           [("Depth", {"kind": "update", "bids": [("0.00240000", "10.00000000")], "asks": [("0.00260000", "0.00000000")], "first_seq": 157,
                       "last_seq": 160, "prev_seq": None, "ts_event": 1672515782136})]),
    Sample("event type not first", b'{"E":1672515782136,"s":"BNBBTC","U":157,"u":160,"b":[],"a":[],"e":"depthUpdate"}', [("Depth", {"last_seq": 160})]),
    Sample("symbol in Chinese", _json(DAY | {"s": "币安人生USDT"}), [("Ticker", {"symbol": "币安人生USDT"})]),
    Sample("array with a row of the future and a broken one", _json([DAY, {"e": "novelty"}, {"e": "24hrTicker"}, 7]),
           [("Ticker", {}), ("Unknown", {"type": "novelty"}), ("Malformed", {}), ("Malformed", {})]),
    Sample("acknowledgement", b'{"result":null,"id":312}', [("Reply", {"key": "312", "topics": ()})]),
    Sample("list of subscriptions", b'{"result":["btcusdt@trade"],"id":3}', [("Reply", {"topics": ("btcusdt@trade",)})]),
    Sample("too many streams", b'{"error":{"code":4,"msg":"Too many subscriptions"}}', [("Reply", {"key": ""})]),
    Sample("refused", b'{"code":2,"msg":"Invalid request","id":9}', [("Reply", {"key": "9"})]),
    Sample("shutdown, combined form", b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}', [("Goodbye", {"reason": "serverShutdown"})]),
    Sample("shutdown, raw form", b'{"e":"serverShutdown","E":1}', [("Goodbye", {})]),
    Sample("partial book: not subscribed", b'{"lastUpdateId":160,"bids":[],"asks":[]}', [("Unknown", {"type": ""})]),
    Sample("unknown type", b'{"e":"24hrMiniTicker","E":1,"s":"X"}', [("Unknown", {"type": "24hrMiniTicker"})]),
    Sample("not JSON", b'{"stream":"x","data":', [("Malformed", {})]),
    Sample("a price as a number", b'{"e":"trade","E":1,"s":"BNBBTC","t":1,"p":1.5,"q":"2","T":1,"m":false}', [("Malformed", {})]),
]  # fmt: skip

ACCOUNT = {
    "makerCommission": 15, "canTrade": True, "updateTime": AT, "accountType": "SPOT", "uid": 354937868,
    "balances": [{"asset": "ETH", "free": "10000.00000000", "locked": "2.50000000"}, {"asset": "BTC", "free": "4.00000000", "locked": "0.00000000"}],
}  # fmt: skip
HELD = {"e": "outboundAccountPosition", "E": AT + 2, "u": AT,
        "B": [{"a": "ETH", "f": "10000.00000000", "l": "2.50000000"}, {"a": "BTC", "f": "4.00000000", "l": "0.00000000"}]}  # fmt: skip
ORDER_ROW = {
    "symbol": "ETHBTC", "orderId": 4293153, "orderListId": -1, "clientOrderId": "mine-1", "price": "0.10264410", "origQty": "1.00000000",
    "executedQty": "1.00000000", "cummulativeQuoteQty": "0.10264400", "status": "FILLED", "timeInForce": "GTC", "type": "LIMIT",
    "side": "BUY", "stopPrice": "0.00000000", "icebergQty": "0.00000000", "time": AT - 5, "updateTime": AT, "isWorking": True,
    "workingTime": AT - 5, "origQuoteOrderQty": "0.00000000", "selfTradePreventionMode": "NONE",
}  # fmt: skip
TRADE_ROW = {
    "symbol": "ETHBTC", "id": 0, "orderId": 4293153, "orderListId": -1, "price": "0.10264400", "qty": "1.00000000", "quoteQty": "0.10264400",
    "commission": "0.00100000", "commissionAsset": "ETH", "time": AT, "isBuyer": True, "isMaker": True, "isBestMatch": True,
}  # fmt: skip
ALLOCATION_ROW = {
    "symbol": "ETHBTC", "allocationId": 1234, "allocationType": "SOR", "orderId": 4293153, "orderListId": -1, "price": "0.10264400",
    "qty": "0.50000000", "quoteQty": "0.05132200", "commission": "0.00100000", "commissionAsset": "ETH", "time": AT, "isBuyer": True,
    "isMaker": True, "isAllocator": False,
}  # fmt: skip
PAIRS = [
    Pair(
        "a fill, its order, its wallets",
        [report(**FILLED), told(HELD)],
        {
            "/api/v3/account": _json(ACCOUNT),
            "/api/v3/myTrades": _json([TRADE_ROW]),
            "/api/v3/order": _json(ORDER_ROW),
        },
        ("Fill", "Order", "Balance"),
    ),
    Pair(
        "a fill by smart order routing, its order",
        [report(**FILLED | {"t": -1, "a": 1234, "X": "PARTIALLY_FILLED", "l": "0.50000000", "z": "0.50000000"})],
        {
            "/api/v3/account": _json(ACCOUNT),
            "/api/v3/openOrders": _json(
                [ORDER_ROW | {"status": "PARTIALLY_FILLED", "executedQty": "0.5", "usedSor": True}]
            ),
            "/api/v3/myAllocations": _json([ALLOCATION_ROW]),
        },
        ("Fill", "Order"),
    ),
]

CREDENTIAL_CODES = (-1002, -1022, -1099, -1109, -2014, -2015, -2017, -4056, -4057)
TRANSIENT_CODES = (-1000, -1001, -1006, -1007, -1008, -1016, -2035, -2036, -2042)
PERMANENT_CODES = (
    -1100,
    -1101,
    -1102,
    -1103,
    -1104,
    -1105,
    -1106,
    -1111,
    -1120,
    -1121,
    -1125,
    -1127,
    -1128,
    -1130,
    -2013,
    -2011,
    -2026,
)
DOCUMENTED = (
    {str(code): Outcome.INVALID for code in CREDENTIAL_CODES}
    | {"-1021": Outcome.CLOCK}
    | {str(code): Outcome.TRANSIENT for code in TRANSIENT_CODES}
    | {str(code): Outcome.RATE for code in (-1003, -1015, -1034)}
    | {str(code): Outcome.PERMANENT for code in PERMANENT_CODES}
)

SAMPLES = Samples(
    user=USER,
    market=MARKET,
    pairs=PAIRS,
    errors=[
        (200, b"{}", {}, Outcome.OK),
        (401, b"<html>proxy</html>", {}, Outcome.TRANSIENT),
        (403, b"<html>waf</html>", {}, Outcome.RATE),
        (401, b'{"code":-2015,"msg":"Invalid API-key, IP, or permissions for action."}', {}, Outcome.INVALID),
        (400, b'{"code":-99999,"msg":"new"}', {}, Outcome.TRANSIENT),
        (408, b"", {}, Outcome.TRANSIENT),
        (409, b"", {}, Outcome.TRANSIENT),
        (410, b"", {}, Outcome.PERMANENT),
        (418, b'{"code":-1003,"msg":"x"}', {"retry-after": "120"}, Outcome.RATE),
        (429, b"<html>", {}, Outcome.RATE),
        (451, b"", {}, Outcome.PERMANENT),
        (502, b"<html>", {}, Outcome.TRANSIENT),
        (503, b'{"code":-1008,"msg":"x"}', {}, Outcome.TRANSIENT),
    ],
    documented_codes=DOCUMENTED,
    code_reply='{"code":%s,"msg":"text that is never read"}',
    quiet={
        "/api/v3/account": b'{"balances":[{"asset":"USDT","free":"5.00000000","locked":"0.00000000"}],"updateTime":1}'
    },
    empty=b"[]",
    clock=(b'{"serverTime":1790000000123}', 1_790_000_000_123),
    ticket=None,
    snapshot=b'{"lastUpdateId":1027024,"bids":[["4.00000000","431.00000000"]],"asks":[["4.00000200","12.00000000"]]}',
)
