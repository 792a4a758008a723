"""Bybit messages and REST rows as msgspec types: what parse.py and recover.py decode into. Nothing else uses them.

Only fields that we read are declared: unknown ones pass, and none that some captures lack is required. Prices and quantities
are `str`: a venue that sent a number instead would be malformed, never a float. `Number` marks those that the fleet computes
with; `Loose` may also be empty, as the venue writes "there is none". Sources: exchanges/bybit.md sections 1.2, 3.2, 4, 5, 6.4.
"""

from __future__ import annotations

from typing import Annotated, Any, Generic, Literal, TypeVar

import msgspec
from msgspec import Raw, field

Number = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,40}(\.[0-9]{0,40})?\Z")]
Loose = Annotated[str, msgspec.Meta(pattern=r"^(-?[0-9]{1,40}(\.[0-9]{0,40})?)?\Z")]
Ms = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
MsText = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{0,15}\Z")]
Seq = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
Direction = Literal["Buy", "Sell"]
Levels = list[tuple[str, str]]
T = TypeVar("T")


class Frame(msgspec.Struct, rename={"created_ms": "creationTime", "ret_code": "retCode"}):
    """Everything an envelope may hold: data (`topic`), or the answer to a request (`op`, `success`, `req_id`)."""

    topic: str = ""
    id: Any = ""  # of a private message
    type: str = ""
    ts: Ms = 0
    cts: Ms = 0
    cs: Seq = 0
    created_ms: Ms = 0
    data: Raw = Raw(b"")
    op: str = ""
    success: bool | None = None
    ret_code: int | None = None
    ret_msg: str = ""
    req_id: str = ""
    request: Raw = Raw(b"")


class Echo(msgspec.Struct):
    """The refused request, as a second shape of a failed login echoes it. Its `args` hold key and signature: never read."""

    op: str = ""
    req_id: str = ""


class Topics(msgspec.Struct):
    """`data` of a COMMAND_RESP (option sockets)."""

    failed: list[str] = field(name="failTopics", default_factory=list)
    done: list[str] = field(name="successTopics", default_factory=list)


# ── Public ───────────────────────────────────────────────────────────────────────────────────────────────────────
class Candle(msgspec.Struct, gc=False):
    start: Ms
    end: Ms
    interval: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    confirm: bool


class TickerState(msgspec.Struct, gc=False):
    """A snapshot has all of its category's fields, a delta those that changed."""

    symbol: str
    last: str | None = field(name="lastPrice", default=None)
    bid: str | None = field(name="bid1Price", default=None)
    bid_qty: str | None = field(name="bid1Size", default=None)
    ask: str | None = field(name="ask1Price", default=None)
    ask_qty: str | None = field(name="ask1Size", default=None)
    open_24h: str | None = field(name="prevPrice24h", default=None)
    high_24h: str | None = field(name="highPrice24h", default=None)
    low_24h: str | None = field(name="lowPrice24h", default=None)
    volume_24h: str | None = field(name="volume24h", default=None)
    quote_volume_24h: str | None = field(name="turnover24h", default=None)
    mark: str | None = field(name="markPrice", default=None)
    index: str | None = field(name="indexPrice", default=None)
    funding_rate: str | None = field(name="fundingRate", default=None)
    next_funding: MsText | None = field(name="nextFundingTime", default=None)


class BookState(msgspec.Struct):
    symbol: str = field(name="s")
    bids: Levels = field(name="b")
    asks: Levels = field(name="a")
    update_id: Seq = field(name="u")
    seq: Seq = 0


class PublicTrade(msgspec.Struct, gc=False):
    trade_ms: Ms = field(name="T")
    symbol: str = field(name="s")
    side: Direction = field(name="S")
    qty: str = field(name="v")
    price: str = field(name="p")
    trade_id: str = field(name="i")


class Liquidated(msgspec.Struct, gc=False):
    liquidated_ms: Ms = field(name="T")
    symbol: str = field(name="s")
    side: Direction = field(name="S")  # of the position
    qty: str = field(name="v")
    price: str = field(name="p")


# ── Private: rows of the socket and, with the category on the result instead, of REST ────────────────────────────
class Categorised(msgspec.Struct):
    """What every private row but the wallet's begins with."""

    category: str = ""


class OrderRow(Categorised, kw_only=True, rename="camel"):
    symbol: str
    order_id: str
    order_link_id: str = ""
    side: Direction
    order_type: str = ""
    time_in_force: str = ""
    order_status: str
    price: Loose = ""
    trigger_price: Loose = ""
    qty: Loose = ""
    cum_exec_qty: Loose = ""
    avg_price: Loose = ""
    position_idx: int = 0
    reduce_only: bool = False
    created_time: MsText = ""
    updated_time: MsText = ""  # "" in old spot captures


class ExecutionRow(Categorised, kw_only=True, rename="camel"):
    symbol: str
    order_id: str = ""
    order_link_id: str = ""
    side: str = ""
    exec_id: str
    exec_type: str = "Trade"
    exec_price: Loose = ""
    exec_qty: Loose = ""
    exec_fee: Loose = ""
    fee_currency: str = ""
    exec_pnl: Loose = ""
    is_maker: bool = False
    exec_time: MsText = ""


class PositionRow(Categorised, kw_only=True, rename="camel"):
    symbol: str
    position_idx: int = 0
    side: str = ""  # "" or "None" when flat
    size: Number
    entry_price: Loose = ""  # the socket's name
    avg_price: Loose = ""  # REST's name
    unrealised_pnl: Loose = ""
    updated_time: MsText = ""
    seq: Any = ""  # a number, or -1 as text; enters the id alone


class CoinRow(msgspec.Struct, rename="camel"):
    coin: str
    wallet_balance: Loose = ""
    available_to_withdraw: Loose = ""


class WalletRow(msgspec.Struct, rename="camel"):
    coin: list[CoinRow]


# ── REST ─────────────────────────────────────────────────────────────────────────────────────────────────────────
class Page(msgspec.Struct, Generic[T]):
    rows: list[T] = field(name="list")
    cursor: str = field(name="nextPageCursor", default="")


class Answer(msgspec.Struct, Generic[T]):
    """The envelope of every REST answer; `time` is the server's clock."""

    result: T
    time: Ms = 0


class Refusal(msgspec.Struct):
    """What a verdict needs of the envelope."""

    code: int = field(name="retCode")
    time: Ms = 0


class ServerTime(msgspec.Struct):
    time: Ms
