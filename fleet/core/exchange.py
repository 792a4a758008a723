"""The Exchange protocol: everything one exchange folder provides, as data and pure functions.

An exchange folder (`fleet/exchanges/<name>/`) holds facts only and exports one `EXCHANGE: Exchange`. It never sleeps,
connects, reads a clock or logs; flow lives once, in `workers/stream.py` (private) and `workers/market_stream.py` (public).
Words: a *ticket* is what must be fetched by REST before dialling a private socket (Binance's listen key); the *opening* is
the dialogue after the handshake (login, subscribe); a *topic* is one public subscription.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from fleet.core.book import Rules
from fleet.core.errors import ExchangeRefused
from fleet.core.events import Depth, Kline, MarketRecord, Order, Trade, UserRecord
from fleet.core.model import AccountSpec, Credentials, KeyKind
from fleet.core.recovery import Snapshot, Watermark
from fleet.core.sharing import Sharing

# ── HTTP as data ─────────────────────────────────────────────────────────────────────────────────────────────────
Auth = Literal["none", "key", "signed"]


class HttpCall(msgspec.Struct, frozen=True):
    """A REST call before signing. `params` keep their order; `weight` is what it costs in the venue's own unit."""

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    weight: int = 1
    auth: Auth = "none"


class HttpRequest(msgspec.Struct, frozen=True):
    """A REST call ready to send: `target` is path and query exactly as signed. Its repr shows no query and no header."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.target.partition('?')[0]})"


class HttpReply(msgspec.Struct, frozen=True):
    """A reply of any status. Header names are lower case. `at_ms`: exchange time just before the call went out, 0 = not noted."""

    status: int
    headers: dict[str, str]
    body: bytes
    at_ms: int = 0


# ── Verdicts on errors ───────────────────────────────────────────────────────────────────────────────────────────
class Outcome(enum.StrEnum):
    """What an answer of the exchange means for the stream (streams.md, Credentials)."""

    OK = "ok"
    INVALID = "invalid"  # credentials: a strike
    ELSEWHERE = (
        "elsewhere"  # a strike too, but the key may be of another environment or region, and the user is told so
    )
    CLOCK = "clock"  # our timestamp is off: resync, retry
    RATE = "rate"  # wait as told, for the whole egress address
    TRANSIENT = "transient"  # retry with backoff
    PERMANENT = "permanent"  # not credentials, not curable by retrying: alert
    TICKET_GONE = "ticket_gone"  # the listen key does not exist any more: fetch a new one


REFUSED = frozenset({Outcome.INVALID, Outcome.ELSEWHERE})
"""The exchange does not accept these credentials here."""


class Verdict(msgspec.Struct, frozen=True):
    """`code` is the exchange's own (a string), `wait_s` how long it told us to stay away (0 = it did not say)."""

    outcome: Outcome
    code: str = ""
    wait_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.outcome}({self.code})" if self.code else str(self.outcome)


def code_of(refused: ExchangeRefused) -> str:
    """The exchange's own code of a refusal, "" where there is none."""
    return refused.verdict.code if isinstance(refused.verdict, Verdict) else ""


# ── What a private or public socket said that is not an event ────────────────────────────────────────────────────
class Reply(msgspec.Struct, frozen=True):
    """Answer to a frame we sent: `key` names the request (Step.key or a subscribe id), `verdict` is OK or why not."""

    key: str
    verdict: Verdict
    topics: tuple[str, ...] = ()


class Pong(msgspec.Struct, frozen=True):
    """The answer to an application-level ping; it proves life and carries nothing."""


class TicketExpired(msgspec.Struct, frozen=True):
    """The listen key died: fetch a new one, open a new socket, re-read."""


class Goodbye(msgspec.Struct, frozen=True):
    """The server will close this socket: rotate now (serverShutdown, eventStreamTerminated, OKX notice 64008)."""

    reason: str


class Unknown(msgspec.Struct, frozen=True):
    """A well-formed message of a type this adapter does not know. Counted, and the first of each type is logged."""

    type: str


class Malformed(msgspec.Struct, frozen=True):
    """Bytes that are not the venue's JSON, or lack a field every version has. Counted; never kills a stream."""

    reason: str


Control = Reply | Pong | TicketExpired | Goodbye | Unknown | Malformed
UserItem = UserRecord | Control
MarketItem = MarketRecord | Control


