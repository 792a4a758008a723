"""Orders and fills by REST at OKX (sheet 6.3): placing, cancelling, amending, reading. In: authenticated calls; out: rows, and
engine changes told to the stream.

Pages go from the newest to the oldest: `after` = older than that id, `before` = newer, both exclusive; `before` alone still gives
the newest page.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from simulator.account import Account
from simulator.records import Fill, Order
from simulator.venues.okx import messages
from simulator.venues.okx.rest_market import limit_of, number, product_of
from simulator.venues.okx.rules import ApiError, empty, no_instrument, wrong
from simulator.venues.okx.symbols import product

if TYPE_CHECKING:
    from simulator.venues.okx.rest import Call
    from simulator.venues.okx.twin import Okx

DAY_MS = 86_400_000
FORGET_MS = 2 * 3_600_000  # an order cancelled without a fill is gone after two hours
AT_MARKET = ("market", "optimal_limit_ioc")
TYPES = ("market", "limit", "post_only", "fok", "ioc", "optimal_limit_ioc")


class TradeCalls:
    """The order endpoints."""

    def __init__(self, venue: Okx) -> None:
        self._venue = venue

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _row(self, account: Account, order: Order) -> dict[str, Any]:
        fills = [f for f in account.fills.get(order.symbol, []) if f.order_id == order.id]
        last = fills[-1] if fills and order.filled else None
        return messages.order(order, last, str(account.leverage.get(order.symbol, 10)), streamed=False)

    def _select(self, call: Call, orders: list[Order], kind: str) -> list[dict[str, Any]]:
        """Newest first, by ordId (which follows the time of creation), one page."""
        p = call.params
        after, before, begin, end = (number(p, name) for name in ("after", "before", "begin", "end"))
        found = [
            o for o in sorted(orders, key=lambda o: -o.id)
            if kind in ("", "ANY", product(o.symbol)) and p.get("instId", o.symbol) == o.symbol
            and (after is None or o.id < after) and (before is None or o.id > before)
            and (begin is None or o.created_ms >= begin) and (end is None or o.created_ms <= end)
            and p.get("state", messages.STATES[o.status]) == messages.STATES[o.status]
        ]  # fmt: skip
        return [self._row(call.account, o) for o in found[: limit_of(p, 100, 100)]]

    def pending(self, call: Call) -> list[dict[str, Any]]:
        view = call.account.view(call.lag_ms, call.now_ms)
        return self._select(call, view.open_orders(), product_of(call.params, needed=False))

    def history(self, call: Call) -> list[dict[str, Any]]:
        return self._finished(call, 7 * DAY_MS)

    def archive(self, call: Call) -> list[dict[str, Any]]:
        """Three months, without what was cancelled unfilled."""
        rows = self._finished(call, 90 * DAY_MS)
        return [row for row in rows if row["accFillSz"] != "0"]

    def _finished(self, call: Call, kept_ms: int) -> list[dict[str, Any]]:
        kind = product_of(call.params, needed=True)
        orders = call.account.view(call.lag_ms, call.now_ms).orders()
        found = [
            o for o in orders if not o.is_open and o.updated_ms >= call.now_ms - kept_ms and not _gone(o, call.now_ms)
        ]
        return self._select(call, found, kind)

    def order(self, call: Call) -> list[dict[str, Any]]:
        return [self._row(call.account, self._find(call, call.params, lag_ms=call.lag_ms))]

    def _find(self, call: Call, spec: dict[str, Any], *, lag_ms: int = 0, code: int = 51603) -> Order:
        symbol = str(spec.get("instId", ""))
        if not symbol:
            raise empty("instId")
        if symbol not in self._venue.feed.markets:
            raise no_instrument()
        ident, client = str(spec.get("ordId") or ""), str(spec.get("clOrdId") or "")
        if not ident and not client:
            raise empty("ordId")
        view = call.account.view(lag_ms, call.now_ms)
        if ident:
            found = view.order(int(ident)) if ident.isdigit() else None
        else:
            found = next((o for o in reversed(view.orders()) if o.client_id == client), None)
        if found is None or found.symbol != symbol or _gone(found, call.now_ms):
            raise ApiError(code, "Order does not exist", 200)
        return found

    def fills(self, call: Call) -> list[dict[str, Any]]:
        return self._fills(call, 3 * DAY_MS, product_of(call.params, needed=False))

    def fills_history(self, call: Call) -> list[dict[str, Any]]:
        return self._fills(call, 90 * DAY_MS, product_of(call.params, needed=True))

    def _fills(self, call: Call, kept_ms: int, kind: str) -> list[dict[str, Any]]:
        p, oldest = call.params, call.now_ms - kept_ms
        after, before, begin, end = (number(p, name) for name in ("after", "before", "begin", "end"))
        shown_ms = call.now_ms - call.lag_ms if call.lag_ms else None

        def wanted(bill: int, f: Fill) -> bool:
            ts = f.time_ms + 1
            return (
                ts >= oldest and (shown_ms is None or f.time_ms <= shown_ms) and kind in ("", "ANY", product(f.symbol))
                and p.get("instId", f.symbol) == f.symbol and p.get("ordId", str(f.order_id)) == str(f.order_id)
                and (after is None or bill < after) and (before is None or bill > before)
                and (begin is None or ts >= begin) and (end is None or ts <= end)
            )  # fmt: skip

        found = [(bill, f) for bill, f in reversed(self._venue.bills(call.account)) if wanted(bill, f)]
        return [messages.fill(f, bill) for bill, f in found[: limit_of(p, 100, 100)]]

    # ── placing ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _each(self, call: Call, run: Any) -> list[dict[str, Any]]:
        """One reply row per item; an item's refusal is in its sCode."""
        rows = []
        for spec in call.body if isinstance(call.body, list) else [call.body]:
            try:
                order = run(call, spec)
                row = {"ordId": str(order.id), "clOrdId": str(spec.get("clOrdId") or ""), "sCode": "0", "sMsg": ""}
            except ApiError as error:
                row = {
                    "ordId": str(spec.get("ordId") or ""),
                    "clOrdId": "",
                    "sCode": str(error.code),
                    "sMsg": error.msg,
                }
            rows.append({**row, "tag": "", "ts": str(call.now_ms), "subCode": "", "reqId": ""})
        return rows

    def place(self, call: Call) -> list[dict[str, Any]]:
        return self._each(call, self._place)

    def cancel(self, call: Call) -> list[dict[str, Any]]:
        return self._each(call, self._cancel)

    def amend(self, call: Call) -> list[dict[str, Any]]:
        return self._each(call, self._amend)

    @staticmethod
    def _decimal(spec: dict[str, Any], name: str, *, needed: bool = True) -> Decimal:
        raw = str(spec.get(name) or "")
        if not raw:
            if needed:
                raise empty(name)
            return Decimal(0)
        try:
            value = Decimal(raw)
        except InvalidOperation as error:
            raise wrong(name) from error
        if not value.is_finite() or value <= 0:
            raise wrong(name)
        return value

    def _place(self, call: Call, spec: dict[str, Any]) -> Order:
        symbol, kind = str(spec.get("instId", "")), str(spec.get("ordType", ""))
        if symbol not in self._venue.feed.markets:
            raise no_instrument()
        if kind not in TYPES:
            raise wrong("ordType")
        if spec.get("side") not in ("buy", "sell"):
            raise wrong("side")
        spot = product(symbol) == "SPOT"
        if spec.get("tdMode") not in ("cash", "cross", "isolated"):
            raise wrong("tdMode")
        side, qty = str(spec["side"]).upper(), self._decimal(spec, "sz")
        price = Decimal(0) if kind in AT_MARKET else self._decimal(spec, "px")
        instrument, market = self._venue.engine.instruments[symbol], self._venue.feed.markets[symbol]
        best = Decimal(market.price(market.book.take_best(side == "SELL")))
        if (
            spot
            and kind == "market"
            and spec.get("tgtCcy", "quote_ccy" if side == "BUY" else "base_ccy") == "quote_ccy"
        ):
            qty = max(instrument.step, qty / best // instrument.step * instrument.step)
        if qty % instrument.step:
            raise ApiError(51121, "Order quantity must be a multiple of the lot size.")
        position_side = str(spec.get("posSide") or "net")
        if not spot and (position_side == "net") == call.account.hedge_mode:
            raise wrong("posSide")
        marketable = price == 0 or (price >= best if side == "BUY" else price <= best)
        if self._venue.short_of(call.account, symbol, side, qty, price or best):
            raise ApiError(51008, "Order failed. Insufficient balance in account")
        change = self._venue.engine.place(
            call.account, symbol=symbol, side=side, qty=qty, price=price, now_ms=call.now_ms, order_type=kind,
            client_id=str(spec.get("clOrdId") or ""), position_side=messages.MODES[position_side],
            reduce_only=str(spec.get("reduceOnly", "")).lower() == "true",
        )  # fmt: skip
        order = change.order
        assert order is not None
        self._venue.tell(call.account, change)
        if kind == "post_only" and marketable:
            return self._venue.end_order(call.account, order.id)
        if marketable:
            self._venue.execute(call.account, order.id, best, is_maker=False)
        elif kind in ("fok", "ioc"):
            return self._venue.end_order(call.account, order.id)
        else:
            self._venue.crossing[order.id] = call.account
        return order

    def _cancel(self, call: Call, spec: dict[str, Any]) -> Order:
        order = self._find(call, spec, code=51400)
        if not order.is_open:
            raise ApiError(51400, "Cancellation failed as the order has been filled, canceled or does not exist.")
        return self._venue.end_order(call.account, order.id)

    def _amend(self, call: Call, spec: dict[str, Any]) -> Order:
        order = self._find(call, spec, code=51503)
        if not order.is_open:
            raise ApiError(51503, "Order modification failed as the order has been filled, canceled or does not exist.")
        price, qty = self._decimal(spec, "newPx", needed=False), self._decimal(spec, "newSz", needed=False)
        if not price and not qty:
            raise empty("newSz")
        change = self._venue.engine.amend(
            call.account, order.id, call.now_ms, price=price or order.price, qty=qty or order.qty
        )
        self._venue.tell(call.account, change)
        assert change.order is not None
        return change.order

    def cross(self) -> None:
        """Fill the resting orders that the market has reached."""
        for ident, account in list(self._venue.crossing.items()):
            order = account.order(ident)
            if order is None or not order.is_open:
                self._venue.crossing.pop(ident, None)
                continue
            market = self._venue.feed.markets[order.symbol]
            best = Decimal(market.price(market.book.take_best(order.side == "SELL")))
            if order.price >= best if order.side == "BUY" else order.price <= best:
                self._venue.crossing.pop(ident, None)
                self._venue.execute(account, ident, order.price, is_maker=True)


def _gone(order: Order, now_ms: int) -> bool:
    return not order.is_open and not order.filled and now_ms - order.updated_ms > FORGET_MS
