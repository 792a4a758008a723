"""Orders and fills as REST tells them at Binance USDⓈ-M (sheet 5.2). In: authenticated calls; out: JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.records import Fill, Order
from simulator.venues.binance_usdm.rest_config import QUARTER, window
from simulator.venues.binance_usdm.rest_market import limit_of, number
from simulator.venues.binance_usdm.rules import ApiError, bad_symbol, mandatory

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.rest import Call
    from simulator.venues.binance_usdm.twin import BinanceUsdm

THREE_DAYS = 3 * 86_400_000


class OrderCalls:
    """The endpoints that read orders and fills."""

    def __init__(self, venue: BinanceUsdm) -> None:
        self._venue = venue

    def symbol(self, call: Call, *, needed: bool = True) -> str:
        symbol = call.params.get("symbol", "")
        if not symbol and needed:
            raise mandatory("symbol")
        if symbol and symbol not in self._venue.markets:
            raise bad_symbol()
        return symbol

    def row(self, order: Order) -> dict[str, Any]:
        """An order as GET endpoints print it."""
        spec = self._venue.markets[order.symbol].spec
        price, qty = f".{spec.price_decimals}f", f".{spec.qty_decimals}f"
        return {
            "orderId": order.number, "symbol": order.symbol, "pair": order.symbol, "status": order.status,
            "clientOrderId": order.client_id,
            "price": f"{order.price:{price}}", "avgPrice": f"{order.average:.8f}" if order.filled else "0.00000",
            "origQty": f"{order.qty:{qty}}", "executedQty": f"{order.filled:{qty}}", "cumQuote": f"{order.cost:.8f}",
            "cumBase": f"{order.filled:{qty}}",
            "timeInForce": order.time_in_force, "type": order.type, "reduceOnly": order.reduce_only,
            "closePosition": False, "side": order.side,
            "positionSide": order.position_side, "stopPrice": f"{order.stop_price:{price}}", "workingType": "CONTRACT_PRICE",
            "priceProtect": False, "origType": order.type, "priceMatch": "NONE",
            "selfTradePreventionMode": "EXPIRE_MAKER", "goodTillDate": 0,
            "time": order.created_ms, "updateTime": order.updated_ms,
        }  # fmt: skip

    def _fill_row(self, fill: Fill) -> dict[str, Any]:
        spec = self._venue.markets[fill.symbol].spec
        qty = f"{fill.qty:.{spec.qty_decimals}f}"
        return {
            "symbol": fill.symbol, "id": fill.id, "orderId": fill.order_number, "side": fill.side,
            "price": f"{fill.price:.{spec.price_decimals}f}",
            "qty": qty, "realizedPnl": f"{fill.realized:.8f}", "quoteQty": f"{fill.price * fill.qty:.8f}", "baseQty": qty,
            "commission": f"{fill.fee:.8f}", "commissionAsset": fill.fee_asset, "marginAsset": fill.fee_asset, "pair": fill.symbol,
            "time": fill.time_ms, "positionSide": fill.position_side, "buyer": fill.side == "BUY", "maker": fill.is_maker,
        }  # fmt: skip

    def open_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = self.symbol(call, needed=False)
        return [
            self.row(o) for o in call.account.view(call.lag_ms, call.now_ms).open_orders() if symbol in ("", o.symbol)
        ]

    def all_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = self.symbol(call, needed=False)
        first = number(call.params, "orderId")
        limit = limit_of(call.params, 500, 1000)
        if first is not None and (call.params.get("startTime") or call.params.get("endTime")) is None:
            start, end = call.now_ms - QUARTER, call.now_ms + 60_000
        else:
            start, end = window(call.params, call.now_ms)
        rows = [
            order for order in call.account.view(call.lag_ms, call.now_ms).orders()
            if symbol in ("", order.symbol) and start <= order.created_ms <= end and (first is None or order.number >= first)
            and not self._faded(order, call.now_ms)
        ]  # fmt: skip
        forward = first is not None or call.params.get("startTime")
        return [self.row(order) for order in (rows[:limit] if forward else rows[-limit:])]

    @staticmethod
    def _faded(order: Order, now_ms: int) -> bool:
        """Cancelled or expired without a fill: gone after 3 days. Anything: gone after 90."""
        age_ms = now_ms - order.created_ms
        return age_ms > QUARTER or (not order.is_open and not order.filled and age_ms > THREE_DAYS)

    def find(self, call: Call, code: int, msg: str) -> Order:
        symbol = self.symbol(call)
        ident, client_id = number(call.params, "orderId"), call.params.get("origClientOrderId")
        if ident is None and not client_id:
            raise ApiError(400, -1102, "Either 'orderId' or 'origClientOrderId' must be sent.")
        view = call.account.view(call.lag_ms, call.now_ms)
        order = (
            view.order(self._venue.engine.order_id(symbol, ident))
            if ident is not None
            else next((o for o in reversed(view.orders()) if o.client_id == client_id), None)
        )
        if order is None or order.symbol != symbol or self._faded(order, call.now_ms):
            raise ApiError(400, code, msg)
        return order

    def order(self, call: Call) -> dict[str, Any]:
        return self.row(self.find(call, -2013, "Order does not exist."))

    def open_order(self, call: Call) -> dict[str, Any]:
        order = self.find(call, -2013, "Order does not exist.")
        if not order.is_open:
            raise ApiError(400, -2013, "Order does not exist.")
        return self.row(order)

    def user_trades(self, call: Call) -> list[dict[str, Any]]:
        symbol = self.symbol(call)
        limit, first, order_id = (
            limit_of(call.params, 500, 1000),
            number(call.params, "fromId"),
            number(call.params, "orderId"),
        )
        timed = call.params.get("startTime") or call.params.get("endTime")
        if first is not None and timed:
            raise ApiError(400, -1128, "Combination of optional parameters invalid.")
        oldest = call.now_ms - QUARTER
        rows = [
            f
            for f in call.account.view(call.lag_ms, call.now_ms).fills(symbol)
            if f.time_ms >= oldest and order_id in (None, f.order_number)
        ]
        if first is not None:
            return [self._fill_row(fill) for fill in [f for f in rows if f.id >= first][:limit]]
        start, end = window(call.params, call.now_ms)
        rows = [fill for fill in rows if start <= fill.time_ms <= end]
        return [self._fill_row(fill) for fill in (rows[:limit] if call.params.get("startTime") else rows[-limit:])]

    def force_orders(self, call: Call) -> list[dict[str, Any]]:
        self.symbol(call, needed=False)
        return []

    def order_limits(self, call: Call) -> list[dict[str, Any]]:
        settings = self._venue.settings
        return [
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": settings.orders_per_10s},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": settings.orders_per_min},
        ]
