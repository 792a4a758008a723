"""OKX facts that the contract suite does not pin: signatures, login, regions, names of topics, the recorded capture."""

from __future__ import annotations

import json
import zlib
from collections import Counter
from decimal import Decimal

import msgspec
import pytest

from fleet.core.book import Book
from fleet.core.errors import ConnectionFailed
from fleet.core.events import Depth, Event, Order
from fleet.core.exchange import CandleQuery, HttpCall, HttpReply, Outcome, Reply, TradeQuery
from fleet.core.model import AccountSpec, Credentials
from fleet.core.tally import Tally
from fleet.exchanges import exchanges, for_account
from fleet.exchanges.okx import ids, limits, parse, rows, session, subscribe, wire
from tests.support.captures import received
from workers import market_plan

OKX = exchanges()["okx"]
CREDENTIALS = Credentials("key", "demo-secret", "phrase")


def test_signatures_of_the_sheet() -> None:
    now_ms = 1607418537715
    request = OKX.sign(
        HttpCall("GET", "/api/v5/account/balance", (("ccy", "BTC"),), auth="signed"), CREDENTIALS, now_ms, False
    )
    assert request.target == "/api/v5/account/balance?ccy=BTC" and request.body == b""
    headers = dict(request.headers)
    assert headers["OK-ACCESS-TIMESTAMP"] == "2020-12-08T09:08:57.715Z"
    assert headers["OK-ACCESS-SIGN"] == "1B8/5tL301/BmJ8V+hOqZa8oOcId344kUoTKi72hBow="
    assert (headers["OK-ACCESS-KEY"], headers["OK-ACCESS-PASSPHRASE"]) == ("key", "phrase")
    (login, *channels) = OKX.opening(CREDENTIALS, 1704876947_999)
    (arg,) = json.loads(login.frame)["args"]
    assert arg == {
        "apiKey": "key", "passphrase": "phrase", "timestamp": "1704876947", "sign": "zAmWwyNJfHdrSkZ2Ao7VqBDssNv/0+SoQWPNoCbo1Og=",
    }  # fmt: skip
    assert [(s.phase, s.key) for s in (login, *channels)] == [
        ("authenticating", "login"), ("subscribing", "orders"), ("subscribing", "positions"), ("subscribing", "account"),
        ("subscribing", "balanceandposition"),
    ]  # fmt: skip
    for step in channels:
        request_ = json.loads(step.frame)
        assert request_["id"] == step.key and step.key.isalnum() and len(step.key) <= 32
        assert len(request_["args"]) == 1  # acknowledged one an argument


def test_demo_trading_is_a_header_and_a_socket_host() -> None:
    plain = OKX.sign(OKX.probe, CREDENTIALS, 1, False)
    demo = OKX.sign(OKX.probe, CREDENTIALS, 1, True)
    assert "x-simulated-trading" not in dict(plain.headers) and dict(demo.headers)["x-simulated-trading"] == "1"
    public = OKX.sign(OKX.clock, CREDENTIALS, 1, True)
    assert public.headers == (("x-simulated-trading", "1"),)
    assert OKX.sign(OKX.probe, Credentials("k", "s"), 1, False).headers[3] == ("OK-ACCESS-PASSPHRASE", "")
    assert OKX.user_url(OKX.testnet_hosts, "") == "wss://wspap.okx.com:8443/ws/v5/private"


def test_regions_are_documented_for_both_environments() -> None:
    assert set(limits.REGIONS) == {"global", "us", "eea"}
    for live, demo in limits.REGIONS.values():
        assert live.rest == demo.rest and live.ws != demo.ws and "pap.okx.com" in demo.ws
    assert limits.REGIONS["global"] == (OKX.hosts, OKX.testnet_hosts)


def test_a_row_of_exchange_accounts_finds_the_folder() -> None:
    spec = AccountSpec("a", "u", "okx", "unified", "l", False, 1, 0)
    assert for_account("okx", "unified").name == spec.venue == "okx"
    assert OKX.market_data.book.snapshots == "either"


