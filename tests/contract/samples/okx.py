"""OKX v5: frames and replies in the documented shapes (exchanges/okx.md), with values of our own."""

# ruff: noqa: E501  # a frame reads best on one line
from __future__ import annotations

import json
from typing import Any

from fleet.core.exchange import Outcome, Verdict
from tests.contract.samples import Pair, Sample, Samples

AT = 1_790_000_000_123
PUBLIC, BUSINESS = "/ws/v5/public", "/ws/v5/business"
ORDER: dict[str, Any] = {
    "accFillSz": "0", "amendResult": "", "avgPx": "", "cTime": str(AT - 900), "category": "normal", "ccy": "", "clOrdId": "mine1",
    "code": "0", "execType": "", "fee": "0", "feeCcy": "USDT", "fillFee": "0", "fillFeeCcy": "", "fillPnl": "0", "fillPx": "",
    "fillSz": "0", "fillTime": "", "instId": "BTC-USDT-SWAP", "instType": "SWAP", "lever": "10", "msg": "", "ordId": "752588852617379840",
    "ordType": "post_only", "pnl": "0", "posSide": "net", "px": "83500.5", "reduceOnly": "false", "reqId": "", "side": "buy",
    "slTriggerPx": "", "tpTriggerPx": "", "state": "live", "sz": "2", "tdMode": "cross", "tradeId": "", "uTime": str(AT), "extra": [],
}  # fmt: skip
FILLED = {
    "state": "filled", "accFillSz": "2", "avgPx": "83500.5", "fillSz": "2", "fillPx": "83500.5", "tradeId": "242589207",
    "fillTime": str(AT - 1), "fillFee": "-0.0167", "fillFeeCcy": "USDT", "fillPnl": "1.5", "execType": "M",
}  # fmt: skip
FILL_FIELDS = {
    "trade_id": "242589207", "order_id": "752588852617379840", "client_order_id": "mine1", "side": "buy", "position_side": "net",
    "price": "83500.5", "qty": "2", "fee": "0.0167", "fee_asset": "USDT", "liquidity": "maker", "realized_pnl": "1.5",
    "ts_event": AT - 1, "symbol": "BTC-USDT-SWAP",
}  # fmt: skip
ORDER_FIELDS = {
    "order_id": "752588852617379840", "client_order_id": "mine1", "side": "buy", "position_side": "net", "order_type": "post_only",
    "time_in_force": "gtc", "status": "new", "price": "83500.5", "stop_price": "0", "qty": "2", "filled_qty": "0", "avg_price": "0",
    "reduce_only": False, "symbol": "BTC-USDT-SWAP", "ts_event": AT, "account_id": "acc", "source": "stream",
}  # fmt: skip
POSITION = {
    "instId": "BTC-USDT-SWAP", "instType": "SWAP", "mgnMode": "cross", "posId": "325382268437037058", "posSide": "net", "pos": "2",
    "avgPx": "83500.5", "upl": "0.07", "uTime": str(AT), "cTime": str(AT - 50), "pTime": str(AT + 900), "ccy": "USDT", "lever": "10",
}  # fmt: skip
WALLET = {
    "ccy": "USDT", "cashBal": "4750.426970691436", "availBal": "4734.371190691436", "availEq": "4734.3", "eq": "4892.9", "uTime": str(AT),
}  # fmt: skip


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def push(channel: str, *rows: Any, **arg: str) -> bytes:
    return _json({"arg": {"channel": channel, **arg, "uid": "44705892343619584"}, "data": list(rows)})


def order_frame(**fields: Any) -> bytes:
    return push("orders", ORDER | fields, instType="ANY")


def account_frame(*details: Any) -> bytes:
    return _json({"arg": {"channel": "account", "uid": "1"}, "eventType": "snapshot", "curPage": 1, "lastPage": True,
                  "data": [{"details": list(details), "uTime": str(AT), "totalEq": "5"}]})  # fmt: skip


