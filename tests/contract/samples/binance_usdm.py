"""Binance USDⓈ-M: frames and replies in the documented shapes (exchanges/binance.md), with values of our own."""

# ruff: noqa: E501  # a frame reads best on one line
from __future__ import annotations

import json
from typing import Any

from fleet.core.exchange import Outcome
from tests.contract.samples import Pair, Sample, Samples

AT = 1_790_000_000_123
ORDER: dict[str, Any] = {
    "s": "ETHUSDC", "c": "mine-1", "S": "BUY", "o": "LIMIT", "f": "GTC", "q": "0.02", "p": "2313", "ap": "0", "sp": "0", "x": "NEW",
    "X": "NEW", "i": 8389765519993908929, "l": "0", "z": "0", "L": "0", "n": "0", "N": "USDC", "T": AT, "t": 0, "b": "46.26", "a": "0",
    "m": False, "R": False, "wt": "CONTRACT_PRICE", "ot": "LIMIT", "ps": "BOTH", "cp": False, "rp": "0", "pP": False, "si": 0,
    "ss": 0, "V": "EXPIRE_MAKER", "pm": "NONE", "gtd": 0, "er": "0",
}  # fmt: skip
FILLED = {
    "x": "TRADE",
    "X": "FILLED",
    "l": "0.02",
    "z": "0.02",
    "L": "2317.3",
    "ap": "2317.3",
    "t": 702423109,
    "m": True,
    "rp": "-0.5",
}
ORDER_FIELDS = {
    "order_id": "8389765519993908929", "client_order_id": "mine-1", "side": "buy", "position_side": "both", "order_type": "limit",
    "time_in_force": "gtc", "status": "new", "price": "2313", "stop_price": "0", "qty": "0.02", "filled_qty": "0", "avg_price": "0",
    "reduce_only": False, "symbol": "ETHUSDC", "ts_event": AT, "account_id": "acc", "source": "stream",
}  # fmt: skip


def order_frame(**fields: Any) -> bytes:
    return _json({"e": "ORDER_TRADE_UPDATE", "T": AT, "E": AT + 1, "o": ORDER | fields})


def account_frame(**fields: Any) -> bytes:
    return _json({"e": "ACCOUNT_UPDATE", "T": AT, "E": AT + 1, "a": {"B": [], "P": [], "m": "ORDER"} | fields})


def enveloped(frame: bytes, name: str = "pqia91ma19a5s61cv6a81va65sdf19v8a65a1a5s61cv6a81va65sdf19v8a65a1") -> bytes:
    return b'{"stream":"' + name.encode() + b'","data":' + frame + b"}"


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


POSITION = {
    "s": "ETHUSDC",
    "pa": "-0.020",
    "ep": "2317.3",
    "cr": "-0.28",
    "up": "0.005",
    "mt": "cross",
    "iw": "0",
    "ps": "BOTH",
    "ma": "USDC",
}
WALLET = {"a": "USDC", "wb": "37.87866827", "cw": "37.87866827", "bc": "0"}
ALGO = _json(
    {
        "e": "ALGO_UPDATE",
        "T": AT,
        "E": AT,
        "o": {"caid": "x", "aid": 1000000033225453, "s": "DOGEUSDT", "X": "FINISHED"},
    }
)
FILL_FIELDS = {
    "trade_id": "702423109", "order_id": "8389765519993908929", "client_order_id": "mine-1", "side": "buy", "position_side": "both",
    "price": "2317.3", "qty": "0.02", "fee": "0", "fee_asset": "USDC", "liquidity": "maker", "realized_pnl": "-0.5", "ts_event": AT,
}  # fmt: skip

