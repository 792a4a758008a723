"""Account REST of Binance USDⓈ-M (sheet 4.1, 5.2): listen keys, balances, positions, configuration, income. In:
authenticated calls;
out: JSON values from the same records the stream was written from.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from simulator.account import Account, View
from simulator.records import Asset, Position, text
from simulator.venues.binance_usdm import messages
from simulator.venues.binance_usdm.rest_market import limit_of, number
from simulator.venues.binance_usdm.rules import ApiError, bad_symbol, mandatory

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.rest import Call
    from simulator.venues.binance_usdm.twin import BinanceUsdm

ZERO = Decimal(0)
MAINTENANCE = Decimal("0.0065")
DEFAULT_LEVERAGE = 20
WEEK = 7 * 86_400_000
QUARTER = 90 * 86_400_000


def eight(value: Decimal) -> str:
    """With exactly 8 decimals, as account endpoints print money."""
    return f"{value:.8f}"


def no_listen_key() -> ApiError:
    return ApiError(400, -1125, "This listenKey does not exist.")


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


class AccountCalls:
    """The account endpoints."""

    def __init__(self, venue: BinanceUsdm) -> None:
        self._venue = venue

    # ── listen keys ──────────────────────────────────────────────────────────────────────────────────────────────
    def _ttl_ms(self) -> int:
        return int(self._venue.settings.listen_key_ttl_s * 1000)

    def create_listen_key(self, call: Call) -> dict[str, str]:
        return {"listenKey": self._venue.keys.create(call.account, call.now_ms, self._ttl_ms()).value}

    def extend_listen_key(self, call: Call) -> dict[str, str]:
        key = self._venue.keys.of(call.account)
        if key is None:
            raise no_listen_key()
        return {"listenKey": self._venue.keys.create(call.account, call.now_ms, self._ttl_ms()).value}

    def delete_listen_key(self, call: Call) -> dict[str, str]:
        key = self._venue.keys.of(call.account)
        if key is None:
            raise no_listen_key()
        self._venue.keys.remove(key)
        return {}

    # ── balances ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _unrealized(self, position: Position) -> Decimal:
        return self._venue.unrealized(position.symbol, position.qty, position.entry)

    def _margins(self, account: Account, view: View, asset: Asset) -> dict[str, Decimal]:
        positions = [p for p in view.positions() if p.qty and p.margin_asset == asset.asset]
        unrealized = sum((self._unrealized(p) for p in positions), ZERO)
        notional = [
            (abs(p.qty) * self._venue.mark(p.symbol), account.leverage.get(p.symbol, DEFAULT_LEVERAGE))
            for p in positions
        ]
        held = sum((value / leverage for value, leverage in notional), ZERO)
        orders = sum(
            (
                (o.qty - o.filled) * o.price / account.leverage.get(o.symbol, DEFAULT_LEVERAGE)
                for o in view.open_orders()
                if not o.reduce_only
            ),
            ZERO,
        )
        available = max(ZERO, asset.wallet + unrealized - held - orders)
        maintenance = sum((value * MAINTENANCE for value, _ in notional), ZERO)
        return {
            "unrealized": unrealized,
            "held": held,
            "orders": orders,
            "available": available,
            "maintenance": maintenance,
        }

    def available(self, account: Account) -> Decimal:
        """What a new order may use, in USDT."""
        view = account.view(0, 0)
        return sum(
            (self._margins(account, view, asset)["available"] for asset in view.assets() if asset.asset == "USDT"), ZERO
        )

    def balance(self, call: Call) -> list[dict[str, Any]]:
        view = call.account.view(call.lag_ms, call.now_ms)
        rows = []
        for asset in view.assets():
            m = self._margins(call.account, view, asset)
            rows.append({
                "accountAlias": f"sim{call.account.uid}", "asset": asset.asset, "balance": eight(asset.wallet),
                "crossWalletBalance": eight(asset.wallet), "crossUnPnl": eight(m["unrealized"]),
                "availableBalance": eight(m["available"]),
                "maxWithdrawAmount": eight(m["available"]), "marginAvailable": True, "updateTime": asset.updated_ms,
            })  # fmt: skip
        return rows

    def account_v3(self, call: Call) -> dict[str, Any]:
        view = call.account.view(call.lag_ms, call.now_ms)
        open_symbols = {order.symbol for order in view.open_orders()}
        shown = [p for p in view.positions() if p.qty or p.symbol in open_symbols]
        body = self._totals(call.account, view)
        body["positions"] = [self._account_position(call.account, p) for p in shown]
        return body

    def account_v2(self, call: Call) -> dict[str, Any]:
        view = call.account.view(call.lag_ms, call.now_ms)
        body: dict[str, Any] = {
            "feeTier": 0, "feeBurn": True, "canDeposit": True, "canTrade": True, "canWithdraw": True, "updateTime": 0,
            "multiAssetsMargin": False, "tradeGroupId": -1, **self._totals(call.account, view),
        }  # fmt: skip
        held = {(p.symbol, p.side): p for p in view.positions()}
        every = [held.get((symbol, "BOTH"), Position(symbol, "BOTH")) for symbol in self._venue.markets]
        body["positions"] = [
            {**self._account_position(call.account, p), "leverage": str(call.account.leverage.get(p.symbol, DEFAULT_LEVERAGE)),
             "isolated": False, "entryPrice": text(p.entry), "breakEvenPrice": text(p.break_even), "maxNotional": "1000000",
             "unrealizedProfit": eight(self._unrealized(p))}
            for p in every + [p for p in view.positions() if p.side != "BOTH"]
        ]  # fmt: skip
        return body

    def _totals(self, account: Account, view: View) -> dict[str, Any]:
        assets, sums = [], dict.fromkeys(("wallet", "unrealized", "held", "orders", "available", "maintenance"), ZERO)
        for asset in view.assets():
            m = {**self._margins(account, view, asset), "wallet": asset.wallet}
            for name in sums:
                sums[name] += m[name]
            assets.append({
                "asset": asset.asset, "walletBalance": eight(asset.wallet), "unrealizedProfit": eight(m["unrealized"]),
                "marginBalance": eight(asset.wallet + m["unrealized"]), "maintMargin": eight(m["maintenance"]),
                "initialMargin": eight(m["held"] + m["orders"]), "positionInitialMargin": eight(m["held"]),
                "openOrderInitialMargin": eight(m["orders"]), "crossWalletBalance": eight(asset.wallet),
                "crossUnPnl": eight(m["unrealized"]), "availableBalance": eight(m["available"]),
                "maxWithdrawAmount": eight(m["available"]), "marginAvailable": True, "updateTime": asset.updated_ms,
            })  # fmt: skip
        return {
            "totalInitialMargin": eight(sums["held"] + sums["orders"]), "totalMaintMargin": eight(sums["maintenance"]),
            "totalWalletBalance": eight(sums["wallet"]), "totalUnrealizedProfit": eight(sums["unrealized"]),
            "totalMarginBalance": eight(sums["wallet"] + sums["unrealized"]), "totalPositionInitialMargin": eight(sums["held"]),
            "totalOpenOrderInitialMargin": eight(sums["orders"]), "totalCrossWalletBalance": eight(sums["wallet"]),
            "totalCrossUnPnl": eight(sums["unrealized"]), "availableBalance": eight(sums["available"]),
            "maxWithdrawAmount": eight(sums["available"]), "assets": assets,
        }  # fmt: skip

    def _account_position(self, account: Account, p: Position) -> dict[str, Any]:
        notional = p.qty * self._venue.mark(p.symbol)
        margin = abs(notional) / account.leverage.get(p.symbol, DEFAULT_LEVERAGE)
        return {
            "symbol": p.symbol, "positionSide": p.side, "positionAmt": self._qty(p), "unrealizedProfit": eight(self._unrealized(p)),
            "isolatedMargin": "0", "notional": eight(notional), "isolatedWallet": "0", "initialMargin": eight(margin),
            "maintMargin": eight(abs(notional) * MAINTENANCE), "updateTime": p.updated_ms,
        }  # fmt: skip

    def _qty(self, p: Position) -> str:
        return f"{p.qty:.{self._venue.markets[p.symbol].spec.qty_decimals}f}"

    # ── positions ────────────────────────────────────────────────────────────────────────────────────────────────
    def position_risk_v3(self, call: Call) -> list[dict[str, Any]]:
        view = call.account.view(call.lag_ms, call.now_ms)
        open_symbols = {order.symbol for order in view.open_orders()}
        wanted = self._wanted(call.params)
        held = [p for p in view.positions() if p.qty or p.symbol in open_symbols]
        held += [Position(symbol, "BOTH") for symbol in sorted(open_symbols - {p.symbol for p in held})]
        return [self._risk(call.account, p) for p in held if wanted in ("", p.symbol)]

    def position_risk_v2(self, call: Call) -> list[dict[str, Any]]:
        view = call.account.view(call.lag_ms, call.now_ms)
        wanted = self._wanted(call.params)
        held = {(p.symbol, p.side): p for p in view.positions()}
        for symbol in self._venue.markets:
            held.setdefault((symbol, "BOTH"), Position(symbol, "BOTH"))
        return [
            {**self._risk(call.account, p), "leverage": str(call.account.leverage.get(p.symbol, DEFAULT_LEVERAGE)),
            "marginType": "cross",
             "isAutoAddMargin": "false", "maxNotionalValue": "1000000"}
            for p in held.values() if wanted in ("", p.symbol)
        ]  # fmt: skip

    def _wanted(self, params: dict[str, str]) -> str:
        symbol = params.get("symbol", "")
        if symbol and symbol not in self._venue.markets:
            raise bad_symbol()
        return symbol

    def _risk(self, account: Account, p: Position) -> dict[str, Any]:
        mark = self._venue.mark(p.symbol)
        notional = p.qty * mark
        margin = abs(notional) / account.leverage.get(p.symbol, DEFAULT_LEVERAGE)
        return {
            "symbol": p.symbol, "positionSide": p.side, "positionAmt": self._qty(p), "entryPrice": text(p.entry),
            "breakEvenPrice": text(p.break_even), "markPrice": eight(mark), "unRealizedProfit": eight(self._unrealized(p)),
            "liquidationPrice": "0", "isolatedMargin": "0", "notional": eight(notional),
            "marginAsset": p.margin_asset, "isolatedWallet": "0",
            "initialMargin": eight(margin), "maintMargin": eight(abs(notional) * MAINTENANCE),
            "positionInitialMargin": eight(margin),
            "openOrderInitialMargin": "0", "adl": 2, "bidNotional": "0", "askNotional": "0", "updateTime": p.updated_ms,
        }  # fmt: skip

    # ── configuration and income ─────────────────────────────────────────────────────────────────────────────────
    def account_config(self, call: Call) -> dict[str, Any]:
        return {
            "feeTier": 0, "canTrade": True, "canDeposit": True, "canWithdraw": True, "dualSidePosition": call.account.hedge_mode,
            "updateTime": 0, "multiAssetsMargin": False, "tradeGroupId": -1,
        }  # fmt: skip

    def symbol_config(self, call: Call) -> list[dict[str, Any]]:
        wanted = self._wanted(call.params)
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
        if not self._wanted(call.params):
            raise mandatory("symbol")
        raise ApiError(400, -4046, "No need to change margin type.")

    def commission_rate(self, call: Call) -> dict[str, str]:
        if not self._wanted(call.params):
            raise mandatory("symbol")
        return {"symbol": call.params["symbol"], "makerCommissionRate": "0.000200", "takerCommissionRate": "0.000500"}

    def leverage_bracket(self, call: Call) -> list[dict[str, Any]]:
        wanted = self._wanted(call.params)
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
        symbol, leverage = self._wanted(call.params), number(call.params, "leverage")
        if not symbol:
            raise mandatory("symbol")
        if leverage is None or not 1 <= leverage <= 125:
            raise ApiError(400, -4028, f"Leverage {leverage} is not valid")
        call.account.leverage[symbol] = leverage
        row = self._venue.row(call.account, "account", symbol, call.now_ms)
        row.event = "ACCOUNT_CONFIG_UPDATE"
        payload = messages.config_update(symbol, leverage, call.now_ms)
        self._venue.send(call.account, "ACCOUNT_CONFIG_UPDATE", payload, [row])
        return {"leverage": leverage, "maxNotionalValue": "1000000", "symbol": symbol}

    def income(self, call: Call) -> list[dict[str, Any]]:
        start, end = window(call.params, call.now_ms)
        if call.now_ms - start > QUARTER:
            start = call.now_ms - QUARTER
        limit, page = limit_of(call.params, 100, 1000), max(1, number(call.params, "page", 1) or 1)
        wanted, kind = self._wanted(call.params), call.params.get("incomeType", "")
        rows = [
            {"symbol": row.symbol, "incomeType": row.kind, "income": eight(row.amount), "asset": row.asset, "info": row.kind,
             "time": row.time_ms, "tranId": row.id, "tradeId": "" if row.trade_id is None else str(row.trade_id)}
            for row in call.account.view(call.lag_ms, call.now_ms).incomes()
            if start <= row.time_ms <= end and wanted in ("", row.symbol) and kind in ("", row.kind)
        ]  # fmt: skip
        given = call.params.get("startTime") or call.params.get("page")
        return rows[(page - 1) * limit : page * limit] if given else rows[-limit:]
