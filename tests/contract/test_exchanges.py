"""What every exchange folder must keep, found by discovery: a new folder is held to this without an edit here."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Iterator
from typing import Any, get_args
from urllib.parse import quote

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core import schema
from fleet.core.errors import ConnectionFailed
from fleet.core.events import Depth, Event, MarketRecord, Record, UserRecord
from fleet.core.exchange import (
    MARKET_KINDS,
    Exchange,
    HttpCall,
    HttpReply,
    Malformed,
    Outcome,
    Recovered,
    Unknown,
)
from fleet.core.model import AccountSpec, KeyPair
from fleet.core.recovery import Watermark
from fleet.exchanges import exchanges, hosts
from tests.contract.samples import Pair, Sample, Samples, samples_of

VENUES = list(exchanges().values())
each_venue = pytest.mark.parametrize("venue", VENUES, ids=lambda v: v.name)
VALIDATOR = jsonschema.Draft202012Validator(schema.generate())
DECIMALS = {
    "price", "qty", "filled_qty", "avg_price", "stop_price", "fee", "realized_pnl", "entry_price", "unrealized_pnl", "wallet",
    "available", "change", "open", "high", "low", "close", "volume", "last", "bid", "bid_qty", "ask", "ask_qty", "mark", "index",
    "funding_rate", "open_24h", "high_24h", "low_24h", "volume_24h", "quote_volume_24h",
}  # fmt: skip
ODD: list[Any] = [
    None, True, -1, 0, 1.5, 10**30, -(10**30), "", "x", "1e400", "NaN", "-", "９", "1\n", [], {}, [[]], {"a": {"s": 5}}, "0" * 50,
]  # fmt: skip
DAY_MS = 86_400_000


def parsed(venue: Exchange, sample: Sample, now_ms: int = 77) -> list[Any]:
    if sample in samples_of(venue.name).user:
        return list(venue.parse_user(sample.frame, "acc", now_ms))
    return list(venue.market_data.parse(sample.frame, sample.path, now_ms))


def all_samples() -> list[Any]:
    found = []
    for venue in VENUES:
        samples = samples_of(venue.name)
        found += [pytest.param(venue, s, id=f"{venue.name}: {s.name}") for s in (*samples.user, *samples.market)]
    return found


# ── Frames ───────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(("venue", "sample"), all_samples())
def test_frame_becomes_what_the_sheet_says(venue: Exchange, sample: Sample) -> None:
    items = parsed(venue, sample)
    assert [type(item).__name__ for item in items] == [name for name, _ in sample.expected]
    for item, (_, fields) in zip(items, sample.expected, strict=True):
        assert {name: getattr(item, name) for name in fields} == fields
        if isinstance(item, Event):
            assert (item.exchange, item.ts_recv, item.v) == (venue.exchange, 77, 1)
            public = isinstance(item, get_args(MarketRecord)) and venue.market_data.markets
            assert item.market in (public or (venue.market,))


@pytest.mark.parametrize(("venue", "sample"), all_samples())
def test_events_round_trip_and_fit_the_schema(venue: Exchange, sample: Sample) -> None:
    for item in parsed(venue, sample):
        if not isinstance(item, get_args(Record)):
            continue
        text = msgspec.json.encode(item)
        assert msgspec.json.decode(text, type=Record) == item
        value = json.loads(text)
        VALIDATOR.validate(value)
        for name in DECIMALS & value.keys():
            assert value[name] is None or isinstance(value[name], str), f"{name} is not a string"
        for side in (value.get("bids", []), value.get("asks", [])):
            assert all(isinstance(price, str) and isinstance(qty, str) for price, qty in side)


@pytest.mark.parametrize(("venue", "sample"), all_samples())
def test_ids_are_deterministic(venue: Exchange, sample: Sample) -> None:
    once, again = parsed(venue, sample, 1), parsed(venue, sample, 999_999)
    assert [i.id for i in once if isinstance(i, Event)] == [i.id for i in again if isinstance(i, Event)]


@each_venue
def test_ids_tell_events_apart(venue: Exchange) -> None:
    """Different happenings, different ids; the account is part of a private one."""
    samples = samples_of(venue.name)
    by_id: dict[str, Any] = {}
    for sample in (*samples.user, *samples.market):
        for item in parsed(venue, sample):
            if isinstance(item, Event):
                bare = msgspec.structs.replace(item, ts_recv=0)
                known = by_id.setdefault(item.id, bare)
                assert type(known) is type(bare) and known.symbol == bare.symbol, item.id
                if isinstance(item, get_args(UserRecord)):
                    assert "acc" in item.id


@each_venue
def test_every_kind_of_event_has_a_sample(venue: Exchange) -> None:
    samples = samples_of(venue.name)
    seen = {name for sample in (*samples.user, *samples.market) for name, _ in sample.expected}
    wanted = {
        "Order",
        "Fill",
        "Position",
        "Balance",
        "AccountEvent",
        "Unknown",
        "Malformed",
        "Trade",
        "Kline",
        "Ticker",
        "Depth",
    }
    kinds = venue.market_data.kinds
    wanted -= {"Position"} if venue.market == "spot" else set()  # spot holds wallets only
    wanted |= {"Liquidation"} if "liquidation" in kinds else set()
    wanted |= {"MarkPrice"} if "mark_price" in kinds else set()
    assert wanted <= seen


# ── Bad input ────────────────────────────────────────────────────────────────────────────────────────────────────
def both_parsers(venue: Exchange, frame: bytes) -> list[Any]:
    """Whatever the bytes: a list of items, never an exception; and what is an event can be published and booked."""
    mark = Watermark(proven_ms=0)
    items: list[Any] = []
    for path in ("", "/public", "/market"):
        items += venue.market_data.parse(frame, path, 5)
    for item in venue.parse_user(frame, "acc", 5):
        items.append(item)
        if isinstance(item, get_args(UserRecord)):
            mark.advance(item)
    for item in items:
        if isinstance(item, get_args(Record)):
            assert msgspec.json.decode(msgspec.json.encode(item), type=Record) == item
        if isinstance(item, get_args(MarketRecord)):
            venue.market_data.topic_of(item)
    return items


def frames_of(venue: Exchange) -> list[bytes]:
    samples = samples_of(venue.name)
    return [s.frame for s in (*samples.user, *samples.market)]


@each_venue
def test_truncated_frames(venue: Exchange) -> None:
    for frame in frames_of(venue):
        for cut in range(0, len(frame), max(1, len(frame) // 40)):
            both_parsers(venue, frame[:cut])
        items = venue.parse_user(frame[: len(frame) // 2], "acc", 1)
        assert all(isinstance(i, Malformed | Unknown) or i.__class__.__name__ == "Pong" for i in items)


@each_venue
def test_duplicated_and_reordered_frames(venue: Exchange) -> None:
    """Parsing keeps no state: any order and number of frames gives the same events, one by one."""
    frames = frames_of(venue) * 2
    alone = {frame: [repr(i) for i in both_parsers(venue, frame)] for frame in frames}
    random.Random(7).shuffle(frames)
    for frame in frames:
        assert [repr(i) for i in both_parsers(venue, frame)] == alone[frame]


@each_venue
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_garbage(venue: Exchange, data: st.DataObject) -> None:
    frames = frames_of(venue)
    kind = data.draw(st.sampled_from(["bytes", "json", "flipped"]))
    if kind == "bytes":
        frame = data.draw(st.binary(max_size=200))
    elif kind == "json":
        leaf = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False)
        frame = json.dumps(
            data.draw(
                st.recursive(leaf, lambda s: st.lists(s) | st.dictionaries(st.text(max_size=3), s), max_leaves=12)
            )
        ).encode()
    else:
        body = bytearray(data.draw(st.sampled_from(frames)))
        for _ in range(data.draw(st.integers(1, 4))):
            if body:
                body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
        frame = bytes(body)
    both_parsers(venue, frame)


@each_venue
def test_each_value_of_each_frame_replaced(venue: Exchange) -> None:
    for frame in frames_of(venue):
        for replaced in _with_a_value_replaced(frame):
            both_parsers(venue, replaced)


def _with_a_value_replaced(frame: bytes) -> Iterator[bytes]:
    try:
        value = json.loads(frame)
    except ValueError:
        return
    spots: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            spots.append((node, key))
            collect(node[key])

    collect(value)
    for node, key in spots:
        before = node[key]
        for node[key] in ODD:
            yield json.dumps(value).encode()
        node[key] = before


@each_venue
def test_frames_that_are_too_deep_or_not_text(venue: Exchange) -> None:
    for frame in (
        b"",
        b"[" * 100_000,
        b'{"e":' * 50_000,
        b"\xff\xfe\x00",
        b'{"e":"\xff"}',
        b'{"e":"a","E":' + b"9" * 6000 + b"}",
        b"\x00",
    ):
        items = both_parsers(venue, frame)
        assert items and not any(isinstance(i, get_args(MarketRecord)) for i in items)


# ── Session ──────────────────────────────────────────────────────────────────────────────────────────────────────
@each_venue
def test_error_table_is_complete(venue: Exchange) -> None:
    samples = samples_of(venue.name)
    for code, outcome in samples.documented_codes.items():
        verdict = venue.classify(HttpReply(400, {}, (samples.code_reply % code).encode()))
        assert (verdict.outcome, verdict.code) == (outcome, code), code
        assert venue.extra_codes[code]
    assert set(venue.extra_codes) <= samples.documented_codes.keys()


@each_venue
def test_statuses_and_pages_of_proxies(venue: Exchange) -> None:
    for status, body, headers, outcome in samples_of(venue.name).errors:
        assert venue.classify(HttpReply(status, headers, body)).outcome is outcome, (status, body)
    for status in (400, 401, 403, 404, 407, 500, 502, 503, 504):
        verdict = venue.classify(HttpReply(status, {}, b"<html><body>-2015 Invalid API-key</body></html>"))
        expected = (
            [Outcome.TRANSIENT, Outcome.RATE] if status == 403 else [Outcome.TRANSIENT]
        )  # a firewall's, say some sheets
        assert verdict.outcome in expected, status
    assert venue.classify(HttpReply(429, {"retry-after": "30"}, b"")).wait_s == 30.0


@each_venue
def test_unknown_codes_are_transient(venue: Exchange) -> None:
    verdict = venue.classify(HttpReply(400, {}, (samples_of(venue.name).code_reply % "-987654").encode()))
    assert (verdict.outcome, verdict.code) == (Outcome.TRANSIENT, "-987654")


@each_venue
def test_signed_calls_show_no_secret(venue: Exchange) -> None:
    credentials = samples_of(venue.name).credentials
    for call in (venue.probe, venue.clock, venue.ticket, venue.renewal.call if venue.renewal else None):
        if call is None:
            continue
        request = venue.sign(call, credentials, 1_790_000_000_000, False)
        sent = request.target + repr(request.headers) + request.body.decode()
        assert credentials.secret not in sent
        assert request.method == call.method and request.target.partition("?")[0] == call.path
        assert "canary" not in repr(request) + repr(credentials) + str(credentials)
        assert venue.sign(call, credentials, 1_790_000_000_000, False) == request  # deterministic
        if call.auth == "none":
            assert "canary" not in sent
        else:
            assert credentials.api_key in sent
    assert venue.probe.auth == "signed"


@each_venue
def test_a_private_key_signs_in_place_of_the_secret(venue: Exchange) -> None:
    """The signer gets what is to be signed, its answer is sent as base64, and the PEM stays here."""
    assert "hmac" in venue.key_kinds
    signed: list[bytes] = []

    def sign_with(payload: bytes) -> bytes:
        signed.append(payload)
        return b"\xfb\xff" * 32  # its base64 has + and /

    proof = base64.b64encode(b"\xfb\xff" * 32).decode()
    for kind in venue.key_kinds:
        if kind == "hmac":
            continue
        pair = KeyPair("key-canary-1", "-----BEGIN PRIVATE KEY-----canary", pair=kind, sign_with=sign_with)
        assert (pair.kind, repr(pair), str(pair)) == (kind, "Credentials(…)", "Credentials(…)")
        request = venue.sign(venue.probe, pair, 1_790_000_000_000, False)
        sent = request.target + "".join(value for _, value in request.headers)
        assert quote(proof, safe="") in request.target or proof in sent
        assert b"1790000000000" in signed[-1] and "PRIVATE" not in sent
        frames = b"".join(step.frame for step in venue.opening(pair, 1_790_000_000_000))
        assert b"PRIVATE" not in frames and (venue.ticket is not None or proof.encode() in frames)


@each_venue
def test_clock_ticket_and_unreadable_replies(venue: Exchange) -> None:
    samples = samples_of(venue.name)
    assert venue.clock_ms(HttpReply(200, {}, samples.clock[0])) == samples.clock[1]
    with pytest.raises(ConnectionFailed):
        venue.clock_ms(HttpReply(200, {}, b"<html>"))
    if venue.ticket_of is not None:
        assert samples.ticket is not None and venue.renewal is not None and venue.ticket is not None
        assert venue.ticket_of(HttpReply(200, {}, samples.ticket[0])) == samples.ticket[1]
        with pytest.raises(ConnectionFailed) as refused:
            venue.ticket_of(HttpReply(200, {}, b"<html>" + samples.ticket[0]))
        assert samples.ticket[1] not in repr(refused.value) and refused.value.__cause__ is None
        assert venue.renewal.interval_s <= 1800


@each_venue
def test_private_url_and_opening_are_data(venue: Exchange) -> None:
    credentials = samples_of(venue.name).credentials
    url = venue.user_url(venue.hosts, "tick/et&")
    assert url.startswith((venue.hosts.ws, *venue.hosts.extra.values())) and "tick/et&" not in url
    for step in venue.opening(credentials, 1_790_000_000_000):
        assert json.loads(step.frame) and credentials.secret.encode() not in step.frame
        assert "canary" not in repr(step)
    for liveness in (venue.user_liveness, venue.market_data.liveness):
        assert 0 < liveness.interval_s < liveness.timeout_s <= 15


@each_venue
def test_hosts_and_their_overrides(venue: Exchange) -> None:
    for roots in (venue.hosts, venue.testnet_hosts):
        assert roots.rest.startswith("https://") and roots.ws.startswith("wss://")
        assert not roots.rest.endswith("/") and not roots.ws.endswith("/")
    assert venue.hosts != venue.testnet_hosts
    assert hosts(venue, False, {}) == venue.hosts and hosts(venue, True, {}) == venue.testnet_hosts
    given_roots = {setting: f"wss://127.0.0.1:{n}/" for n, setting in enumerate(venue.host_settings.values(), 1)}
    for testnet in (False, True):
        roots = hosts(venue, testnet, given_roots)
        assert all(
            r.startswith("wss://127.0.0.1:") and r[-1] != "/" for r in (roots.rest, roots.ws, *roots.extra.values())
        )
    assert all(s.startswith("FLEET_") and s.endswith("_URL") for s in venue.host_settings.values())


# ── Public subscriptions ─────────────────────────────────────────────────────────────────────────────────────────
@each_venue
def test_topics_and_splitting(venue: Exchange) -> None:
    market, limits = venue.market_data, venue.limits
    known = {k for k in market.kinds if not k.startswith("kline_")}
    assert known <= set(MARKET_KINDS) and "kline_1m" in market.kinds
    symbols = [f"C{n}USDT" for n in range(300)]
    topics = market.topics(symbols, market.kinds)
    alone = [k for k in market.kinds if k not in market.comes_with]
    assert len({(t.name, t.path) for t in topics}) == len(topics)
    shared = {t.kind for t in topics if t.symbol not in symbols}  # one topic of a kind may be that of all symbols
    own = [t for t in topics if t.kind not in shared]
    assert len(own) == len(symbols) * (len(alone) - len(shared))
    assert {t.market for t in topics} <= {"", *market.markets}
    for kind, other in market.comes_with.items():
        assert [t.name for t in market.topics(["BTCUSDT"], [kind])] == [
            t.name for t in market.topics(["BTCUSDT"], [other])
        ]
    assert market.topics(["BTCUSDT"], ["kline_7x", "nonsense"]) == []
    assert {t.kind for t in topics} == set(alone) and {t.symbol for t in own} == set(symbols)
    chunk = topics[: limits.subscribe_chunk]
    frame = market.subscribe(chunk, 41)
    assert len(frame) < limits.max_frame_bytes and b"41" in frame
    text = frame.decode()
    assert all(t.name in text or t.name.partition(":")[0] in text for t in chunk)  # OKX: channel and instrument apart
    assert limits.subscribe_chunk <= limits.streams_per_connection and limits.subscribe_interval_s > 0
    for path in {t.path for t in topics}:
        assert market.url(venue.hosts, path).startswith(venue.hosts.ws)


@each_venue
def test_limits_hold(venue: Exchange) -> None:
    limits = venue.limits
    assert 0 < limits.rotate_after_s < limits.lifetime_s
    assert limits.dial.burst >= 1 and limits.weight.burst >= max(venue.probe.weight, 40) and limits.weight.per_s > 0
    assert limits.history_s >= 7 * 86_400


@each_venue
def test_events_prove_their_topic_alive(venue: Exchange) -> None:
    market = venue.market_data
    for sample in samples_of(venue.name).market:
        for item in parsed(venue, sample):
            if isinstance(item, get_args(MarketRecord)):
                names = {t.name for t in market.topics([item.symbol], market.kinds)}
                assert market.topic_of(item) in names | {""}


@each_venue
def test_order_book_snapshot(venue: Exchange) -> None:
    market, body = venue.market_data, samples_of(venue.name).snapshot
    if market.snapshot is None or market.parse_snapshot is None or body is None:
        assert market.snapshot is None and market.parse_snapshot is None
        return
    call = market.snapshot("BTCUSDT")
    assert call.auth == "none" and call.weight >= 1
    book = market.parse_snapshot(HttpReply(200, {}, body), "BTCUSDT", 9)
    assert isinstance(book, Depth) and (book.kind, book.source) == ("snapshot", "rest") and book.bids and book.asks
    VALIDATOR.validate(json.loads(msgspec.json.encode(book)))
    with pytest.raises(ConnectionFailed):
        market.parse_snapshot(HttpReply(200, {}, b"<html>"), "BTCUSDT", 9)


# ── Read-back ────────────────────────────────────────────────────────────────────────────────────────────────────
def carry_out(
    venue: Exchange, mark: Watermark, now_ms: int, replies: dict[str, bytes]
) -> tuple[Recovered, list[HttpCall]]:
    samples = samples_of(venue.name)
    answers = {venue.clock.path: samples.clock[0]} | replies
    spec = AccountSpec("acc", "u", venue.exchange, venue.market, "l", False, 1, 0)
    plan = venue.recover(spec, mark, now_ms)
    calls = [next(plan)]
    try:
        for _ in range(500):
            calls.append(plan.send(HttpReply(200, {}, _answer(calls[-1], answers, samples.empty))))
    except StopIteration as end:
        return end.value, calls
    raise AssertionError("the read-back does not end")


def _answer(call: HttpCall, answers: dict[str, bytes], empty: bytes) -> bytes:
    """By path; a key with a query answers only calls whose query begins so."""
    target = f"{call.path}?{'&'.join(f'{name}={value}' for name, value in call.params)}"
    found = (body for key, body in answers.items() if key == call.path or ("?" in key and target.startswith(key)))
    return next(found, empty)


def pairs() -> list[Any]:
    return [pytest.param(v, p, id=f"{v.name}: {p.name}") for v in VENUES for p in samples_of(v.name).pairs]


@pytest.mark.parametrize(("venue", "pair"), pairs())
def test_stream_and_rest_agree_on_ids(venue: Exchange, pair: Pair) -> None:
    told = [
        i for frame in pair.frames for i in venue.parse_user(frame, "acc", 1) if isinstance(i, get_args(UserRecord))
    ]
    at_ms = max(event.ts_event for event in told)
    found, calls = carry_out(venue, Watermark(proven_ms=at_ms - 1000), at_ms + 1000, pair.replies)
    for kind in pair.types:
        streamed = {e.id: e for e in told if type(e).__name__ == kind}
        read = {e.id: e for e in found.events if type(e).__name__ == kind}
        assert streamed and streamed.keys() == read.keys(), kind
        for event in read.values():
            assert event.source == "rest" and event.ts_event == streamed[event.id].ts_event
            VALIDATOR.validate(json.loads(msgspec.json.encode(event)))
    assert all(call.auth == "signed" and call.weight >= 1 for call in calls if call.path != venue.clock.path)
    times = [event.ts_event for event in found.events]
    assert times == sorted(times)


@each_venue
def test_a_quiet_account_needs_few_calls_and_tells_nothing_twice(venue: Exchange) -> None:
    samples: Samples = samples_of(venue.name)
    now_ms = 1_790_000_000_000
    mark = Watermark(proven_ms=now_ms - DAY_MS)
    first, _ = carry_out(venue, mark, now_ms, samples.quiet)
    for event in first.events:
        mark.advance(event)
    mark.prove(first.snapshot, now_ms)
    second, calls = carry_out(venue, mark, now_ms + 1000, samples.quiet)
    assert (second.events, second.unrecoverable, len(calls)) == ([], "", samples.quiet_calls)
