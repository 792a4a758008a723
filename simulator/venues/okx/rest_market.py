"""Public REST of OKX (sheet 4, 6.3). In: parameters; out: rows, from the same markets the streams push."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from simulator.candles import Candle
from simulator.market import SymbolMarket
from simulator.venues.okx import market_messages as messages
from simulator.venues.okx.rules import ApiError, empty, no_instrument, wrong
from simulator.venues.okx.symbols import listing, product
from simulator.venues.okx.topics import BARS

if TYPE_CHECKING:
    from simulator.venues.okx.twin import Okx

Params = dict[str, str]
PRODUCTS = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION", "EVENTS", "ANY")


def limit_of(params: Params, default: int, most: int) -> int:
    """`limit`. Raises 51000 for what is none."""
    raw = params.get("limit", "")
    if raw and not raw.isdigit():
        raise wrong("limit")
    return min(most, int(raw)) if raw else default


def number(params: Params, name: str) -> int | None:
    """A whole number. Raises 51000."""
    raw = params.get(name, "")
    if raw and not raw.isdigit():
        raise wrong(name)
    return int(raw) if raw else None


def product_of(params: Params, *, needed: bool) -> str:
    """`instType`. Raises 50014 or 51000."""
    kind = params.get("instType", "")
    if not kind and needed:
        raise empty("instType")
    if kind and kind not in PRODUCTS:
        raise wrong("instType")
    return kind


def instruments(venue: Okx, params: Params) -> list[dict[str, str]]:
    kind, symbol = product_of(params, needed=True), params.get("instId", "")
    kind = "SPOT" if kind == "MARGIN" else kind
    rows = [listing(m.spec) for m in venue.feed.markets.values()]
    rows = [row for row in rows if row["instType"] == kind and symbol in ("", row["instId"])]
    if symbol and not rows:
        raise no_instrument()
    return rows


class MarketCalls:
    """The public endpoints."""

    def __init__(self, venue: Okx) -> None:
        self._venue = venue

    def _market(self, params: Params) -> SymbolMarket:
        symbol = params.get("instId", "")
        if not symbol:
            raise empty("instId")
        market = self._venue.feed.markets.get(symbol)
        if market is None:
            raise no_instrument()
        return market

    def time(self, params: Params, now_ms: int) -> list[dict[str, str]]:
        return [{"ts": str(now_ms)}]

    def status(self, params: Params, now_ms: int) -> list[Any]:
        return []

    def instruments(self, params: Params, now_ms: int) -> list[dict[str, str]]:
        return instruments(self._venue, params)

    def ticker(self, params: Params, now_ms: int) -> list[Any]:
        market = self._market(params)
        return [json.loads(messages.ticker(market, product(market.spec.symbol), now_ms))]

    def tickers(self, params: Params, now_ms: int) -> list[Any]:
        kind = product_of(params, needed=True)
        found = [m for m in self._venue.feed.markets.values() if product(m.spec.symbol) == kind]
        return [json.loads(messages.ticker(m, kind, now_ms)) for m in found]

    def books(self, params: Params, now_ms: int) -> bytes | list[Any]:
        market, size = self._market(params), number(params, "sz") or 1
        recorded = self._venue.recorded_book(market.spec.symbol, min(400, size), now_ms)
        if recorded is not None:
            return [recorded]
        return f"[{messages.plain_book(market, min(400, size), now_ms)}]".encode()

    def candles(self, params: Params, now_ms: int) -> list[Any]:
        market, bar = self._market(params), params.get("bar", "1m")
        if bar not in BARS:
            raise wrong("bar")
        found = market.candles(BARS[bar])
        current = found[-1]
        after, before = number(params, "after"), number(params, "before")

        def wanted(c: Candle) -> bool:
            return (after is None or c.open_ms < after) and (before is None or c.open_ms > before)

        rows = [json.loads(messages.candle(market, c, c is not current)) for c in reversed(found) if wanted(c)]
        return rows[: limit_of(params, 100, 300)]

    def trades(self, params: Params, now_ms: int) -> list[Any]:
        """Match by match, newest first; `after` is a trade id, or with `type` 2 a time."""
        market, after, by_time = self._market(params), number(params, "after"), params.get("type") == "2"
        limit = limit_of(params, 100, 500)
        recorded = self._venue.recorded_trades(market.spec.symbol)
        if recorded is not None:
            told = [row for row in recorded if after is None or int(row["ts" if by_time else "tradeId"]) < after]
            return told[:limit]
        rows: list[Any] = []
        for made in reversed(market.trades):
            wanted = [
                m for m in messages.matches(made) if after is None or (m.time_ms if by_time else m.last_id) < after
            ]
            rows.extend(json.loads(messages.single(market, match)) for match in reversed(wanted))
            if len(rows) >= limit:
                break
        return rows[:limit]

    def mark_price(self, params: Params, now_ms: int) -> list[Any]:
        kind = product_of(params, needed=True)
        symbol = params.get("instId", "")
        found = [m for s, m in self._venue.feed.markets.items() if symbol in ("", s)]
        rows = [json.loads(messages.mark_price(m, product(m.spec.symbol), now_ms)) for m in found]
        return [row for row in rows if row["instType"] == kind]

    def funding_rate(self, params: Params, now_ms: int) -> list[Any]:
        market = self._market(params)
        if product(market.spec.symbol) != "SWAP":
            raise ApiError(51001, "Instrument ID doesn't exist.")
        return [json.loads(messages.funding(market, now_ms))]
