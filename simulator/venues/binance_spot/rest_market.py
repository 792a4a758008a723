"""Public REST of Binance Spot (sheet 2.2, 3). In: parameters; out: JSON values, from the same markets the streams push."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from simulator.market import INTERVALS, SymbolMarket, Trade
from simulator.venues.binance_spot import market_messages as messages
from simulator.venues.binance_spot.rules import ApiError, Params, bad_symbol, limit_of, mandatory, number

if TYPE_CHECKING:
    from simulator.venues.binance_spot.twin import BinanceSpot


class MarketCalls:
    """The public endpoints."""

    def __init__(self, venue: BinanceSpot) -> None:
        self._venue = venue

    def _market(self, params: Params) -> SymbolMarket:
        if not params.get("symbol"):
            raise mandatory("symbol")
        market = self._venue.markets.get(params["symbol"])
        if market is None:
            raise bad_symbol()
        return market

    def _some(self, params: Params) -> list[SymbolMarket]:
        return [self._market(params)] if params.get("symbol") else list(self._venue.markets.values())

    def _rows(self, params: Params, rows: list[dict[str, Any]]) -> Any:
        return rows[0] if params.get("symbol") else rows

    def time(self, params: Params) -> dict[str, int]:
        return {"serverTime": self._venue.clock.now_ms()}

    def exchange_info(self, params: Params) -> dict[str, Any]:
        settings = self._venue.settings
        limits = [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": settings.weight_limit},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": settings.orders_per_10s},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200000},
            {"rateLimitType": "RAW_REQUESTS", "interval": "MINUTE", "intervalNum": 5, "limit": 300000},
        ]
        return {
            "timezone": "UTC", "serverTime": self._venue.clock.now_ms(), "rateLimits": limits, "exchangeFilters": [],
            "symbols": [_symbol_info(market) for market in self._some(params)],
        }  # fmt: skip

    def depth(self, params: Params) -> dict[str, Any]:
        market = self._market(params)
        bids, asks = market.book.top(limit_of(params, 100, 5000))
        return {
            "lastUpdateId": market.book.last_id, "bids": messages.levels(market, bids), "asks": messages.levels(market, asks),
        }  # fmt: skip

    def klines(self, params: Params) -> list[list[Any]]:
        market, interval = self._market(params), params.get("interval")
        if not interval:
            raise mandatory("interval")
        if interval not in INTERVALS:
            raise ApiError(400, -1120, "Invalid interval.")
        limit, start, end = limit_of(params, 500, 1000), number(params, "startTime"), number(params, "endTime")
        rows = [
            candle for candle in market.candles(interval)
            if (start is None or candle.open_ms >= start) and (end is None or candle.open_ms <= end)
        ]  # fmt: skip
        rows = rows[:limit] if start is not None else rows[-limit:]
        return [messages.kline_row(market, candle, interval) for candle in rows]

    def trades(self, params: Params) -> list[dict[str, Any]]:
        """The latest trades, one by one."""
        market, limit = self._market(params), limit_of(params, 500, 1000)
        found: list[Trade] = []
        for made in reversed(market.trades):
            found += reversed(messages.matches(made))
            if len(found) >= limit:
                break
        return [_trade_row(market, trade) for trade in reversed(found[:limit])]

    def historical_trades(self, params: Params) -> list[dict[str, Any]]:
        """From an id on; without one the latest."""
        first = number(params, "fromId")
        if first is None:
            return self.trades(params)
        market, limit = self._market(params), limit_of(params, 500, 1000)
        made: list[Trade] = []
        for trade in reversed(market.trades):
            if trade.last_id < first:
                break
            made.append(trade)
        singles = (single for trade in reversed(made) for single in messages.matches(trade) if single.first_id >= first)
        return [_trade_row(market, trade) for trade in islice(singles, limit)]

    def agg_trades(self, params: Params) -> list[dict[str, Any]]:
        market, limit, first = self._market(params), limit_of(params, 500, 1000), number(params, "fromId")
        start, end = number(params, "startTime"), number(params, "endTime")
        rows = [
            t for t in market.trades
            if (first is None or t.id >= first) and (start is None or t.time_ms >= start) and (end is None or t.time_ms <= end)
        ]  # fmt: skip
        rows = rows[-limit:] if first is None and start is None else rows[:limit]
        return [
            {"a": t.id, "p": messages.price(market, t.price), "q": messages.qty(market, t.qty), "f": t.first_id, "l": t.last_id,
             "T": t.time_ms, "m": t.sells, "M": True}
            for t in rows
        ]  # fmt: skip

    def ticker_24h(self, params: Params) -> Any:
        now_ms = self._venue.clock.now_ms()
        return self._rows(params, [messages.ticker_numbers(market, now_ms) for market in self._some(params)])

    def ticker_price(self, params: Params) -> Any:
        rows = [{"symbol": m.spec.symbol, "price": messages.price(m, m.last)} for m in self._some(params)]
        return self._rows(params, rows)

    def book_ticker(self, params: Params) -> Any:
        names = {"bidPrice": "b", "bidQty": "B", "askPrice": "a", "askQty": "A"}
        rows = []
        for market in self._some(params):
            best = messages.best(market)
            rows.append({"symbol": market.spec.symbol, **{name: best[short] for name, short in names.items()}})
        return self._rows(params, rows)


def _trade_row(market: SymbolMarket, t: Trade) -> dict[str, Any]:
    return {
        "id": t.first_id, "price": messages.price(market, t.price), "qty": messages.qty(market, t.qty),
        "quoteQty": messages.quote(market, t.price * t.qty), "time": t.time_ms, "isBuyerMaker": t.sells, "isBestMatch": True,
    }  # fmt: skip


def _symbol_info(market: SymbolMarket) -> dict[str, Any]:
    spec = market.spec
    tick, step = messages.price(market, 1), messages.qty(market, 1)
    return {
        "symbol": spec.symbol, "status": "TRADING", "baseAsset": spec.base, "baseAssetPrecision": 8, "quoteAsset": spec.quote,
        "quotePrecision": 8, "quoteAssetPrecision": 8, "baseCommissionPrecision": 8, "quoteCommissionPrecision": 8,
        "orderTypes": ["LIMIT", "LIMIT_MAKER", "MARKET"], "icebergAllowed": True, "ocoAllowed": True, "otoAllowed": True,
        "quoteOrderQtyMarketAllowed": True, "allowTrailingStop": True, "cancelReplaceAllowed": True, "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "92141578.00000000", "stepSize": step},
            {"filterType": "MARKET_LOT_SIZE", "minQty": messages.ZERO, "maxQty": "1000000.00000000", "stepSize": messages.ZERO},
            {"filterType": "NOTIONAL", "minNotional": "0.00010000", "applyMinToMarket": True, "maxNotional": "9000000.00000000",
             "applyMaxToMarket": False, "avgPriceMins": 5},
        ],
        "permissions": [], "permissionSets": [["SPOT"]], "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH"],
    }  # fmt: skip