USER = [
    Sample("order new", order_frame(), [("Order", ORDER_FIELDS)]),
    Sample("order new, combined envelope", enveloped(order_frame()), [("Order", ORDER_FIELDS)]),
    Sample("order amended", order_frame(x="AMENDMENT", p="2315.9", M=7), [("Order", {"status": "new", "price": "2315.9"})]),
    Sample("order cancelled", order_frame(x="CANCELED", X="CANCELED"), [("Order", {"status": "canceled"})]),
    Sample("self-trade prevention", order_frame(x="EXPIRED", X="EXPIRED_IN_MATCH"), [("Order", {"status": "expired"})]),
    Sample(
        "fill, before the order it changed",
        order_frame(**FILLED),
        [("Fill", FILL_FIELDS), ("Order", {"status": "filled", "filled_qty": "0.02", "avg_price": "2317.3"})],
    ),
    Sample(
        "liquidation, taker, no commission told, hedge mode",
        order_frame(**FILLED | {"x": "CALCULATED", "n": None, "N": None, "m": False, "S": "SELL", "ps": "LONG"}),
        [
            ("Fill", {"fee": "0", "fee_asset": "", "liquidity": "taker", "side": "sell", "position_side": "long"}),
            ("Order", {"side": "sell"}),
        ],
    ),
    Sample("coin-margined order on the same stream", _json({"e": "ORDER_TRADE_UPDATE", "st": 2, "T": AT, "E": AT, "o": ORDER}), []),
    Sample("an order status of the future", order_frame(X="PARKED"), [("Unknown", {"type": "order status PARKED"})]),
    Sample(
        "position and wallet",
        account_frame(B=[WALLET], P=[POSITION]),
        [
            (
                "Position",
                {
                    "symbol": "ETHUSDC",
                    "qty": "-0.020",
                    "entry_price": "2317.3",
                    "unrealized_pnl": "0.005",
                    "margin_mode": "cross",
                    "position_side": "both",
                },
            ),
            ("Balance", {"asset": "USDC", "wallet": "37.87866827", "available": None, "symbol": "", "change": "0"}),
        ],
    ),
    Sample("funding", account_frame(m="FUNDING_FEE", S="ETHUSDC", B=[WALLET | {"bc": "-0.00085"}]), [("Balance", {"change": "-0.00085"})]),
    Sample("coin-margined account change", _json({"e": "ACCOUNT_UPDATE", "st": 2, "T": AT, "a": {"B": [WALLET]}}), []),
    Sample("the faster twin of a fill", _json({"e": "TRADE_LITE", "E": AT, "T": AT, "s": "ETHUSDC", "t": 702423109, "i": 1}), []),
    Sample("listen key expired", _json({"e": "listenKeyExpired", "E": AT, "listenKey": "secret"}), [("TicketExpired", {})]),
    Sample("listen key expired, old form", enveloped(_json({"e": "listenKeyExpired", "E": str(AT)})), [("TicketExpired", {})]),
    Sample("keys in another order", b'{"E":1,"e":"listenKeyExpired"}', [("TicketExpired", {})]),
    Sample("shutdown", b'{"e":"serverShutdown","E":1}', [("Goodbye", {"reason": "serverShutdown"})]),
    Sample("algo order", ALGO, [("AccountEvent", {"event": "ALGO_UPDATE", "symbol": "DOGEUSDT", "ts_event": AT})]),
    Sample(
        "margin call",
        _json({"e": "MARGIN_CALL", "E": AT, "cw": "3.16", "p": []}),
        [("AccountEvent", {"event": "MARGIN_CALL", "ts_event": AT, "data": {"e": "MARGIN_CALL", "E": AT, "cw": "3.16", "p": []}})],
    ),
    Sample(
        "leverage",
        _json({"e": "ACCOUNT_CONFIG_UPDATE", "E": AT, "T": AT, "ac": {"s": "BTCUSDT", "l": 25}}),
        [("AccountEvent", {"event": "ACCOUNT_CONFIG_UPDATE", "symbol": "BTCUSDT"})],
    ),
    Sample(
        "strategy: its st is a word",
        _json({"e": "STRATEGY_UPDATE", "T": AT, "E": AT, "su": {"si": 1, "st": "GRID", "s": "BTCUSDT"}}),
        [("AccountEvent", {"event": "STRATEGY_UPDATE", "symbol": "BTCUSDT"})],
    ),
    Sample(
        "a type of the future is counted and kept, without the key in it",
        _json({"e": "NEW_THING", "E": "soon", "listenKey": "secret", "x": "1.10"}),
        [("Unknown", {"type": "NEW_THING"}), ("AccountEvent", {"event": "NEW_THING", "data": {"e": "NEW_THING", "E": "soon", "x": "1.10"}})],
    ),
    Sample("acknowledgement", b'{"result":null,"id":7}', [("Reply", {"key": "7"})]),
    Sample("not JSON", b"<html>", [("Malformed", {})]),
    Sample("a price as a number", order_frame(p=2313.5), [("Malformed", {})]),
    Sample("a quantity that is none", order_frame(**FILLED | {"l": "much"}), [("Malformed", {})]),
    Sample("neither object nor array", b"5", [("Malformed", {})]),
]  # fmt: skip

