"""OKX messages and REST rows as msgspec types: what parse.py and recover.py decode into. Nothing else uses them.

Only fields that we read are declared: unknown ones pass. Every price and quantity is a `str`; `Number` marks those that the
fleet computes with ("" is how OKX says none). Times are strings of ms. Sources: exchanges/okx.md sections 1.2, 4, 5, 6.4.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import field

Number = Annotated[str, msgspec.Meta(pattern=r"^(-?[0-9]{1,40}(\.[0-9]{0,40})?)?\Z")]
Ms = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{0,15}\Z")]
Count = Annotated[str, msgspec.Meta(pattern=r"^[1-9][0-9]{0,5}\Z")]
Sequence = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]
Direction = Literal["buy", "sell"]


# ── Envelope ─────────────────────────────────────────────────────────────────────────────────────────────────────
class Arg(msgspec.Struct, gc=False):
    channel: str = ""
    symbol: str = field(name="instId", default="")
    product: str = field(name="instType", default="")


class Frame(msgspec.Struct):
    """Pushes have `arg` and `data`, everything else an `event`."""

    event: str = ""
    arg: Arg = field(default_factory=Arg)
    data: msgspec.Raw = field(default_factory=msgspec.Raw)
    action: str = ""
    code: str = ""
    msg: str = ""
    id: str = ""
    channel: str = ""  # of channel-conn-count


# ── Market ───────────────────────────────────────────────────────────────────────────────────────────────────────
class TickerRow(msgspec.Struct, gc=False):
    symbol: str = field(name="instId")
    ts: Ms
    last: str = ""
    ask: str = field(name="askPx", default="")
    ask_qty: str = field(name="askSz", default="")
    bid: str = field(name="bidPx", default="")
    bid_qty: str = field(name="bidSz", default="")
    open: str = field(name="open24h", default="")
    high: str = field(name="high24h", default="")
    low: str = field(name="low24h", default="")
    volume: str = field(name="vol24h", default="")
    quote_volume: str = field(name="volCcy24h", default="")


class TradeRow(msgspec.Struct, gc=False):
    symbol: str = field(name="instId")
    trade_id: str = field(name="tradeId")
    price: str = field(name="px")
    qty: str = field(name="sz")
    side: Direction
    ts: Ms
    count: Count = "1"  # matches that it stands for, the last of them trade_id; not told by REST and trades-all


class BookRow(msgspec.Struct):
    """A level is [price, size, "0", count], of `books-rpi` [price, size, size without RPI, count]. 2022 had no sequence."""

    bids: list[list[str]]
    asks: list[list[str]]
    ts: Ms
    seq: Sequence | None = field(name="seqId", default=None)
    prev: Sequence | None = field(name="prevSeqId", default=None)
    checksum: int | None = None


class MarkRow(msgspec.Struct, gc=False):
    symbol: str = field(name="instId")
    mark: str = field(name="markPx")
    ts: Ms


class FundingRow(msgspec.Struct, gc=False):
    """`fundingTime` is the settlement to come; `ts` came later than the channel."""

    symbol: str = field(name="instId")
    rate: str = field(name="fundingRate")
    due: Ms = field(name="fundingTime")
    ts: Ms = ""


class LiquidationDetail(msgspec.Struct, gc=False):
    side: Direction
    price: str = field(name="bkPx")
    qty: str = field(name="sz")
    ts: Ms
    position_side: str = field(name="posSide", default="")


class LiquidationRow(msgspec.Struct):
    symbol: str = field(name="instId")
    details: list[LiquidationDetail]


# ── Orders and fills ─────────────────────────────────────────────────────────────────────────────────────────────
class OrderRow(msgspec.Struct, gc=False):
    """An order as pushed and as read. The fill fields are this push's in the stream; REST means something else by them."""

    symbol: str = field(name="instId")
    order_id: str = field(name="ordId")
    side: Direction
    state: str
    update_ms: Ms = field(name="uTime")
    product: str = field(name="instType", default="")
    created_ms: Ms = field(name="cTime", default="")
    client_id: str = field(name="clOrdId", default="")
    position_side: str = field(name="posSide", default="")
    type: str = field(name="ordType", default="")
    price: Number = field(name="px", default="")
    qty: Number = field(name="sz", default="")
    filled: Number = field(name="accFillSz", default="")
    average: Number = field(name="avgPx", default="")
    stop_loss: Number = field(name="slTriggerPx", default="")
    take_profit: Number = field(name="tpTriggerPx", default="")
    reduce_only: str = field(name="reduceOnly", default="")
    trade_id: str = field(name="tradeId", default="")
    fill_qty: Number = field(name="fillSz", default="")
    fill_price: Number = field(name="fillPx", default="")
    fill_ms: Ms = field(name="fillTime", default="")
    fill_fee: Number = field(name="fillFee", default="")
    fill_fee_asset: str = field(name="fillFeeCcy", default="")
    fill_pnl: Number = field(name="fillPnl", default="")
    execution: str = field(name="execType", default="")


class FillRow(msgspec.Struct, gc=False):
    symbol: str = field(name="instId")
    product: str = field(name="instType")
    trade_id: str = field(name="tradeId")
    order_id: str = field(name="ordId")
    bill_id: str = field(name="billId")
    side: Direction
    price: Number = field(name="fillPx")
    qty: Number = field(name="fillSz")
    ts: Ms
    fill_ms: Ms = field(name="fillTime", default="")
    client_id: str = field(name="clOrdId", default="")
    position_side: str = field(name="posSide", default="")
    fee: Number = ""
    fee_asset: str = field(name="feeCcy", default="")
    pnl: Number = field(name="fillPnl", default="")
    execution: str = field(name="execType", default="")

    @property
    def at_ms(self) -> int:
        return int(self.fill_ms or self.ts or 0)


# ── Positions and balances ───────────────────────────────────────────────────────────────────────────────────────
class PositionRow(msgspec.Struct, gc=False):
    """Size in contracts; signed in net mode, never in long/short mode. On margin in `currency`, which is "" elsewhere."""

    symbol: str = field(name="instId")
    qty: Number = field(name="pos")
    update_ms: Ms = field(name="uTime")
    position_side: str = field(name="posSide", default="")
    margin_mode: str = field(name="mgnMode", default="")
    entry: Number = field(name="avgPx", default="")
    unrealized: Number = field(name="upl", default="")
    currency: str = field(name="posCcy", default="")


class AssetRow(msgspec.Struct, gc=False):
    asset: str = field(name="ccy")
    wallet: Number = field(name="cashBal")
    update_ms: Ms = field(name="uTime", default="")
    available: Number | None = field(name="availBal", default=None)


class AccountRow(msgspec.Struct):
    details: list[AssetRow] = []


class Together(msgspec.Struct):
    """balance_and_position: only the changed part is filled."""

    wallets: list[AssetRow] = field(name="balData", default_factory=list)
    positions: list[PositionRow] = field(name="posData", default_factory=list)
