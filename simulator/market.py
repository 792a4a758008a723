"""Seeded markets, venue-agnostic: trades, candles and an order book per symbol that agree with each other. In: a
random generator and the time; out: plain numbers (prices in ticks, quantities in steps) that a venue formats.

Trade ids and aggregate ids are contiguous, candles are built from the trades, and trades happen at the best prices of
the book. Pure; used in the simulator process.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from random import Random

from simulator.book import Book, DepthFeed, Sequence
from simulator.candles import DAY, INTERVALS, MINUTE, Candle, Trade, close_time, open_time

__all__ = (
    "DAY", "INTERVALS", "MINUTE", "Book", "Candle", "DepthFeed", "Sequence", "Spec", "SymbolMarket", "Trade", "close_time",
    "decimal", "open_time",
)  # fmt: skip

HISTORY_MINUTES = 1500
TRADES_KEPT = 100_000  # half a minute at the highest rates: as long as a read-back may need


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