def test_the_wrong_site_never_counts_as_dead_credentials() -> None:
    for code in ("60032", "60005"):
        (reply,) = OKX.parse_user(f'{{"event":"error","msg":"x","code":"{code}"}}'.encode(), "acc", 1)
        assert isinstance(reply, Reply) and reply.key == "login" and reply.verdict.outcome is Outcome.ELSEWHERE
    for code in ("50119", "50101"):
        body = f'{{"code":"{code}","msg":"x","data":[]}}'.encode()
        assert OKX.classify(HttpReply(401, {}, body)).outcome is Outcome.ELSEWHERE


def test_rate_answers_say_two_seconds() -> None:
    body = b'{"code":"50011","msg":"Too Many Requests","data":[]}'
    assert OKX.classify(HttpReply(200, {}, body)).wait_s == 2.0
    assert OKX.classify(HttpReply(429, {"retry-after": "7"}, body)).wait_s == 7.0
    assert OKX.classify(HttpReply(429, {"retry-after": "soon"}, body)).wait_s == 2.0
    assert session.iso(1) == "1970-01-01T00:00:00.001Z"


def test_the_pages_of_one_account_come_no_faster_than_its_endpoints_allow() -> None:
    rate = limits.LIMITS.weight
    for path, allowed in (
        (rows.FILLS, 60), (rows.OLD_FILLS, 10), (rows.PENDING, 60), (rows.ORDERS, 40), (rows.OLD_ORDERS, 20),
    ):  # fmt: skip
        first, later = rows.page_call(path, ""), rows.page_call(path, "9")
        most = len(rows.PRODUCTS) + (rate.burst + 2 * rate.per_s) / later.weight
        assert first.weight == 1 and allowed * 0.9 < most <= allowed


def test_no_public_call_is_made_more_often_in_two_seconds_than_its_endpoint_allows() -> None:
    """Sheet 6.3: 40 books, 40 candles, 20 history-trades in two seconds. A bucket gives its burst and two seconds' refill."""
    market, rate = exchanges()["okx"].market_data, limits.LIMITS.weight
    assert rate.burst + 2 * rate.per_s == limits.IN_TWO_SECONDS
    assert market.snapshot and market.candle_history and market.trade_history
    calls = {
        40: (market.snapshot("X"), market.candle_history.call(CandleQuery("X", "unified", "1m", 0, 1))),
        20: (market.trade_history.call(TradeQuery("X", "unified", "1", "2")),),
    }
    for allowed, made in calls.items():
        assert all((rate.burst + 2 * rate.per_s) / call.weight <= allowed for call in made)


def test_topics_and_their_arguments() -> None:
    symbols = ["BTC-USDT", "BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USD-270326", "BTC-USD-270326-100000-C"]
    topics = subscribe.topics(symbols, ["liquidation", "trade", "kline_1d"])
    assert [t.name for t in topics if t.kind == "liquidation"] == [
        "liquidation-orders:MARGIN", "liquidation-orders:SWAP", "liquidation-orders:FUTURES", "liquidation-orders:OPTION",
    ]  # fmt: skip
    frame = json.loads(subscribe.subscribe(topics[:8], 7))
    assert frame["id"] == "7" and frame["op"] == "subscribe"
    assert frame["args"] == [
        {"channel": "liquidation-orders", "instType": "MARGIN"}, {"channel": "trades", "instId": "BTC-USDT"},
        {"channel": "candle1Dutc", "instId": "BTC-USDT"}, {"channel": "liquidation-orders", "instType": "SWAP"},
        {"channel": "trades", "instId": "BTC-USDT-SWAP"}, {"channel": "candle1Dutc", "instId": "BTC-USDT-SWAP"},
        {"channel": "trades", "instId": "ETH-USDT-SWAP"}, {"channel": "candle1Dutc", "instId": "ETH-USDT-SWAP"},
    ]  # fmt: skip
    assert {t.path for t in topics} == {"/ws/v5/public", "/ws/v5/business"}
    marks = subscribe.topics(["BTC-USDT", "BTC-USDT-SWAP"], ["mark_price"])
    assert json.loads(subscribe.subscribe(marks, 1))["args"] == [
        {"channel": "mark-price", "instId": "BTC-USDT"}, {"channel": "mark-price", "instId": "BTC-USDT-SWAP"},
        {"channel": "funding-rate", "instId": "BTC-USDT-SWAP"},
    ]  # fmt: skip
    call = subscribe.snapshot("BTC-USDT")
    assert (call.path, dict(call.params)) == ("/api/v5/market/books", {"instId": "BTC-USDT", "sz": "400"})
    chunk = subscribe.topics([f"LONGNAME{n}-USDT-SWAP" for n in range(10)], subscribe.KINDS)[
        : OKX.limits.subscribe_chunk
    ]
    assert len(subscribe.subscribe(chunk, 1)) <= 4096  # the limit of old; 64 KB today


