"""Placing, changing and cancelling orders by REST (`/v5/order/*`). In: authenticated calls; out: ids, and events on the private
sockets. Codes: bybit-exchange/docs, error page.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from simulator.engine import Account, Order
from simulator.venues.bybit import messages
from simulator.venues.bybit.pages import category_of
from simulator.venues.bybit.rules import ApiError, bad_parameter
from simulator.venues.bybit.symbols import engine_symbol

if TYPE_CHECKING:
    from simulator.venues.bybit.rest import Call
    from simulator.venues.bybit.twin import Bybit

ZERO = Decimal(0)
SIDES = {"Buy": "BUY", "Sell": "SELL"}
TYPES = {"Limit": "LIMIT", "Market": "MARKET"}
TIFS = {"": "GTC", "GTC": "GTC", "IOC": "IOC", "FOK": "FOK", "PostOnly": "GTX"}
SERVED = ("linear", "spot")


class TradingCalls:
    """The order endpoints that change something."""

    def __init__(self, venue: Bybit) -> None:
        self._venue = venue

    def _symbol(self, call: Call) -> str:
        category = category_of(call.params, SERVED)
        symbol = engine_symbol(category, call.text("symbol"))
        if symbol not in self._venue.engine.instruments:
            raise bad_parameter("params error: symbol invalid")
        return symbol

    @staticmethod
    def _decimal(call: Call, name: str, *, needed: bool) -> Decimal:
        raw = call.text(name)
        if not raw and not needed:
            return ZERO
        try:
            value = Decimal(raw)
        except InvalidOperation as error:
            raise bad_parameter(f"params error: {name} invalid") from error
        if not value.is_finite() or value <= 0:
            raise bad_parameter(f"params error: {name} invalid")
        return value

    @staticmethod
    def _choice(call: Call, name: str, known: dict[str, str]) -> str:
        value = call.text(name)
        if value not in known:
            raise bad_parameter(f"params error: {name} invalid")
        return known[value]

    def create(self, call: Call) -> dict[str, str]:
        symbol = self._symbol(call)
        instrument = self._venue.engine.instruments[symbol]
        side, kind = self._choice(call, "side", SIDES), self._choice(call, "orderType", TYPES)
        tif = self._choice(call, "timeInForce", TIFS) if kind == "LIMIT" else "IOC"
        qty = self._decimal(call, "qty", needed=True)
        price = self._decimal(call, "price", needed=kind == "LIMIT") if kind == "LIMIT" else ZERO
        best = self._venue.best(symbol, side == "SELL")
        if instrument.kind == "spot" and kind == "MARKET" and side == "BUY" and call.text("marketUnit") != "baseCoin":
            qty = qty / best // instrument.step * instrument.step  # a market buy is meant in quote coin
        self._check(call, symbol, side, qty, price, best)
        index = call.text("positionIdx", "0")
        position_side = messages.SIDE_OF_INDEX.get(int(index) if index.isdigit() else -1)
        if position_side is None or (position_side == "BOTH") == call.account.hedge_mode:
            raise ApiError(10001, "position idx not match position mode")
        marketable = kind == "MARKET" or (price >= best if side == "BUY" else price <= best)
        change = self._venue.engine.place(
            call.account, symbol=symbol, side=side, qty=qty, price=price, now_ms=call.now_ms, order_type=kind, time_in_force=tif,
            client_id=call.text("orderLinkId"), position_side=position_side, reduce_only=call.params.get("reduceOnly") is True,
        )  # fmt: skip
        order = change.order
        assert order is not None
        self._venue.tell(call.account, change)
        if marketable and tif == "GTX":
            self._venue.end_order(call.account, order.id)
        elif marketable:
            self._execute(call.account, order.id, best, is_maker=False)
        elif tif in ("IOC", "FOK"):
            self._venue.end_order(call.account, order.id)
        else:
            self._venue.crossing[order.id] = call.account
        return self._named(order)

    def _named(self, order: Order) -> dict[str, str]:
        return {
            "orderId": self._venue.ids.wire(order.id, order.symbol),
            "orderLinkId": messages.link_id(order.id, order.client_id),
        }

    def _check(self, call: Call, symbol: str, side: str, qty: Decimal, price: Decimal, best: Decimal) -> None:
        instrument = self._venue.engine.instruments[symbol]
        if qty <= 0 or qty % instrument.step:
            raise ApiError(10001, "The number of contracts exceeds minimum limit allowed or is not on its step")
        if price % instrument.tick:
            raise ApiError(10001, "params error: price is not on its tick")
        link = call.text("orderLinkId")
        if link and any(order.client_id == link for order in call.account.view(0, 0).open_orders()):
            raise ApiError(110072, "OrderLinkedID is duplicate")
        value = qty * (price or best)
        if instrument.kind == "spot":
            coin, needed = (instrument.quote, value) if side == "BUY" else (instrument.base, qty)
            if self._venue.free(call.account, coin) < needed:
                raise ApiError(170131, "Insufficient balance.")
        elif call.params.get("reduceOnly") is True:
            history = call.account.positions.get((symbol, "BOTH"))
            held = history.last.qty if history else ZERO
            if held == 0 or (held > 0) == (side == "BUY"):
                raise ApiError(110017, "current position is zero, cannot fix reduce-only order qty")
        elif value / 10 > self._venue.free(call.account, instrument.quote):
            raise ApiError(110007, "ab not enough for new order")

    def _execute(self, account: Account, ident: int, price: Decimal, *, is_maker: bool) -> None:
        order = account.order(ident)
        assert order is not None
        self._venue.execute(account, order, order.qty - order.filled, price, is_maker=is_maker)

    def cross(self) -> None:
        """Fill the resting orders that the market has reached."""
        for ident, account in list(self._venue.crossing.items()):
            order = account.order(ident)
            if order is None or not order.is_open:
                self._venue.crossing.pop(ident, None)
                continue
            best = self._venue.best(order.symbol, order.side == "SELL")
            if order.price >= best if order.side == "BUY" else order.price <= best:
                self._venue.crossing.pop(ident, None)
                self._execute(account, ident, order.price, is_maker=True)

    # ── changing ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _open(self, call: Call) -> Order:
        symbol, ident, link = self._symbol(call), call.text("orderId"), call.text("orderLinkId")
        if not ident and not link:
            raise bad_parameter("params error: orderId or orderLinkId is required")
        found = (
            call.account.order(self._venue.ids.engine(ident))
            if ident
            else next((o for o in call.account.view(0, 0).open_orders() if o.client_id == link), None)
        )
        if found is None or found.symbol != symbol or not found.is_open:
            raise ApiError(
                170213 if symbol != call.text("symbol") else 110001, "order not exists or too late to cancel"
            )
        return found

    def cancel(self, call: Call) -> dict[str, str]:
        order = self._open(call)
        self._venue.end_order(call.account, order.id)
        return self._named(order)

    def cancel_all(self, call: Call) -> dict[str, Any]:
        category = category_of(call.params, SERVED)
        symbol = engine_symbol(category, call.text("symbol"))
        done = []
        for order in call.account.view(0, 0).open_orders():
            same = (
                order.symbol == symbol
                if call.text("symbol")
                else order.symbol.startswith("spot/") == (category == "spot")
            )
            if same:
                self._venue.end_order(call.account, order.id)
                done.append(self._named(order))
        return {"list": done, "success": "1"}

    def amend(self, call: Call) -> dict[str, str]:
        order = self._open(call)
        qty = self._decimal(call, "qty", needed=False) or order.qty
        price = self._decimal(call, "price", needed=False) or order.price
        if qty == order.qty and price == order.price:
            raise ApiError(10001, "The order remains unchanged as the parameters entered match the existing ones.")
        if qty <= order.filled:
            raise ApiError(
                110063, "The number of contracts modified cannot be less than or equal to the filled quantity"
            )
        self._venue.tell(
            call.account, self._venue.engine.amend(call.account, order.id, call.now_ms, price=price, qty=qty)
        )
        return self._named(order)
