"""Binance USDⓈ-M messages and REST rows as msgspec types: what parse.py and recover.py decode into. Nothing else uses them.

Only fields that we read are declared: unknown ones pass (several appear every year), and none added after 2024 is required.
Every price and quantity is a `str`: a venue that sent a number instead would be malformed, never a float. `Number` marks
those that the fleet computes with. Sources: exchanges/binance.md sections 1.3, 1.4, 3, 4.2, 5.2.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import field

Number = Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,40}(\.[0-9]{0,40})?\Z")]
Id = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Ms = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Direction = Literal["BUY", "SELL"]
Levels = list[tuple[str, str]]

UM, CM = 1, 2  # `st`: 1 = USDⓈ-M, 2 = COIN-M (mixed into the all-market streams since 2026-06-30); absent = 1


# ── Market streams ───────────────────────────────────────────────────────────────────────────────────────────────
class AggTrade(msgspec.Struct, gc=False, tag_field="e", tag="aggTrade"):
    symbol: str = field(name="s")
    agg_id: Id = field(name="a")
    price: str = field(name="p")
    qty: str = field(name="q")
    trade_ms: Ms = field(name="T")
    buyer_is_maker: bool = field(name="m")
    st: int = UM


class Candle(msgspec.Struct, gc=False):
    open_ms: Ms = field(name="t")
    close_ms: Ms = field(name="T")
    interval: str = field(name="i")
    open: str = field(name="o")
    high: str = field(name="h")
    low: str = field(name="l")
    close: str = field(name="c")
    volume: str = field(name="v")
    closed: bool = field(name="x")


class KlineUpdate(msgspec.Struct, gc=False, tag_field="e", tag="kline"):
    event_ms: Ms = field(name="E")
    symbol: str = field(name="s")
    candle: Candle = field(name="k")
    st: int = UM


class DayTicker(msgspec.Struct, gc=False, tag_field="e", tag="24hrTicker"):
    event_ms: Ms = field(name="E")
    symbol: str = field(name="s")
    last: str = field(name="c")
    open: str = field(name="o")
    high: str = field(name="h")
    low: str = field(name="l")
    volume: str = field(name="v")
    quote_volume: str = field(name="q")
    st: int = UM


class BookTicker(msgspec.Struct, gc=False, tag_field="e", tag="bookTicker"):
    update_id: Id = field(name="u")
    symbol: str = field(name="s")
    bid: str = field(name="b")
    bid_qty: str = field(name="B")
    ask: str = field(name="a")
    ask_qty: str = field(name="A")
    engine_ms: Ms = field(name="T")
    st: int = UM


class DepthUpdate(msgspec.Struct, tag_field="e", tag="depthUpdate"):
    engine_ms: Ms = field(name="T")
    symbol: str = field(name="s")
    first_id: Id = field(name="U")
    last_id: Id = field(name="u")
    previous_id: Id = field(name="pu")
    bids: Levels = field(name="b")
    asks: Levels = field(name="a")
    st: int = UM


class LiquidationOrder(msgspec.Struct, gc=False):
    symbol: str = field(name="s")
    side: Direction = field(name="S")
    qty: str = field(name="q")
    price: str = field(name="p")
    trade_ms: Ms = field(name="T")


class ForceOrder(msgspec.Struct, gc=False, tag_field="e", tag="forceOrder"):
    order: LiquidationOrder = field(name="o")
    st: int = UM


class MarkPriceUpdate(msgspec.Struct, gc=False, tag_field="e", tag="markPriceUpdate"):
    event_ms: Ms = field(name="E")
    symbol: str = field(name="s")
    mark: str = field(name="p")
    index: str = field(name="i", default="")
    rate: str = field(name="r", default="")
    next_funding_ms: Ms = field(name="T", default=0)
    st: int = UM


MarketMessage = AggTrade | KlineUpdate | DayTicker | BookTicker | DepthUpdate | ForceOrder | MarkPriceUpdate


class MarketFrame(msgspec.Struct):
    """Combined envelope. Control replies have the same outer form with `data` absent: parse.py tells them apart."""

    data: MarketMessage | list[MarketMessage] | None = None


class BookSnapshot(msgspec.Struct):
    """`GET /fapi/v1/depth`."""

    last_id: Id = field(name="lastUpdateId")
    bids: Levels
    asks: Levels
    engine_ms: Ms = field(name="T", default=0)


# ── User data stream ─────────────────────────────────────────────────────────────────────────────────────────────
class OrderState(msgspec.Struct, gc=False, kw_only=True):
    symbol: str = field(name="s")
    client_id: str = field(name="c", default="")
    side: Direction = field(name="S")
    type: str = field(name="o")
    time_in_force: str = field(name="f", default="")
    qty: str = field(name="q")
    price: str = field(name="p")
    avg_price: str = field(name="ap", default="0")
    stop_price: str = field(name="sp", default="0")
    execution: str = field(name="x")
    status: str = field(name="X")
    order_id: Id = field(name="i")
    last_qty: Number = field(name="l")
    filled: Number = field(name="z")
    last_price: Number = field(name="L")  # the watermark multiplies with it
    trade_ms: Ms = field(name="T")
    trade_id: Id = field(name="t")
    maker: bool = field(name="m")
    reduce_only: bool = field(name="R", default=False)
    position_side: str = field(name="ps", default="BOTH")
    fee: Number | None = field(name="n", default=None)  # absent when there is none
    fee_asset: str | None = field(name="N", default=None)
    realized: Number = field(name="rp", default="0")


class OrderTradeUpdate(msgspec.Struct, gc=False, tag_field="e", tag="ORDER_TRADE_UPDATE"):
    order: OrderState = field(name="o")
    st: Any = UM


class AlgoState(msgspec.Struct, gc=False, kw_only=True):
    """`o` of an ALGO_UPDATE: a conditional order (STOP, TAKE_PROFIT, trailing), which the matching engine does not know yet."""

    symbol: str = field(name="s")
    client_id: str | None = field(name="caid", default=None)
    algo_id: Id = field(name="aid")
    type: str = field(name="o")
    side: Direction = field(name="S")
    position_side: str | None = field(name="ps", default=None)
    time_in_force: str | None = field(name="f", default=None)
    qty: str | None = field(name="q", default=None)  # none where it closes the position
    status: str = field(name="X")
    price: str | None = field(name="p", default=None)
    trigger_price: str | None = field(name="tp", default=None)
    reduce_only: bool = field(name="R", default=False)


class WalletState(msgspec.Struct, gc=False):
    asset: str = field(name="a")
    wallet: Number = field(name="wb")
    change: Number = field(name="bc", default="0")  # without realised profit and commission


class PositionState(msgspec.Struct, gc=False, kw_only=True):
    symbol: str = field(name="s")
    qty: Number = field(name="pa")
    entry: str = field(name="ep", default="")
    unrealized: str = field(name="up", default="")
    margin: str = field(name="mt", default="cross")
    side: str = field(name="ps", default="BOTH")


class AccountChange(msgspec.Struct):
    wallets: list[WalletState] = field(name="B", default_factory=list)
    positions: list[PositionState] = field(name="P", default_factory=list)


class AccountUpdate(msgspec.Struct, tag_field="e", tag="ACCOUNT_UPDATE"):
    change_ms: Ms = field(name="T")
    change: AccountChange = field(name="a")
    st: Any = UM


class TradeLite(msgspec.Struct, gc=False, tag_field="e", tag="TRADE_LITE"):
    """The faster twin of an ORDER_TRADE_UPDATE fill, without commission or status: known, and makes no event."""


class ListenKeyExpired(msgspec.Struct, gc=False, tag_field="e", tag="listenKeyExpired"):
    """Nothing of it is read: `E` was a string once, and `listenKey` is a secret."""


class ServerShutdown(msgspec.Struct, gc=False, tag_field="e", tag="serverShutdown"):
    """Documented for spot only; understood here too."""


UserMessage = OrderTradeUpdate | AccountUpdate | TradeLite | ListenKeyExpired | ServerShutdown


class UserFrame(msgspec.Struct):
    """Combined envelope; its `stream` is the listen key and is not read."""

    data: UserMessage | None = None


# ── REST rows of a read-back ─────────────────────────────────────────────────────────────────────────────────────
class AssetRow(msgspec.Struct, kw_only=True):
    asset: str
    wallet: Number = field(name="walletBalance")
    available: str | None = field(name="availableBalance", default=None)
    update_ms: Ms = field(name="updateTime", default=0)


class PositionRow(msgspec.Struct, kw_only=True):
    symbol: str
    side: str = field(name="positionSide")
    qty: Number = field(name="positionAmt")
    unrealized: str = field(name="unrealizedProfit", default="")
    isolated: Number = field(name="isolatedMargin", default="0")
    update_ms: Ms = field(name="updateTime", default=0)


class AccountRow(msgspec.Struct, kw_only=True):
    """`GET /fapi/v3/account`: positions[] lists only symbols with a position or open orders."""

    assets: list[AssetRow]
    positions: list[PositionRow]
    open_orders_margin: Number = field(name="totalOpenOrderInitialMargin", default="0")


class RiskRow(msgspec.Struct, kw_only=True):
    """`GET /fapi/v3/positionRisk`, the one call that tells entry prices."""

    symbol: str
    side: str = field(name="positionSide")
    entry: str = field(name="entryPrice")
    qty: Number | None = field(name="positionAmt", default=None)


class OrderRow(msgspec.Struct, kw_only=True):
    symbol: str
    order_id: Id = field(name="orderId")
    client_id: str = field(name="clientOrderId")
    side: Direction
    position_side: str = field(name="positionSide")
    type: str
    time_in_force: str = field(name="timeInForce")
    status: str
    price: str
    stop_price: str = field(name="stopPrice")
    qty: str = field(name="origQty")
    filled: Number = field(name="executedQty")
    avg_price: str = field(name="avgPrice")
    reduce_only: bool = field(name="reduceOnly")
    created_ms: Ms = field(name="time", default=0)
    update_ms: Ms = field(name="updateTime")


class AlgoRow(msgspec.Struct, kw_only=True):
    """Row of openAlgoOrders, allAlgoOrders and algoOrder."""

    symbol: str
    client_id: str | None = field(name="clientAlgoId", default=None)
    algo_id: Id = field(name="algoId")
    type: str = field(name="orderType")
    side: Direction
    position_side: str | None = field(name="positionSide", default=None)
    time_in_force: str | None = field(name="timeInForce", default=None)
    qty: str | None = field(name="quantity", default=None)
    status: str = field(name="algoStatus")
    price: str | None = None
    trigger_price: str | None = field(name="triggerPrice", default=None)
    reduce_only: bool = field(name="reduceOnly", default=False)
    update_ms: Ms = field(name="updateTime")


class TradeRow(msgspec.Struct, kw_only=True):
    symbol: str
    trade_id: Id = field(name="id")
    order_id: Id = field(name="orderId")
    side: Direction
    position_side: str = field(name="positionSide")
    price: Number
    qty: Number
    fee: Number = field(name="commission")
    fee_asset: str = field(name="commissionAsset")
    realized: Number = field(name="realizedPnl")
    maker: bool
    trade_ms: Ms = field(name="time")


class IncomeRow(msgspec.Struct, kw_only=True):
    symbol: str = ""
    type: str = field(name="incomeType", default="")
    time_ms: Ms = field(name="time")
