"""User events of Binance Spot as JSON-ready values (sheet 4.3). In: engine records; out: event objects. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from simulator.records import Asset, Fill, Order

ZERO = "0.00000000"


def eight(value: Decimal) -> str:
    """Spot shows 8 decimals everywhere."""
    return f"{value:.8f}"


def shown_price(order: Order) -> str:
    """A market order has none; the engine keeps at what price it was executed."""
    return ZERO if order.type == "MARKET" else eight(order.price)


def execution_report(
    order: Order, fill: Fill | None, execution: str, execution_id: int, cancel_id: str, event_ms: int
) -> dict[str, Any]:
    """executionReport; `cancel_id` is the client id of the request that ended the order: then `C` is the order's own."""
    return {
        "e": "executionReport", "E": event_ms, "s": order.symbol, "c": cancel_id or order.client_id, "S": order.side,
        "o": order.type, "f": order.time_in_force, "q": eight(order.qty), "p": shown_price(order), "P": eight(order.stop_price),
        "F": ZERO, "g": -1, "C": order.client_id if cancel_id else "", "x": execution, "X": order.status, "r": "NONE",
        "i": order.number, "l": eight(fill.qty) if fill else ZERO, "z": eight(order.filled),
        "L": eight(fill.price) if fill else ZERO, "n": eight(fill.fee) if fill else "0", "N": fill.fee_asset if fill else None,
        "T": order.updated_ms, "t": fill.id if fill else -1, "I": execution_id, "w": order.is_open,
        "m": fill.is_maker if fill else False, "M": bool(fill), "O": order.created_ms, "Z": eight(order.cost),
        "Y": eight(fill.qty * fill.price) if fill else ZERO, "Q": ZERO, "W": order.created_ms, "V": "EXPIRE_MAKER",
    }  # fmt: skip


def account_position(assets: list[Asset], change_ms: int, event_ms: int) -> dict[str, Any]:
    return {
        "e": "outboundAccountPosition", "E": event_ms, "u": change_ms,
        "B": [{"a": a.asset, "f": eight(a.wallet - a.locked), "l": eight(a.locked)} for a in assets],
    }  # fmt: skip


def balance_update(asset: str, delta: Decimal, change_ms: int, event_ms: int) -> dict[str, Any]:
    return {"e": "balanceUpdate", "E": event_ms, "a": asset, "d": eight(delta), "T": change_ms}


def order_row(order: Order) -> dict[str, Any]:
    """An order as GET endpoints print it."""
    return {
        "symbol": order.symbol, "orderId": order.number, "orderListId": -1, "clientOrderId": order.client_id,
        "price": shown_price(order), "origQty": eight(order.qty), "executedQty": eight(order.filled),
        "cummulativeQuoteQty": eight(order.cost), "status": order.status, "timeInForce": order.time_in_force, "type": order.type,
        "side": order.side, "stopPrice": eight(order.stop_price), "icebergQty": ZERO, "time": order.created_ms,
        "updateTime": order.updated_ms, "isWorking": True, "workingTime": order.created_ms, "origQuoteOrderQty": ZERO,
        "selfTradePreventionMode": "EXPIRE_MAKER",
    }  # fmt: skip


def trade_row(fill: Fill) -> dict[str, Any]:
    return {
        "symbol": fill.symbol, "id": fill.id, "orderId": fill.order_number, "orderListId": -1, "price": eight(fill.price),
        "qty": eight(fill.qty), "quoteQty": eight(fill.price * fill.qty), "commission": eight(fill.fee),
        "commissionAsset": fill.fee_asset, "time": fill.time_ms, "isBuyer": fill.side == "BUY", "isMaker": fill.is_maker,
        "isBestMatch": True,
    }  # fmt: skip