def public(channel: str, *rows: Any, inst: str = "BTC-USDT-SWAP", **more: Any) -> bytes:
    return _json({"arg": {"channel": channel, "instId": inst}, **more, "data": list(rows)})


CONTROLS: list[tuple[str, bytes, list[tuple[str, dict[str, Any]]]]] = [
    ("pong", b"pong", [("Pong", {})]),
    ("upgrade", b'{"event":"notice","msg":"The connection will soon be closed for a service upgrade. Please reconnect.","code":"64008","connId":"8517149b"}', [("Goodbye", {"reason": "64008"})]),
    ("notice of the future", b'{"event":"notice","msg":"?","code":"64999"}', [("Unknown", {"type": "notice 64999"})]),
    ("event of the future", b'{"event":"novelty"}', [("Unknown", {"type": "novelty"})]),
    ("neither push nor event", b'{"hello":1}', [("Unknown", {"type": ""})]),
    ("not JSON", b"<html>", [("Malformed", {})]),
    ("not an object", b"[]", [("Malformed", {})]),
    ("internal error", b'{"id":"9","event":"error","code":"64007","msg":"","connId":"a"}', [("Reply", {"key": "9", "topics": ()})]),
]  # fmt: skip

USER = [
    Sample("order live", order_frame(), [("Order", ORDER_FIELDS)]),
    Sample("order cancelled", order_frame(state="canceled", cancelSource="1"), [("Order", {"status": "canceled"})]),
    Sample("order cancelled by market maker protection", order_frame(state="mmp_canceled"), [("Order", {"status": "canceled"})]),
    Sample("immediate or cancel", order_frame(ordType="optimal_limit_ioc", reduceOnly="true", slTriggerPx="80000"),
           [("Order", {"time_in_force": "ioc", "reduce_only": True, "stop_price": "80000"})]),
    Sample("fill, before the order it changed", order_frame(**FILLED), [("Fill", FILL_FIELDS), ("Order", {"status": "filled", "filled_qty": "2", "avg_price": "83500.5"})]),
    Sample("fill with a rebate, spot, taker", order_frame(**FILLED | {"fillFee": "0.01", "posSide": "", "execType": "T", "instId": "BTC-USDT", "side": "sell"}),
           [("Fill", {"fee": "-0.01", "position_side": "net", "liquidity": "taker", "symbol": "BTC-USDT", "side": "sell"}), ("Order", {})]),
    Sample("market order closing: filled again, without a fill", order_frame(**FILLED | {"fillSz": "0", "tradeId": "", "fillFee": "0", "uTime": str(AT + 9)}),
           [("Order", {"status": "filled"})]),
    Sample("fill without a time and a fee", order_frame(**FILLED | {"fillTime": "", "fillFee": ""}),
           [("Fill", {"fee": "0", "ts_event": AT}), ("Order", {})]),
    Sample("liquidation: its fill has no trade id and is REST's", order_frame(**FILLED | {"tradeId": "0", "category": "full_liquidation"}),
           [("Order", {"status": "filled", "filled_qty": "2"})]),
    Sample("an order state of the future", order_frame(state="parked"), [("Unknown", {"type": "order state parked"})]),
    Sample("two orders, one of them broken", push("orders", {"instId": 5}, ORDER, instType="ANY"), [("Malformed", {}), ("Order", {})]),
    Sample("position", push("positions", POSITION, instType="ANY"),
           [("Position", {"symbol": "BTC-USDT-SWAP", "qty": "2", "entry_price": "83500.5", "unrealized_pnl": "0.07", "margin_mode": "cross", "position_side": "net", "ts_event": AT})]),
    Sample("short position in long/short mode", push("positions", POSITION | {"posSide": "short"}, instType="ANY"), [("Position", {"qty": "-2", "position_side": "short"})]),
    Sample("long and short on margin", push("positions", POSITION | {"instId": "BTC-USDT", "instType": "MARGIN", "posCcy": "BTC"},
           POSITION | {"instId": "BTC-USDT", "instType": "MARGIN", "pos": "167000.5", "posCcy": "USDT"}, instType="ANY"), [("Position", {"qty": "2"}), ("Position", {"qty": "-167000.5"})]),
    Sample("position closed", push("positions", POSITION | {"pos": "0", "avgPx": "", "upl": ""}, instType="ANY"), [("Position", {"qty": "0", "entry_price": "0", "unrealized_pnl": "0"})]),
    Sample("empty snapshot", push("positions", instType="ANY"), []),
    Sample("wallets", account_frame(WALLET, WALLET | {"ccy": "BTC", "cashBal": "", "availBal": ""}),
           [("Balance", {"asset": "USDT", "wallet": "4750.426970691436", "available": "4734.371190691436", "symbol": "", "ts_event": AT}), ("Balance", {"asset": "BTC", "wallet": "0", "available": None})]),
    Sample("balance and position", push("balance_and_position", {
        "balData": [{"cashBal": "200.5", "ccy": "USDT", "uTime": str(AT)}], "eventType": "filled", "pTime": str(AT),
        "posData": [{k: v for k, v in POSITION.items() if k != "upl"}, POSITION | {"pos": "0", "instId": "ETH-USDT-SWAP"}],
        "trades": [{"instId": "BTC-USDT-SWAP", "tradeId": "242589207"}]}),
        [("Balance", {"asset": "USDT", "wallet": "200.5", "available": None}), ("Position", {"symbol": "ETH-USDT-SWAP", "qty": "0"})]),
    Sample("liquidation warning", push("liquidation-warning", {"instId": "BTC-USDT-SWAP", "mgnRatio": "1.1", "pTime": str(AT)}, instType="ANY"),
           [("AccountEvent", {"event": "liquidation-warning", "symbol": "BTC-USDT-SWAP", "ts_event": AT})]),
    Sample("greeks without a time", push("account-greeks", {"thetaBS": "1", "ts": "soon", "instId": 5}), [("AccountEvent", {"event": "account-greeks", "ts_event": 77, "symbol": ""})]),
    Sample("channel of the future is counted and kept", push("novelty", {"x": "1.10"}), [("Unknown", {"type": "novelty"}), ("AccountEvent", {"event": "novelty", "data": {"x": "1.10"}})]),
    Sample("known channel, no object", push("algo-advance", 5), [("Malformed", {})]),
    Sample("data that is no list", b'{"arg":{"channel":"orders"},"data":{}}', [("Malformed", {})]),
    Sample("no data", b'{"arg":{"channel":"orders"}}', [("Malformed", {})]),
    Sample("logged in", b'{"event":"login","code":"0","msg":"","connId":"a4d3ae55"}', [("Reply", {"key": "login"})]),
    Sample("logged in already", b'{"event":"error","msg":"","code":"60031"}', [("Reply", {"key": "login"})]),
    Sample("login refused", b'{"event":"error","code":"60009","msg":"Login failed.","connId":"a4d3ae55"}', [("Reply", {"key": "login"})]),
    Sample("key not known here", b'{"event":"error","msg":"API key doesn\'t exist","code":"60032","connId":"f9ab6f3c"}', [("Reply", {"key": "login"})]),
    Sample("key of another environment", b'{"event":"error","msg":"APIKey does not match current environment.","code":"50101"}', [("Reply", {"key": "login", "verdict": Verdict(Outcome.ELSEWHERE, "50101")})]),
    Sample("too many logins", b'{"event":"error","msg":"Requests too frequent","code":"60014"}', [("Reply", {"key": "login", "verdict": Verdict(Outcome.RATE, "60014", 2.0)})]),
    Sample("subscribed", b'{"id":"balanceandposition","event":"subscribe","arg":{"channel":"balance_and_position"},"connId":"a"}', [("Reply", {"key": "balanceandposition"})]),
    Sample("subscribed, an older server", b'{"event":"subscribe","arg":{"channel":"balance_and_position"}}', [("Reply", {"key": "balanceandposition"})]),
    Sample("not logged in", b'{"id":"orders","event":"error","code":"60011","msg":"Please log in"}', [("Reply", {"key": "orders"})]),
    Sample("connections of a channel", b'{"event":"channel-conn-count","channel":"account","connCount":"1","connId":"4adc328c"}', []),
    Sample("too many connections of a channel", b'{"event":"channel-conn-count-error","channel":"orders","connCount":"30","connId":"a4d3ae55"}', [("Reply", {"key": "orders"})]),
    Sample("a price as a number", order_frame(px=83500.5), [("Malformed", {})]),
    Sample("a quantity that is none", order_frame(**FILLED | {"fillSz": "much"}), [("Malformed", {})]),
    *(Sample(name, frame, expected) for name, frame, expected in CONTROLS),
]  # fmt: skip

