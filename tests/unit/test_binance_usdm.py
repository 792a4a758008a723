"""Binance USDⓈ-M: signing vectors, verdicts' waits, URLs, topics; and the registry that finds the folder."""

from __future__ import annotations

import pytest

from fleet.core.errors import ConnectionFailed, FleetError
from fleet.core.exchange import Hosts, HttpCall, HttpReply, Outcome, Verdict
from fleet.core.model import Credentials
from fleet.core.signing import signature
from fleet.exchanges import exchanges, for_account, hosts
from fleet.exchanges.binance_usdm import ids

X = exchanges()["binance_usdm"]
SAMPLE_SECRET = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
SAMPLE_KEY = "vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju91duEh8A"


@pytest.mark.parametrize(
    ("secret", "payload", "expected"),
    [
        (
            "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9",
            "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC&recvWindow=5000&timestamp=1591702613943",
            "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9",
        ),
        (
            SAMPLE_SECRET,
            "symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1&recvWindow=5000&timestamp=1499827319559",
            "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71",
        ),
        (
            SAMPLE_SECRET,
            f"apiKey={SAMPLE_KEY}&price=52000.00&quantity=0.01000000&recvWindow=100&side=SELL&symbol=BTCUSDT"
            "&timeInForce=GTC&timestamp=1645423376532&type=LIMIT",
            "aa1b5712c094bc4e57c05a1a5c1fd8d88dcd628338ea863fec7b88e59fe2db24",
        ),
        (
            SAMPLE_SECRET,
            f"apiKey={SAMPLE_KEY}&timestamp=1747385641636",
            "681110a6057ad58657af22f5640fab9dd17418834cdfccdc81be8b0f7b2cde3e",
        ),
    ],
)
def test_signature_vectors(secret: str, payload: str, expected: str) -> None:
    assert signature(Credentials("k", secret), payload) == expected


def test_signed_call_is_the_documented_one() -> None:
    secret = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
    params = [("symbol", "BTCUSDT"), ("side", "BUY"), ("type", "LIMIT"), ("quantity", "1"), ("price", "9000")]
    params += [("timeInForce", "GTC"), ("recvWindow", "5000")]
    request = X.sign(
        HttpCall("POST", "/fapi/v1/order", tuple(params), auth="signed"), Credentials("k", secret), 1591702613943, False
    )
    assert request.target.endswith(
        "&timestamp=1591702613943&signature=3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"
    )
    assert request.headers == (("X-MBX-APIKEY", "k"),)


def test_the_percent_encoded_text_is_signed() -> None:
    request = X.sign(
        HttpCall("GET", "/p", (("symbol", "币安 人生/USDT"),), auth="signed"), Credentials("k", "s"), 1, True
    )
    query, _, proof = request.target.partition("?")[2].partition("&signature=")
    assert query == "symbol=%E5%B8%81%E5%AE%89%20%E4%BA%BA%E7%94%9F%2FUSDT&timestamp=1"
    assert proof == signature(Credentials("k", "s"), query)


def test_key_only_calls_carry_no_signature() -> None:
    assert X.ticket is not None
    request = X.sign(X.ticket, Credentials("k", "s"), 1, False)
    assert (request.method, request.target, request.headers) == ("POST", "/fapi/v1/listenKey", (("X-MBX-APIKEY", "k"),))
    assert X.sign(X.clock, Credentials("k", "s"), 1, False).headers == ()


BAN = b'{"code":-1003,"msg":"Way too many requests; IP(1.2.3.4) banned until 1790000030000. Please use the websocket."}'


@pytest.mark.parametrize(
    ("status", "headers", "body", "verdict"),
    [
        (429, {"retry-after": "7"}, BAN, Verdict(Outcome.RATE, "-1003", 7.0)),
        (418, {"date": "Mon, 21 Sep 2026 14:13:20 GMT"}, BAN, Verdict(Outcome.RATE, "-1003", 30.0)),
        (418, {"date": "Mon, 21 Sep 2026 15:13:20 GMT"}, BAN, Verdict(Outcome.RATE, "-1003", 0.0)),
        (418, {}, BAN, Verdict(Outcome.RATE, "-1003", 120.0)),
        (429, {"retry-after": "soon"}, b"", Verdict(Outcome.RATE, "http 429", 60.0)),
        (400, {}, b'{"code":-1015,"msg":""}', Verdict(Outcome.RATE, "-1015", 60.0)),
        (503, {"retry-after": "3"}, b"<html>", Verdict(Outcome.TRANSIENT, "http 503", 3.0)),
        (403, {}, b"\xff<html>", Verdict(Outcome.RATE, "http 403", 120.0)),
        (403, {}, b'{"code":-2015}', Verdict(Outcome.INVALID, "-2015")),
        (401, {}, b'{"code":"-2015"}', Verdict(Outcome.TRANSIENT, "http 401")),
        (204, {}, b"", Verdict(Outcome.OK)),
    ],
)
def test_verdicts_and_waits(status: int, headers: dict[str, str], body: bytes, verdict: Verdict) -> None:
    assert X.classify(HttpReply(status, headers, body)) == verdict


