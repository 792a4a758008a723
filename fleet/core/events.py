"""What an exchange told us, normalised. One struct per event type of the contract; JSON by msgspec, tagged by `type`.

Prices and sizes are decimal strings exactly as the exchange sent them. `ts_event` is the exchange's clock and `ts_recv`
ours, both UNIX milliseconds. `id` is deterministic: one exchange event has one id, whether the socket or REST told us.
`source` is `stream` or `rest`. The JSON Schema in docs/schema.json is generated from this file.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Source = Literal["stream", "rest"]
Side = Literal["buy", "sell"]
OrderStatus = Literal["new", "partially_filled", "filled", "canceled", "rejected", "expired"]
Int64 = Annotated[
    int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)
]  # what both stores hold; ClickHouse would wrap a larger one


class Event(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag_field="type", omit_defaults=False):
    """Common fields of every record."""

    id: str
    exchange: str
    market: str
    symbol: str
    ts_event: Int64
    ts_recv: Int64
    source: Source = "stream"
    v: Literal[1] = 1  # a record of another version means something else, and is refused where it is read


class UserEvent(Event, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """An event of one account's private stream."""

    account_id: str


class Order(UserEvent, frozen=True, kw_only=True, gc=False, tag_field="type", tag="order"):
    """State of one order after a change. `filled_qty` is cumulative; `order_type` and `time_in_force` are the exchange's terms,
    lower case."""

    order_id: str
    client_order_id: str
    side: Side
    position_side: str
    order_type: str
    time_in_force: str
    status: OrderStatus
    price: str
    stop_price: str
    qty: str
    filled_qty: str
    avg_price: str
    reduce_only: bool


class Fill(UserEvent, frozen=True, kw_only=True, gc=False, tag_field="type", tag="fill"):
    """One execution. Unique on (account_id, exchange, market, symbol, trade_id, order_id). `realized_pnl` is "" where the exchange
    does not tell it: Bybit's REST does not."""

    trade_id: str
    order_id: str
    client_order_id: str
    side: Side
    position_side: str
    price: str
    qty: str
    fee: str
    fee_asset: str
    liquidity: Literal["maker", "taker"]
    realized_pnl: str


MODES_APART = frozenset(
    {"okx"}
)  # exchanges that hold a cross and an isolated position of one symbol and side side by side


class Position(UserEvent, frozen=True, kw_only=True, gc=False, tag_field="type", tag="position"):
    """Absolute position after a change; `qty` is signed, "0" is flat."""

    position_side: str
    qty: str
    entry_price: str
    unrealized_pnl: str
    margin_mode: str

    @property
    def mode_key(self) -> str:
        """The margin mode where it is part of a position's identity (okx.md 5.4); "" elsewhere: a position of Binance or Bybit
        stays the same one when its mode changes."""
        return self.margin_mode if self.exchange in MODES_APART else ""


class Balance(UserEvent, frozen=True, kw_only=True, gc=False, tag_field="type", tag="balance"):
    """Absolute balance of one asset; `available` is null where the exchange's message does not tell it. `symbol` is empty.
    `change` is by how much it changed for reasons other than trading (funding, transfer), null where that is not told."""

    asset: str
    wallet: str
    available: str | None = None
    change: str | None = None


class AccountEvent(UserEvent, frozen=True, kw_only=True, tag_field="type", tag="account"):
    """Anything else the private stream said: margin call, configuration, algo order, or a type not known yet (`event` = its
    name)."""

    event: str
    data: dict[str, Any]


class Trade(Event, frozen=True, kw_only=True, gc=False, tag_field="type", tag="trade"):
    """A public trade (aggregated where the venue aggregates); `side` is the taker's. `count`: of how many consecutive ids of the
    venue `trade_id` is the last."""

    trade_id: str
    price: str
    qty: str
    side: Side
    count: int = 1


class Kline(Event, frozen=True, kw_only=True, gc=False, tag_field="type", tag="kline"):
    """A candle as it stands; `open_time` and `close_time` are ms, `closed` is true once."""

    interval: str
    open_time: Int64
    close_time: Int64
    open: str
    high: str
    low: str
    close: str
    volume: str
    closed: bool


class Ticker(Event, frozen=True, kw_only=True, gc=False, tag_field="type", tag="ticker"):
    """24 h ticker and best bid and ask; a field is null where the message does not carry it."""

    last: str | None = None
    bid: str | None = None
    bid_qty: str | None = None
    ask: str | None = None
    ask_qty: str | None = None
    open_24h: str | None = None
    high_24h: str | None = None
    low_24h: str | None = None
    volume_24h: str | None = None
    quote_volume_24h: str | None = None


class Depth(Event, frozen=True, kw_only=True, tag_field="type", tag="depth"):
    """Order-book message. `bids` and `asks` are [price, absolute quantity] pairs, "0" deletes; sequence numbers as the venue
    counts."""

    kind: Literal["snapshot", "update"]
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    first_seq: Int64
    last_seq: Int64
    prev_seq: Int64 | None = None


class Liquidation(Event, frozen=True, kw_only=True, gc=False, tag_field="type", tag="liquidation"):
    """`side` is that of the liquidation order: sell = a long was liquidated."""

    side: Side
    price: str
    qty: str


class MarkPrice(Event, frozen=True, kw_only=True, gc=False, tag_field="type", tag="mark_price"):
    """Mark and index price; `next_funding` is ms. A field is null where there is none. Where a venue tells funding apart (OKX),
    it is a record of its own, with `mark` null."""

    mark: str | None = None
    index: str | None = None
    funding_rate: str | None = None
    next_funding: Int64 | None = None


class StreamEvent(Event, frozen=True, kw_only=True, tag_field="type", tag="stream"):
    """What happened to a stream itself (topic fleet.streams): connected, disconnected, gap_opened, gap_closed, rotated,
    deactivated, book_invalid, book_valid, stalled, moved, ... `stream` is the account id or the market stream's name."""

    stream: str
    event: str
    reason: str = ""
    account_id: str | None = None
    data: dict[str, Any] = {}


UserRecord = Order | Fill | Position | Balance | AccountEvent
MarketRecord = Trade | Kline | Ticker | Depth | Liquidation | MarkPrice
Record = UserRecord | MarketRecord | StreamEvent


def plain(number: str) -> str:
    """A decimal string without superfluous zeros, for ids only: "0.020" and "0.02" are one quantity ("-0" and "" are "0")."""
    if "." in number:
        number = number.rstrip("0").rstrip(".")
    return "0" if number in ("", "-0", "-") else number