# ── Facts about limits and liveness ──────────────────────────────────────────────────────────────────────────────
class Rate(msgspec.Struct, frozen=True):
    """A limit. Steady (`window_s` 0): a token bucket, at most `burst` at once, refilled at `per_s`; burst + per_s × window never
    exceeds the documented limit. Windowed: at most `burst` in each UTC clock window of `window_s`, as some venues count, or, when
    `sliding`, in any span of that length; `per_s` is its average. `used_header`: the reply header (lower case) in which the venue
    tells what this address has used of a clock window so far, "" = it does not."""

    burst: float
    per_s: float
    window_s: float = 0.0
    sliding: bool = False
    used_header: str = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The venue's limits; every number has its source in the folder's limits.py."""

    streams_per_connection: int
    subscribe_chunk: int  # names in one SUBSCRIBE frame
    subscribe_interval_s: float  # between two frames we send
    connections_per_ip: int
    dial: Rate
    weight: Rate
    lifetime_s: float  # the venue cuts a socket after this
    rotate_after_s: float  # we replace it before
    history_s: float  # how far back fills can be re-read
    proof_weight: int  # what it costs to ask by REST whether an account's socket told everything (`Scope`: proof)
    max_frame_bytes: int = 4 * 1024 * 1024


class Liveness(msgspec.Struct, frozen=True):
    """How to prove that a quiet socket is alive. `ping` None = a WebSocket protocol ping, else an application text frame.
    `keepalive_s`: a venue that wants to hear from us too gets a ping this often while data flows (0 = it does not mind)."""

    ping: bytes | None
    interval_s: float
    timeout_s: float  # nothing of any kind received for this long = dead
    keepalive_s: float = 0.0


class Hosts(msgspec.Struct, frozen=True):
    """Roots of one environment, without trailing slash. `extra` holds further roots by setting suffix (e.g. wsapi)."""

    rest: str
    ws: str
    extra: dict[str, str] = {}


# ── Private stream ───────────────────────────────────────────────────────────────────────────────────────────────
class Step(msgspec.Struct, frozen=True):
    """One request of the opening dialogue: send `frame`, wait for the Reply with `key`. `phase` is what the stream shows
    meanwhile. Without what is not `vital` the stream goes on, should the exchange refuse it for good: it tells no fill or order."""

    phase: Literal["authenticating", "subscribing"]
    key: str
    frame: bytes
    vital: bool = True

    def __repr__(self) -> str:
        return f"Step({self.phase} {self.key})"


class Renewal(msgspec.Struct, frozen=True):
    """How to keep a ticket alive. `call` costs one key-authenticated request each `interval_s` (jittered by the caller)."""

    call: HttpCall
    interval_s: float


class Recovered(msgspec.Struct, frozen=True):
    """Result of one read-back: what was missed (in order of ts_event), the snapshot it was judged by, and what cannot be had.
    `explained` False: the fills read do not lead to the snapshot. It may be ahead of them (REST lags), and is no base then.
    `untold_ms`: exchange time of a fill that position or order show and no call tells yet, 0 = none such.
    `canceled`: the end of orders that were known as open and that the exchange has forgotten (`core.recovery.forgotten_orders`); it
    holds unless the socket told another meanwhile.
    `unasked`: a full read that did not ask, wherever it could, for orders that came and went; a read of scope `orders` does."""

    events: list[UserRecord]
    snapshot: Snapshot
    unrecoverable: str = ""
    explained: bool = True
    unasked: bool = False
    untold_ms: int = 0
    canceled: Sequence[Order] = ()


RecoveryPlan = Generator[HttpCall, HttpReply, Recovered]
"""A read-back as a pure dialogue: yields calls, is sent their OK replies, returns what it found.
A permanent refusal is thrown in as ExchangeRefused; a plan that does not need that call catches it and goes on."""


# ── Public streams ───────────────────────────────────────────────────────────────────────────────────────────────
MarketKind = str
"""`kline_<interval>` (1m, 5m, ...), `ticker`, `book_ticker`, `depth`, `trade`, `liquidation` or `mark_price`."""
MARKET_KINDS = ("ticker", "book_ticker", "depth", "trade", "liquidation", "mark_price")


class Topic(msgspec.Struct, frozen=True):
    """One public subscription. `path` groups topics that may share a socket; `expect_s` is the longest believable silence
    (None = silence is normal); `market` is that of its events where it is not the venue's (all topics of a path have one).
    `first_s`: the longest before its first event, where the venue begins a subscription with one; `traded_s`: the same while other
    topics of its symbol show that it trades."""

    name: str
    path: str
    kind: MarketKind
    symbol: str
    expect_s: float | None
    market: str = ""
    first_s: float | None = None
    traded_s: float | None = None


class TradeQuery(msgspec.Struct, frozen=True):
    """Public trades of one symbol after the id `after` and before the id `before` ("" = up to now). `page`: replies that this
    read had already without reaching all of it. `aggregated`: where the venue documents that its stream tells the matches of one
    order as one trade, the socket is taken to do so."""

    symbol: str
    market: str
    after: str
    before: str = ""
    page: int = 0
    aggregated: bool = True


class CandleQuery(msgspec.Struct, frozen=True):
    """Candles of one symbol that opened within since_ms … until_ms. `tries`: so many replies in a row had none of them."""

    symbol: str
    market: str
    interval: str
    since_ms: int
    until_ms: int
    tries: int = 0


@dataclass(frozen=True)
class TradeHistory:
    """How public trades are read back. `ids`: contiguous = they count by one per symbol, so a jump is a loss and its size is
    known; opaque = they only tell trades apart. A reply's rows come oldest first and are complete between the first and the
    last of them; they may begin before `after` and end after `before`. `rows` raises ConnectionFailed for what is no reply."""

    ids: Literal["contiguous", "opaque"]
    call: Callable[[TradeQuery], HttpCall]
    rows: Callable[[HttpReply, TradeQuery, int], list[Trade]]  # reply, query, ts_recv ms


@dataclass(frozen=True)
class CandleHistory:
    """How closed candles are read back: oldest first, complete between the first and the last, those still open left out
    (HttpReply.at_ms says what time it is at the exchange). `rows` raises ConnectionFailed for what is no reply."""

    call: Callable[[CandleQuery], HttpCall]
    rows: Callable[[HttpReply, CandleQuery, int], list[Kline]]  # reply, query, ts_recv ms


CANDLE_SETTLE_MS = 1000
"""A candle read by REST counts as closed this long after its end: the engine and the exchange's candles may lag."""