MARKET = [
    Sample(
        "aggregated trade",
        b'{"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":1790000000488,"a":3477868433,"s":"BTCUSDT","p":"83091.70","q":"0.022",'
        b'"nq":"0.022","f":8153634393,"l":8153634394,"T":1790000000338,"m":false,"st":1}}',
        [("Trade", {"trade_id": "3477868433", "price": "83091.70", "qty": "0.022", "side": "buy", "ts_event": 1790000000338})],
        "/market",
    ),
    Sample("taker sold, 2021 form, raw", b'{"e":"aggTrade","E":5,"a":1,"s":"CTKUSDT","p":"1.01100","q":"10","f":2,"l":2,"T":4,"m":true}',
           [("Trade", {"side": "sell", "symbol": "CTKUSDT"})], "/market"),
    Sample(
        "candle",
        _json({"stream": "btcusdt@kline_1m", "data": {"e": "kline", "E": AT, "s": "BTCUSDT", "k": {
            "t": 1790000000000, "T": 1790000059999, "s": "BTCUSDT", "i": "1m", "f": 1, "L": 2, "o": "1.0", "c": "1.10", "h": "1.20",
            "l": "0.90", "v": "13.551", "n": 2, "x": True, "q": "9", "V": "6", "Q": "5", "B": "0"}}}),
        [("Kline", {"interval": "1m", "open_time": 1790000000000, "close_time": 1790000059999, "open": "1.0", "high": "1.20",
                    "low": "0.90", "close": "1.10", "volume": "13.551", "closed": True, "symbol": "BTCUSDT"})],
        "/market",
    ),
    Sample(
        "day ticker",
        _json({"stream": "btcusdt@ticker", "data": {
            "e": "24hrTicker", "E": AT, "s": "BTCUSDT", "ps": "BTCUSDT", "p": "-3058.40", "P": "-3.550", "w": "84385.14",
            "c": "83091.60", "Q": "0.002", "o": "86150.00", "h": "86664.90", "l": "82706.20", "v": "170340.583", "q": "14374214019.71",
            "O": 1, "C": 2, "F": 3, "L": 4, "n": 5, "st": 1}}),
        [("Ticker", {"last": "83091.60", "bid": None, "ask": None, "open_24h": "86150.00", "high_24h": "86664.90",
                     "low_24h": "82706.20", "volume_24h": "170340.583", "quote_volume_24h": "14374214019.71"})],
        "/market",
    ),
    Sample(
        "best bid and ask",
        b'{"stream":"btcusdt@bookTicker","data":{"e":"bookTicker","u":11757092630476,"s":"BTCUSDT","ps":"BTCUSDT","b":"83091.60",'
        b'"B":"4.215","a":"83091.70","A":"3.763","T":1790000000657,"E":1790000000658,"st":1}}',
        [("Ticker", {"bid": "83091.60", "bid_qty": "4.215", "ask": "83091.70", "ask_qty": "3.763", "last": None})],
        "/public",
    ),
    Sample(
        "book difference",
        b'{"stream":"sushiusdt@depth@100ms","data":{"e":"depthUpdate","E":1626992741037,"T":1626992741024,"s":"SUSHIUSDT","U":9,"u":17,'
        b'"pu":8,"b":[["7.5040","813"],["7.6090","0"]],"a":[["7.6150","1563"]]}}',
        [("Depth", {"kind": "update", "bids": [("7.5040", "813"), ("7.6090", "0")], "asks": [("7.6150", "1563")], "first_seq": 9,
                    "last_seq": 17, "prev_seq": 8, "ts_event": 1626992741024})],
        "/public",
    ),
    Sample(
        "liquidation of a long",
        _json({"stream": "btcusdt@forceOrder", "data": {"e": "forceOrder", "E": AT, "o": {
            "s": "BTCUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "82910.00", "ap": "82950.10", "X": "FILLED",
            "l": "0.014", "z": "0.014", "T": AT}}}),
        [("Liquidation", {"side": "sell", "price": "82910.00", "qty": "0.014", "symbol": "BTCUSDT"})],
        "/market",
    ),
    Sample(
        "mark price",
        b'{"stream":"btcusdt@markPrice@1s","data":{"e":"markPriceUpdate","E":1790000000000,"s":"BTCUSDT","p":"83084.30000000",'
        b'"ap":"83084.3","P":"83195.1","i":"83123.65891304","r":"0.00000078","T":1790001800000,"st":1}}',
        [("MarkPrice", {"mark": "83084.30000000", "index": "83123.65891304", "funding_rate": "0.00000078", "next_funding": 1790001800000})],
        "/market",
    ),
    Sample("mark price of a delivery contract", b'{"e":"markPriceUpdate","E":1,"s":"BTCUSDT_261225","p":"1","i":"","r":"","T":0}',
           [("MarkPrice", {"index": None, "funding_rate": None, "next_funding": None})], "/market"),
    Sample(
        "all-market array: coin-margined rows are left out",
        b'{"stream":"!markPrice@arr@1s","data":[{"e":"markPriceUpdate","E":1,"s":"BTCUSD_PERP","p":"1","st":2},'
        b'{"e":"markPriceUpdate","E":1,"s":"BTCUSDT","p":"2","st":1}]}',
        [("MarkPrice", {"symbol": "BTCUSDT"})],
        "/market",
    ),
    Sample(
        "array with a row of the future and a broken one",
        b'[{"e":"markPriceUpdate","E":1,"s":"BTCUSDT","p":"2"},{"e":"novelty"},{"e":"markPriceUpdate"},7,'
        b'{"e":"markPriceUpdate","E":1,"s":"X","p":"2","st":2}]',
        [("MarkPrice", {"symbol": "BTCUSDT"}), ("Unknown", {"type": "novelty"}), ("Malformed", {}), ("Malformed", {})],
        "/market",
    ),
    Sample("coin-margined ticker", b'{"e":"markPriceUpdate","E":1,"s":"BTCUSD_PERP","p":"1","st":2}', [], "/market"),
    Sample("event type not first", b'{"E":1,"s":"BTCUSDT","p":"2","e":"markPriceUpdate"}', [("MarkPrice", {"mark": "2"})], "/market"),
    Sample("symbol in Chinese", _json({"e": "markPriceUpdate", "E": 1, "s": "币安人生USDT", "p": "2"}), [("MarkPrice", {"symbol": "币安人生USDT"})]),
    Sample("acknowledgement", b'{"result":null,"id":312}', [("Reply", {"key": "312", "topics": ()})]),
    Sample("list of subscriptions", b'{"result":["btcusdt@aggTrade"],"id":3}', [("Reply", {"topics": ("btcusdt@aggTrade",)})]),
    Sample("too many streams", b'{"error":{"code":4,"msg":"Too many subscriptions"}}', [("Reply", {"key": ""})]),
    Sample("refused", b'{"code":2,"msg":"Invalid request","id":9}', [("Reply", {"key": "9"})]),
    Sample("shutdown", b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1}}', [("Goodbye", {})]),
    Sample("unknown type", b'{"e":"contractInfo","E":1,"s":"X"}', [("Unknown", {"type": "contractInfo"})]),
    Sample("object without a type", b'{"hello":1}', [("Unknown", {"type": ""})]),
    Sample("not JSON", b'{"stream":"x","data":', [("Malformed", {})]),
    Sample("a price as a number", b'{"e":"markPriceUpdate","E":1,"s":"BTCUSDT","p":2.5}', [("Malformed", {})]),
]  # fmt: skip

