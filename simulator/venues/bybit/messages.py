"""Rows of Bybit as JSON: the same dictionaries serve the private socket (sheet 5) and REST (6.4). In: engine records; out: rows.
Pure but for the register of ids.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

import msgspec

from simulator.records import Asset, Fill, Order, Position, text
from simulator.venues.bybit.symbols import category_of, wire_symbol

encode = msgspec.json.Encoder().encode
ZERO = Decimal(0)
INDEX_OF_SIDE = {"BOTH": 0, "LONG": 1, "SHORT": 2}
SIDE_OF_INDEX = {index: side for side, index in INDEX_OF_SIDE.items()}
STATUSES = {
    "NEW": "New", "PARTIALLY_FILLED": "PartiallyFilled", "FILLED": "Filled", "CANCELED": "Cancelled", "EXPIRED": "Cancelled",
    "REJECTED": "Rejected",
}  # fmt: skip
TYPES = {"LIMIT": "Limit", "MARKET": "Market"}
TIFS = {"GTC": "GTC", "IOC": "IOC", "FOK": "FOK", "GTX": "PostOnly"}


def uuid_of(*parts: object) -> str:
    """A uuid that is the same for the same parts."""
    digest = hashlib.blake2b(":".join(map(str, parts)).encode(), digest_size=16).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-4{digest[13:16]}-a{digest[17:20]}-{digest[20:]}"


class OrderIds:
    """Derivatives have uuids, spot has numbers; this knows which order of the engine each one is."""

    def __init__(self) -> None:
        self._engine_ids: dict[str, int] = {}

    def wire(self, order_id: int, symbol: str) -> str:
        if category_of(symbol) == "spot":
            return str(order_id)
        found = uuid_of("order", order_id)
        self._engine_ids[found] = order_id
        return found

    def engine(self, wire_id: str) -> int:
        """0 where there is none."""
        return int(wire_id) if wire_id.isdigit() else self._engine_ids.get(wire_id, 0)


def execution_id(symbol: str, trade_id: int) -> str:
    return str(trade_id) if category_of(symbol) == "spot" else uuid_of("trade", symbol, trade_id)


def side(engine_side: str) -> str:
    return engine_side.capitalize()


def link_id(order_id: int, client_id: str) -> str:
    """The engine invents one where the client gave none."""
    return "" if client_id == f"sim{order_id:x}" else client_id


def order_row(order: Order, wire_id: str, fee: Decimal, fee_coin: str) -> dict[str, Any]:
    spot = category_of(order.symbol) == "spot"
    status = STATUSES[order.status]
    if spot and status == "Cancelled" and order.filled:
        status = "PartiallyFilledCanceled"
    left = order.qty - order.filled if order.is_open else ZERO
    return {
        "symbol": wire_symbol(order.symbol), "orderId": wire_id, "orderLinkId": link_id(order.id, order.client_id),
        "side": side(order.side), "orderType": TYPES.get(order.type, order.type), "price": text(order.price),
        "qty": text(order.qty), "timeInForce": TIFS.get(order.time_in_force, order.time_in_force), "orderStatus": status,
        "cancelType": "CancelByUser" if status.endswith(("Cancelled", "Canceled")) else "UNKNOWN", "rejectReason": "EC_NoError",
        "leavesQty": text(left), "leavesValue": text(left * order.price), "cumExecQty": text(order.filled),
        "cumExecValue": text(order.cost), "avgPrice": text(round(order.average, 8)) if order.filled else "",
        "cumExecFee": text(fee), "cumFeeDetail": {fee_coin: text(fee)} if fee else {}, "feeCurrency": fee_coin if fee else "",
        "positionIdx": INDEX_OF_SIDE.get(order.position_side, 0), "reduceOnly": order.reduce_only, "closeOnTrigger": False,
        "isLeverage": "0" if spot else "", "blockTradeId": "", "orderIv": "", "stopOrderType": "", "triggerPrice": "",
        "triggerDirection": 0, "triggerBy": "", "takeProfit": "", "stopLoss": "", "tpslMode": "", "tpTriggerBy": "",
        "slTriggerBy": "", "tpLimitPrice": "", "slLimitPrice": "", "lastPriceOnCreated": "", "placeType": "", "smpType": "None",
        "smpGroup": 0, "smpOrderId": "", "marketUnit": "", "closedPnl": "0", "createType": "" if spot else "CreateByUser",
        "createdTime": str(order.created_ms), "updatedTime": str(order.updated_ms),
    }  # fmt: skip


def execution_row(fill: Fill, order: Order, wire_id: str, mark: Decimal, seq: int) -> dict[str, Any]:
    spot = category_of(fill.symbol) == "spot"
    value = fill.price * fill.qty
    return {
        "symbol": wire_symbol(fill.symbol), "orderId": wire_id, "orderLinkId": link_id(order.id, order.client_id),
        "side": side(fill.side), "execId": execution_id(fill.symbol, fill.id), "execType": "Trade", "execPrice": text(fill.price),
        "execQty": text(fill.qty), "execValue": text(value), "execFee": text(fill.fee), "feeCurrency": fill.fee_asset,
        "feeRate": "0.0002" if fill.is_maker else "0.00055", "execPnl": text(fill.realized), "isMaker": fill.is_maker,
        "execTime": str(fill.time_ms), "leavesQty": text(order.qty - order.filled), "orderPrice": text(order.price),
        "orderQty": text(order.qty), "orderType": TYPES.get(order.type, order.type), "stopOrderType": "" if spot else "UNKNOWN",
        "closedSize": text(fill.qty) if fill.realized else "0", "markPrice": "" if spot else text(mark), "indexPrice": "",
        "underlyingPrice": "", "tradeIv": "", "markIv": "", "blockTradeId": "", "marketUnit": "", "isLeverage": "0",
        "createType": "" if spot else "CreateByUser", "extraFees": "", "seq": seq,
    }  # fmt: skip


def position_row(position: Position, mark: Decimal, created_ms: int, entry_name: str, seq: int) -> dict[str, Any]:
    """`entry_name`: the socket says entryPrice, REST avgPrice."""
    size, flat = abs(position.qty), position.qty == 0
    pnl = ZERO if flat else round((mark - position.entry) * position.qty, 8)
    return {
        "symbol": wire_symbol(position.symbol), "positionIdx": INDEX_OF_SIDE.get(position.side, 0), "tradeMode": 0, "riskId": 1,
        "riskLimitValue": "2000000", "side": "" if flat else "Buy" if position.qty > 0 else "Sell", "size": text(size),
        entry_name: text(position.entry), "leverage": "10", "positionValue": text(size * position.entry), "positionBalance": "0",
        "markPrice": text(mark), "positionIM": text(size * mark / 10), "positionMM": "0", "takeProfit": "0", "stopLoss": "0",
        "trailingStop": "0", "unrealisedPnl": text(pnl), "curRealisedPnl": text(position.realized),
        "cumRealisedPnl": text(position.realized), "sessionAvgPrice": "0", "breakEvenPrice": text(position.break_even),
        "createdTime": str(created_ms), "updatedTime": str(position.updated_ms), "tpslMode": "Full", "liqPrice": "",
        "bustPrice": "", "positionStatus": "Normal", "adlRankIndicator": 0, "autoAddMargin": 0, "leverageSysUpdatedTime": "",
        "mmrSysUpdatedTime": "", "seq": seq, "isReduceOnly": False,
    }  # fmt: skip


def coin_row(asset: Asset, usd: Decimal) -> dict[str, Any]:
    return {
        "coin": asset.asset, "equity": text(asset.wallet), "usdValue": text(round(asset.wallet * usd, 8)),
        "walletBalance": text(asset.wallet), "availableToWithdraw": "", "availableToBorrow": "", "borrowAmount": "0",
        "accruedInterest": "0", "totalOrderIM": "0", "totalPositionIM": "0", "totalPositionMM": "0", "unrealisedPnl": "0",
        "cumRealisedPnl": "0", "bonus": "0", "collateralSwitch": True, "marginCollateral": True, "locked": text(asset.locked),
        "spotHedgingQty": "0", "spotBorrow": "0",
    }  # fmt: skip


def wallet_row(coins: list[dict[str, Any]]) -> dict[str, Any]:
    total = text(sum((Decimal(coin["usdValue"]) for coin in coins), ZERO))
    return {
        "accountType": "UNIFIED", "accountLTV": "0", "accountIMRate": "0", "accountMMRate": "0", "totalEquity": total,
        "totalWalletBalance": total, "totalMarginBalance": total, "totalAvailableBalance": total, "totalPerpUPL": "0",
        "totalInitialMargin": "0", "totalMaintenanceMargin": "0", "coin": coins,
    }  # fmt: skip


def with_category(category: str, row: bytes) -> bytes:
    """A row of REST, where the category stands on the result, as the socket sends it."""
    return b'{"category":"%s",%s' % (category.encode(), row[1:])


def private(topic: str, ident: str, created_ms: int, rows: list[bytes]) -> bytes:
    """A message of the private socket."""
    return b'{"id":"%s","topic":"%s","creationTime":%d,"data":[%s]}' % (
        ident.encode(),
        topic.encode(),
        created_ms,
        b",".join(rows),
    )
