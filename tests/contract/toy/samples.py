"""Toy venue: its frames and replies."""

from __future__ import annotations

import json
from typing import Any

from fleet.core.exchange import Outcome
from tests.contract.samples import Pair, Sample, Samples

AT = 1_790_000_000_123


def frame(kind: str, **fields: Any) -> bytes:
    return json.dumps({"t": kind, **fields}).encode()


def page(*rows: bytes) -> bytes:
    return b'{"rows":[' + b",".join(rows) + b"]}"


ORDER = frame("ord", id="7", cid="mine", sym="BTCUSDT", side="b", state="filled", px="100.5", qty="2", done="2", at=AT)
FILL = frame(
    "exe", id="9", order="7", cid="mine", sym="BTCUSDT", side="b", px="100.5", qty="2", fee="0.1", coin="USDT", maker=True, at=AT
)  # fmt: skip
COIN = frame("coin", coin="USDT", total="799.0", free="700", at=AT)

USER = [
    Sample("order", ORDER, [("Order", {"order_id": "7", "status": "filled", "filled_qty": "2", "account_id": "acc"})]),
    Sample("fill", FILL, [("Fill", {"trade_id": "9", "order_id": "7", "fee": "0.1", "liquidity": "maker"})]),
    Sample("wallet", COIN, [("Balance", {"asset": "USDT", "wallet": "799.0", "available": "700"})]),
    Sample(
        "note", frame("note", text="hello", at=AT), [("AccountEvent", {"event": "note", "data": {"text": "hello"}})]
    ),
    Sample("accepted", frame("ack", re="login"), [("Reply", {"key": "login"})]),
    Sample("refused", frame("ack", re="login", code=1), [("Reply", {"key": "login"})]),
    Sample("pong", frame("pon"), [("Pong", {})]),
    Sample("bye", frame("bye"), [("Goodbye", {"reason": "bye"})]),
    Sample("a new kind", frame("surprise"), [("Unknown", {"type": "surprise"})]),
    Sample("a fill without price", frame("exe", id="9"), [("Malformed", {"reason": "fields of exe"})]),
]
MARKET = [
    Sample(
        "trade", frame("deal", sym="BTCUSDT", no=5, px="1.0", qty="2", side="s", at=AT), [("Trade", {"side": "sell"})]
    ),
    Sample(
        "candle",
        frame("bar", sym="BTCUSDT", span="1m", start=60_000, px=["1", "3", "0.5", "2"], vol="9", end=True),
        [("Kline", {"interval": "1m", "close_time": 119_999, "close": "2", "closed": True})],
    ),
    Sample(
        "ticker", frame("quote", sym="BTCUSDT", last="1", bid="0.9", ask="1.1", at=AT), [("Ticker", {"bid": "0.9"})]
    ),
    Sample(
        "book",
        frame("book", sym="BTCUSDT", full=True, no=1, b=[["1", "2"]], a=[["3", "4"]], at=AT),
        [("Depth", {"kind": "snapshot", "bids": [("1", "2")], "asks": [("3", "4")]})],
    ),
    Sample(
        "book update",
        frame("book", sym="BTCUSDT", full=False, no=2, b=[["1", "0"]], a=[], at=AT),
        [("Depth", {"kind": "update", "last_seq": 2})],
    ),
]
SAMPLES = Samples(
    user=USER,
    market=MARKET,
    pairs=[
        Pair(
            "a filled order",
            [ORDER, FILL, COIN],
            {"/fills": page(FILL), "/orders": page(ORDER), "/coins": page(COIN)},
            ("Order", "Fill", "Balance"),
        )
    ],
    errors=[
        (200, b'{"rows":[]}', {}, Outcome.OK),
        (400, b'{"code":1}', {}, Outcome.INVALID),
        (500, b"{}", {}, Outcome.TRANSIENT),
    ],
    documented_codes={
        "1": Outcome.INVALID, "2": Outcome.CLOCK, "3": Outcome.RATE, "4": Outcome.PERMANENT, "5": Outcome.TRANSIENT,
    },
    code_reply='{"code":%s}',
    quiet={"/coins": page(frame("coin", coin="USDT", total="5", free="5", at=1))},
    quiet_calls=3,
    empty=b'{"rows":[]}',
    clock=(b'{"now":1790000000123}', AT),
    ticket=None,
    snapshot=None,
)  # fmt: skip
