"""Seeded markets, venue-agnostic: trades, candles and an order book per symbol that agree with each other. In: a
random generator and the
time; out: plain numbers (prices in ticks, quantities in steps) that a venue formats. Pure; runs in the simulator process.

Trade ids and aggregate ids are contiguous, candles are built from the trades, the book's changes carry update ids
from one counter per
venue, and trades happen at the book's best prices.
"""

from __future__ import annotations

import calendar
import time
from collections import deque
from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

MINUTE = 60_000
DAY = 86_400_000
INTERVALS = {
    "1m": MINUTE, "3m": 3 * MINUTE, "5m": 5 * MINUTE, "15m": 15 * MINUTE, "30m": 30 * MINUTE, "1h": 60 * MINUTE, "2h": 120 * MINUTE,
    "4h": 240 * MINUTE, "6h": 360 * MINUTE, "8h": 480 * MINUTE, "12h": 720 * MINUTE, "1d": DAY, "3d": 3 * DAY,
    "1w": 7 * DAY, "1M": 31 * DAY,
}  # fmt: skip
HISTORY_MINUTES = 1500
TRADES_KEPT = 10_000
LEVELS = 200
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


@dataclass(frozen=True)
class Spec:
    """A symbol: decimals of price and quantity, and roughly where its price starts."""

    symbol: str
    base: str
    quote: str
    price_decimals: int
    qty_decimals: int
    start_price: float
    typical_notional: float = 2000.0


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


@dataclass(slots=True)
class DepthFeed:
    """Changes of a book since the last push of one speed."""

    prev_id: int
    first_id: int = 0
    bids: dict[int, int] = field(default_factory=dict)
    asks: dict[int, int] = field(default_factory=dict)


class Sequence:
    """A counter shared by several symbols."""

    def __init__(self, start: int) -> None:
        self.value = start

    def advance(self, by: int) -> int:
        self.value += by
        return self.value