def test_liquidations_come_on_one_socket_however_many_symbols() -> None:
    """They come for all instruments at once: each lane that asked for them published them all."""
    lanes = market_plan.lanes(
        OKX, [f"A{n}-USDT-SWAP" for n in range(60)], ["ticker", "depth", "trade", "liquidation", "mark_price"]
    )
    assert [sum(t.kind == "liquidation" for t in lane.topics) for lane in lanes] == [1, 0]


@pytest.mark.parametrize(
    ("interval", "opened", "end"),
    [
        ("1s", 1_000, 1_999),
        ("1h", 0, 3_599_999),
        ("1w", 0, 604_799_999),
        ("1M", 1_767_225_600_000, 1_769_903_999_999),  # January 2026
        ("1M", 1_764_547_200_000, 1_767_225_599_999),  # December 2025
    ],
)
def test_end_of_a_candle(interval: str, opened: int, end: int) -> None:
    assert parse.close_ms(opened, interval) == end


def test_fees_and_signs() -> None:
    assert [parse.negated(n) for n in ("-0.5", "0.5", "0", "", "0.000", "-0")] == [
        "0.5",
        "-0.5",
        "0",
        "0",
        "0.000",
        "0",
    ]


@pytest.mark.parametrize("untold", ["0", ""])
def test_equal_liquidations_of_one_millisecond_are_two_fills_of_rest(untold: str) -> None:
    """The stream gives them no trade id, REST does: the order is short of fills, which has REST asked within seconds, until both
    are told."""
    push = {
        "instId": "BTC-USDT-SWAP", "instType": "SWAP", "ordId": "9", "side": "sell", "sz": "4", "tradeId": untold, "cTime": "5",
        "fillSz": "2", "fillPx": "100", "fillTime": "9", "category": "partial_liquidation",
    }  # fmt: skip
    states = [
        push | {"state": "partially_filled", "accFillSz": "2", "uTime": "9"},
        push | {"state": "filled", "accFillSz": "4", "uTime": "10"},
    ]
    frame = json.dumps({"arg": {"channel": "orders", "instType": "ANY"}, "data": states}).encode()
    tally = Tally()
    told = parse.parse_user(frame, "acc", 1_000)
    for event in told:
        assert isinstance(event, Order)
        tally.take(event)
    assert len(told) == 2 and tally.short(2_000)
    row = push | {"clOrdId": "", "ts": "11", "fee": "-0.1", "feeCcy": "USDT"}
    reply = {"code": "0", "data": [row | {"tradeId": trade, "billId": f"3{trade}"} for trade in ("-7", "-8")]}
    found = rows.decode(HttpReply(200, {}, json.dumps(reply).encode()), wire.FillRow, "fills")
    fills = [rows.fill(row, "acc", 3_000) for row in found]
    assert [fill.trade_id for fill in fills] == ["-7", "-8"] and len({fill.id for fill in fills}) == 2
    tally.take(fills[0])
    assert tally.short(2_000)
    tally.take(fills[1])
    assert not tally.short(2_000)


def test_a_fill_of_rest_without_a_trade_id_is_named_by_its_bill() -> None:
    assert [ids.trade_id(told, "33") for told in ("77", "-5", "0", "")] == ["77", "-5", "bill-33", "bill-33"]


def test_order_ends_once_whatever_the_time() -> None:
    assert ids.order_id("a", "S", "1", "filled", "2.0", 5, "7", "2") == ids.order_id(
        "a", "S", "1", "filled", "2", 9, "7", "2"
    )
    assert ids.order_id("a", "S", "1", "new", "0", 5, "7", "2") != ids.order_id("a", "S", "1", "new", "0", 9, "7", "2")


