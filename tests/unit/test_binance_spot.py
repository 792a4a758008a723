"""Binance Spot: signing against the sheet's vectors, the private opening, verdicts of its replies, which assets a symbol trades."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core.book import Book
from fleet.core.events import Depth, Order
from fleet.core.exchange import HttpCall, HttpReply, Outcome, Reply
from fleet.core.model import Credentials
from fleet.core.signing import signature
from fleet.exchanges.binance_spot import EXCHANGE, assets, limits, parse, rows, session, wire

SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"
CREDENTIALS = Credentials(KEY, SECRET)


# ── Signing (the sheet's vectors, section 5.1) ───────────────────────────────────────────────────────────────────
def test_rest_signature() -> None:
    params = (
        ("symbol", "LTCBTC"), ("side", "BUY"), ("type", "LIMIT"), ("timeInForce", "GTC"), ("quantity", "1"), ("price", "0.1"),
        ("recvWindow", "5000"),
    )  # fmt: skip
    request = session.sign(HttpCall("POST", "/api/v3/order", params, 1, "signed"), CREDENTIALS, 1499827319559, False)
    assert request.target == (
        "/api/v3/order?symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000"
        "&timestamp=1499827319559&signature=c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
    )
    assert request.headers == (("X-MBX-APIKEY", KEY),)


def test_frame_signature_is_over_the_sorted_parameters() -> None:
    params: dict[str, str | int] = {
        "symbol": "BTCUSDT", "side": "SELL", "type": "LIMIT", "timeInForce": "GTC", "quantity": "0.01000000", "price": "52000.00",
        "recvWindow": 100, "timestamp": 1645423376532, "apiKey": KEY,
    }  # fmt: skip
    assert session.sign_frame(params, CREDENTIALS) == "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24"


def test_the_private_socket_is_subscribed_by_one_signed_frame() -> None:
    (step,) = session.opening(CREDENTIALS, 1747385641636)
    assert json.loads(step.frame) == {
        "id": step.key,
        "method": "userDataStream.subscribe.signature",
        "params": {
            "apiKey": KEY,
            "timestamp": 1747385641636,
            "signature": "681110a6057ad58657af22f5640fab9dd17418834cdfccdc81be8b0f7b2cde3e",
        },
    }
    assert SECRET not in step.frame.decode() and KEY not in repr(step)
    assert session.user_url(EXCHANGE.hosts, "") == "wss://ws-api.binance.com:443/ws-api/v3"
    assert EXCHANGE.ticket is None and EXCHANGE.renewal is None  # there is no listen key


def test_non_ascii_is_signed_as_it_is_sent() -> None:
    call = HttpCall("GET", "/api/v3/openOrders", (("symbol", "币安人生USDT"),), 6, "signed")
    query = session.sign(call, CREDENTIALS, 1, False).target.partition("?")[2]
    payload, _, signed = query.rpartition("&signature=")
    assert "%E5%B8%81" in payload and signed == signature(CREDENTIALS, payload)


def test_public_call_is_not_signed() -> None:
    assert session.sign(HttpCall("GET", "/api/v3/time"), CREDENTIALS, 1, False).target == "/api/v3/time"
    call = HttpCall("GET", "/api/v3/depth", (("symbol", "BTCUSDT"),))
    assert session.sign(call, CREDENTIALS, 1, False).target == "/api/v3/depth?symbol=BTCUSDT"


# ── Verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_how_long_a_ban_lasts() -> None:
    body = b'{"code":-1003,"msg":"Way too much request weight used; IP banned until 1790000100000."}'
    date = {"date": "Mon, 21 Sep 2026 14:13:20 GMT"}  # 1790000000
    assert session.classify(HttpReply(418, date, body)).wait_s == 100.0
    assert session.classify(HttpReply(418, {}, body)).wait_s == 120.0
    assert session.classify(HttpReply(429, {}, b"")).wait_s == 60.0
    assert session.classify(HttpReply(400, {}, b'{"code":-1034,"msg":""}')).wait_s == 60.0


@pytest.mark.parametrize(
    ("frame", "outcome", "code", "wait_s"),
    [
        ('{"id":"subscribe","status":400,"error":{"code":-1022,"msg":""}}', Outcome.INVALID, "-1022", 0.0),
        ('{"id":"subscribe","status":400,"error":{"code":-1021,"msg":""}}', Outcome.CLOCK, "-1021", 0.0),
        ('{"id":"subscribe","status":400,"error":{"code":-2042,"msg":""}}', Outcome.TRANSIENT, "-2042", 0.0),
        ('{"id":"subscribe","status":400,"error":{"code":-2035,"msg":""}}', Outcome.TRANSIENT, "-2035", 0.0),
        ('{"id":"subscribe","status":500,"error":{"code":-987654,"msg":""}}', Outcome.TRANSIENT, "-987654", 0.0),
        ('{"id":"subscribe","status":429,"error":{"code":-1003,"data":{"serverTime":1000,"retryAfter":31000}}}',
         Outcome.RATE, "-1003", 30.0),
        ('{"id":"subscribe","status":418,"error":{"code":-987654,"data":{"retryAfter":31000}}}', Outcome.RATE, "-987654", 0.0),
        ('{"id":"subscribe","error":{"code":4,"msg":"Too many subscriptions"}}', Outcome.PERMANENT, "4", 0.0),
    ],
)  # fmt: skip
def test_refusals_on_the_socket(frame: str, outcome: Outcome, code: str, wait_s: float) -> None:
    (item,) = parse.parse_user(frame.encode(), "acc", 1)
    assert isinstance(item, Reply) and item.key == "subscribe"
    assert (item.verdict.outcome, item.verdict.code, item.verdict.wait_s) == (outcome, code, wait_s)


# ── Limits ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_dials_and_messages_stay_below_what_is_documented() -> None:
    dial, live = limits.LIMITS.dial, limits.LIVENESS
    assert dial.sliding and dial.burst / dial.window_s <= 300 / 300
    assert (
        1 / limits.LIMITS.subscribe_interval_s + 1 / live.interval_s + 1 / 20 <= 2
    )  # one each 500 ms is known to be safe
    assert live.timeout_s <= 15


# ── Which assets a symbol trades ─────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("symbol", "held", "pair"),
    [
        ("BTCUSDT", ["BTC", "USDT"], ("BTC", "USDT")),
        ("BTCUSDT", [], ("BTC", "USDT")),  # by what symbols end with
        ("BTCFDUSD", ["BTC"], ("BTC", "FDUSD")),
        ("ETHBTC", ["ETH", "BTC"], ("ETH", "BTC")),
        ("USDTTRY", [], ("USDT", "TRY")),
        ("ABCDEF", ["ABC", "DEF"], ("ABC", "DEF")),  # a quote asset of the future, held
        ("ABCDEF", [], None),
        ("AAUSDT", ["A", "AUSDT", "AA", "USDT"], ("AA", "USDT")),  # two splits are held: the one whose quote is known
        ("ABCDEF", ["AB", "CDEF", "ABC", "DEF"], None),
        ("X", [], None),
    ],
)
def test_legs(symbol: str, held: list[str], pair: tuple[str, str] | None) -> None:
    assert assets.legs(held)(f"{symbol}|") == pair


def test_symbols_between_assets() -> None:
    assert assets.symbols_of(["BTC", "XYZ"], ["USDT", "BTC", "XYZ"]) == {"BTCUSDT", "XYZUSDT", "XYZBTC"}


# ── Numbers and books ────────────────────────────────────────────────────────────────────────────────────────────
@given(st.from_regex(r"\A-?[0-9]{1,40}(\.[0-9]{0,40})?\Z"), st.from_regex(r"\A-?[0-9]{1,40}(\.[0-9]{0,40})?\Z"))
def test_an_average_never_raises(paid: str, filled: str) -> None:
    assert "E" not in parse.average(paid, filled)


def test_updates_and_snapshot_make_a_book() -> None:
    """The spot rule: what the snapshot holds is dropped, the first update reaches lastUpdateId + 1, then U = u + 1."""

    def update(first: int, last: int, bid: str) -> Depth:
        frame = {"e": "depthUpdate", "E": 1, "s": "BNBBTC", "U": first, "u": last, "b": [[bid, "1.00000000"]], "a": []}
        (item,) = parse.parse_market(json.dumps(frame).encode(), "/stream", 1)
        assert isinstance(item, Depth)
        return item

    book = Book(EXCHANGE.market_data.book)
    for waiting in (update(157, 160, "1.0"), update(161, 165, "2.0"), update(166, 170, "3.0")):
        assert book.feed(waiting) == [] and book.needs_snapshot
    reply = HttpReply(200, {}, b'{"lastUpdateId":163,"bids":[["2.00000000","5.0"]],"asks":[["9.0","1.0"]]}')
    assert len(book.load(parse.parse_snapshot(reply, "BNBBTC", 1))) == 4
    assert book.valid and book.last_seq == 170
    assert book.feed(update(171, 171, "4.0")) and book.best_bid() == ("4", "1.00000000")
    book.feed(update(173, 174, "5.0"))
    assert not book.valid


def test_an_amended_order_is_told_in_its_new_terms() -> None:
    """Its quantity can be reduced, even in the millisecond of a fill, and it gets a new client order id."""
    common = {
        "e": "executionReport", "E": 2, "s": "ETHBTC", "S": "BUY", "o": "LIMIT", "f": "GTC", "p": "0.1", "X": "PARTIALLY_FILLED",
        "i": 7, "z": "0.30000000", "Z": "0.03000000", "T": 1,
    }  # fmt: skip
    trade = common | {"c": "old", "C": "", "x": "TRADE", "q": "1.00000000", "l": "0.3", "L": "0.1", "t": 5}
    amended = common | {"c": "new", "C": "old", "x": "REPLACED", "q": "0.80000000", "l": "0", "L": "0", "t": -1}
    frames = [json.dumps({"subscriptionId": 0, "event": event}).encode() for event in (trade, amended)]
    before, after = (e for frame in frames for e in parse.parse_user(frame, "acc", 3) if isinstance(e, Order))
    assert before.id != after.id
    assert (after.qty, after.client_order_id) == ("0.80000000", "new")
    row = {
        "symbol": "ETHBTC", "orderId": 7, "clientOrderId": "new", "side": "BUY", "type": "LIMIT", "timeInForce": "GTC",
        "status": "PARTIALLY_FILLED", "price": "0.10000000", "origQty": "0.8", "executedQty": "0.3", "cummulativeQuoteQty": "0.03",
        "updateTime": 1,
    }  # fmt: skip
    told = rows.order(msgspec.convert(row, wire.OrderRow), "acc", 3)
    assert told is not None and told.id == after.id


@pytest.mark.parametrize(
    ("paid", "filled", "average"),
    [
        ("0.00001310", "20.00000000", "0.000000655"),  # of two prices of one tick's difference
        ("252000.03", "3", "84000.01"),
        ("0.00000000", "0.00000000", "0"),
        ("1", "3", "0.3333333333"),
        ("100000", "3", "33333.33333333"),
    ],
)
def test_the_average_price_of_a_cheap_coin_keeps_its_digits(paid: str, filled: str, average: str) -> None:
    assert parse.average(paid, filled) == average
