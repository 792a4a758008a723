"""Orders by REST at Binance USDⓈ-M (sheet 5.2): placing, cancelling, amending, and reading orders and fills. In:
authenticated calls; out:
JSON values, and engine changes told to the stream.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from simulator.account import Account
from simulator.records import Fill, Order
from simulator.venues.binance_usdm.algo import AlgoCalls
from simulator.venues.binance_usdm.rest_account import QUARTER, WEEK, AccountCalls, window
from simulator.venues.binance_usdm.rest_market import limit_of, number
from simulator.venues.binance_usdm.rules import ApiError, bad_symbol, mandatory

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.rest import Call
    from simulator.venues.binance_usdm.twin import BinanceUsdm

THREE_DAYS = 3 * 86_400_000
SIDES, TYPES, TIFS = ("BUY", "SELL"), ("LIMIT", "MARKET"), ("GTC", "IOC", "FOK", "GTX", "GTD", "RPI")
ALGO_TYPES = ("STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET")
MIN_NOTIONAL = Decimal(5)


class TradingCalls:
    """The order endpoints."""

    def __init__(self, venue: BinanceUsdm) -> None:
        self._venue = venue
        self._accounts = AccountCalls(venue)
        self._order_times: dict[int, deque[int]] = {}
        self.algo = AlgoCalls(venue)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _symbol(self, call: Call, *, needed: bool = True) -> str:
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
            "orderId": order.id, "symbol": order.symbol, "pair": order.symbol, "status": order.status,
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
            "symbol": fill.symbol, "id": fill.id, "orderId": fill.order_id, "side": fill.side,
            "price": f"{fill.price:.{spec.price_decimals}f}",
            "qty": qty, "realizedPnl": f"{fill.realized:.8f}", "quoteQty": f"{fill.price * fill.qty:.8f}", "baseQty": qty,
            "commission": f"{fill.fee:.8f}", "commissionAsset": fill.fee_asset, "marginAsset": fill.fee_asset, "pair": fill.symbol,
            "time": fill.time_ms, "positionSide": fill.position_side, "buyer": fill.side == "BUY", "maker": fill.is_maker,
        }  # fmt: skip

    def open_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = self._symbol(call, needed=False)
        return [
            self.row(o) for o in call.account.view(call.lag_ms, call.now_ms).open_orders() if symbol in ("", o.symbol)
        ]

    def all_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = self._symbol(call, needed=False)
        first = number(call.params, "orderId")
        limit = limit_of(call.params, 500, 1000)
        if first is not None and (call.params.get("startTime") or call.params.get("endTime")) is None:
            start, end = call.now_ms - QUARTER, call.now_ms + 60_000
        else:
            start, end = window(call.params, call.now_ms)
        rows = [
            order for order in call.account.view(call.lag_ms, call.now_ms).orders()
            if symbol in ("", order.symbol) and start <= order.created_ms <= end and (first is None or order.id >= first)
            and not self._faded(order, call.now_ms)
        ]  # fmt: skip
        forward = first is not None or call.params.get("startTime")
        return [self.row(order) for order in (rows[:limit] if forward else rows[-limit:])]

    @staticmethod
    def _faded(order: Order, now_ms: int) -> bool:
        """Cancelled or expired without a fill: gone after 3 days. Anything: gone after 90."""
        age_ms = now_ms - order.created_ms
        return age_ms > QUARTER or (not order.is_open and not order.filled and age_ms > THREE_DAYS)

    def _find(self, call: Call, code: int, msg: str) -> Order:
        symbol = self._symbol(call)
        ident, client_id = number(call.params, "orderId"), call.params.get("origClientOrderId")
        if ident is None and not client_id:
            raise ApiError(400, -1102, "Either 'orderId' or 'origClientOrderId' must be sent.")
        view = call.account.view(call.lag_ms, call.now_ms)
        order = (
            view.order(ident)
            if ident is not None
            else next((o for o in reversed(view.orders()) if o.client_id == client_id), None)
        )
        if order is None or order.symbol != symbol or self._faded(order, call.now_ms):
            raise ApiError(400, code, msg)
        return order

    def order(self, call: Call) -> dict[str, Any]:
        return self.row(self._find(call, -2013, "Order does not exist."))

    def open_order(self, call: Call) -> dict[str, Any]:
        order = self._find(call, -2013, "Order does not exist.")
        if not order.is_open:
            raise ApiError(400, -2013, "Order does not exist.")
        return self.row(order)

    def user_trades(self, call: Call) -> list[dict[str, Any]]:
        symbol = self._symbol(call)
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
            if f.time_ms >= oldest and order_id in (None, f.order_id)
        ]
        if first is not None:
            return [self._fill_row(fill) for fill in [f for f in rows if f.id >= first][:limit]]
        start, end = window(call.params, call.now_ms)
        rows = [fill for fill in rows if start <= fill.time_ms <= end]
        return [self._fill_row(fill) for fill in (rows[:limit] if call.params.get("startTime") else rows[-limit:])]

    def force_orders(self, call: Call) -> list[dict[str, Any]]:
        self._symbol(call, needed=False)
        return []

    def order_limits(self, call: Call) -> list[dict[str, Any]]:
        settings = self._venue.settings
        return [
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": settings.orders_per_10s},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": settings.orders_per_min},
        ]

    # ── placing ──────────────────────────────────────────────────────────────────────────────────────────────────
    def count_order(self, account: Account, now_ms: int) -> dict[str, str]:
        """Count one order call; returns the headers. Raises -1015."""
        times = self._order_times.setdefault(account.uid, deque())
        times.append(now_ms)
        while times and times[0] < now_ms - 60_000:
            times.popleft()
        recent = sum(t >= now_ms - 10_000 for t in times)
        settings = self._venue.settings
        if recent > settings.orders_per_10s or len(times) > settings.orders_per_min:
            raise ApiError(
                429,
                -1015,
                f"Too many new orders; current limit is {settings.orders_per_10s} orders per TEN_SECONDS.",
                retry_after_s=10,
            )
        return {"X-MBX-ORDER-COUNT-10S": str(recent), "X-MBX-ORDER-COUNT-1M": str(len(times))}

    def _decimal(self, call: Call, name: str, *, needed: bool) -> Decimal:
        raw = call.params.get(name, "")
        if not raw:
            if needed:
                raise mandatory(name)
            return Decimal(0)
        try:
            value = Decimal(raw)
        except InvalidOperation as error:
            raise ApiError(400, -1100, f"Illegal characters found in parameter '{name}'.") from error
        if value <= 0:
            raise ApiError(
                400, -4003 if name == "quantity" else -4001, f"{name.capitalize()} less than or equal to zero."
            )
        return value

    def _choice(self, call: Call, name: str, allowed: tuple[str, ...], code: int, msg: str) -> str:
        value = call.params.get(name, "")
        if not value:
            raise mandatory(name)
        if value not in allowed:
            raise ApiError(400, code, msg)
        return value

    def new_order(self, call: Call) -> dict[str, Any]:
        symbol = self._symbol(call)
        side = self._choice(call, "side", SIDES, -1117, "Invalid side.")
        kind = self._choice(call, "type", (*TYPES, *ALGO_TYPES), -1116, "Invalid orderType.")
        if kind in ALGO_TYPES:
            raise ApiError(
                400,
                -4120,
                "Order type not supported for this endpoint. Please use the Algo Order API endpoints instead.",
            )
        qty, price = self._decimal(call, "quantity", needed=True), self._decimal(call, "price", needed=kind == "LIMIT")
        tif = self._choice(call, "timeInForce", TIFS, -1115, "Invalid timeInForce.") if kind == "LIMIT" else "GTC"
        self._check(call.account, symbol, side, qty, price or self._venue.mark(symbol), call)
        position_side = call.params.get("positionSide", "BOTH")
        if (position_side == "BOTH") == call.account.hedge_mode:
            raise ApiError(400, -4061, "Order's position side does not match user's setting.")
        market = self._venue.markets[symbol]
        best = Decimal(market.price(market.book.take_best(side == "SELL")))
        marketable = kind == "MARKET" or (price >= best if side == "BUY" else price <= best)
        if tif == "GTX" and marketable:
            raise ApiError(
                400, -5022, "Due to the order could not be executed as maker, the Post Only order will be rejected."
            )
        change = self._venue.engine.place(
            call.account, symbol=symbol, side=side, qty=qty, price=price, now_ms=call.now_ms, order_type=kind, time_in_force=tif,
            client_id=call.params.get("newClientOrderId", ""), position_side=position_side,
            reduce_only=call.params.get("reduceOnly", "").lower() == "true",
        )  # fmt: skip
        assert change.order is not None
        self._venue.tell(call.account, change)
        ident = change.order.id
        if marketable:
            self._execute(call.account, ident, best, is_maker=False)
        elif tif in ("IOC", "FOK"):
            self._venue.end_order(call.account, ident, "EXPIRED", "2")
        else:
            self._venue.crossing[ident] = (call.account, ident)
        order = call.account.order(ident) if call.params.get("newOrderRespType") == "RESULT" else change.order
        assert order is not None
        return self._placed(order)

    def _placed(self, order: Order) -> dict[str, Any]:
        """The reply to placing and cancelling: without avgPrice and cumQuote since 2026-07-15."""
        return {
            name: value
            for name, value in self.row(order).items()
            if name not in ("avgPrice", "cumQuote", "cumBase", "pair", "time")
        }

    def _check(self, account: Account, symbol: str, side: str, qty: Decimal, price: Decimal, call: Call) -> None:
        instrument = self._venue.engine.instruments[symbol]
        if qty % instrument.step:
            raise ApiError(400, -1111, "Precision is over the maximum defined for this asset.")
        if call.params.get("price") and price % instrument.tick:
            raise ApiError(400, -4014, "Price not increased by tick size.")
        reduce_only = call.params.get("reduceOnly", "").lower() == "true"
        if reduce_only:
            history = account.positions.get((symbol, call.params.get("positionSide", "BOTH")))
            held = history.last.qty if history else Decimal(0)
            if held == 0 or (held > 0) == (side == "BUY"):
                raise ApiError(400, -2022, "ReduceOnly Order is rejected.")
            return
        if qty * price < MIN_NOTIONAL:
            raise ApiError(400, -4164, "Order's notional must be no smaller than 5 (unless you choose reduce only).")
        if qty * price / account.leverage.get(symbol, 20) > self._accounts.available(account):
            raise ApiError(400, -2019, "Margin is insufficient.")

    def _execute(self, account: Account, ident: int, price: Decimal, *, is_maker: bool) -> None:
        order = account.order(ident)
        assert order is not None
        market = self._venue.markets[order.symbol]
        change = self._venue.engine.fill(
            account, ident, order.qty - order.filled, price, trade_id=market.take_trade_id(), is_maker=is_maker,
            now_ms=self._venue.clock.now_ms(),
        )  # fmt: skip
        self._venue.tell(account, change)

    def cross(self) -> None:
        """Fill the resting orders that the market has reached."""
        for ident, (account, _) in list(self._venue.crossing.items()):
            order = account.order(ident)
            if order is None or not order.is_open:
                self._venue.crossing.pop(ident, None)
                continue
            market = self._venue.markets[order.symbol]
            best = Decimal(market.price(market.book.take_best(order.side == "SELL")))
            if order.price >= best if order.side == "BUY" else order.price <= best:
                self._venue.crossing.pop(ident, None)
                self._execute(account, ident, order.price, is_maker=True)

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────
    def cancel_order(self, call: Call) -> dict[str, Any]:
        order = self._find(call, -2011, "Unknown order sent.")
        if not order.is_open:
            raise ApiError(400, -2011, "Unknown order sent.")
        return self._placed(self._venue.end_order(call.account, order.id))

    def cancel_all(self, call: Call) -> dict[str, Any]:
        symbol = self._symbol(call)
        for order in call.account.view(0, 0).open_orders():
            if order.symbol == symbol:
                self._venue.end_order(call.account, order.id)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def amend_order(self, call: Call) -> dict[str, Any]:
        order = self._find(call, -2013, "Order does not exist.")
        if not order.is_open:
            raise ApiError(400, -2013, "Order does not exist.")
        qty, price = self._decimal(call, "quantity", needed=True), self._decimal(call, "price", needed=True)
        if qty == order.qty and price == order.price:
            raise ApiError(400, -5027, "No need to modify the order.")
        change = self._venue.engine.amend(call.account, order.id, call.now_ms, price=price, qty=qty)
        self._venue.tell(call.account, change)
        assert change.order is not None
        return self._placed(change.order)


WINDOW_MS = WEEK
