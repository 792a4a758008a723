"""Configuration and income by REST at Binance USDⓈ-M (sheet 5.2). In: authenticated calls; out: JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.venues.binance_usdm import messages
from simulator.venues.binance_usdm.rest_account import DEFAULT_LEVERAGE, eight, wanted_symbol
from simulator.venues.binance_usdm.rest_market import limit_of, number
from simulator.venues.binance_usdm.rules import ApiError, mandatory

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.rest import Call
    from simulator.venues.binance_usdm.twin import BinanceUsdm

WEEK = 7 * 86_400_000
QUARTER = 90 * 86_400_000


def window(params: dict[str, str], now_ms: int, span_ms: int = WEEK) -> tuple[int, int]:
    """startTime and endTime; neither = the last 7 days. Raises -4165 for a longer span, -1128 for a backward one."""
    start, end = number(params, "startTime"), number(params, "endTime")
    if start is None and end is None:
        return now_ms - span_ms, now_ms + 60_000
    if start is None:
        assert end is not None
        return end - span_ms, end
    if end is None:
        return start, start + span_ms
    if start > end:
        raise ApiError(400, -4165, "Invalid time interval")
    if end - start > span_ms:
        raise ApiError(400, -4165, "Invalid time interval, the maximum interval is 7 days")
    return start, end


class ConfigCalls:
    """The endpoints about settings of the account, and its income."""

    def __init__(self, venue: BinanceUsdm) -> None:
        self._venue = venue

    # ── configuration and income ─────────────────────────────────────────────────────────────────────────────────
    def account_config(self, call: Call) -> dict[str, Any]:
        return {
            "feeTier": 0, "canTrade": True, "canDeposit": True, "canWithdraw": True, "dualSidePosition": call.account.hedge_mode,
            "updateTime": 0, "multiAssetsMargin": False, "tradeGroupId": -1,
        }  # fmt: skip

    def symbol_config(self, call: Call) -> list[dict[str, Any]]:
        wanted = wanted_symbol(self._venue, call.params)
        return [
            {"symbol": s, "marginType": "CROSSED", "isAutoAddMargin": False, "leverage": call.account.leverage.get(s,
            DEFAULT_LEVERAGE),
             "maxNotionalValue": "1000000"}
            for s in self._venue.markets if wanted in ("", s)
        ]  # fmt: skip

    def position_mode(self, call: Call) -> dict[str, bool]:
        return {"dualSidePosition": call.account.hedge_mode}

    def change_position_mode(self, call: Call) -> dict[str, Any]:
        wanted = call.params.get("dualSidePosition", "").lower()
        if wanted not in ("true", "false"):
            raise mandatory("dualSidePosition")
        if (wanted == "true") == call.account.hedge_mode:
            raise ApiError(400, -4059, "No need to change position side.")
        if call.account.open_ids:
            raise ApiError(400, -4067, "Position side cannot be changed if there exists open orders.")
        if any(position.qty for position in call.account.view(0, 0).positions()):
            raise ApiError(400, -4068, "Position side cannot be changed if there exists position.")
        call.account.hedge_mode = wanted == "true"
        return {"code": 200, "msg": "success"}

    def multi_assets(self, call: Call) -> dict[str, bool]:
        return {"multiAssetsMargin": False}

    def change_margin_type(self, call: Call) -> dict[str, Any]:
        """Only cross margin is simulated."""
        if not wanted_symbol(self._venue, call.params):
            raise mandatory("symbol")
        raise ApiError(400, -4046, "No need to change margin type.")

    def commission_rate(self, call: Call) -> dict[str, str]:
        if not wanted_symbol(self._venue, call.params):
            raise mandatory("symbol")
        return {"symbol": call.params["symbol"], "makerCommissionRate": "0.000200", "takerCommissionRate": "0.000500"}

    def leverage_bracket(self, call: Call) -> list[dict[str, Any]]:
        wanted = wanted_symbol(self._venue, call.params)
        bracket = {
            "bracket": 1,
            "initialLeverage": 75,
            "notionalCap": 10000000,
            "notionalFloor": 0,
            "maintMarginRatio": 0.0065,
            "cum": 0,
        }
        return [{"symbol": s, "brackets": [bracket]} for s in self._venue.markets if wanted in ("", s)]

    def change_leverage(self, call: Call) -> dict[str, Any]:
        symbol, leverage = wanted_symbol(self._venue, call.params), number(call.params, "leverage")
        if not symbol:
            raise mandatory("symbol")
        if leverage is None or not 1 <= leverage <= 125:
            raise ApiError(400, -4028, f"Leverage {leverage} is not valid")
        call.account.leverage[symbol] = leverage
        payload = messages.config_update(symbol, leverage, call.now_ms)
        self._venue.user.event(call.account, "ACCOUNT_CONFIG_UPDATE", payload, call.now_ms, symbol)
        return {"leverage": leverage, "maxNotionalValue": "1000000", "symbol": symbol}

    def income(self, call: Call) -> list[dict[str, Any]]:
        start, end = window(call.params, call.now_ms)
        if call.now_ms - start > QUARTER:
            start = call.now_ms - QUARTER
        limit, page = limit_of(call.params, 100, 1000), max(1, number(call.params, "page", 1) or 1)
        wanted, kind = wanted_symbol(self._venue, call.params), call.params.get("incomeType", "")
        rows = [
            {"symbol": row.symbol, "incomeType": row.kind, "income": eight(row.amount), "asset": row.asset, "info": row.kind,
             "time": row.time_ms, "tranId": row.id, "tradeId": "" if row.trade_id is None else str(row.trade_id)}
            for row in call.account.view(call.lag_ms, call.now_ms).incomes()
            if start <= row.time_ms <= end and wanted in ("", row.symbol) and kind in ("", row.kind)
        ]  # fmt: skip
        given = call.params.get("startTime") or call.params.get("page")
        return rows[(page - 1) * limit : page * limit] if given else rows[-limit:]
