"""Orders by REST at Binance USDⓈ-M (sheet 5.2): placing, cancelling, amending, and reading orders and fills. In:
authenticated calls; out: JSON values, and engine changes told to the stream.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from simulator.account import Account
from simulator.records import Order
from simulator.venues.binance_usdm.orders import OrderCalls
from simulator.venues.binance_usdm.rest_account import AccountCalls
from simulator.venues.binance_usdm.rules import ApiError, mandatory

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.rest import Call
    from simulator.venues.binance_usdm.twin import BinanceUsdm

SIDES, TYPES, TIFS = ("BUY", "SELL"), ("LIMIT", "MARKET"), ("GTC", "IOC", "FOK", "GTX", "GTD", "RPI")
ALGO_TYPES = ("STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET")
MIN_NOTIONAL = Decimal(5)


class TradingCalls:
    """The endpoints that place, change and cancel orders."""

    def __init__(self, venue: BinanceUsdm, orders: OrderCalls) -> None:
        self._venue = venue
        self._accounts = AccountCalls(venue)
        self._orders = orders
        self._order_times: dict[int, deque[int]] = {}

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
        symbol = self._orders.symbol(call)
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
        self._check(call.account, symbol, side, qty, price or self._venue.user.mark(symbol), call)
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
        self._venue.user.tell(call.account, change)
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
            for name, value in self._orders.row(order).items()
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
        self._venue.user.tell(account, change)

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
        order = self._orders.find(call, -2011, "Unknown order sent.")
        if not order.is_open:
            raise ApiError(400, -2011, "Unknown order sent.")
        return self._placed(self._venue.end_order(call.account, order.id))

    def cancel_all(self, call: Call) -> dict[str, Any]:
        symbol = self._orders.symbol(call)
        for order in call.account.view(0, 0).open_orders():
            if order.symbol == symbol:
                self._venue.end_order(call.account, order.id)
        return {"code": 200, "msg": "The operation of cancel all open order is done."}

    def amend_order(self, call: Call) -> dict[str, Any]:
        order = self._orders.find(call, -2013, "Order does not exist.")
        if not order.is_open:
            raise ApiError(400, -2013, "Order does not exist.")
        qty, price = self._decimal(call, "quantity", needed=True), self._decimal(call, "price", needed=True)
        if qty == order.qty and price == order.price:
            raise ApiError(400, -5027, "No need to modify the order.")
        change = self._venue.engine.amend(call.account, order.id, call.now_ms, price=price, qty=qty)
        self._venue.user.tell(call.account, change)
        assert change.order is not None
        return self._placed(change.order)
