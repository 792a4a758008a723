"""Bybit adapter: signatures, verdicts, login, topics, frames that the samples do not cover."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fleet.core.book import Book
from fleet.core.errors import ConnectionFailed
from fleet.core.events import (
    AccountEvent,
    Balance,
    Depth,
    Fill,
    Kline,
    Liquidation,
    MarkPrice,
    Order,
    Position,
    Ticker,
    Trade,
)
from fleet.core.exchange import HttpCall, HttpReply, Malformed, Outcome, Pong, Reply, Unknown, Verdict
from fleet.core.model import Credentials
from fleet.core.signing import signature
from fleet.exchanges import hosts
from fleet.exchanges.bybit import EXCHANGE, rows, session, subscribe
from fleet.exchanges.bybit.parse import parse_market, parse_user
from tests.contract.samples.bybit import AT, BOOK, EXECUTION, LIQUIDATION, ORDER, TRADE, private, public

KEY = Credentials("demo-key", "demo-secret")


# ── Session ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_signature_vectors_of_the_sheet() -> None:
    assert (
        signature(KEY, "GET/realtime1662350400000")
        == "527dd30dfa1fcb23158358f744fef2f1a83228db537a1f5177138f1ee67bd8cc"
    )
    call = HttpCall("GET", "/v5/position/list", (("category", "linear"), ("settleCoin", "USDT")), auth="signed")
    request = session.sign(call, KEY, 1658384314791, False)
    assert request.target == "/v5/position/list?category=linear&settleCoin=USDT"
    headers = dict(request.headers)
    assert headers["X-BAPI-SIGN"] == "1e2c22a15fbb3a6fc34c2990f1cb29c63fbca4affec1fbd8860ce22ae81bdd8b"
    assert (headers["X-BAPI-TIMESTAMP"], headers["X-BAPI-RECV-WINDOW"]) == ("1658384314791", "5000")


def test_a_cursor_is_sent_as_it_came() -> None:
    call = HttpCall("GET", "/v5/execution/list", (("cursor", "132766%3A2%2C132766%3A2"), ("x", "a b&c")), auth="signed")
    assert session.sign(call, KEY, 1, False).target.endswith("?cursor=132766%3A2%2C132766%3A2&x=a%20b%26c")
    assert session.sign(HttpCall("GET", "/v5/market/time"), KEY, 1, False).target == "/v5/market/time"


def test_login_looks_ahead_and_then_subscribes() -> None:
    login, topics = session.opening(KEY, 1662350390000)
    frame = json.loads(login.frame)
    assert (login.phase, login.key, frame["op"], frame["req_id"]) == ("authenticating", "auth", "auth", "auth")
    assert frame["args"] == ["demo-key", 1662350400000, signature(KEY, "GET/realtime1662350400000")]
    frame = json.loads(topics.frame)
    assert (topics.phase, topics.key, frame["op"]) == ("subscribing", "subscribe", "subscribe")
    assert frame["args"] == ["order", "execution", "position", "wallet"] and "dcp" not in str(frame)
    assert session.user_url(EXCHANGE.testnet_hosts, "") == "wss://stream-testnet.bybit.com/v5/private"
    roots = hosts(EXCHANGE, False, {"FLEET_BYBIT_WS_URL": "ws://127.0.0.1:9/"})
    assert session.user_url(roots, "") == "ws://127.0.0.1:9/v5/private"


def test_how_long_to_stay_away() -> None:
    def wait_s(status: int, body: bytes, **headers: str) -> float:
        return session.classify(HttpReply(status, {k.replace("_", "-"): v for k, v in headers.items()}, body)).wait_s

    limited = b'{"retCode":10006,"retMsg":"Too many visits!","time":1790000000000}'
    assert wait_s(200, limited) == 1.0
    assert wait_s(200, limited, x_bapi_limit_reset_timestamp="1790000000700") == 0.7
    assert wait_s(200, limited, x_bapi_limit_reset_timestamp="1790000900000") == 60.0
    assert wait_s(200, limited, retry_after="7") == 7.0
    assert wait_s(403, b"403, access too frequent") == 600.0
    assert wait_s(200, b'{"retCode":10018}') == 5.0
    assert wait_s(429, b"") == 0.0
    assert session.classify(HttpReply(200, {}, b'{"retCode":10003}')).wait_s == 0.0


# ── Replies ──────────────────────────────────────────────────────────────────────────────────────────────────────
def reply(frame: bytes, *, private: bool = True) -> Reply:
    items: list[Any] = list(parse_user(frame, "acc", 1) if private else parse_market(frame, "/v5/public/linear", 1))
    assert len(items) == 1 and isinstance(items[0], Reply), items
    return items[0]


def test_a_refused_login_is_a_suspicion_whatever_its_shape() -> None:
    suspicion = Verdict(Outcome.INVALID, "auth")
    assert reply(b'{"success":false,"ret_msg":"Params Error","op":"auth","conn_id":"c"}').verdict == suspicion
    echoed = (
        b'{"success":false,"ret_msg":"x","req_id":"","request":{"op":"auth","req_id":"auth","args":["canary",1,"sig"]}}'
    )
    assert (reply(echoed).key, reply(echoed).verdict) == ("auth", suspicion)
    assert "canary" not in repr(reply(echoed))
    bare = b'{"success":false,"ret_msg":"Params Error","conn_id":"c"}'
    assert (reply(bare).key, reply(bare).verdict) == ("auth", suspicion)


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (10003, Outcome.ELSEWHERE),
        (10004, Outcome.INVALID),
        (10002, Outcome.CLOCK),
        (-1, Outcome.CLOCK),
        (0, Outcome.OK),
        (5, Outcome.TRANSIENT),
    ],
)  # fmt: skip
def test_a_login_answered_with_a_code(code: int, outcome: Outcome) -> None:
    answer = reply(b'{"retCode":%d,"retMsg":"x","op":"auth","connId":"c"}' % code)
    assert (answer.key, answer.verdict.outcome) == ("auth", outcome)


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("error:already subscribed,topic:orderbook.1.ETHUSDT", Outcome.OK),
        ("error:handler not found,topic:orderbook.50.NOPEUSDT", Outcome.PERMANENT),
        (r"args size \u003e10", Outcome.PERMANENT),
        ("Invalid symbol :[tickers.NOPEUSDT]", Outcome.PERMANENT),
        ("some text of the future", Outcome.PERMANENT),  # hundreds of topics share the socket
    ],
)
def test_answers_to_subscriptions(text: str, outcome: Outcome) -> None:
    frame = f'{{"success":false,"ret_msg":"{text}","conn_id":"d","req_id":"5","op":"subscribe"}}'.encode()
    assert (reply(frame, private=False).key, reply(frame, private=False).verdict.outcome) == ("5", outcome)


def test_a_private_subscription_refused_in_unknown_words_is_tried_again() -> None:
    frame = b'{"success":false,"ret_msg":"error:topic:position needs auth first","req_id":"subscribe","op":"subscribe"}'
    assert reply(frame).verdict == Verdict(Outcome.TRANSIENT, "subscribe")


def test_pongs_of_every_socket_and_odd_objects() -> None:
    for frame in (
        b'{"success":true,"ret_msg":"pong","conn_id":"6","req_id":"7","op":"ping"}',
        b'{"args":["1672916271846"],"op":"pong"}',
        b'{"req_id":"test","op":"pong","args":["1675418560633"],"conn_id":"c"}',
        b'{"retCode":0,"retMsg":"OK","op":"pong","data":["1"],"connId":"c"}',
    ):
        assert parse_user(frame, "acc", 1) == [Pong()] and parse_market(frame, "", 1) == [Pong()]
    assert parse_user(b'{"op":"login"}', "acc", 1) == [Unknown("login")]
    refused = b'{"success":false,"data":{"failTopics":["x"],"successTopics":[]},"type":"COMMAND_RESP"}'
    assert reply(refused, private=False) == Reply("", Verdict(Outcome.PERMANENT), ("x",))


# ── Topics ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_candle_may_be_silent_for_a_minute_while_its_symbol_trades() -> None:
    topics = subscribe.topics(["BTCUSDT"], ["trade", "kline_1m"])
    assert [t.traded_s for t in topics] == [10.0, None]


def test_topics_by_category() -> None:
    kinds = ["ticker", "mark_price", "depth", "liquidation", "kline_1h"]
    found = subscribe.topics(["BTCUSDT", "spot/btcusdt", "inverse/BTCUSD"], kinds)
    assert [(t.path, t.name, t.market) for t in found] == [
        ("/v5/public/linear", "tickers.BTCUSDT", "linear"),
        ("/v5/public/linear", "orderbook.50.BTCUSDT", "linear"),
        ("/v5/public/linear", "allLiquidation.BTCUSDT", "linear"),
        ("/v5/public/linear", "kline.60.BTCUSDT", "linear"),
        ("/v5/public/spot", "tickers.BTCUSDT", "spot"),
        ("/v5/public/spot", "orderbook.50.BTCUSDT", "spot"),
        ("/v5/public/spot", "kline.60.BTCUSDT", "spot"),
        ("/v5/public/inverse", "tickers.BTCUSD", "inverse"),
        ("/v5/public/inverse", "orderbook.50.BTCUSD", "inverse"),
        ("/v5/public/inverse", "allLiquidation.BTCUSD", "inverse"),
        ("/v5/public/inverse", "kline.60.BTCUSD", "inverse"),
    ]
    assert [t.kind for t in subscribe.topics(["BTCUSDT"], ["mark_price"])] == ["mark_price"]
    assert subscribe.topics(["spot/BTCUSDT"], ["mark_price", "liquidation"]) == []
    assert subscribe.url(EXCHANGE.hosts, found[0].path) == "wss://stream.bybit.com/v5/public/linear"


def test_subscribing_again() -> None:
    (topic,) = subscribe.topics(["BTCUSDT"], ["depth"])
    frames = [json.loads(frame) for frame in subscribe.again([topic], 9)]
    assert frames == [
        {"req_id": "again", "op": "unsubscribe", "args": ["orderbook.50.BTCUSDT"]},
        {"req_id": "9", "op": "subscribe", "args": ["orderbook.50.BTCUSDT"]},
    ]


def test_which_topic_an_event_proves_alive() -> None:
    path = "/v5/public/linear"
    cases: list[tuple[bytes, type, str]] = [
        (public("orderbook.1.BTCUSDT", BOOK), Ticker, "orderbook.1.BTCUSDT"),
        (public("orderbook.50.BTCUSDT", BOOK), Depth, "orderbook.50.BTCUSDT"),
        (public("tickers.BTCUSDT", {"symbol": "BTCUSDT", "markPrice": "1"}), MarkPrice, "tickers.BTCUSDT"),
        (public("tickers.BTCUSDT", {"symbol": "BTCUSDT", "bid1Price": "1"}), Ticker, "tickers.BTCUSDT"),
        (public("publicTrade.BTCUSDT", [TRADE]), Trade, "publicTrade.BTCUSDT"),
        (public("allLiquidation.BTCUSDT", [LIQUIDATION]), Liquidation, "allLiquidation.BTCUSDT"),
    ]
    for frame, kind, name in cases:
        (item,) = parse_market(frame, path, 1)
        assert type(item) is kind and subscribe.topic_of(item) == name  # type: ignore[arg-type]
    candle = Kline(
        id="k", exchange="bybit", market="spot", symbol="X", ts_event=1, ts_recv=1, interval="1d", open_time=0, close_time=1,
        open="1", high="1", low="1", close="1", volume="1", closed=True,
    )  # fmt: skip
    assert subscribe.topic_of(candle) == "kline.D.X"


def test_an_unknown_path_is_linear() -> None:
    (trade,) = parse_market(public("publicTrade.BTCUSDT", [TRADE]), "", 1)
    assert isinstance(trade, Trade) and trade.market == "linear"


# ── Books ────────────────────────────────────────────────────────────────────────────────────────────────────────
def depth(u: int, kind: str = "delta", *, ts: int = AT, bid: str = "10", ask: str = "11") -> Depth:
    frame = json.loads(public("orderbook.50.BTCUSDT", BOOK | {"u": u, "b": [[bid, "1"]], "a": [[ask, "1"]]}, kind))
    (item,) = parse_market(json.dumps(frame | {"ts": ts}).encode(), "/v5/public/linear", 1)
    assert isinstance(item, Depth)
    return item


def test_book_chain_gap_and_restart() -> None:
    book = Book(EXCHANGE.market_data.book)
    assert book.feed(depth(9, "snapshot")) and book.feed(depth(10)) and book.valid
    assert book.feed(depth(12)) == [] and not book.valid and book.needs_stream and not book.needs_snapshot
    assert [d.last_seq for d in book.feed(depth(14, "snapshot"))] == [12, 14] and book.valid
    assert not book.needs_stream
    assert book.feed(depth(13, "snapshot"), overlap=True) == [] and book.last_seq == 14
    assert [d.kind for d in book.feed(depth(1))] == ["snapshot"] and book.last_seq == 1
    assert book.feed(depth(2)) and book.valid


def test_the_same_snapshot_for_a_new_subscriber_is_no_repetition() -> None:
    assert depth(9, "snapshot").id != depth(9, "snapshot", ts=AT + 1).id
    assert depth(9).id == depth(9).id


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_late_cancel_does_not_fill_an_order_twice() -> None:
    filled = ORDER | {"orderStatus": "Filled", "cumExecQty": "0.02"}
    late = filled | {
        "updatedTime": str(AT + 5),
        "cancelType": "CancelByUser",
        "rejectReason": "EC_OrigClOrdIDDoesNotExist",
    }
    first, second = parse_user(private("order", filled, late), "acc", 1)
    assert isinstance(first, Order) and isinstance(second, Order) and first.id == second.id
    new, amended = parse_user(private("order", ORDER, ORDER | {"updatedTime": str(AT + 5)}), "acc", 1)
    assert isinstance(new, Order) and isinstance(amended, Order) and new.id != amended.id


def test_what_returns_within_a_millisecond_is_no_repetition() -> None:
    """A consumer drops repeats by id: it would keep the state between."""
    part = ORDER | {"orderStatus": "PartiallyFilled", "cumExecQty": "0.01", "updatedTime": str(AT)}
    filled, amended = parse_user(private("order", part, part | {"price": "59000"}), "acc", 1)
    assert isinstance(filled, Order) and isinstance(amended, Order) and filled.id != amended.id
    held = {"category": "linear", "symbol": "BTCUSDT", "side": "Buy", "size": "1", "updatedTime": str(AT), "seq": 7}
    first, last = parse_user(private("position", held, held | {"seq": 9}), "acc", 1)
    again, never = parse_user(private("position", held, held | {"seq": "-1"}), "acc", 1)
    assert isinstance(first, Position) and isinstance(last, Position) and first.id != last.id
    assert isinstance(again, Position) and again.id == first.id and isinstance(never, Position)
    wallet = '{"id":%s,"topic":"wallet","creationTime":9,"data":[{"coin":[{"coin":"XRP","walletBalance":"5"}]}]}'
    (had,), (has,), (heard,) = (parse_user((wallet % mid).encode(), "a", 1) for mid in ('"m1"', '"m2"', '"m1"'))
    assert isinstance(had, Balance) and isinstance(has, Balance) and isinstance(heard, Balance)
    assert had.id == heard.id != has.id


def test_fee_asset_of_spot_is_not_guessed() -> None:
    row = EXECUTION | {"category": "spot", "feeCurrency": "", "orderId": "1"}
    (fill,) = parse_user(private("execution", row), "acc", 1)
    assert isinstance(fill, Fill) and fill.fee_asset == ""


def test_category_of_a_known_order() -> None:
    assert rows.category_of("BTCUSDT", "1523347543495541248") == "spot"
    assert rows.category_of("BTCUSDT", "9aac161b-8ed6") == "linear"
    inverse = [s for s in ("BTCUSD", "BTCUSDZ25", "BTCUSDT", "BTCPERP", "BTC-26DEC25") if rows.is_inverse(s)]
    assert inverse == ["BTCUSD", "BTCUSDZ25"]


def test_an_unknown_topic_that_is_not_json() -> None:
    assert [type(i) for i in parse_user(b'{"topic":"greeks","data":' + b"[" * 2000, "acc", 1)] == [Malformed]
    assert [type(i) for i in parse_user(b'{"topic":"greeks"}', "acc", 1)] == [Unknown, AccountEvent]


def test_clock_reply() -> None:
    with pytest.raises(ConnectionFailed):
        session.clock_ms(HttpReply(200, {}, b"{}"))


def test_a_coin_without_a_figure_hides_no_other() -> None:
    coins = b'{"coin":"MNT","walletBalance":""},{"coin":"XRP","walletBalance":"5.500"}'
    frame = b'{"topic":"wallet","creationTime":9,"data":[{"coin":[%s]}]}' % coins
    (told,) = parse_user(frame, "a", 1)
    assert isinstance(told, Balance) and (told.asset, told.wallet) == ("XRP", "5.500")
