"""Binance USDⓈ-M REST rows: the calls that fetch them, and the events they become. Pure; used by recover.py.

The events carry the same ids as the stream's (ids.py), `source=rest`. Field mapping stream → REST: binance.md section 5.2.
"""

from __future__ import annotations

from fleet.core.events import Balance, Fill, Order, Position
from fleet.core.exchange import HttpCall
from fleet.exchanges.binance_usdm import ids, wire
from fleet.exchanges.binance_usdm.limits import EXCHANGE, MARKET, PAGE
from fleet.exchanges.binance_usdm.parse import SIDES, STATUSES

ACCOUNT = HttpCall("GET", "/fapi/v3/account", weight=5, auth="signed")
RISK = HttpCall("GET", "/fapi/v3/positionRisk", weight=5, auth="signed")
ALL_SYMBOLS = 40  # weight of a call for what is open in all symbols; it is 1 for one symbol


def trades_call(symbol: str, **where: int) -> HttpCall:
    """userTrades of a symbol: startTime[, endTime], or fromId, which cannot be combined with them."""
    return _signed("/fapi/v1/userTrades", 5, symbol=symbol, **where, limit=PAGE)


def orders_call(symbol: str, **where: int) -> HttpCall:
    """allOrders of a symbol: startTime[, endTime], or orderId (that one and later)."""
    return _signed("/fapi/v1/allOrders", 5, symbol=symbol, **where, limit=PAGE)


def all_orders_call(since_ms: int) -> HttpCall:
    """allOrders without a symbol (possible since 2026-08-25; its weight is not documented: taken as with one)."""
    return _signed("/fapi/v1/allOrders", 5, startTime=since_ms, limit=PAGE)


def open_orders_call(symbol: str) -> HttpCall:
    return _signed("/fapi/v1/openOrders", 1, symbol=symbol)


def order_call(symbol: str, order_id: str) -> HttpCall:
    return _signed("/fapi/v1/order", 1, symbol=symbol, orderId=order_id)


def open_algo_orders_call(symbol: str = "") -> HttpCall:
    """Conditional orders that have not triggered, "" = of all symbols: since 2025-12-09 openOrders does not show them."""
    if not symbol:
        return _signed("/fapi/v1/openAlgoOrders", ALL_SYMBOLS)
    return _signed("/fapi/v1/openAlgoOrders", 1, symbol=symbol)


def all_algo_orders_call(symbol: str, **where: int) -> HttpCall:
    """Conditional orders of a symbol, ended ones too: startTime, or algoId (that one and later)."""
    return _signed("/fapi/v1/allAlgoOrders", 5, symbol=symbol, **where, limit=PAGE)


def algo_order_call(algo_id: str) -> HttpCall:
    return _signed("/fapi/v1/algoOrder", 1, algoId=algo_id)


def income_call(**where: int) -> HttpCall:
    """Every booking of the account: which symbols traded. By startTime[, endTime]; it took a page too, until 2026-10-16."""
    return _signed("/fapi/v1/income", 30, **where, limit=PAGE)


def _signed(path: str, weight: int, **params: int | str) -> HttpCall:
    return HttpCall("GET", path, tuple((name, str(value)) for name, value in params.items()), weight, "signed")


def key_of(row: wire.PositionRow | wire.RiskRow) -> str:
    """The key of a position in snapshots and watermarks."""
    return f"{row.symbol}|{row.side.lower()}"


def fill(row: wire.TradeRow, client_order_id: str, account_id: str, now_ms: int) -> Fill:
    """userTrades does not tell the client order id: it comes from the order, where that was read too."""
    return Fill(
        id=ids.fill_id(account_id, row.symbol, row.trade_id, row.order_id), exchange=EXCHANGE, market=MARKET, symbol=row.symbol,
        ts_event=row.trade_ms, ts_recv=now_ms, source="rest", account_id=account_id, trade_id=str(row.trade_id),
        order_id=str(row.order_id), client_order_id=client_order_id, side=SIDES[row.side], position_side=row.position_side.lower(),
        price=row.price, qty=row.qty, fee=row.fee, fee_asset=row.fee_asset, liquidity="maker" if row.maker else "taker",
        realized_pnl=row.realized,
    )  # fmt: skip


def order(row: wire.OrderRow, account_id: str, now_ms: int) -> Order | None:
    """None for a status that the sheet does not know."""
    status = STATUSES.get(row.status)
    if status is None:
        return None
    return Order(
        id=ids.order_id(account_id, row.symbol, row.order_id, status, row.filled, row.price, row.qty, row.update_ms),
        exchange=EXCHANGE, market=MARKET, symbol=row.symbol, ts_event=row.update_ms, ts_recv=now_ms, source="rest",
        account_id=account_id, order_id=str(row.order_id), client_order_id=row.client_id, side=SIDES[row.side],
        position_side=row.position_side.lower(), order_type=row.type.lower(), time_in_force=row.time_in_force.lower(),
        status=status, price=row.price, stop_price=row.stop_price, qty=row.qty, filled_qty=row.filled, avg_price=row.avg_price,
        reduce_only=row.reduce_only,
    )  # fmt: skip


def position(row: wire.PositionRow, entry: str, changed_ms: int, account_id: str, now_ms: int) -> Position:
    """The account tells no margin mode: only an isolated position has a margin of its own."""
    side = row.side.lower()
    return Position(
        id=ids.position_id(account_id, row.symbol, side, changed_ms, row.qty), exchange=EXCHANGE, market=MARKET, symbol=row.symbol,
        ts_event=changed_ms, ts_recv=now_ms, source="rest", account_id=account_id, position_side=side, qty=row.qty,
        entry_price=entry, unrealized_pnl=row.unrealized, margin_mode="isolated" if row.isolated.strip("-0.") else "cross",
    )  # fmt: skip


def balance(row: wire.AssetRow, account_id: str, now_ms: int) -> Balance:
    changed_ms = row.update_ms or now_ms
    return Balance(
        id=ids.balance_id(account_id, row.asset, changed_ms, row.wallet), exchange=EXCHANGE, market=MARKET, symbol="",
        ts_event=changed_ms, ts_recv=now_ms, source="rest", account_id=account_id, asset=row.asset, wallet=row.wallet,
        available=row.available,
    )  # fmt: skip
