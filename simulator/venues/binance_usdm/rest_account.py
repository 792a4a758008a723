"""Account REST of Binance USDⓈ-M (sheet 4.1, 5.2): listen keys, balances, positions, configuration, income. In:
authenticated calls; out: JSON values from the same records the stream was written from.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from simulator.account import Account, View
from simulator.records import Asset, Position, text
from simulator.venues.binance_usdm.rules import ApiError, bad_symbol

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.rest import Call
    from simulator.venues.binance_usdm.twin import BinanceUsdm

ZERO = Decimal(0)
MAINTENANCE = Decimal("0.0065")
DEFAULT_LEVERAGE = 20


def eight(value: Decimal) -> str:
    """With exactly 8 decimals, as account endpoints print money."""
    return f"{value:.8f}"


def no_listen_key() -> ApiError:
    return ApiError(400, -1125, "This listenKey does not exist.")


def wanted_symbol(venue: BinanceUsdm, params: dict[str, str]) -> str:
    """The optional `symbol` parameter, "" when absent. Raises -1121."""
    symbol = params.get("symbol", "")
    if symbol and symbol not in venue.markets:
        raise bad_symbol()
    return symbol


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
        return self._venue.user.unrealized(position.symbol, position.qty, position.entry)

    def _margins(self, account: Account, view: View, asset: Asset) -> dict[str, Decimal]:
        positions = [p for p in view.positions() if p.qty and p.margin_asset == asset.asset]
        unrealized = sum((self._unrealized(p) for p in positions), ZERO)
        notional = [
            (abs(p.qty) * self._venue.user.mark(p.symbol), account.leverage.get(p.symbol, DEFAULT_LEVERAGE))
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
        notional = p.qty * self._venue.user.mark(p.symbol)
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
        wanted = wanted_symbol(self._venue, call.params)
        held = [p for p in view.positions() if p.qty or p.symbol in open_symbols]
        held += [Position(symbol, "BOTH") for symbol in sorted(open_symbols - {p.symbol for p in held})]
        return [self._risk(call.account, p) for p in held if wanted in ("", p.symbol)]

    def position_risk_v2(self, call: Call) -> list[dict[str, Any]]:
        view = call.account.view(call.lag_ms, call.now_ms)
        wanted = wanted_symbol(self._venue, call.params)
        held = {(p.symbol, p.side): p for p in view.positions()}
        for symbol in self._venue.markets:
            held.setdefault((symbol, "BOTH"), Position(symbol, "BOTH"))
        return [
            {**self._risk(call.account, p), "leverage": str(call.account.leverage.get(p.symbol, DEFAULT_LEVERAGE)),
            "marginType": "cross",
             "isAutoAddMargin": "false", "maxNotionalValue": "1000000"}
            for p in held.values() if wanted in ("", p.symbol)
        ]  # fmt: skip

    def _risk(self, account: Account, p: Position) -> dict[str, Any]:
        mark = self._venue.user.mark(p.symbol)
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