ACCOUNT = {
    "assets": [{"asset": "USDC", "walletBalance": "37.87866827", "availableBalance": "30", "updateTime": AT}],
    "positions": [{"symbol": "ETHUSDC", "positionSide": "BOTH", "positionAmt": "-0.02", "unrealizedProfit": "0", "isolatedMargin": "0",
                   "updateTime": AT}],
}  # fmt: skip
ORDER_ROW = {
    "avgPrice": "2317.30", "clientOrderId": "mine-1", "cumQuote": "0", "executedQty": "0.020", "orderId": 8389765519993908929,
    "origQty": "0.020", "origType": "LIMIT", "price": "2313.00", "reduceOnly": False, "side": "BUY", "positionSide": "BOTH",
    "status": "FILLED", "stopPrice": "0", "closePosition": False, "symbol": "ETHUSDC", "time": AT - 5, "timeInForce": "GTC",
    "type": "LIMIT", "updateTime": AT, "pair": "ETHUSDC",
}  # fmt: skip
TRADE_ROW = {
    "buyer": True, "commission": "0", "commissionAsset": "USDC", "id": 702423109, "maker": True, "orderId": 8389765519993908929,
    "price": "2317.30", "qty": "0.020", "quoteQty": "46.34600", "realizedPnl": "-0.5", "side": "BUY", "positionSide": "BOTH",
    "symbol": "ETHUSDC", "time": AT, "marginAsset": "USDC",
}  # fmt: skip
PAIRS = [
    Pair(
        "a fill, its order, its position, its wallet",
        [order_frame(**FILLED), account_frame(B=[WALLET], P=[POSITION])],
        {
            "/fapi/v3/account": _json(ACCOUNT),
            "/fapi/v3/positionRisk": _json(
                [{"symbol": "ETHUSDC", "positionSide": "BOTH", "positionAmt": "-0.02", "entryPrice": "2317.30"}]
            ),
            "/fapi/v1/userTrades": _json([TRADE_ROW]),
            "/fapi/v1/allOrders": _json([ORDER_ROW]),
        },
        ("Fill", "Order", "Position", "Balance"),
    ),
]