TICKER = {
    "instType": "SWAP", "instId": "BTC-USDT-SWAP", "last": "83500.5", "lastSz": "3", "askPx": "83500.6", "askSz": "12", "bidPx": "83500.5",
    "bidSz": "40", "open24h": "82000", "high24h": "84000.1", "low24h": "81000", "sodUtc0": "1", "sodUtc8": "1", "volCcy24h": "307445.8",
    "vol24h": "338866", "ts": str(AT),
}  # fmt: skip
TRADE = {
    "instId": "BTC-USDT-SWAP",
    "tradeId": "2005639579",
    "px": "83500.5",
    "sz": "0.03",
    "side": "sell",
    "ts": str(AT),
    "count": "3",
    "source": "0",
    "seqId": 279183506666,
}
BOOK = {
    "asks": [["83500.6", "12", "0", "3"], ["83501", "5", "0", "1"]],
    "bids": [["83500.5", "40", "0", "8"]],
    "ts": str(AT),
    "checksum": 0,
    "seqId": 10,
    "prevSeqId": -1,
}
LIQUIDATION = {
    "bkLoss": "0",
    "bkPx": "81000.5",
    "ccy": "",
    "posSide": "long",
    "side": "sell",
    "sz": "39",
    "ts": str(AT),
}

MARKET = [
    Sample("ticker", public("tickers", TICKER),
           [("Ticker", {"last": "83500.5", "bid": "83500.5", "bid_qty": "40", "ask": "83500.6", "ask_qty": "12", "open_24h": "82000", "high_24h": "84000.1",
                        "low_24h": "81000", "volume_24h": "338866", "quote_volume_24h": "307445.8", "symbol": "BTC-USDT-SWAP", "ts_event": AT})], PUBLIC),
    Sample("ticker of an instrument nobody quotes", public("tickers", TICKER | {"askPx": "", "bidPx": ""}), [("Ticker", {"bid": None, "ask": None, "last": "83500.5"})], PUBLIC),
    Sample("aggregated trade", public("trades", TRADE), [("Trade", {"trade_id": "2005639579", "price": "83500.5", "qty": "0.03", "side": "sell", "ts_event": AT})], PUBLIC),
    Sample("single trades", public("trades-all", {k: v for k, v in TRADE.items() if k not in ("count", "seqId")}, TRADE | {"tradeId": "2005639580"}),
           [("Trade", {}), ("Trade", {"trade_id": "2005639580"})], BUSINESS),
    Sample("book snapshot", public("books", BOOK, action="snapshot"),
           [("Depth", {"kind": "snapshot", "bids": [("83500.5", "40")], "asks": [("83500.6", "12"), ("83501", "5")], "first_seq": 10, "last_seq": 10, "prev_seq": None, "symbol": "BTC-USDT-SWAP"})], PUBLIC),
    Sample("book update", public("books", BOOK | {"seqId": 15, "prevSeqId": 10, "bids": []}, action="update"),
           [("Depth", {"kind": "update", "bids": [], "first_seq": 10, "last_seq": 15, "prev_seq": 10, "source": "stream"})], PUBLIC),
    Sample("nothing changed for a minute", public("books", BOOK | {"seqId": 15, "prevSeqId": 15, "bids": [], "asks": []}, action="update"),
           [("Depth", {"last_seq": 15, "prev_seq": 15})], PUBLIC),
    Sample("book update of 2022, without a sequence", public("books", {"asks": [["1", "0", "0", "0"]], "bids": [], "ts": str(AT), "checksum": -914047754}, action="update"),
           [("Depth", {"kind": "update", "last_seq": 0, "prev_seq": 0})], PUBLIC),
    Sample("five levels", public("books5", BOOK), [("Depth", {"kind": "snapshot"})], PUBLIC),
    Sample("level without a size", public("books", BOOK | {"bids": [["1"]]}, action="update"), [("Malformed", {})], PUBLIC),
    Sample("best bid and ask", public("bbo-tbt", {k: v for k, v in BOOK.items() if k not in ("checksum", "prevSeqId")}),
           [("Ticker", {"bid": "83500.5", "bid_qty": "40", "ask": "83500.6", "ask_qty": "12", "last": None, "symbol": "BTC-USDT-SWAP"})], PUBLIC),
    Sample("no ask", public("bbo-tbt", BOOK | {"asks": []}), [("Ticker", {"ask": None, "bid": "83500.5"})], PUBLIC),
    Sample("candle", public("candle1m", [str(AT), "1.0", "1.20", "0.90", "1.10", "3.109", "349947.3", "349947.3", "0"]),
           [("Kline", {"interval": "1m", "open_time": AT, "close_time": AT + 59_999, "open": "1.0", "high": "1.20", "low": "0.90", "close": "1.10", "volume": "3.109", "closed": False, "ts_event": AT})], BUSINESS),
    Sample("closed candle of a month", public("candle1Mutc", ["1796083200000", "1", "1", "1", "1", "3", "3", "3", "1"], inst="BTC-USDT"),
           [("Kline", {"interval": "1M", "open_time": 1796083200000, "close_time": 1798761599999, "closed": True, "ts_event": 1798761599999, "symbol": "BTC-USDT"})], BUSINESS),
    Sample("candle without a time", public("candle1H", ["soon", "1", "1", "1", "1", "3", "3", "3", "1"]), [("Malformed", {})], BUSINESS),
    Sample("candle too short", public("candle1H", [str(AT), "1"]), [("Malformed", {})], BUSINESS),
    Sample("mark price", public("mark-price", {"instId": "BTC-USDT-SWAP", "instType": "SWAP", "markPx": "83499.9", "ts": str(AT)}),
           [("MarkPrice", {"mark": "83499.9", "index": None, "ts_event": AT})], PUBLIC),
    Sample("funding rate", public("funding-rate", {"instId": "BTC-USDT-SWAP", "instType": "SWAP", "fundingRate": "0.0001", "fundingTime": "1790006400000",
                                                   "nextFundingTime": "1790035200000", "ts": str(AT)}),
           [("MarkPrice", {"mark": None, "funding_rate": "0.0001", "next_funding": 1790006400000, "ts_event": AT})], PUBLIC),
    Sample("liquidations, one of them told twice", _json({"arg": {"channel": "liquidation-orders", "instType": "SWAP"}, "data": [
        {"details": [LIQUIDATION, LIQUIDATION, LIQUIDATION | {"side": "buy", "posSide": "short"}], "instFamily": "BTC-USDT", "instId": "BTC-USDT-SWAP", "instType": "SWAP", "uly": "BTC-USDT"}]}),
        [("Liquidation", {"side": "sell", "price": "81000.5", "qty": "39", "symbol": "BTC-USDT-SWAP"}), ("Liquidation", {"side": "sell"}), ("Liquidation", {"side": "buy"})], PUBLIC),
    Sample("good and bad rows", public("trades", 7, TRADE), [("Malformed", {}), ("Trade", {})], PUBLIC),
    Sample("acknowledgement of one argument", b'{"id":"12","event":"subscribe","arg":{"channel":"tickers","instId":"BTC-USDT"},"connId":"accb8e21"}', [("Reply", {"key": "12", "topics": ("tickers:BTC-USDT",)})], PUBLIC),
    Sample("acknowledgement of all liquidations", b'{"id":"12","event":"subscribe","arg":{"channel":"liquidation-orders","instType":"SWAP"}}', [("Reply", {"topics": ("liquidation-orders:SWAP",)})], PUBLIC),
    Sample("no longer subscribed", b'{"id":"13","event":"unsubscribe","arg":{"channel":"tickers","instId":"BTC-USDT"},"connId":"d0b44253"}', [("Reply", {"key": "13"})], PUBLIC),
    Sample("no such instrument", b'{"id":"12","event":"error","msg":"Wrong URL or channel:index-tickers, instId:NEAR-USDT-SWAP doesn\'t exist. Please use the correct URL, channel and parameters referring to API document.","code":"60018","connId":"94d38802"}',
           [("Reply", {"key": "12", "topics": ("index-tickers:NEAR-USDT-SWAP",)})], PUBLIC),
    Sample("one argument refused, code of the future", b'{"id":"12","event":"error","msg":"channel:books, instId:X-USDT is not for you","code":"64099"}',
           [("Reply", {"key": "12", "topics": ("books:X-USDT",), "verdict": Verdict(Outcome.PERMANENT, "64099")})], PUBLIC),
    Sample("a whole request refused, code of the future", b'{"id":"12","event":"error","msg":"not now","code":"64099"}',
           [("Reply", {"key": "12", "topics": (), "verdict": Verdict(Outcome.TRANSIENT, "64099")})], PUBLIC),
    Sample("no such channel, id not echoed", b'{"event":"error","msg":"Wrong URL or channel:nonsense doesn\'t exist.","code":"60018"}', [("Reply", {"key": "nonsense", "topics": ()})], PUBLIC),
    Sample("broken request", b'{"event":"error","code":"60012","msg":"Invalid request: {}"}', [("Reply", {"key": "login", "topics": ()})], PUBLIC),
    Sample("unknown channel", public("novelty", {}), [("Unknown", {"type": "novelty"})], PUBLIC),
    Sample("a price as a number", public("trades", TRADE | {"px": 2.5}), [("Malformed", {})], PUBLIC),
    Sample("no data at all", b'{"arg":{"channel":"trades","instId":"X"}}', [("Malformed", {})], PUBLIC),
    *(Sample(name, frame, expected, PUBLIC) for name, frame, expected in CONTROLS),
]  # fmt: skip


