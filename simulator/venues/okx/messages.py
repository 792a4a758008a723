"""Account data of OKX as JSON values (sheet 5 and 6.4): the same rows for the stream and for REST. In: engine records; out: rows.
Pure.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from simulator.records import Asset, Fill, Order, Position, text
from simulator.venues.okx.symbols import product

encode = msgspec.json.Encoder().encode
STATES = {
    "NEW": "live",
    "PARTIALLY_FILLED": "partially_filled",
    "FILLED": "filled",
    "CANCELED": "canceled",
    "EXPIRED": "canceled",
}
SIDES = {"BOTH": "net", "LONG": "long", "SHORT": "short"}
MODES = {"net": "BOTH", "long": "LONG", "short": "SHORT", "": "BOTH"}
ZERO = Decimal(0)


def side_of(symbol: str, position_side: str) -> str:
    """posSide in pushes: "" for spot."""
    return "" if product(symbol) == "SPOT" else SIDES[position_side]


def order(o: Order, fill: Fill | None, lever: str, *, streamed: bool) -> dict[str, Any]:
    """An order; `fill` is what this push or, in REST, the last execution brought. REST shows trade id and price of the last fill,
    the stream only of this push."""
    kind = product(o.symbol)
    fee = -fill.fee if fill else ZERO
    row: dict[str, Any] = {
        "accFillSz": text(o.filled), "avgPx": text(o.average.quantize(Decimal("0.00000001"))) if o.filled else "",
        "cTime": str(o.created_ms), "category": "normal", "ccy": "", "clOrdId": o.client_id,
        "fee": text(fee), "feeCcy": fill.fee_asset if fill else "", "fillPx": text(fill.price) if fill else "",
        "fillSz": text(fill.qty) if fill else "0", "fillTime": str(fill.time_ms) if fill else "", "instId": o.symbol,
        "instType": kind,
        "lever": lever if kind != "SPOT" else "", "ordId": str(o.id), "ordType": o.type,
        "pnl": text(fill.realized) if fill else "0",
        "posSide": side_of(o.symbol, o.position_side) if streamed else SIDES[o.position_side],
        "px": text(o.price) if o.price else "", "pxUsd": "", "pxVol": "", "pxType": "", "rebate": "0", "rebateCcy": "USDT",
        "reduceOnly": "true" if o.reduce_only else "false", "side": o.side.lower(), "attachAlgoClOrdId": "", "slOrdPx": "",
        "slTriggerPx": "", "slTriggerPxType": "", "source": "", "state": STATES[o.status], "stpId": "", "stpMode": "cancel_maker",
        "sz": text(o.qty), "tag": "", "tdMode": "cash" if kind == "SPOT" else "cross", "tgtCcy": "", "tpOrdPx": "",
        "tpTriggerPx": "",
        "tpTriggerPxType": "", "tradeId": str(fill.id) if fill else "", "tradeQuoteCcy": "USDT" if kind == "SPOT" else "",
        "quickMgnType": "", "algoClOrdId": "", "attachAlgoOrds": [], "algoId": "",
        "cancelSource": "1" if o.status == "CANCELED" else "", "isTpLimit": "false", "uTime": str(o.updated_ms),
        "linkedAlgoOrd": {"algoId": ""},
    }  # fmt: skip
    if streamed:
        row |= {
            "amendResult": "", "code": "0", "msg": "", "reqId": "", "execType": ("M" if fill.is_maker else "T") if fill else "",
            "fillFee": text(fee), "fillFeeCcy": fill.fee_asset if fill else "", "fillPnl": text(fill.realized) if fill else "0",
            "fillNotionalUsd": text(fill.price * fill.qty) if fill else "", "notionalUsd": text(o.price * o.qty), "lastPx": "",
            "fillPxVol": "", "fillPxUsd": "", "fillMarkVol": "", "fillFwdPx": "", "fillMarkPx": "", "fillIdxPx": "",
            "amendSource": "",
        }  # fmt: skip
    return row


def fill(f: Fill, bill_id: int) -> dict[str, Any]:
    """A row of /trade/fills."""
    return {
        "side": f.side.lower(), "fillSz": text(f.qty), "fillPx": text(f.price), "fillPxVol": "", "fillFwdPx": "",
        "fee": text(-f.fee),
        "fillPnl": text(f.realized), "ordId": str(f.order_id), "feeRate": "-0.0005", "instType": product(f.symbol), "fillPxUsd": "",
        "instId": f.symbol, "clOrdId": f.client_id, "posSide": SIDES[f.position_side], "billId": str(bill_id), "subType": "1",
        "fillMarkVol": "", "tag": "", "fillTime": str(f.time_ms), "execType": "M" if f.is_maker else "T", "fillIdxPx": "",
        "tradeId": str(f.id), "fillMarkPx": "", "feeCcy": f.fee_asset, "ts": str(f.time_ms + 1), "tradeQuoteCcy": "USDT",
    }  # fmt: skip


def position(p: Position, ident: int, mark: Decimal, lever: str, now_ms: int) -> dict[str, Any]:
    """A position as pushed and as read: sizes are signed in net mode only."""
    upl = round((mark - p.entry) * p.qty, 8) if p.qty else ZERO
    size = p.qty if p.side == "BOTH" else abs(p.qty)
    entry = text(p.entry) if p.qty else ""
    return {
        "adl": "1", "availPos": text(abs(p.qty)) if p.side != "BOTH" else "", "avgPx": entry, "baseBal": "", "bePx": entry,
        "bizRefId": "", "bizRefType": "", "cTime": str(p.updated_ms), "ccy": p.margin_asset, "clSpotInUseAmt": "",
        "closeOrderAlgo": [], "deltaBS": "", "deltaPA": "", "fee": "0", "fundingFee": "0", "gammaBS": "", "gammaPA": "",
        "idxPx": text(mark),
        "imr": text(abs(p.qty) * mark / Decimal(lever)), "instId": p.symbol, "instType": product(p.symbol), "interest": "",
        "last": text(mark), "lever": lever, "liab": "", "liabCcy": "", "liqPenalty": "0", "liqPx": "", "margin": "",
        "markPx": text(mark),
        "mgnMode": "cross", "mgnRatio": "99", "mmr": text(abs(p.qty) * mark / 200), "notionalUsd": text(abs(p.qty) * mark),
        "optVal": "",
        "pTime": str(now_ms), "pnl": "0", "pos": text(size), "posCcy": "", "posId": str(ident), "posSide": SIDES[p.side],
        "quoteBal": "", "realizedPnl": text(p.realized), "settledPnl": "", "spotInUseAmt": "", "spotInUseCcy": "", "thetaBS": "",
        "thetaPA": "", "tradeId": "", "uTime": str(p.updated_ms), "upl": text(upl), "uplLastPx": text(upl), "uplRatio": "0",
        "uplRatioLastPx": "0", "usdPx": "", "vegaBS": "", "vegaPA": "", "nonSettleAvgPx": "", "hedgedPos": "",
    }  # fmt: skip


def short_position(p: Position, ident: int) -> dict[str, Any]:
    """As balance_and_position has it."""
    size = p.qty if p.side == "BOTH" else abs(p.qty)
    return {
        "posId": str(ident), "tradeId": "", "instId": p.symbol, "instType": product(p.symbol), "mgnMode": "cross",
        "posSide": SIDES[p.side], "pos": text(size), "ccy": p.margin_asset, "posCcy": "", "avgPx": text(p.entry) if p.qty else "",
        "nonSettleAvgPx": "", "settledPnl": "", "baseBal": "", "quoteBal": "", "uTime": str(p.updated_ms),
    }  # fmt: skip


def asset(a: Asset) -> dict[str, Any]:
    """One currency of the account."""
    free = text(a.wallet - a.locked)
    return {
        "accAvgPx": "", "availBal": free, "availEq": free, "borrowFroz": "", "cashBal": text(a.wallet), "ccy": a.asset,
        "clSpotInUseAmt": "", "coinUsdPrice": "1", "collateralEnabled": False, "crossLiab": "", "disEq": text(a.wallet),
        "eq": text(a.wallet), "eqUsd": text(a.wallet), "fixedBal": "0", "frozenBal": text(a.locked), "imr": "0", "interest": "",
        "isoEq": "0", "isoLiab": "", "isoUpl": "0", "liab": "", "maxLoan": "", "mgnRatio": "", "mmr": "0", "notionalLever": "0",
        "openAvgPx": "", "ordFrozen": text(a.locked), "rewardBal": "0", "smtSyncEq": "0", "spotBal": "", "spotInUseAmt": "",
        "spotIsoBal": "0", "spotUpl": "", "stgyEq": "0", "totalPnl": "", "twap": "0", "uTime": str(a.updated_ms), "upl": "0",
        "uplLiab": "",
    }  # fmt: skip


def account(assets: list[Asset], now_ms: int) -> dict[str, Any]:
    """The account with some of its currencies."""
    total = text(sum((a.wallet for a in assets), ZERO))
    return {
        "adjEq": total, "availEq": total, "borrowFroz": "", "details": [asset(a) for a in assets], "imr": "0", "isoEq": "0",
        "mgnRatio": "", "mmr": "0", "notionalUsd": "0", "notionalUsdForBorrow": "", "notionalUsdForFutures": "",
        "notionalUsdForOption": "", "notionalUsdForSwap": "", "ordFroz": "0", "totalEq": total, "uTime": str(now_ms), "upl": "0",
    }  # fmt: skip


def frame(arg: dict[str, Any], uid: int, rows: list[Any], **more: Any) -> bytes:
    """A private push."""
    return encode({"arg": {**arg, "uid": str(uid)}, **more, "data": rows})
