"""Toy: the invented fifth venue of tests/contract/test_toy_venue.py, which copies this folder to fleet/exchanges/toy.

One JSON object a frame, told apart by `t`; REST sends the same rows as {"rows": […]}. Everything the protocol asks of a venue
is here, and nothing elsewhere knows of it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated, Any, Literal, get_args

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from fleet.core.book import Rules
from fleet.core.decoding import decode
from fleet.core.errors import ConnectionFailed
from fleet.core.events import (
    AccountEvent,
    Balance,
    Depth,
    Fill,
    Kline,
    MarketRecord,
    Order,
    OrderStatus,
    Ticker,
    Trade,
    UserRecord,
    plain,
)
from fleet.core.exchange import (
    Exchange,
    Goodbye,
    Hosts,
    HttpCall,
    HttpReply,
    HttpRequest,
    Limits,
    Liveness,
    Malformed,
    Market,
    MarketItem,
    MarketKind,
    Outcome,
    Pong,
    Rate,
    Recovered,
    RecoveryPlan,
    Reply,
    Step,
    Topic,
    Unknown,
    UserItem,
    Verdict,
)
from fleet.core.model import AccountSpec, Credentials
from fleet.core.recovery import Snapshot, Watermark, differing, in_order

Num = Annotated[str, Meta(pattern=r"\A-?[0-9]{1,20}(\.[0-9]{1,20})?\Z")]
Ms = Annotated[int, Meta(ge=0, lt=10**15)]
Level = tuple[Num, Num]
SIDES: dict[str, Literal["buy", "sell"]] = {"b": "buy", "s": "sell"}
CODES = {1: Outcome.INVALID, 2: Outcome.CLOCK, 3: Outcome.RATE, 4: Outcome.PERMANENT, 5: Outcome.TRANSIENT}
KINDS: tuple[MarketKind, ...] = ("kline_1m", "kline_1h", "ticker", "depth", "trade")
SPANS_MS = {"1m": 60_000, "1h": 3_600_000}
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Row(msgspec.Struct, tag_field="t", tag=str.lower):
    """Anything the venue sends: its class is named as its `t`."""


class Ord(Row):
    id: str
    cid: str
    sym: str
    side: Literal["b", "s"]
    state: OrderStatus
    px: Num
    qty: Num
    done: Num
    at: Ms


class Exe(Row):
    id: str
    order: str
    cid: str
    sym: str
    side: Literal["b", "s"]
    px: Num
    qty: Num
    fee: Num
    coin: str
    maker: bool
    at: Ms


class Coin(Row):
    coin: str
    total: Num
    free: Num
    at: Ms


class Note(Row):
    text: str
    at: Ms


class Ack(Row):
    re: str
    code: Annotated[int, Meta(ge=0, lt=10**6)] = 0


class Pon(Row):
    pass


class Bye(Row):
    pass


class Deal(Row):
    sym: str
    no: Ms
    px: Num
    qty: Num
    side: Literal["b", "s"]
    at: Ms


class Bar(Row):
    sym: str
    span: Literal["1m", "1h"]
    start: Ms
    px: tuple[Num, Num, Num, Num]  # open, high, low, close
    vol: Num
    end: bool


class Quote(Row):
    sym: str
    last: Num
    bid: Num
    ask: Num
    at: Ms


class Book(Row):
    sym: str
    full: bool
    no: Ms
    b: list[Level]
    a: list[Level]
    at: Ms


Private = Ord | Exe | Coin | Note | Ack | Pon | Bye
Public = Deal | Bar | Quote | Book | Ack | Pon


class Head(msgspec.Struct):
    t: str


class Refusal(msgspec.Struct):
    code: int = 0


class Page(msgspec.Struct):
    rows: list[Private]


class Clock(msgspec.Struct):
    now: Ms


# ── Frames ───────────────────────────────────────────────────────────────────────────────────────────────────────
def user_event(r: Ord | Exe | Coin | Note, account: str, now_ms: int) -> UserRecord:
    fields: dict[str, Any] = {
        "exchange": "toy",
        "market": "spot",
        "account_id": account,
        "ts_event": r.at,
        "ts_recv": now_ms,
    }
    if isinstance(r, Ord):
        return Order(
            id=f"toy:order:{account}:{r.id}:{r.state}:{plain(r.done)}:{r.at}", symbol=r.sym, order_id=r.id, client_order_id=r.cid,
            side=SIDES[r.side], position_side="net", order_type="limit", time_in_force="gtc", status=r.state, price=r.px,
            stop_price="0", qty=r.qty, filled_qty=r.done, avg_price=r.px, reduce_only=False, **fields,
        )  # fmt: skip
    if isinstance(r, Exe):
        return Fill(
            id=f"toy:fill:{account}:{r.id}", symbol=r.sym, trade_id=r.id, order_id=r.order, client_order_id=r.cid,
            side=SIDES[r.side], position_side="net", price=r.px, qty=r.qty, fee=r.fee, fee_asset=r.coin,
            liquidity="maker" if r.maker else "taker", realized_pnl="0", **fields,
        )  # fmt: skip
    if isinstance(r, Coin):
        ident = f"toy:balance:{account}:{r.coin}:{plain(r.total)}:{r.at}"
        return Balance(id=ident, symbol="", asset=r.coin, wallet=r.total, available=r.free, **fields)
    return AccountEvent(id=f"toy:note:{account}:{r.at}", symbol="", event="note", data={"text": r.text}, **fields)


def market_event(r: Deal | Bar | Quote | Book, now_ms: int) -> MarketRecord:
    fields: dict[str, Any] = {"exchange": "toy", "market": "spot", "symbol": r.sym, "ts_recv": now_ms}
    if isinstance(r, Deal):
        ident, side = f"toy:trade:{r.sym}:{r.no}", SIDES[r.side]
        return Trade(id=ident, ts_event=r.at, trade_id=str(r.no), price=r.px, qty=r.qty, side=side, **fields)
    if isinstance(r, Bar):
        (first, high, low, last), end = r.px, r.start + SPANS_MS[r.span] - 1
        return Kline(
            id=f"toy:kline:{r.sym}:{r.span}:{r.start}:{'closed' if r.end else ':'.join((*r.px, r.vol))}", interval=r.span,
            open_time=r.start, close_time=end, ts_event=end if r.end else r.start, open=first, high=high, low=low, close=last,
            volume=r.vol, closed=r.end, **fields,
        )  # fmt: skip
    if isinstance(r, Quote):
        ident = f"toy:ticker:{r.sym}:{r.at}:{r.last}:{r.bid}:{r.ask}"
        return Ticker(id=ident, ts_event=r.at, last=r.last, bid=r.bid, ask=r.ask, **fields)
    kind: Literal["snapshot", "update"] = "snapshot" if r.full else "update"
    ident = f"toy:depth:{r.sym}:{kind}:{r.no}"
    return Depth(id=ident, ts_event=r.at, kind=kind, bids=r.b, asks=r.a, first_seq=r.no, last_seq=r.no, **fields)


def control(r: Ack | Pon | Bye) -> Reply | Pong | Goodbye:
    if isinstance(r, Ack):
        return Reply(
            r.re, Verdict(CODES.get(r.code, Outcome.TRANSIENT), str(r.code)) if r.code else Verdict(Outcome.OK)
        )
    return Pong() if isinstance(r, Pon) else Goodbye("bye")


def strange(frame: bytes, known: Any) -> Unknown | Malformed:
    """What did not decode: of a kind that is not known, or broken."""
    try:
        kind = decode(frame, Head).t
    except UNREADABLE:
        return Malformed("not a row")
    return Malformed(f"fields of {kind}") if kind in {c.__name__.lower() for c in get_args(known)} else Unknown(kind)


def parse_user(frame: bytes, account: str, now_ms: int) -> list[UserItem]:
    try:
        row = decode(frame, Private)
    except UNREADABLE:
        return [strange(frame, Private)]
    return [control(row)] if isinstance(row, Ack | Pon | Bye) else [user_event(row, account, now_ms)]


def parse_market(frame: bytes, path: str, now_ms: int) -> list[MarketItem]:
    try:
        row = decode(frame, Public)
    except UNREADABLE:
        return [strange(frame, Public)]
    return [control(row)] if isinstance(row, Ack | Pon) else [market_event(row, now_ms)]


# ── Session ──────────────────────────────────────────────────────────────────────────────────────────────────────
def mac(credentials: Credentials, text: str) -> str:
    return hmac.new(credentials.secret.encode(), text.encode(), hashlib.sha256).hexdigest()


def sign(call: HttpCall, credentials: Credentials, now_ms: int, is_testnet: bool) -> HttpRequest:
    query = "&".join(f"{name}={value}" for name, value in call.params)
    target = f"{call.path}?{query}" if query else call.path
    if call.auth == "none":
        return HttpRequest(call.method, target, ())
    return HttpRequest(
        call.method, target, (("key", credentials.api_key), ("mac", mac(credentials, f"{now_ms}{target}")))
    )


def classify(reply: HttpReply) -> Verdict:
    code = 0
    try:
        code = decode(reply.body, Refusal).code
        ok = 200 <= reply.status < 300
    except UNREADABLE:
        ok = False
    if code:
        return Verdict(CODES.get(code, Outcome.TRANSIENT), str(code))
    told = reply.headers.get("retry-after", "")
    if reply.status == 429:
        return Verdict(Outcome.RATE, "http 429", float(told) if told.isascii() and told.isdigit() else 0.0)
    return Verdict(Outcome.OK) if ok else Verdict(Outcome.TRANSIENT, f"http {reply.status}")


def read(reply: HttpReply, shape: Any, what: str) -> Any:
    try:
        return decode(reply.body, shape)
    except UNREADABLE as error:
        raise ConnectionFailed(f"{what}: unreadable reply") from error


def opening(credentials: Credentials, now_ms: int) -> tuple[Step, ...]:
    login = {
        "do": "login",
        "re": "login",
        "key": credentials.api_key,
        "at": now_ms,
        "mac": mac(credentials, str(now_ms)),
    }
    return (Step("authenticating", "login", msgspec.json.encode(login)),)


def topics(symbols: Sequence[str], kinds: Sequence[MarketKind]) -> list[Topic]:
    return [Topic(f"{kind}.{s}", "/public", kind, s, 30.0) for s in symbols for kind in kinds if kind in KINDS]


def topic_of(event: MarketRecord) -> str:
    kind = {Trade: "trade", Ticker: "ticker", Depth: "depth"}.get(type(event), "")
    return f"{f'kline_{event.interval}' if isinstance(event, Kline) else kind}.{event.symbol}"


def subscribe(wanted: Sequence[Topic], request_id: int) -> bytes:
    return msgspec.json.encode({"do": "join", "re": str(request_id), "to": [t.name for t in wanted]})


# ── Read-back ────────────────────────────────────────────────────────────────────────────────────────────────────
def recover(spec: AccountSpec, mark: Watermark, now_ms: int) -> RecoveryPlan:
    """All rows since the watermark in one call each, the wallets last."""
    found: list[UserRecord] = []
    wallets: list[Balance] = []
    for path in ("/fills", "/orders", "/coins"):
        call = HttpCall("GET", path, (("since", str(mark.proven_ms)),), auth="signed")
        for row in read((yield call), Page, path).rows:
            if isinstance(row, Ord | Exe | Coin):
                event = replace(user_event(row, spec.id, now_ms), source="rest")
                (wallets if isinstance(event, Balance) else found).append(event)  # type: ignore[arg-type]
    held = {b.asset: b.wallet for b in wallets if plain(b.wallet) != "0"}
    changed = differing(mark.wallets, held)
    return Recovered(in_order([*found, *(b for b in wallets if b.asset in changed)]), Snapshot(now_ms, {}, held))


LIVENESS = Liveness(ping=b'{"do":"ping"}', interval_s=5.0, timeout_s=11.0)
EXCHANGE = Exchange(
    name="toy", exchange="toy", market="spot",
    hosts=Hosts(rest="https://toy.invalid", ws="wss://toy.invalid"),
    testnet_hosts=Hosts(rest="https://test.toy.invalid", ws="wss://test.toy.invalid"),
    host_settings={"rest": "FLEET_TOY_REST_URL", "ws": "FLEET_TOY_WS_URL"},
    limits=Limits(
        streams_per_connection=100, subscribe_chunk=20, subscribe_interval_s=0.1, connections_per_ip=50, dial=Rate(5, 1),
        weight=Rate(50, 10), lifetime_s=86_400, rotate_after_s=80_000, history_s=30 * 86_400, proof_weight=3,
    ),
    user_liveness=LIVENESS, sign=sign, classify=classify, clock=HttpCall("GET", "/now"),
    clock_ms=lambda reply: int(read(reply, Clock, "clock").now), probe=HttpCall("GET", "/me", auth="signed"),
    user_url=lambda hosts, ticket: f"{hosts.ws}/private", opening=opening, parse_user=parse_user, recover=recover,
    market_data=Market(
        kinds=KINDS, topics=topics, url=lambda hosts, path: hosts.ws + path, subscribe=subscribe, parse=parse_market,
        topic_of=topic_of, liveness=LIVENESS, book=Rules(link="next", covers=False, snapshots="stream"),
    ),
    extra_codes={str(code): outcome.value for code, outcome in CODES.items()},
)  # fmt: skip
