"""Account REST of Bybit (sheet 6.3, 6.4). In: authenticated calls; out: JSON values from the same records the socket was written
from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from simulator.engine import Order, Position, text
from simulator.venues.bybit import messages
from simulator.venues.bybit.pages import category_of, page, window
from simulator.venues.bybit.rules import bad_parameter
from simulator.venues.bybit.symbols import category_of as category_of_symbol
from simulator.venues.bybit.symbols import wire_symbol

if TYPE_CHECKING:
    from simulator.venues.bybit.rest import Call
    from simulator.venues.bybit.twin import Bybit

DAY = 86_400_000
CLOSED_KEPT = 500
POSITION_CATEGORIES = ("linear", "inverse", "option")


class AccountCalls:
    """The account endpoints."""

    def __init__(self, venue: Bybit) -> None:
        self._venue = venue

    def query_api(self, call: Call) -> dict[str, Any]:
        read_only = int(call.account.state == "no_permission")
        return {
            "id": "13770661", "note": "simulated", "apiKey": call.account.api_key, "readOnly": read_only, "secret": "",
            "permissions": {"ContractTrade": ["Order", "Position"], "Spot": ["SpotTrade"], "Wallet": [], "Options": []},
            "ips": ["*"], "type": 1, "deadlineDay": 83, "expiredAt": "2027-01-01T00:00:00Z", "createdAt": "2026-01-01T00:00:00Z",
            "unified": 0, "uta": 1, "userID": call.account.uid, "inviterID": 0, "vipLevel": "No VIP", "mktMakerLevel": "0",
            "affiliateID": 0, "rsaPublicKey": "", "isMaster": True, "parentUid": "0", "kycLevel": "LEVEL_2", "kycRegion": "",
        }  # fmt: skip

    @staticmethod
    def info(call: Call) -> dict[str, Any]:
        return {
            "marginMode": "REGULAR_MARGIN", "updatedTime": "1697078946000", "unifiedMarginStatus": 5, "dcpStatus": "OFF",
            "timeWindow": 10, "smpGroup": 0, "isMasterTrader": False, "spotHedgingStatus": "OFF",
        }  # fmt: skip

    def wallet(self, call: Call) -> dict[str, Any]:
        if call.text("accountType") != "UNIFIED":
            raise bad_parameter("accountType only support UNIFIED.")
        wanted = [name for name in call.text("coin").split(",") if name]
        coins = [
            messages.coin_row(asset, self._venue.usd(asset.asset))
            for asset in call.account.view(call.lag_ms, call.now_ms).assets()
            if (asset.asset in wanted if wanted else asset.wallet or asset.locked)
        ]
        return {"list": [messages.wallet_row(coins)]}

    def positions(self, call: Call) -> dict[str, Any]:
        category, symbol, coin = (
            category_of(call.params, POSITION_CATEGORIES),
            call.text("symbol"),
            call.text("settleCoin"),
        )
        if category == "linear" and not symbol and not coin:
            raise bad_parameter("params error: symbol or settleCoin is required")
        if symbol and category == "linear" and symbol not in self._venue.engine.instruments:
            raise bad_parameter("params error: symbol invalid")
        held = call.account.view(call.lag_ms, call.now_ms).positions() if category == "linear" else []
        found = [p for p in held if (p.symbol == symbol if symbol else p.qty and p.margin_asset == coin)]
        if symbol and not found and category == "linear":
            found = [Position(symbol, "BOTH")]
        numbered = list(enumerate(sorted(found, key=lambda p: (p.symbol, p.side))))
        chosen, cursor = page([(len(numbered) - n, p) for n, p in numbered], call.params, 20, 200)
        created_ms = self._venue.created_ms[call.account.api_key]
        rows = [
            messages.position_row(p, self._venue.mark(p.symbol), created_ms, "avgPrice", self._venue.seq_of(p.symbol))
            for p in chosen
        ]
        return {"list": rows, "nextPageCursor": cursor, "category": category}

    def executions(self, call: Call) -> dict[str, Any]:
        category = category_of(call.params)
        start, end = window(call.params, call.now_ms)
        if call.lag_ms > 0:
            end = min(end, call.now_ms - call.lag_ms)
        symbol, order_id, kind = call.text("symbol"), call.text("orderId"), call.text("execType")
        done = self._venue.executions.get((call.account.api_key, category), [])
        rows = [
            (number, msgspec.Raw(execution.row))
            for number, execution in reversed(list(enumerate(done, 1)))
            if start <= execution.time_ms <= end
            and symbol in ("", execution.symbol)
            and order_id in ("", execution.order_id)
            and kind in ("", execution.kind)
        ]
        chosen, cursor = page(rows, call.params, 50, 100)
        return {"list": chosen, "nextPageCursor": cursor, "category": category}

    # ── orders ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _selected(self, call: Call, category: str, orders: list[Order]) -> list[tuple[int, Order]]:
        """Newest first, narrowed by symbol and ids."""
        symbol, ident, link = call.text("symbol"), call.text("orderId"), call.text("orderLinkId")
        wanted = self._venue.ids.engine(ident) if ident else None
        return [
            (order.id, order)
            for order in sorted(orders, key=lambda order: -order.id)
            if category_of_symbol(order.symbol) == category
            and symbol in ("", wire_symbol(order.symbol))
            and wanted in (None, order.id)
            and link in ("", order.client_id)
        ]

    def _listed(self, call: Call, category: str, orders: list[tuple[int, Order]]) -> dict[str, Any]:
        chosen, cursor = page(orders, call.params, 20, 50)
        return {
            "list": [self._venue.order_row(call.account, order) for order in chosen],
            "nextPageCursor": cursor,
            "category": category,
        }

    def open_orders(self, call: Call) -> dict[str, Any]:
        """openOnly 0: open ones; 1: the last 500 closed ones too."""
        category = category_of(call.params)
        narrowed = any(call.text(name) for name in ("symbol", "baseCoin", "settleCoin"))
        if category == "linear" and not narrowed:
            raise bad_parameter("params error: symbol, baseCoin or settleCoin is required")
        view, coin = call.account.view(call.lag_ms, call.now_ms), call.text("settleCoin")
        orders = view.open_orders()
        if call.text("openOnly") == "1":
            orders = orders + [order for order in view.orders() if not order.is_open][-CLOSED_KEPT:]
        if coin:
            orders = [order for order in orders if self._venue.engine.instruments[order.symbol].quote == coin]
        return self._listed(call, category, self._selected(call, category, orders))

    def order_history(self, call: Call) -> dict[str, Any]:
        """Finished orders by the time they were placed; unfilled ones for a day, others for longer (6.3)."""
        category = category_of(call.params)
        start, end = window(call.params, call.now_ms)
        if call.text("orderId") or call.text("orderLinkId"):
            start = 0
        orders = [
            order
            for order in call.account.view(call.lag_ms, call.now_ms).orders()
            if not order.is_open
            and start <= order.created_ms <= end
            and (order.filled or call.now_ms - order.updated_ms < DAY)
        ]
        return self._listed(call, category, self._selected(call, category, orders))

    # ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────
    def transactions(self, call: Call) -> dict[str, Any]:
        if call.text("accountType", "UNIFIED") != "UNIFIED":
            raise bad_parameter("accountType only support UNIFIED.")
        start, end = window(call.params, call.now_ms)
        if not call.text("startTime") and not call.text("endTime"):
            start = call.now_ms - DAY
        rows = [
            (income.id, {
                "id": f"{income.id}", "symbol": wire_symbol(income.symbol), "category": category_of_symbol(income.symbol),
                "side": "None", "transactionTime": str(income.time_ms), "type": TRANSACTIONS.get(income.kind, income.kind),
                "currency": income.asset, "cashFlow": text(income.amount), "change": text(income.amount), "fee": "0",
                "tradeId": str(income.trade_id or ""), "orderId": "", "orderLinkId": "",
            })
            for income in reversed(call.account.view(call.lag_ms, call.now_ms).incomes())
            if start <= income.time_ms <= end
        ]  # fmt: skip
        chosen, cursor = page(rows, call.params, 20, 50)
        return {"list": chosen, "nextPageCursor": cursor}

    @staticmethod
    def fee_rate(call: Call) -> dict[str, Any]:
        category = category_of(call.params)
        row = {"symbol": call.text("symbol"), "takerFeeRate": "0.00055", "makerFeeRate": "0.0002"}
        return {"category": category, "list": [row]}

    def coins(self, call: Call) -> dict[str, Any]:
        names = sorted({i.base for i in self._venue.engine.instruments.values()} | {"USDT", "USDC"})
        wanted = call.text("coin")
        return {"rows": [
            {"name": name, "coin": name, "remainAmount": "150", "chains": []} for name in names if wanted in ("", name)
        ]}  # fmt: skip


TRANSACTIONS = {
    "REALIZED_PNL": "TRADE",
    "COMMISSION": "TRADE",
    "FUNDING_FEE": "SETTLEMENT",
    "TRANSFER": "TRANSFER_IN",
}