def test_without_retry_after_a_wait_ends_by_the_exchanges_clock() -> None:
    """The weight's minute is over, or the ban that the text tells of."""
    assert (
        X.classify(HttpReply(429, {}, b"", at_ms=1_790_000_000_000 + 45_000)).wait_s == 55.0
    )  # 20 s into a minute, and 45
    assert X.classify(HttpReply(418, {}, BAN, at_ms=1_790_000_000_000)).wait_s == 30.0


def test_verdicts_come_from_codes_not_texts() -> None:
    text = b'{"code":-1000,"msg":"Invalid API-key, IP, or permissions for action (-2015), banned until 1790000030000"}'
    assert X.classify(HttpReply(400, {}, text)) == Verdict(Outcome.TRANSIENT, "-1000")


def test_private_url_has_the_query_form_with_all_events() -> None:
    assert X.user_url(Hosts("https://r", "wss://w"), "abc") == (
        "wss://w/private/ws?listenKey=abc&events=ORDER_TRADE_UPDATE/ACCOUNT_UPDATE/TRADE_LITE/ACCOUNT_CONFIG_UPDATE/MARGIN_CALL/"
        "ALGO_UPDATE/STRATEGY_UPDATE/listenKeyExpired"
    )


def test_keepalive_of_older_servers_names_no_key() -> None:
    assert X.ticket_of is not None
    assert X.ticket_of(HttpReply(200, {}, b"{}")) == ""
    with pytest.raises(ConnectionFailed):
        X.ticket_of(HttpReply(200, {}, b"\xff"))


def test_topics_are_routed() -> None:
    topics = {t.kind: t for t in X.market_data.topics(["btcusdt"], ["ticker", "book_ticker", "depth", "trade", "liquidation",
                                                                   "mark_price", "kline_15m"])}  # fmt: skip
    assert {(t.name, t.path) for t in topics.values()} == {
        ("btcusdt@ticker", "/market"), ("btcusdt@bookTicker", "/public"), ("btcusdt@depth@100ms", "/public"),
        ("btcusdt@aggTrade", "/market"), ("btcusdt@forceOrder", "/market"), ("btcusdt@markPrice@1s", "/market"),
        ("btcusdt@kline_15m", "/market"),
    }  # fmt: skip
    assert topics["mark_price"].symbol == "BTCUSDT" and topics["mark_price"].expect_s == 5
    assert topics["trade"].expect_s is None and topics["liquidation"].expect_s is None
    assert X.market_data.url(X.hosts, "/public") == "wss://fstream.binance.com/public/stream"
    assert (
        X.market_data.subscribe([topics["ticker"]], 3) == b'{"method":"SUBSCRIBE","params":["btcusdt@ticker"],"id":3}'
    )


def test_weight_never_exceeds_the_minute() -> None:
    assert X.limits.weight.burst <= 2400 and X.limits.weight.window_s == 60.0


def test_registry() -> None:
    assert for_account("binance", "usdm") is X
    with pytest.raises(FleetError, match="no exchange adapter for binance coinm; known: .*binance_usdm"):
        for_account("binance", "coinm")
    assert list(exchanges()) == sorted(exchanges())
    assert hosts(X, True, {"FLEET_BINANCE_USDM_WS_URL": "ws://127.0.0.1:1/"}) == Hosts(
        X.testnet_hosts.rest, "ws://127.0.0.1:1"
    )


def test_ids_compare_numbers_not_texts() -> None:
    assert ids.order_id("a", "S", 1, "new", "0.020", "9.0", "1", 5) == ids.order_id(
        "a", "S", 1, "new", "0.02", "9", "1.0", 5
    )
    assert ids.order_id("a", "S", 1, "new", "0", "9", "1", 5) != ids.order_id("a", "S", 1, "new", "0", "8", "1", 5), (
        "amended"
    )
    assert ids.position_id("a", "S", "both", 5, "-0.0") == ids.position_id("a", "S", "both", 5, "0")
