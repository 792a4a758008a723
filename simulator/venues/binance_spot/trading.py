"""Accounts and orders by REST at Binance Spot (sheet 5.3): balances, placing, cancelling, reading orders and trades. In:
authenticated calls; out: JSON values, and engine changes told to the stream.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from simulator.account import Account
from simulator.candles import DAY
from simulator.records import Order
from simulator.venues.binance_spot import messages
from simulator.venues.binance_spot.rules import ApiError, bad_combination, bad_symbol, limit_of, mandatory, number

if TYPE_CHECKING:
    from simulator.venues.binance_spot.rest import Call
    from simulator.venues.binance_spot.twin import BinanceSpot

ARCHIVED_MS = 90 * DAY
SIDES, TYPES, TIFS = ("BUY", "SELL"), ("LIMIT", "LIMIT_MAKER", "MARKET"), ("GTC", "IOC", "FOK")
COMBINATIONS: tuple[set[str], ...] = (
    set(), {"orderId"}, {"startTime"}, {"endTime"}, {"fromId"}, {"startTime", "endTime"}, {"orderId", "fromId"},
)  # fmt: skip


class TradingCalls:
    """The account's endpoints."""

    def __init__(self, venue: BinanceSpot) -> None:
        self._venue = venue
        self._order_times: dict[int, deque[int]] = {}

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────
    def account(self, call: Call) -> dict[str, Any]:
        assets = call.account.view(call.lag_ms, call.now_ms).assets()
        shown = [a for a in assets if a.wallet] if call.params.get("omitZeroBalances") == "true" else assets
        return {
            "makerCommission": 10, "takerCommission": 10, "buyerCommission": 0, "sellerCommission": 0,
            "commissionRates": {"maker": "0.00100000", "taker": "0.00100000", "buyer": messages.ZERO, "seller": messages.ZERO},
            "canTrade": True, "canWithdraw": True, "canDeposit": True, "brokered": False, "requireSelfTradePrevention": False,
            "preventSor": False, "updateTime": max((a.updated_ms for a in assets), default=0), "accountType": "SPOT",
            "balances": [
                {"asset": a.asset, "free": messages.eight(a.wallet - a.locked), "locked": messages.eight(a.locked)}
                for a in shown
            ],
            "permissions": ["SPOT"], "uid": call.account.uid,
        }  # fmt: skip

    def commission(self, call: Call) -> dict[str, Any]:
        rates = {"maker": "0.00100000", "taker": "0.00100000", "buyer": messages.ZERO, "seller": messages.ZERO}
        return {"symbol": self._symbol(call), "standardCommission": rates, "discount": {"enabledForAccount": False}}

    def _symbol(self, call: Call, *, needed: bool = True) -> str:
        symbol = call.params.get("symbol", "")
        if not symbol and needed:
            raise mandatory("symbol")
        if symbol and symbol not in self._venue.markets:
            raise bad_symbol()
        return symbol

    def open_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol = self._symbol(call, needed=False)
        orders = call.account.view(call.lag_ms, call.now_ms).open_orders()
        return [messages.order_row(order) for order in orders if symbol in ("", order.symbol)]

    @staticmethod
    def _window(call: Call) -> tuple[int, int, bool]:
        """startTime, endTime and whether any was given; at most 24 h apart. Raises -1127."""
        start, end = number(call.params, "startTime"), number(call.params, "endTime")
        if start is None and end is None:
            return 0, call.now_ms + 60_000, False
        begin = end - DAY if start is None and end is not None else start or 0
        finish = begin + DAY if end is None else end
        if not 0 <= finish - begin <= DAY:
            raise ApiError(400, -1127, "More than 24 hours between startTime and endTime.")
        return begin, finish, start is not None

    def all_orders(self, call: Call) -> list[dict[str, Any]]:
        symbol, limit, first = self._symbol(call), limit_of(call.params, 500, 1000), number(call.params, "orderId")
        start, end, forward = self._window(call)
        rows = [
            order for order in call.account.view(call.lag_ms, call.now_ms).orders()
            if order.symbol == symbol and start <= order.created_ms <= end and (first is None or order.number >= first)
            and not self._archived(order, call.now_ms)
        ]  # fmt: skip
        return [messages.order_row(o) for o in (rows[:limit] if forward or first is not None else rows[-limit:])]

    def my_trades(self, call: Call) -> list[dict[str, Any]]:
        symbol, limit = self._symbol(call), limit_of(call.params, 500, 1000)
        given = {name for name in ("orderId", "startTime", "endTime", "fromId") if call.params.get(name)}
        if given not in COMBINATIONS:
            raise bad_combination()
        first, order_id = number(call.params, "fromId"), number(call.params, "orderId")
        start, end, forward = self._window(call)
        rows = [
            fill for fill in call.account.view(call.lag_ms, call.now_ms).fills(symbol)
            if start <= fill.time_ms <= end and (first is None or fill.id >= first) and order_id in (None, fill.order_number)
        ]  # fmt: skip
        return [messages.trade_row(f) for f in (rows[:limit] if forward or first is not None else rows[-limit:])]

    def my_allocations(self, call: Call) -> list[dict[str, Any]]:
        """None: no order is routed elsewhere here."""
        self._symbol(call)
        return []

    @staticmethod
    def _archived(order: Order, now_ms: int) -> bool:
        return not order.is_open and not order.filled and now_ms - order.created_ms > ARCHIVED_MS

    def _find(self, call: Call, code: int, msg: str) -> Order:
        symbol = self._symbol(call)
        ident, client_id = number(call.params, "orderId"), call.params.get("origClientOrderId")
        if ident is None and not client_id:
            raise ApiError(400, -1102, "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!")
        view = call.account.view(call.lag_ms, call.now_ms)
        by_client = (o for o in reversed(view.orders()) if o.client_id == client_id)
        order = view.order(self._venue.engine.order_id(symbol, ident)) if ident is not None else next(by_client, None)
        if order is None or order.symbol != symbol:
            raise ApiError(400, code, msg)
        if self._archived(order, call.now_ms):
            raise ApiError(
                400, -2026, "Order was canceled or expired with no executed qty over 90 days ago and is archived."
            )
        return order

    def order(self, call: Call) -> dict[str, Any]:
        return messages.order_row(self._find(call, -2013, "Order does not exist."))

    def order_limits(self, call: Call) -> list[dict[str, Any]]:
        count = len(self._recent(call.account, call.now_ms))
        limit = self._venue.settings.orders_per_10s
        return [
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": limit, "count": count},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200000, "count": count},
        ]

    # ── placing ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _recent(self, account: Account, now_ms: int) -> deque[int]:
        times = self._order_times.setdefault(account.uid, deque())
        while times and times[0] < now_ms - 10_000:
            times.popleft()
        return times

    def _decimal(self, call: Call, name: str, *, needed: bool) -> Decimal:
        raw = call.params.get(name, "")
        if not raw and needed:
            raise mandatory(name)
        try:
            value = Decimal(raw or "0")
        except InvalidOperation as error:
            raise ApiError(400, -1100, f"Illegal characters found in parameter '{name}'.") from error
        if value < 0 or (needed and value == 0):
            raise ApiError(400, -1013, f"Invalid {name}.")
        return value

    @staticmethod
    def _choice(call: Call, name: str, allowed: tuple[str, ...], code: int, msg: str) -> str:
        value = call.params.get(name, "")
        if not value:
            raise mandatory(name)
        if value not in allowed:
            raise ApiError(400, code, msg)
        return value

    def _read(self, call: Call) -> tuple[str, str, str, str, Decimal, Decimal, bool]:
        """(symbol, side, type, time in force, quantity, price, marketable) of an order to place. Raises ApiError."""
        symbol = self._symbol(call)
        side = self._choice(call, "side", SIDES, -1117, "Invalid side.")
        kind = self._choice(call, "type", TYPES, -1116, "Invalid orderType.")
        limit, instrument = kind != "MARKET", self._venue.engine.instruments[symbol]
        tif = self._choice(call, "timeInForce", TIFS, -1115, "Invalid timeInForce.") if kind == "LIMIT" else "GTC"
        market = self._venue.markets[symbol]
        best = Decimal(market.price(market.book.take_best(side == "SELL")))
        price = self._decimal(call, "price", needed=True) if limit else best
        if not limit and call.params.get("quoteOrderQty"):
            qty = self._decimal(call, "quoteOrderQty", needed=True) / best // instrument.step * instrument.step
        else:
            qty = self._decimal(call, "quantity", needed=True)
        if qty % instrument.step or qty == 0:
            raise ApiError(400, -1013, "Filter failure: LOT_SIZE")
        if price % instrument.tick:
            raise ApiError(400, -1013, "Filter failure: PRICE_FILTER")
        marketable = not limit or (price >= best if side == "BUY" else price <= best)
        if kind == "LIMIT_MAKER" and marketable:
            raise ApiError(400, -2010, "Order would immediately match and take.")
        return symbol, side, kind, tif, qty, price, marketable

    def test_order(self, call: Call) -> dict[str, Any]:
        self._read(call)
        return {}

    def new_order(self, call: Call) -> dict[str, Any]:
        symbol, side, kind, tif, qty, price, marketable = self._read(call)
        times = self._recent(call.account, call.now_ms)
        if len(times) >= self._venue.settings.orders_per_10s:
            raise ApiError(429, -1015, "Too many new orders; current limit is reached.", retry_after_s=10)
        times.append(call.now_ms)
        if self._venue.free(call.account, symbol, side) < (qty * price if side == "BUY" else qty):
            raise ApiError(400, -2010, "Account has insufficient balance for requested action.")
        change = self._venue.engine.place(
            call.account, symbol=symbol, side=side, qty=qty, price=price, now_ms=call.now_ms, order_type=kind, time_in_force=tif,
            client_id=call.params.get("newClientOrderId", ""), position_side="",
        )  # fmt: skip
        assert change.order is not None
        ident = change.order.id
        self._venue.tell(call.account, change)
        if marketable:
            market = self._venue.markets[symbol]
            best = Decimal(market.price(market.book.take_best(side == "SELL")))
            self._execute(call.account, ident, best, is_maker=False)
        elif tif in ("IOC", "FOK"):
            self._venue.end_order(call.account, ident, "EXPIRED")
        else:
            self._venue.crossing[ident] = call.account
        order = call.account.order(ident)
        assert order is not None
        return self._placed(call, order)

    def _placed(self, call: Call, order: Order) -> dict[str, Any]:
        row = messages.order_row(order)
        row["transactTime"] = order.updated_ms
        fills = [f for f in call.account.fills.get(order.symbol, [])[-10:] if f.order_id == order.id]
        row["fills"] = [
            {"price": messages.eight(f.price), "qty": messages.eight(f.qty), "commission": messages.eight(f.fee),
             "commissionAsset": f.fee_asset, "tradeId": f.id}
            for f in fills
        ]  # fmt: skip
        return row

    def _execute(self, account: Account, ident: int, price: Decimal, *, is_maker: bool) -> None:
        order = account.order(ident)
        assert order is not None
        self._venue.execute(account, ident, order.qty - order.filled, price, is_maker=is_maker)

    def cross(self) -> None:
        """Fill the resting orders that the market has reached."""
        for ident, account in list(self._venue.crossing.items()):
            order = account.order(ident)
            if order is None or not order.is_open:
                self._venue.crossing.pop(ident, None)
                continue
            market = self._venue.markets[order.symbol]
            best = Decimal(market.price(market.book.take_best(order.side == "SELL")))
            if order.price >= best if order.side == "BUY" else order.price <= best:
                self._venue.crossing.pop(ident, None)
                self._execute(account, ident, order.price, is_maker=True)

    # ── cancelling ───────────────────────────────────────────────────────────────────────────────────────────────
    def cancel_order(self, call: Call) -> dict[str, Any]:
        order = self._find(call, -2011, "Unknown order sent.")
        if not order.is_open:
            raise ApiError(400, -2011, "Unknown order sent.")
        return self._cancelled(call, order)

    def _cancelled(self, call: Call, order: Order) -> dict[str, Any]:
        request_id = call.params.get("newClientOrderId") or f"cancel{order.id:x}"
        row = messages.order_row(self._venue.end_order(call.account, order.id, cancel_id=request_id))
        return row | {"origClientOrderId": order.client_id, "clientOrderId": request_id, "transactTime": call.now_ms}

    def cancel_all(self, call: Call) -> list[dict[str, Any]]:
        symbol = self._symbol(call)
        orders = [order for order in call.account.view(0, 0).open_orders() if order.symbol == symbol]
        if not orders:
            raise ApiError(400, -2011, "Unknown order sent.")
        return [self._cancelled(call, order) for order in orders]