def answer(*rows: Any) -> bytes:
    return _json({"code": "0", "data": list(rows), "msg": ""})


FILL_ROW = {
    "side": "buy", "fillSz": "2.00", "fillPx": "83500.50", "fee": "-0.0167", "fillPnl": "1.5", "ordId": "752588852617379840", "instType": "SWAP",
    "instId": "BTC-USDT-SWAP", "clOrdId": "mine1", "posSide": "net", "billId": "680800019754098688", "subType": "1", "tag": "",
    "fillTime": str(AT - 1), "execType": "M", "tradeId": "242589207", "feeCcy": "USDT", "ts": str(AT + 2),
}  # fmt: skip
PAIRS = [
    Pair(
        "a fill, its order, its position, its wallet",
        [order_frame(**FILLED), push("positions", POSITION, instType="ANY"), account_frame(WALLET)],
        {
            "/api/v5/account/balance": answer({"details": [WALLET], "totalEq": "5", "uTime": str(AT)}),
            "/api/v5/account/positions": answer(POSITION | {"pos": "2.0"}),
            "/api/v5/trade/fills": answer(FILL_ROW),
            "/api/v5/trade/orders-history": answer(ORDER | FILLED | {"accFillSz": "2.00"}),
        },
        ("Fill", "Order", "Position", "Balance"),
    ),
    Pair(
        "a liquidation",
        [order_frame(**FILLED | {"tradeId": "0", "execType": "T"})],
        {
            "/api/v5/trade/fills": answer(FILL_ROW | {"tradeId": "-77", "execType": "T"}),
            "/api/v5/trade/orders-history": answer(ORDER | FILLED | {"tradeId": "0"}),
        },
        ("Order",),  # its fill is told by REST alone
    ),
]

