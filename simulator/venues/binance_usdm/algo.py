"""Conditional orders of Binance USDⓈ-M's Algo service (sheet 0, 4.2, 5.2). In: authenticated calls; out: JSON values
and ALGO_UPDATE events.

They rest untriggered until cancelled: `openOrders` does not show them, `openAlgoOrders` does.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec

from simulator.venues.binance_usdm.rest_config import window
from simulator.venues.binance_usdm.rest_market import limit_of, number
from simulator.venues.binance_usdm.rules import ApiError, bad_symbol, mandatory

if TYPE_CHECKING:
    from simulator.account import Account
    from simulator.venues.binance_usdm.rest import Call
    from simulator.venues.binance_usdm.twin import BinanceUsdm

TYPES = ("STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET")


class AlgoCalls:
    """The algo endpoints."""

    def __init__(self, venue: BinanceUsdm) -> None:
        self._venue = venue
        self._orders: dict[int, dict[int, dict[str, Any]]] = {}  # account uid -> algo id -> row
        self._next_id = 1_000_000_000_000_000

    def _symbol(self, call: Call, *, needed: bool) -> str:
        symbol = call.params.get("symbol", "")
        if not symbol and needed:
            raise mandatory("symbol")
        if symbol and symbol not in self._venue.markets:
            raise bad_symbol()
        return symbol

    def new(self, call: Call) -> dict[str, Any]:
        p, symbol = call.params, self._symbol(call, needed=True)
        for name in ("side", "type", "triggerPrice"):
            if not p.get(name):
                raise mandatory(name)
        if p.get("algoType", "CONDITIONAL") != "CONDITIONAL" or p["type"] not in TYPES:
            raise ApiError(400, -1116, "Invalid orderType.")
        self._next_id += 1
        row = {
            "algoId": self._next_id, "clientAlgoId": p.get("clientAlgoId") or f"algo{self._next_id:x}", "algoType": "CONDITIONAL",
            "orderType": p["type"], "symbol": symbol, "side": p["side"], "positionSide": p.get("positionSide", "BOTH"),
            "timeInForce": p.get("timeInForce", "GTC"), "quantity": p.get("quantity", "0"), "algoStatus": "NEW",
            "actualOrderId": "",
            "actualPrice": "0.00000", "triggerPrice": p["triggerPrice"], "price": p.get("price", "0.000"), "icebergQuantity": None,
            "tpTriggerPrice": "0.000", "tpPrice": "0.000", "slTriggerPrice": "0.000", "slPrice": "0.000", "tpOrderType": "",
            "selfTradePreventionMode": "EXPIRE_MAKER", "workingType": p.get("workingType", "CONTRACT_PRICE"), "priceMatch": "NONE",
            "closePosition": p.get("closePosition", "false") == "true", "priceProtect": False,
            "reduceOnly": p.get("reduceOnly", "false").lower() == "true",
            "createTime": call.now_ms, "updateTime": call.now_ms, "triggerTime": 0, "goodTillDate": 0,
        }  # fmt: skip
        self._orders.setdefault(call.account.uid, {})[self._next_id] = row
        self._tell(call.account, row)
        return row

    def _find(self, call: Call) -> dict[str, Any]:
        ident, client_id = number(call.params, "algoId"), call.params.get("clientAlgoId")
        rows = self._orders.get(call.account.uid, {}).values()
        found = next((r for r in rows if r["algoId"] == ident or (client_id and r["clientAlgoId"] == client_id)), None)
        if found is None:
            raise ApiError(400, -2013, "Order does not exist.")
        return found

    def cancel(self, call: Call) -> dict[str, Any]:
        row = self._find(call)
        if row["algoStatus"] != "NEW":
            raise ApiError(400, -2011, "Unknown order sent.")
        row["algoStatus"], row["updateTime"] = "CANCELED", call.account.instant(call.now_ms)
        self._tell(call.account, row)
        return {"algoId": row["algoId"], "clientAlgoId": row["clientAlgoId"], "code": "200", "msg": "success"}

    def one(self, call: Call) -> dict[str, Any]:
        return self._find(call)

    def open(self, call: Call) -> list[dict[str, Any]]:
        symbol, rows = self._symbol(call, needed=False), self._orders.get(call.account.uid, {}).values()
        return [row for row in rows if row["algoStatus"] == "NEW" and symbol in ("", row["symbol"])]

    def all(self, call: Call) -> list[dict[str, Any]]:
        symbol, rows = self._symbol(call, needed=True), self._orders.get(call.account.uid, {}).values()
        first, limit = number(call.params, "algoId") or 0, limit_of(call.params, 500, 1000)
        start, end = window(call.params, call.now_ms)
        return [r for r in rows if r["symbol"] == symbol and r["algoId"] >= first and start <= r["createTime"] <= end][
            :limit
        ]

    def _tell(self, account: Account, row: dict[str, Any]) -> None:
        venue = self._venue
        now_ms = row["updateTime"]
        payload = msgspec.json.encode({
            "e": "ALGO_UPDATE", "T": now_ms, "E": max(now_ms, venue.clock.now_ms()),
            "o": {
                "caid": row["clientAlgoId"], "aid": row["algoId"], "at": row["algoType"], "o": row["orderType"], "s": row["symbol"],
                "S": row["side"], "ps": row["positionSide"], "f": row["timeInForce"], "q": row["quantity"],
                "X": row["algoStatus"], "ai": "",
                "tp": f"{Decimal(row['triggerPrice']):f}", "p": row["price"], "V": "EXPIRE_MAKER",
                "wt": row["workingType"], "pm": "NONE",
                "cp": row["closePosition"], "pP": False, "R": row["reduceOnly"], "tt": 0, "gtd": 0,
            },
        })  # fmt: skip
        status = row["algoStatus"].lower()
        venue.user.event(account, "ALGO_UPDATE", payload, now_ms, row["symbol"], status)
