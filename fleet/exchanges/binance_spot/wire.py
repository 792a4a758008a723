"""Binance Spot messages and REST rows as msgspec types: what parse.py and recover.py decode into. Nothing else uses them.

Only fields that we read are declared: unknown ones pass (several appear every year), and none added after 2024 is required.
Every price and quantity is a `str`: a venue that sent a number instead would be malformed, never a float. `Number` marks
those that the fleet computes with. Sources: exchanges/binance.md sections 1.3, 1.4, 3, 4.3, 5.3.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import field

from fleet.exchanges.binance_spot import ids

Number = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,40}(\.[0-9]{0,40})?\Z")]
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Ms = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Direction = Literal["BUY", "SELL"]
Levels = list[tuple[str, str]]


# ── Market streams ───────────────────────────────────────────────────────────────────────────────────────────────
class PublicTrade(msgspec.Struct, gc=False, tag_field="e", tag="trade"):
    symbol: str = field(name="s")
    trade_id: Id = field(name="t")
    price: str = field(name="p")
    qty: str = field(name="q")
    trade_ms: Ms = field(name="T")
    buyer_is_maker: bool = field(name="m")


class Candle(msgspec.Struct, gc=False):
    open_ms: Ms = field(name="t")
    close_ms: Ms = field(name="T")
    interval: str = field(name="i")
    open: str = field(name="o")
    close: str = field(name="c")
    high: str = field(name="h")
    low: str = field(name="l")
    volume: str = field(name="v")
    closed: bool = field(name="x")


class KlineUpdate(msgspec.Struct, gc=False, tag_field="e", tag="kline"):
    event_ms: Ms = field(name="E")
    symbol: str = field(name="s")
    candle: Candle = field(name="k")


class DayTicker(msgspec.Struct, gc=False, tag_field="e", tag="24hrTicker"):
    event_ms: Ms = field(name="E")
    symbol: str = field(name="s")
    last: str = field(name="c")
    bid: str = field(name="b")
    bid_qty: str = field(name="B")
    ask: str = field(name="a")
    ask_qty: str = field(name="A")
    open: str = field(name="o")
    high: str = field(name="h")
    low: str = field(name="l")
    volume: str = field(name="v")
    quote_volume: str = field(name="q")


class DepthUpdate(msgspec.Struct, tag_field="e", tag="depthUpdate"):
    event_ms: Ms = field(name="E")
    symbol: str = field(name="s")
    first_id: Id = field(name="U")
    last_id: Id = field(name="u")
    bids: Levels = field(name="b")
    asks: Levels = field(name="a")


class BookTicker(msgspec.Struct, gc=False):
    """The one message without a type and without a time."""

    update_id: Id = field(name="u")
    symbol: str = field(name="s")
    bid: str = field(name="b")
    bid_qty: str = field(name="B")
    ask: str = field(name="a")
    ask_qty: str = field(name="A")


MarketMessage = PublicTrade | KlineUpdate | DayTicker | DepthUpdate


class MarketFrame(msgspec.Struct):
    """Combined envelope. Control replies have the same outer form with `data` absent: parse.py tells them apart."""

    data: MarketMessage | None = None


class BookTickerFrame(msgspec.Struct):
    """Combined envelope of a book ticker."""

    data: BookTicker


class BookSnapshot(msgspec.Struct):
    """`GET /api/v3/depth`; it tells no time."""

    last_id: Id = field(name="lastUpdateId")
    bids: Levels
    asks: Levels


# ── User data stream ─────────────────────────────────────────────────────────────────────────────────────────────
class ExecutionReport(msgspec.Struct, gc=False, kw_only=True, tag_field="e", tag="executionReport"):
    symbol: str = field(name="s")
    client_id: str = field(name="c", default="")
    original_client_id: str = field(name="C", default="")  # set where `c` is the id of a request that changed the order
    side: Direction = field(name="S")
    type: str = field(name="o")
    time_in_force: str = field(name="f", default="")
    qty: str = field(name="q")
    price: str = field(name="p")
    stop_price: str = field(name="P", default="0")
    execution: str = field(name="x")
    status: str = field(name="X")
    order_id: Id = field(name="i")
    last_qty: Number = field(name="l")
    filled: Number = field(name="z")
    last_price: Number = field(name="L")
    fee: Number | None = field(name="n", default=None)
    fee_asset: str | None = field(name="N", default=None)
    change_ms: Ms = field(name="T")
    trade_id: Id = field(name="t", default=-1)  # -1: not a trade
    allocation_id: Id = field(name="a", default=-1)  # a fill by smart order routing has this one instead
    maker: bool = field(name="m", default=False)
    paid: Number = field(name="Z", default="0")  # quote quantity of all fills


class AssetState(msgspec.Struct, gc=False):
    asset: str = field(name="a")
    free: Number = field(name="f")
    locked: Number = field(name="l")


class AccountPosition(msgspec.Struct, tag_field="e", tag="outboundAccountPosition"):
    change_ms: Ms = field(name="u")
    assets: list[AssetState] = field(name="B")


class StreamTerminated(msgspec.Struct, gc=False, tag_field="e", tag="eventStreamTerminated"):
    """The subscription is over; the socket stays."""


class ServerShutdown(msgspec.Struct, gc=False, tag_field="e", tag="serverShutdown"):
    """The server will close this socket soon."""


UserMessage = ExecutionReport | AccountPosition | StreamTerminated | ServerShutdown


class UserFrame(msgspec.Struct):
    """Envelope of the WebSocket API. Replies to requests have no `event`: parse.py tells them apart."""

    event: UserMessage | None = None


# ── REST rows of a read-back ─────────────────────────────────────────────────────────────────────────────────────
class BalanceRow(msgspec.Struct):
    asset: str
    free: Number
    locked: Number


class AccountRow(msgspec.Struct):
    """`GET /api/v3/account`. `updateTime` is that of the latest change of any asset."""

    balances: list[BalanceRow]
    update_ms: Ms = field(name="updateTime", default=0)


class OrderRow(msgspec.Struct, kw_only=True):
    symbol: str
    order_id: Id = field(name="orderId")
    client_id: str = field(name="clientOrderId", default="")
    side: Direction
    type: str
    time_in_force: str = field(name="timeInForce", default="")
    status: str
    price: Number
    stop_price: str = field(name="stopPrice", default="0")
    qty: Number = field(name="origQty")
    filled: Number = field(name="executedQty")
    paid: Number = field(name="cummulativeQuoteQty", default="0")  # sic
    created_ms: Ms = field(name="time", default=0)
    update_ms: Ms = field(name="updateTime")
    used_sor: bool = field(name="usedSor", default=False)  # told only where it is true


class TradeRow(msgspec.Struct, kw_only=True):
    symbol: str
    trade_id: Id = field(name="id")
    order_id: Id = field(name="orderId")
    buyer: bool = field(name="isBuyer")
    price: Number
    qty: Number
    fee: Number = field(name="commission")
    fee_asset: str = field(name="commissionAsset")
    maker: bool = field(name="isMaker")
    trade_ms: Ms = field(name="time")

    @property
    def ident(self) -> str:
        """The trade id of our events."""
        return str(self.trade_id)

    @property
    def key(self) -> tuple[str, str]:
        """Symbol and "trade id/order id", as a watermark names it."""
        return self.symbol, f"{self.ident}/{self.order_id}"


class AllocationRow(TradeRow, kw_only=True):
    """What smart order routing gave an order: a trade in all but its number."""

    trade_id: Id = field(name="allocationId")

    @property
    def ident(self) -> str:
        return ids.allocation(self.trade_id)