def test_an_amendment_in_the_millisecond_of_what_it_changes_is_told() -> None:
    row = {
        "instId": "BTC-USDT",
        "ordId": "7",
        "side": "buy",
        "state": "live",
        "accFillSz": "0",
        "uTime": "5",
        "px": "100",
        "sz": "2",
    }
    terms = [row, row | {"px": "99"}, row | {"px": "99", "sz": "1"}, row | {"px": "99.0", "sz": "1"}]
    frame = json.dumps({"arg": {"channel": "orders", "instType": "ANY"}, "data": terms}).encode()
    placed, repriced, resized, again = (
        item.id for item in parse.parse_user(frame, "acc", 9) if isinstance(item, Order)
    )
    assert len({placed, repriced, resized}) == 3 and again == resized


def test_the_same_snapshot_for_a_new_subscriber_is_no_repetition() -> None:
    """A feed passes over ids that it has seen: after a reconnect a quiet book would wait for its next update."""

    def snapshot(ts: int) -> Depth:
        book = {
            "asks": [["2", "1", "0", "1"]],
            "bids": [["1", "1", "0", "1"]],
            "ts": str(ts),
            "seqId": 9,
            "prevSeqId": -1,
        }
        push = {"arg": {"channel": "books", "instId": "X-USDT"}, "action": "snapshot", "data": [book]}
        (event,) = parse.parse_market(json.dumps(push).encode(), "", 1)
        assert isinstance(event, Depth)
        return event

    assert snapshot(1).id != snapshot(2).id and snapshot(1).last_seq == snapshot(2).last_seq


def test_order_book_replies_that_are_none() -> None:
    for body in (b'{"code":"0","data":[]}', b'{"code":"0","data":[{"asks":[["1"]],"bids":[],"ts":"1"}]}'):
        with pytest.raises(ConnectionFailed):
            parse.parse_snapshot(HttpReply(200, {}, body), "BTC-USDT", 1)
    with pytest.raises(ConnectionFailed):
        session.clock_ms(HttpReply(200, {}, b'{"code":"0","data":[]}'))


# ── The recorded capture ─────────────────────────────────────────────────────────────────────────────────────────
def checksum(bids: dict[Decimal, tuple[str, str]], asks: dict[Decimal, tuple[str, str]]) -> int:
    """CRC-32 over the best 25 levels of both sides, bid and ask in turn, as OKX defined it before 2026-06."""
    best = ([bids[p] for p in sorted(bids, reverse=True)[:25]], [asks[p] for p in sorted(asks)[:25]])
    parts = [part for n in range(25) for side in best for part in side[n : n + 1]]
    crc = zlib.crc32(":".join(":".join(level) for level in parts).encode())
    return crc - 2**32 if crc >= 2**31 else crc


def test_capture_is_understood_completely_and_its_books_are_valid() -> None:
    market = OKX.market_data
    frames = received("okx.ws.gz")
    books: dict[str, Book] = {}
    levels: dict[str, tuple[dict[Decimal, tuple[str, str]], dict[Decimal, tuple[str, str]]]] = {}
    kinds: Counter[str] = Counter()
    seen: set[str] = set()
    for at_s, frame in frames:
        (item,) = market.parse(frame, limits.PUBLIC, round(at_s * 1000))
        kinds[type(item).__name__] += 1
        told = msgspec.json.decode(frame)
        if not isinstance(item, Event):
            continue
        seen.add(item.id)
        assert market.topic_of(item) == f"{told['arg']['channel']}:{told['arg']['instId']}"
        if isinstance(item, Depth):
            book = books.setdefault(item.symbol, Book(OKX.market_data.book))
            assert book.feed(item) == [item] and book.valid
            sides = levels.setdefault(item.symbol, ({}, {}))
            for side, changes in zip(sides, (item.bids, item.asks), strict=True):
                for price, qty in changes:
                    side[Decimal(price)] = (price, qty)
                    if qty == "0":
                        del side[Decimal(price)]
            assert checksum(*sides) == told["data"][0]["checksum"]
            bid, ask = book.best_bid(), book.best_ask()
            assert bid is not None and ask is not None
            assert (Decimal(bid[0]), Decimal(ask[0])) == (max(sides[0]), min(sides[1]))
    assert len(frames) == 410
    assert kinds == {"Depth": 290, "Trade": 74, "Ticker": 28, "Reply": 18}
    assert len(seen) == 392 and len(books) == 3  # no two frames share an id: rows are counted by it
