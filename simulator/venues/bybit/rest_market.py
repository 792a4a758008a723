"""Public REST of Bybit (sheet 6.3). In: parameters; out: JSON values that agree with the sockets' frames."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from simulator.market import INTERVALS as MARKET_INTERVALS
from simulator.venues.bybit.pages import category_of, limit_of, number
from simulator.venues.bybit.rules import bad_parameter
from simulator.venues.bybit.topics import INTERVALS

if TYPE_CHECKING:
    from simulator.venues.bybit.feed import Listed
    from simulator.venues.bybit.twin import Bybit

Params = dict[str, Any]
SERVED = ("linear", "spot")  # inverse and option are answered with empty lists


class MarketCalls:
    """The market endpoints."""

    def __init__(self, venue: Bybit) -> None:
        self._venue = venue

    def _listed(self, params: Params) -> Listed:
        category = category_of({"category": params.get("category") or "linear"})
        listed = self._venue.feed.listed.get((category, str(params.get("symbol", ""))))
        if listed is None:
            raise bad_parameter("Not supported symbols")
        return listed

    def time(self, params: Params) -> dict[str, str]:
        now_ms = self._venue.clock.now_ms()
        return {"timeSecond": str(now_ms // 1000), "timeNano": str(now_ms * 1_000_000 + time.time_ns() % 1_000_000)}

    def kline(self, params: Params) -> dict[str, Any]:
        listed = self._listed(params)
        interval = INTERVALS.get(str(params.get("interval", "")))
        if interval is None or interval not in MARKET_INTERVALS:
            raise bad_parameter("Invalid period!")
        market = listed.market
        start, end = number(params, "start") or 0, number(params, "end") or 2**60
        candles = [c for c in market.candles(interval) if start <= c.open_ms <= end][-limit_of(params, 200, 1000) :]
        return {
            "category": listed.category, "symbol": listed.symbol,
            "list": [
                [str(c.open_ms), market.price(c.open), market.price(c.high), market.price(c.low), market.price(c.close),
                 market.qty(c.volume), market.quote(c.quote)] for c in reversed(candles)
            ],
        }  # fmt: skip

    def recent_trade(self, params: Params) -> dict[str, Any]:
        listed = self._listed(params)
        market = listed.market
        most = 60 if listed.category == "spot" else 1000
        trades = list(market.trades)[-limit_of(params, min(500, most), most) :]
        return {
            "category": listed.category,
            "list": [
                {"execId": listed.trade_id(t.id), "symbol": listed.symbol, "price": market.price(t.price),
                 "size": market.qty(t.qty), "side": "Sell" if t.sells else "Buy",
                 "time": str(t.time_ms), "isBlockTrade": False} for t in reversed(trades)
            ],
        }  # fmt: skip

    def orderbook(self, params: Params) -> dict[str, Any]:
        listed = self._listed(params)
        market = listed.market
        bids, asks = market.book.top(limit_of(params, 1 if listed.category == "spot" else 25, 1000))
        now_ms = self._venue.clock.now_ms()
        return {
            "s": listed.symbol, "b": [[market.price(p), market.qty(q)] for p, q in bids],
            "a": [[market.price(p), market.qty(q)] for p, q in asks], "ts": now_ms, "u": market.book.last_id,
            "seq": self._venue.feed.seq.value, "cts": now_ms,
        }  # fmt: skip

    def tickers(self, params: Params) -> dict[str, Any]:
        category, symbol = category_of(params), params.get("symbol")
        if symbol and category in SERVED:
            self._listed(params)
        found = [x for x in self._venue.feed.symbols(category).values() if symbol in (None, "", x.symbol)]
        rows = []
        for listed in found:
            market = listed.market
            bids, asks = market.book.top(1)
            rows.append(self._venue.feed.ticker(listed, self._venue.clock.now_ms()) | {
                "bid1Price": market.price(bids[0][0]), "bid1Size": market.qty(bids[0][1]), "ask1Price": market.price(asks[0][0]),
                "ask1Size": market.qty(asks[0][1]),
            })  # fmt: skip
        return {"category": category, "list": rows}

    def instruments(self, params: Params) -> dict[str, Any]:
        category, symbol = category_of(params), params.get("symbol")
        rows = [_instrument(x) for x in self._venue.feed.symbols(category).values() if symbol in (None, "", x.symbol)]
        return {"category": category, "list": rows, "nextPageCursor": ""}


def _instrument(listed: Listed) -> dict[str, Any]:
    spec = listed.market.spec
    tick, step = (
        f"{10**-spec.price_decimals:.{spec.price_decimals}f}",
        f"{10**-spec.qty_decimals:.{spec.qty_decimals}f}",
    )
    row: dict[str, Any] = {
        "symbol": spec.symbol, "baseCoin": spec.base, "quoteCoin": spec.quote, "status": "Trading", "symbolType": "",
    }  # fmt: skip
    if listed.category == "spot":
        return row | {
            "innovation": "0", "marginTrading": "utaOnly", "stTag": "0",
            "lotSizeFilter": {"basePrecision": step, "quotePrecision": "0.00000001", "minOrderQty": step, "maxOrderQty": "1000000",
                              "minOrderAmt": "1", "maxOrderAmt": "4000000"},
            "priceFilter": {"tickSize": tick}, "riskParameters": {"priceLimitRatioX": "0.03", "priceLimitRatioY": "0.1"},
        }  # fmt: skip
    return row | {
        "contractType": "LinearPerpetual", "launchTime": "1585526400000", "deliveryTime": "0", "deliveryFeeRate": "",
        "priceScale": str(spec.price_decimals), "settleCoin": spec.quote, "fundingInterval": 480, "copyTrading": "both",
        "unifiedMarginTrade": True, "isPreListing": False, "upperFundingRate": "0.005", "lowerFundingRate": "-0.005",
        "leverageFilter": {"minLeverage": "1", "maxLeverage": "100.00", "leverageStep": "0.01"},
        "priceFilter": {"minPrice": tick, "maxPrice": "1999999.80", "tickSize": tick},
        "lotSizeFilter": {"maxOrderQty": "100000", "minOrderQty": step, "qtyStep": step, "postOnlyMaxOrderQty": "100000",
                          "maxMktOrderQty": "50000", "minNotionalValue": "5"},
    }  # fmt: skip