class Book:
    """LEVELS contiguous price levels on each side, one tick of spread."""

    def __init__(self, random: Random, ids: Sequence, price: int, typical_qty: int) -> None:
        self._random = random
        self._ids = ids
        self._typical_qty = typical_qty
        self.best_bid = price
        self.best_ask = price + 1
        self.levels = min(LEVELS, max(5, price // 2))
        self.bids = {price - i: self._qty() for i in range(self.levels)}
        self.asks = {price + 1 + i: self._qty() for i in range(self.levels)}
        self.last_id = ids.advance(1)
        self.feeds: dict[str, DepthFeed] = {}

    def _qty(self) -> int:
        return max(1, int(self._typical_qty * self._random.expovariate(1.0)))

    def mutate(self) -> bool:
        """Move the book a little; True when the best bid or ask changed. Every call changes at least one level."""
        random = self._random
        bids: dict[int, int] = {}
        asks: dict[int, int] = {}
        before = (self.best_bid, self.bids[self.best_bid], self.asks[self.best_ask])
        draw = random.random()
        if draw < 0.2 and self.best_bid > self.levels + 4:
            self._step(-random.randint(1, 3), bids, asks)
        elif draw > 0.8:
            self._step(random.randint(1, 3), bids, asks)
        for _ in range(random.randint(1, 4)):
            depth = min(self.levels - 1, int(random.expovariate(0.15)))
            if random.random() < 0.5:
                bids[self.best_bid - depth] = self._qty()
            else:
                asks[self.best_ask + depth] = self._qty()
        self._apply(bids, asks)
        return before != (self.best_bid, self.bids[self.best_bid], self.asks[self.best_ask])

    def _step(self, ticks: int, bids: dict[int, int], asks: dict[int, int]) -> None:
        for _ in range(abs(ticks)):
            if ticks > 0:
                asks[self.best_ask] = 0
                self.best_ask += 1
                self.best_bid += 1
                bids[self.best_bid] = self._qty()
                bids[self.best_bid - self.levels] = 0
                asks[self.best_ask + self.levels - 1] = self._qty()
            else:
                bids[self.best_bid] = 0
                self.best_ask -= 1
                self.best_bid -= 1
                asks[self.best_ask] = self._qty()
                asks[self.best_ask + self.levels] = 0
                bids[self.best_bid - self.levels + 1] = self._qty()

    def _apply(self, bids: dict[int, int], asks: dict[int, int]) -> None:
        first = self.last_id = self._ids.advance(self._random.randint(1, 40))
        for side, changes in ((self.bids, bids), (self.asks, asks)):
            for price, qty in changes.items():
                if qty:
                    side[price] = qty
                else:
                    side.pop(price, None)
        if len(bids) + len(asks) > 1:
            self.last_id = self._ids.advance(len(bids) + len(asks))
        for feed in self.feeds.values():
            feed.bids.update(bids)
            feed.asks.update(asks)
            if not feed.first_id:
                feed.first_id = first

    def take_best(self, sells: bool) -> int:
        """Price at which a taker trades now."""
        return self.best_bid if sells else self.best_ask

    def top(self, levels: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """The best `levels` of both sides, best first."""
        count = min(levels, self.levels)
        bids = [(p, self.bids[p]) for p in range(self.best_bid, self.best_bid - count, -1) if p in self.bids]
        asks = [(p, self.asks[p]) for p in range(self.best_ask, self.best_ask + count) if p in self.asks]
        return bids, asks

    def feed(self, speed: str) -> DepthFeed:
        """The changes for one push speed, starting from now when it is new."""
        found = self.feeds.get(speed)
        if found is None:
            found = self.feeds[speed] = DepthFeed(prev_id=self.last_id)
        return found

    def drain(self, speed: str) -> tuple[int, int, int, dict[int, int], dict[int, int]] | None:
        """(first id, last id, previous pushed id, bids, asks) since the last call, or None when nothing changed."""
        feed = self.feed(speed)
        if not feed.first_id:
            return None
        out = (feed.first_id, self.last_id, feed.prev_id, feed.bids, feed.asks)
        self.feeds[speed] = DepthFeed(prev_id=self.last_id)
        return out


class SymbolMarket:
    """Everything about one symbol."""

    def __init__(self, spec: Spec, seed: int, ids: Sequence, now_ms: int) -> None:
        self.spec = spec
        self.random = Random(f"{seed}/{spec.symbol}")
        self._scale = 10**spec.price_decimals
        self._price_texts: dict[int, str] = {}
        self._qty_texts: dict[int, str] = {}
        start = max(20, round(spec.start_price * self._scale * self.random.uniform(0.97, 1.03)))
        self.typical_qty = max(1, round(spec.typical_notional / spec.start_price * 10**spec.qty_decimals))
        self.book = Book(self.random, ids, start, self.typical_qty * 5)
        self.last = start
        self.last_qty = self.typical_qty
        self.next_trade_id = self.random.randint(10**8, 9 * 10**9)
        self.next_agg_id = self.random.randint(10**7, 4 * 10**9)
        self.trades: deque[Trade] = deque(maxlen=TRADES_KEPT)
        self.minute = Candle(open_time(now_ms, "1m"), start, start, start, start)
        self.closed: deque[Candle] = deque(maxlen=HISTORY_MINUTES * 2)
        self.live: dict[str, Candle] = {}
        self.changed = True
        self._backfilled = False
        self.day_volume = 0
        self.day_quote = 0
        self.day_trades = 0
        self.day_open = self.day_high = self.day_low = start

    # ── formatting ───────────────────────────────────────────────────────────────────────────────────────────────
    def price(self, ticks: int) -> str:
        """Ticks as the decimal string of this symbol."""
        found = self._price_texts.get(ticks)
        if found is None:
            if len(self._price_texts) > 50_000:
                self._price_texts.clear()
            found = self._price_texts[ticks] = decimal(ticks, self.spec.price_decimals)
        return found

    def qty(self, steps: int) -> str:
        """Steps as the decimal string of this symbol."""
        found = self._qty_texts.get(steps)
        if found is None:
            if len(self._qty_texts) > 50_000:
                self._qty_texts.clear()
            found = self._qty_texts[steps] = decimal(steps, self.spec.qty_decimals)
        return found

    def quote(self, product: int) -> str:
        """Ticks × steps as a decimal string of quote currency."""
        return decimal(product, self.spec.price_decimals + self.spec.qty_decimals)

    # ── advancing ────────────────────────────────────────────────────────────────────────────────────────────────
    def take_trade_id(self) -> int:
        """The next trade id, for an execution of an account."""
        ident = self.next_trade_id
        self.next_trade_id += 1
        return ident

    def trade(self, now_ms: int) -> Trade:
        """One market trade at the book's best price; updates candles and statistics."""
        draw = self.random.random()
        sells = draw < 0.5
        price = self.book.best_bid if sells else self.book.best_ask
        qty = 1 + int(self.typical_qty * 4 * draw * draw)
        first = self.next_trade_id
        last = first + (2 if draw > 0.9 else 0)
        self.next_trade_id = last + 1
        trade = Trade(self.next_agg_id, price, qty, first, last, now_ms, sells)
        self.next_agg_id += 1
        self.trades.append(trade)
        self.minute.add(trade)
        for candle in self.live.values():
            candle.add(trade)
        self.last, self.last_qty, self.changed = price, qty, True
        self.day_volume += qty
        self.day_quote += qty * price
        self.day_trades += last - first + 1
        if price > self.day_high:
            self.day_high = price
        elif price < self.day_low:
            self.day_low = price
        return trade

    def roll(self, now_ms: int) -> dict[str, Candle]:
        """Close the candles whose time is over; returns them by interval, with the minute under "1m"."""
        done: dict[str, Candle] = {}
        opened = open_time(now_ms, "1m")
        while self.minute.open_ms < opened:
            done["1m"] = self.minute
            self.closed.append(self.minute)
            self.minute = self._after(self.minute, "1m")
        for interval, candle in self.live.items():
            if candle.open_ms < open_time(now_ms, interval):
                done[interval] = candle
                self.live[interval] = self._after(candle, interval)
        if done:
            self.changed = True
        return done

    def _after(self, candle: Candle, interval: str) -> Candle:
        price = candle.close
        return Candle(close_time(candle.open_ms, interval) + 1, price, price, price, price)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────
    def candle(self, interval: str) -> Candle:
        """The current candle of an interval; it is kept up to date from the first call on."""
        if interval == "1m":
            return self.minute
        found = self.live.get(interval)
        if found is None:
            found = self.live[interval] = self.candles(interval)[-1]
        return found

    def candles(self, interval: str) -> list[Candle]:
        """All candles known, oldest first, the current one last. Every interval is summed up from the minutes."""
        self._backfill()
        minutes = [*self.closed, self.minute]
        if interval == "1m":
            return minutes
        out: list[Candle] = []
        for minute in minutes:
            opened = open_time(minute.open_ms, interval)
            if not out or out[-1].open_ms != opened:
                out.append(Candle(opened, minute.open, minute.open, minute.open, minute.open))
            out[-1].absorb(minute)
        return out

    def _backfill(self) -> None:
        """Invent the minutes before the simulation began, once, walking back from the first open."""
        if self._backfilled:
            return
        self._backfilled = True
        oldest = self.closed[0] if self.closed else self.minute
        random = Random(f"{self.spec.symbol}/{oldest.open_ms}")
        price, trade_id = oldest.open, 10**8 - 1
        for i in range(1, HISTORY_MINUTES + 1):
            begin = max(10, price + random.randint(-8, 8))
            high, low = max(begin, price) + random.randint(0, 4), max(1, min(begin, price) - random.randint(0, 4))
            trades = random.randint(20, 60)
            volume = trades * self.typical_qty
            buys = int(volume * random.uniform(0.4, 0.6))
            middle = (high + low) // 2
            self.closed.appendleft(
                Candle(oldest.open_ms - i * MINUTE, begin, high, low, price, volume, volume * middle, trades, buys, buys * middle,
                       trade_id - trades + 1, trade_id)
            )  # fmt: skip
            price, trade_id = begin, trade_id - trades


def decimal(value: int, decimals: int) -> str:
    """`value` × 10^-decimals in plain notation with exactly that many decimals."""
    if decimals == 0:
        return str(value)
    sign, value = ("-", -value) if value < 0 else ("", value)
    scale = 10**decimals
    return f"{sign}{value // scale}.{value % scale:0{decimals}d}"
