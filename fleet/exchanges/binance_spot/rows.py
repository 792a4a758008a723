"""Binance Spot REST rows: the calls that fetch them, and the events they become. Pure; used by recover.py.

The events carry the same ids as the stream's (ids.py), `source=rest`. Rows: binance.md section 5.3.
"""

from __future__ import annotations

from fleet.core.events import Fill, Order
from fleet.core.exchange import HttpCall
from fleet.exchanges.binance_spot import ids, wire
from fleet.exchanges.binance_spot.limits import EXCHANGE, MARKET, PAGE
from fleet.exchanges.binance_spot.parse import ORDER_STATUSES, SIDES, average

ACCOUNT = HttpCall("GET", "/api/v3/account", (("omitZeroBalances", "true"),), weight=20, auth="signed")


def trades_call(symbol: str, **where: int) -> HttpCall:
    """myTrades of a symbol: the latest; or startTime[, endTime] at most 24 h apart; or fromId (that one and later)."""
    return _signed("/api/v3/myTrades", 20, symbol=symbol, **where, limit=PAGE)


def allocations_call(symbol: str, **where: int) -> HttpCall:
    """myAllocations of a symbol: the oldest; or since startTime; or fromAllocationId (that one and later). Sheet: only named (`a`,
    `uS`, 4.3); the vendor's page of the call says the rest."""
    return _signed("/api/v3/myAllocations", 20, symbol=symbol, **where, limit=PAGE)


def orders_call(symbol: str, **where: int) -> HttpCall:
    """allOrders of a symbol: the latest; or startTime[, endTime] at most 24 h apart; or orderId (that one and later)."""
    return _signed("/api/v3/allOrders", 20, symbol=symbol, **where, limit=PAGE)


def open_orders_call(symbol: str = "") -> HttpCall:
    """Of one symbol, or of all."""
    return _signed("/api/v3/openOrders", 6, symbol=symbol) if symbol else _signed("/api/v3/openOrders", 80)


def order_call(symbol: str, order_id: str) -> HttpCall:
    return _signed("/api/v3/order", 4, symbol=symbol, orderId=order_id)


def _signed(path: str, weight: int, **params: int | str) -> HttpCall:
    return HttpCall("GET", path, tuple((name, str(value)) for name, value in params.items()), weight, "signed")


def fill(row: wire.TradeRow, client_order_id: str, account_id: str, now_ms: int) -> Fill:
    """A trade or an allocation. Neither tells the client order id: it comes from the order, where that was read too."""
    return Fill(
        id=ids.fill_id(account_id, row.symbol, row.ident, row.order_id), exchange=EXCHANGE, market=MARKET, symbol=row.symbol,
        ts_event=row.trade_ms, ts_recv=now_ms, source="rest", account_id=account_id, trade_id=row.ident,
        order_id=str(row.order_id), client_order_id=client_order_id, side="buy" if row.buyer else "sell", position_side="",
        price=row.price, qty=row.qty, fee=row.fee, fee_asset=row.fee_asset, liquidity="maker" if row.maker else "taker",
        realized_pnl="0",
    )  # fmt: skip


def order(row: wire.OrderRow, account_id: str, now_ms: int) -> Order | None:
    """None for a status that the sheet does not know."""
    status = ORDER_STATUSES.get(row.status)
    if status is None:
        return None
    return Order(
        id=ids.order_id(account_id, row.symbol, row.order_id, row.type, status, row.filled, row.qty, row.update_ms),
        exchange=EXCHANGE, market=MARKET, symbol=row.symbol, ts_event=row.update_ms, ts_recv=now_ms, source="rest",
        account_id=account_id, order_id=str(row.order_id), client_order_id=row.client_id, side=SIDES[row.side], position_side="",
        order_type=row.type.lower(), time_in_force=row.time_in_force.lower(), status=status, price=row.price,
        stop_price=row.stop_price, qty=row.qty, filled_qty=row.filled, avg_price=average(row.paid, row.filled), reduce_only=False,
    )  # fmt: skip