CANDLE_ALONE_MS = 60_000
"""And this long where the reply has none that began later: REST may be old, and tell the candle as it then was."""


@dataclass(frozen=True)
class Market:
    """The public half of an exchange. `markets`: what its events' `market` may be, empty = the venue's. `comes_with`: kinds
    that share a topic with another one, which is subscribed once for both. `again`: frames that make the venue send topics
    anew from a snapshot, for books whose snapshots come in the stream; the last one's Reply has the key str(id). `changes`: does
    this event leave out what did not change since the last one of its topic? `examples`:
    well-known symbols in the form `topics` takes, for the demo. Trades or candles without a history are not served by REST:
    a gap in them is told and stays."""

    kinds: tuple[MarketKind, ...]
    topics: Callable[[Sequence[str], Sequence[MarketKind]], list[Topic]]  # symbols, kinds -> topics
    url: Callable[[Hosts, str], str]  # hosts, path -> URL of a socket for that path
    subscribe: Callable[[Sequence[Topic], int], bytes]  # topics, request id -> frame; the Reply's key is str(id)
    parse: Callable[[bytes, str, int], list[MarketItem]]  # frame, path, ts_recv ms
    topic_of: Callable[[MarketRecord], str]  # which topic (name) an event proves alive; "" = none
    liveness: Liveness
    book: Rules  # how updates of an order book link, and where its snapshots come from
    snapshot: Callable[[str], HttpCall] | None = None  # symbol -> REST order-book snapshot, where the venue needs one
    parse_snapshot: Callable[[HttpReply, str, int], Depth] | None = None  # reply, symbol, ts_recv
    markets: tuple[str, ...] = ()
    comes_with: Mapping[MarketKind, MarketKind] = field(default_factory=dict)
    again: Callable[[Sequence[Topic], int], list[bytes]] | None = None  # topics, request id
    changes: Callable[[MarketRecord], bool] | None = None
    examples: tuple[str, ...] = ("BTCUSDT", "ETHUSDT")
    trade_history: TradeHistory | None = None
    candle_history: CandleHistory | None = None


@dataclass(frozen=True)
class Exchange:
    """One venue. `name` is the folder's; (`exchange`, `market`) is what a row of exchange_accounts says."""

    name: str
    exchange: str
    market: str
    hosts: Hosts
    testnet_hosts: Hosts
    host_settings: dict[str, str]  # 'rest' | 'ws' | extra name -> the FLEET_* setting that overrides it
    limits: Limits
    user_liveness: Liveness
    sign: Callable[[HttpCall, Credentials, int, bool], HttpRequest]  # call, credentials, exchange time ms, is_testnet
    classify: Callable[[HttpReply], Verdict]
    clock: HttpCall
    clock_ms: Callable[[HttpReply], int]
    probe: HttpCall  # cheapest signed call: proves or disproves credentials
    user_url: Callable[[Hosts, str], str]  # hosts, ticket ("" where there is none)
    opening: Callable[[Credentials, int], tuple[Step, ...]]
    parse_user: Callable[[bytes, str, int], list[UserItem]]  # frame, account id, ts_recv ms
    recover: Callable[[AccountSpec, Watermark, int], RecoveryPlan]  # account, from where, now (exchange ms)
    market_data: Market
    ticket: HttpCall | None = None
    ticket_of: Callable[[HttpReply], str] | None = None
    renewal: Renewal | None = None
    # Do fills of this symbol make a position, counted in the same unit? Then one lost from a living socket shows in it.
    books_positions: Callable[[str], bool] = lambda symbol: False
    needs_passphrase: bool = False  # its API keys come with a third secret
    key_kinds: tuple[KeyKind, ...] = ("hmac",)  # which API keys this adapter signs with, recognised from the secret
    sharing: Sharing | None = None  # several accounts on one private socket, where the venue lets them
    extra_codes: dict[str, str] = field(default_factory=dict)  # documented codes and what they mean, for docs and tests
