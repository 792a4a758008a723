"""Public REST of Binance USDⓈ-M (sheet 2.2, 3). In: parameters; out: JSON values, from the same markets the streams
push.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from simulator.candles import INTERVALS, Candle, Trade, close_time
from simulator.market import SymbolMarket
from simulator.venues.binance_usdm import market_messages as messages
from simulator.venues.binance_usdm.rules import ApiError, bad_symbol, mandatory

if TYPE_CHECKING:
    from simulator.venues.binance_usdm.twin import BinanceUsdm

Params = dict[str, str]
TWO_DAYS = 48 * 3_600_000
DEPTH_LIMITS = (5, 10, 20, 50, 100, 500, 1000)


def number(params: Params, name: str, default: int | None = None) -> int | None:
    """An integer parameter. Raises -1100."""
    raw = params.get(name)
    if raw is None or raw == "":
        return default
    if not raw.lstrip("-").isdigit():
        raise ApiError(400, -1100, f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.")
    return int(raw)


def limit_of(params: Params, default: int, maximum: int) -> int:
    """The `limit` parameter. Raises -1130."""
    limit = number(params, "limit", default) or 0
    if not 1 <= limit <= maximum:
        raise ApiError(400, -1130, "Data sent for parameter 'limit' is not valid.")
    return limit


class MarketCalls:
    """The public endpoints."""

    def __init__(self, venue: BinanceUsdm) -> None:
        self._venue = venue

    def _market(self, params: Params) -> SymbolMarket:
        symbol = params.get("symbol")
        if not symbol:
            raise mandatory("symbol")
        market = self._venue.markets.get(symbol)
        if market is None:
            raise bad_symbol()
        return market

    def _some(self, params: Params) -> list[SymbolMarket]:
        return [self._market(params)] if params.get("symbol") else list(self._venue.markets.values())

    def time(self, params: Params) -> dict[str, int]:
        return {"serverTime": self._venue.clock.now_ms()}

    def exchange_info(self, params: Params) -> dict[str, Any]:
        settings = self._venue.settings
        limits = [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": settings.weight_limit},
            {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "limit": settings.orders_per_min},
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": settings.orders_per_10s},
        ]
        return {
            "timezone": "UTC", "serverTime": self._venue.clock.now_ms(), "futuresType": "U_MARGINED", "rateLimits": limits,
            "exchangeFilters": [], "assets": [{"asset": "USDT", "marginAvailable": True, "autoAssetExchange": "-10000"}],
            "symbols": [_symbol_info(market) for market in self._venue.markets.values()],
        }  # fmt: skip

    def depth(self, params: Params) -> Any:
        market = self._market(params)
        limit = number(params, "limit", 500)
        if limit not in DEPTH_LIMITS:
            raise ApiError(400, -4021, f"{limit} is not valid depth limit.")
        recorded = self._venue.recorded_depth(market.spec.symbol, limit)
        if recorded is not None:
            return recorded
        bids, asks = market.book.top(limit)
        now_ms = self._venue.clock.now_ms()
        return {
            "lastUpdateId": market.book.last_id, "E": now_ms, "T": now_ms,
            "bids": [(market.price(p), market.qty(q)) for p, q in bids], "asks": [(market.price(p),
            market.qty(q)) for p, q in asks],
        }  # fmt: skip

    def klines(self, params: Params) -> list[list[Any]]:
        market = self._market(params)
        interval = params.get("interval")
        if not interval:
            raise mandatory("interval")
        if interval not in INTERVALS:
            raise ApiError(400, -1120, "Invalid interval.")
        limit = limit_of(params, 500, 1500)
        start, end = number(params, "startTime"), number(params, "endTime")
        rows = [
            c
            for c in market.candles(interval)
            if (start is None or c.open_ms >= start) and (end is None or c.open_ms <= end)
        ]
        rows = rows[:limit] if start is not None else rows[-limit:]
        return [_kline_row(market, candle, interval) for candle in rows]

    def agg_trades(self, params: Params) -> list[dict[str, Any]]:
        market = self._market(params)
        limit = limit_of(params, 500, 1000)
        first, start, end = number(params, "fromId"), number(params, "startTime"), number(params, "endTime")
        if first is not None and (start is not None or end is not None):
            raise ApiError(400, -1128, "Combination of optional parameters invalid.")
        if start is not None and self._venue.clock.now_ms() - start > TWO_DAYS:
            raise ApiError(400, -4166, "Search window is restricted to recent 48 hours only.")
        rows = list(market.trades)
        if first is not None:
            begin = max(0, first - rows[0].id) if rows else 0
            return [_agg_row(market, trade) for trade in rows[begin : begin + limit]]
        rows = [t for t in rows if (start is None or t.time_ms >= start) and (end is None or t.time_ms <= end)]
        return [_agg_row(market, trade) for trade in (rows[:limit] if start is not None else rows[-limit:])]

    def trades(self, params: Params) -> list[dict[str, Any]]:
        market = self._market(params)
        rows = list(market.trades)[-limit_of(params, 500, 1000) :]
        return [
            {"id": t.last_id, "price": market.price(t.price), "qty": market.qty(t.qty), "quoteQty": market.quote(t.price * t.qty),
             "time": t.time_ms, "isBuyerMaker": t.sells}
            for t in rows
        ]  # fmt: skip

    def funding_rate(self, params: Params) -> list[dict[str, Any]]:
        """The last funding of each symbol; it has its own pool of 500 calls in 5 min and no weight."""
        last_ms = messages.next_funding(self._venue.clock.now_ms()) - messages.EIGHT_HOURS
        return [
            {"symbol": m.spec.symbol, "fundingRate": "0.00010000", "fundingTime": last_ms, "markPrice": m.price(m.last)}
            for m in self._some(params)
        ]

    def premium_index(self, params: Params) -> Any:
        now_ms = self._venue.clock.now_ms()
        rows = [
            {"symbol": m.spec.symbol, "markPrice": m.price(m.last), "indexPrice": m.price(m.book.best_ask),
             "estimatedSettlePrice": m.price(m.day_open), "lastFundingRate": "0.00010000", "interestRate": "0.00010000",
             "nextFundingTime": messages.next_funding(now_ms), "time": now_ms}
            for m in self._some(params)
        ]  # fmt: skip
        return rows[0] if params.get("symbol") else rows

    def ticker_24h(self, params: Params) -> Any:
        now_ms = self._venue.clock.now_ms()
        rows = [{"symbol": m.spec.symbol, **messages.ticker_numbers(m, now_ms)} for m in self._some(params)]
        return rows[0] if params.get("symbol") else rows

    def ticker_price(self, params: Params) -> Any:
        now_ms = self._venue.clock.now_ms()
        rows = [{"symbol": m.spec.symbol, "price": m.price(m.last), "time": now_ms} for m in self._some(params)]
        return rows[0] if params.get("symbol") else rows

    def book_ticker(self, params: Params) -> Any:
        now_ms = self._venue.clock.now_ms()
        rows = [
            {"symbol": m.spec.symbol, "bidPrice": m.price(m.book.best_bid), "bidQty": m.qty(m.book.bids[m.book.best_bid]),
             "askPrice": m.price(m.book.best_ask), "askQty": m.qty(m.book.asks[m.book.best_ask]), "time": now_ms,
             "lastUpdateId": m.book.last_id}
            for m in self._some(params)
        ]  # fmt: skip
        return rows[0] if params.get("symbol") else rows


def _symbol_info(market: SymbolMarket) -> dict[str, Any]:
    spec = market.spec
    tick, step = market.price(1), market.qty(1)
    return {
        "symbol": spec.symbol, "pair": spec.symbol, "contractType": "PERPETUAL", "deliveryDate": 4133404800000,
        "onboardDate": 1569398400000,
        "status": "TRADING", "maintMarginPercent": "2.5000", "requiredMarginPercent": "5.0000",
        "baseAsset": spec.base, "quoteAsset": spec.quote,
        "marginAsset": spec.quote, "pricePrecision": spec.price_decimals, "quantityPrecision": spec.qty_decimals,
        "baseAssetPrecision": 8,
        "quotePrecision": 8, "underlyingType": "COIN", "underlyingSubType": [], "triggerProtect": "0.0500",
        "liquidationFee": "0.015000",
        "marketTakeBound": "0.05", "maxMoveOrderLimit": 10000,
        "filters": [
            {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000", "tickSize": tick},
            {"filterType": "LOT_SIZE", "minQty": step, "maxQty": "100000000", "stepSize": step},
            {"filterType": "MARKET_LOT_SIZE", "minQty": step, "maxQty": "1000000", "stepSize": step},
            {"filterType": "MAX_NUM_ORDERS", "limit": 200},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
        "orderTypes": ["LIMIT", "MARKET", "STOP", "STOP_MARKET", "TAKE_PROFIT", "TAKE_PROFIT_MARKET", "TRAILING_STOP_MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
    }  # fmt: skip


def _kline_row(market: SymbolMarket, c: Candle, interval: str) -> list[Any]:
    price, qty, quote = market.price, market.qty, market.quote
    return [
        c.open_ms, price(c.open), price(c.high), price(c.low), price(c.close), qty(c.volume), close_time(c.open_ms, interval),
        quote(c.quote), c.trades, qty(c.buy_volume), quote(c.buy_quote), "0",
    ]  # fmt: skip


def _agg_row(market: SymbolMarket, trade: Trade) -> dict[str, Any]:
    qty = market.qty(trade.qty)
    return {
        "a": trade.id, "p": market.price(trade.price), "q": qty, "nq": qty, "f": trade.first_id, "l": trade.last_id,
        "T": trade.time_ms,
        "m": trade.sells,
    }  # fmt: skip
