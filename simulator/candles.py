"""Trades and the candles made of them, in ticks and steps. In: trades; out: candles of any interval. Pure; used in
the simulator process.
"""

from __future__ import annotations

import calendar
import time
from dataclasses import dataclass
from typing import NamedTuple

MINUTE = 60_000
DAY = 86_400_000
INTERVALS = {
    "1m": MINUTE, "3m": 3 * MINUTE, "5m": 5 * MINUTE, "15m": 15 * MINUTE, "30m": 30 * MINUTE, "1h": 60 * MINUTE, "2h": 120 * MINUTE,
    "4h": 240 * MINUTE, "6h": 360 * MINUTE, "8h": 480 * MINUTE, "12h": 720 * MINUTE, "1d": DAY, "3d": 3 * DAY,
    "1w": 7 * DAY, "1M": 31 * DAY,
}  # fmt: skip
MONDAY = 4 * DAY  # 1970-01-05


def open_time(now_ms: int, interval: str) -> int:
    """Opening time of the candle that holds `now_ms`."""
    if interval == "1M":
        moment = time.gmtime(now_ms // 1000)
        return calendar.timegm((moment.tm_year, moment.tm_mon, 1, 0, 0, 0)) * 1000
    step = INTERVALS[interval]
    offset = MONDAY if interval == "1w" else 0
    return (now_ms - offset) // step * step + offset


def close_time(opened_ms: int, interval: str) -> int:
    """Last millisecond of the candle opened at `opened_ms`."""
    if interval == "1M":
        return open_time(opened_ms + 32 * DAY, "1M") - 1
    return opened_ms + INTERVALS[interval] - 1


class Trade(NamedTuple):
    """One aggregated trade; `sells` = the taker sold (the buyer was the maker)."""

    id: int
    price: int
    qty: int
    first_id: int
    last_id: int
    time_ms: int
    sells: bool


@dataclass(slots=True)
class Candle:
    """One candle in ticks and steps; quote volumes are ticks × steps."""

    open_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int = 0
    quote: int = 0
    trades: int = 0
    buy_volume: int = 0
    buy_quote: int = 0
    first_id: int = -1
    last_id: int = -1

    def add(self, trade: Trade) -> None:
        price, qty = trade.price, trade.qty
        if price > self.high:
            self.high = price
        if price < self.low:
            self.low = price
        self.close = price
        self.volume += qty
        self.quote += price * qty
        self.trades += trade.last_id - trade.first_id + 1
        if not trade.sells:
            self.buy_volume += qty
            self.buy_quote += price * qty
        if self.first_id < 0:
            self.first_id = trade.first_id
        self.last_id = trade.last_id

    def absorb(self, later: Candle) -> None:
        """Take in a later candle of a shorter interval."""
        self.high = max(self.high, later.high)
        self.low = min(self.low, later.low)
        self.close = later.close
        self.volume += later.volume
        self.quote += later.quote
        self.trades += later.trades
        self.buy_volume += later.buy_volume
        self.buy_quote += later.buy_quote
        if self.first_id < 0:
            self.first_id = later.first_id
        self.last_id = max(self.last_id, later.last_id)