CREDENTIAL_CODES = (-1002, -1022, -1099, -1109, -2014, -2015, -2017, -4056, -4057, -4109)
TRANSIENT_CODES = (-1000, -1001, -1006, -1007, -1008, -1016)
PERMANENT_CODES = (-1100, -1101, -1102, -1103, -1104, -1105, -1106, -1111, -1120, -1121, -1127, -1128, -1130, -4021, -4165, -4166,
                   -2013, -2011, -2026)  # fmt: skip
DOCUMENTED = (
    {str(code): Outcome.INVALID for code in CREDENTIAL_CODES}
    | {str(code): Outcome.CLOCK for code in (-1021, -5028)}
    | {str(code): Outcome.TRANSIENT for code in TRANSIENT_CODES}
    | {str(code): Outcome.RATE for code in (-1003, -1015, -1034)}
    | {"-1125": Outcome.TICKET_GONE}
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
        "/fapi/v3/account": b'{"assets":[{"asset":"USDT","walletBalance":"5","availableBalance":"5","updateTime":1}],"positions":[]}'
    },
    empty=b"[]",
    clock=(b'{"serverTime":1790000000123}', 1_790_000_000_123),
    ticket=(b'{"listenKey":"pqia91ma19a5s61c"}', "pqia91ma19a5s61c"),
    snapshot=b'{"lastUpdateId":1027024,"E":1589436922972,"T":1589436922959,"bids":[["4.00","431.00"]],"asks":[["4.10","12.00"]]}',
)