DOCUMENTED = {
    **dict.fromkeys(("50101", "50119", "60005", "60032"), Outcome.ELSEWHERE),
    **dict.fromkeys(("50100", "50105", "50111", "50113", "50114", "60007", "60009", "60024"), Outcome.INVALID),
    **dict.fromkeys(("50102", "50112", "60004", "60006"), Outcome.CLOCK),
    **dict.fromkeys(("50011", "50040", "50061", "60014", "60023"), Outcome.RATE),
    **dict.fromkeys(("50001", "50004", "50005", "50013", "50026", "60016", "63999", "64007", "64008"), Outcome.TRANSIENT),
    **dict.fromkeys(
        ("50007", "50008", "50009", "50014", "50027", "50030", "50035", "50103", "50104", "50106", "50107", "50110", "50120", "50121", "51000",
         "51001", "51024", "51603", "60001", "60002", "60003", "60008", "60010", "60011", "60012", "60013", "60018", "60019", "60021", "60022",
         "60026", "60027", "60028", "60031", "60033", "64000", "64001", "64002", "64003", "64004"),
        Outcome.PERMANENT,
    ),
}  # fmt: skip

SAMPLES = Samples(
    user=USER,
    market=MARKET,
    pairs=PAIRS,
    errors=[
        (200, b'{"code":"0","data":[],"msg":""}', {}, Outcome.OK),
        (200, b"<html>proxy</html>", {}, Outcome.TRANSIENT),
        (200, b'{"code":"50011","msg":"Too Many Requests","data":[]}', {}, Outcome.RATE),
        (429, b'{"code":"50011","msg":"Too Many Requests","data":[]}', {}, Outcome.RATE),
        (429, b"<html>", {}, Outcome.RATE),
        (429, b'{"code":"50013","msg":"Systems are busy","data":[]}', {}, Outcome.TRANSIENT),
        (401, b'{"code":"50111","msg":"Invalid OK-ACCESS-KEY","data":[]}', {}, Outcome.INVALID),
        (401, b'{"code":"50119","msg":"API key doesn\'t exist","data":[]}', {}, Outcome.ELSEWHERE),
        (401, b"<html>proxy</html>", {}, Outcome.TRANSIENT),
        (403, b"<html>waf</html>", {}, Outcome.TRANSIENT),
        (500, b'{"code":"0","data":[]}', {}, Outcome.TRANSIENT),
        (503, b'{"code":"50001","msg":"Service temporarily unavailable","data":[]}', {}, Outcome.TRANSIENT),
        (451, b"", {}, Outcome.PERMANENT),
    ],
    documented_codes=DOCUMENTED,
    code_reply='{"code":"%s","msg":"text that is never read","data":[]}',
    quiet={
        "/api/v5/account/balance": answer({"details": [{"ccy": "USDT", "cashBal": "5", "availBal": "5", "uTime": "1"}]})
    },
    quiet_calls=6,  # balance, positions, fills, open orders, order history of two products: each is told by another endpoint
    empty=b'{"code":"0","data":[],"msg":""}',
    clock=(b'{"code":"0","msg":"","data":[{"ts":"1790000000123"}]}', 1_790_000_000_123),
    ticket=None,
    snapshot=b'{"code":"0","msg":"","data":[{"asks":[["41006.8","0.60","0","1"]],"bids":[["41006.3","0.30","0","2"]],"ts":"1629966436396","seqId":3235851742}]}',
)
