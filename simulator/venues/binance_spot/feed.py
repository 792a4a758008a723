"""Market data of Binance Spot. In: time and who is subscribed; out: published frames (sheet section 3) and their ledger rows.

A tick lets every symbol trade, moves books, closes candles, and pushes each subscribed stream when its period is over. `rate`
is the wanted number of frames a second over all streams: what the periodic streams leave is filled with trades.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

import msgspec

from simulator.hub import Channel, Hub
from simulator.ledger import Row
from simulator.market import Candle, Sequence, SymbolMarket, Trade, close_time
from simulator.venues.binance_spot import market_messages as messages
from simulator.venues.binance_spot.streams import StreamName
from simulator.venues.binance_spot.symbols import specs

BASE_TRADES_PER_S = 5.0
IDLE_TRADES_PER_S = 0.5
BOOK_STEP_MS = 100
MAX_CATCH_UP_MS = 200
_encode = msgspec.json.Encoder().encode


class Feed:
    """The markets of the venue and the pushing of their streams."""

    def __init__(self, hub: Hub, random: Random, seed: int, rate: float, now_ms: int, ids: tuple[str, str]) -> None:
        self._hub = hub
        self._random = random
        self._exchange, self._market = ids
        self.rate = rate
        # Update ids of spot are contiguous per symbol: a counter each.
        self.markets = {
            spec.symbol: SymbolMarket(spec, seed, Sequence(now_ms * 3 + n * 1_000_003), now_ms)
            for n, spec in enumerate(specs())
        }
        self._streams: dict[str, StreamName] = {}
        self._due: list[tuple[int, str]] = []
        self._last_ms = now_ms
        self._book_slot = 0
        self._minute = now_ms // 60_000
        self._pushed_trade: dict[str, int] = {}  # kline stream -> last trade id it told
        self._seconds: dict[str, Candle] = {}  # symbol -> candle of one second
        self._active: list[SymbolMarket] = []
        self._idle: list[SymbolMarket] = list(self.markets.values())
        self._debts = {"idle": 0.0, "base": 0.0, "rate": 0.0}
        self._push: dict[str, Callable[[StreamName, Channel, int], None]] = {
            "kline": self._push_kline, "partial_depth": self._push_partial, "depth": self._push_depth, "ticker": self._push_ticker,
            "mini_ticker": self._push_ticker, "average_price": self._push_ticker, "mini_tickers": self._push_all,
        }  # fmt: skip

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────
    def start(self, stream: StreamName, now_ms: int) -> None:
        """A stream got its first subscriber."""
        self._streams[stream.name] = stream
        if stream.period_ms:
            heapq.heappush(self._due, (now_ms - now_ms % stream.period_ms + stream.period_ms, stream.name))
        if stream.kind == "depth":
            self.markets[stream.symbol].book.feed(stream.name)
        if stream.interval not in ("", "1s"):
            self.markets[stream.symbol].candle(stream.interval)
        self._regroup()

    def stop(self, name: str) -> None:
        """A stream lost its last subscriber."""
        stream = self._streams.pop(name, None)
        if stream is None:
            return
        if stream.kind == "depth":
            self.markets[stream.symbol].book.feeds.pop(name, None)
        self._due = [entry for entry in self._due if entry[1] != name]
        heapq.heapify(self._due)
        self._regroup()

    def _regroup(self) -> None:
        wanted = {stream.symbol for stream in self._streams.values()}
        self._active = [m for s, m in self.markets.items() if "" in wanted or s in wanted]
        self._idle = [m for m in self.markets.values() if m not in self._active]

    def _channel(self, name: str) -> Channel | None:
        return self._hub.channels.get(name) if name in self._streams else None

    # ── the tick ─────────────────────────────────────────────────────────────────────────────────────────────────
    def tick(self, now_ms: int) -> None:
        """Advance to `now_ms`."""
        if now_ms <= self._last_ms:
            if self._last_ms - now_ms > 1000:
                self._last_ms = now_ms  # the clock was set back
            return
        elapsed_s = min(MAX_CATCH_UP_MS, now_ms - self._last_ms) / 1000
        self._last_ms = now_ms
        if now_ms // 60_000 != self._minute:
            self._minute = now_ms // 60_000
            self._close_candles(now_ms)
        before = self._hub.published
        if now_ms // BOOK_STEP_MS != self._book_slot:
            self._book_slot = now_ms // BOOK_STEP_MS
            self._step_books(now_ms)
        while self._due and self._due[0][0] <= now_ms:
            due, name = heapq.heappop(self._due)
            stream, channel = self._streams[name], self._channel(name)
            heapq.heappush(self._due, (max(due, now_ms - stream.period_ms) + stream.period_ms, name))
            if channel is not None:
                self._push[stream.kind](stream, channel, now_ms)
        self._trade(now_ms, elapsed_s, self._hub.published - before)

    def _owed(self, which: str, amount: float) -> int:
        """Whole trades due after `amount` more."""
        self._debts[which] += amount
        count = int(self._debts[which])
        self._debts[which] -= count
        return count

    def _trade(self, now_ms: int, elapsed_s: float, pushed: int) -> None:
        if self._idle:
            for _ in range(self._owed("idle", IDLE_TRADES_PER_S * len(self._idle) * elapsed_s)):
                self._random.choice(self._idle).trade(now_ms)
        if not self._active:
            return
        for _ in range(self._owed("base", min(BASE_TRADES_PER_S * len(self._active), self.rate) * elapsed_s)):
            self._publish_trade(self._random.choice(self._active), now_ms)
        told = [self.markets[s.symbol] for s in self._streams.values() if s.kind == "trade"]
        self._debts["rate"] = (
            max(min(self._debts["rate"] + self.rate * elapsed_s, self.rate) - pushed, -self.rate) if told else 0.0
        )
        while told and self._debts["rate"] >= 1:
            self._debts["rate"] -= 1
            self._publish_trade(self._random.choice(told), now_ms)

    def _publish_trade(self, market: SymbolMarket, now_ms: int) -> None:
        self._tell_trade(market, market.trade(now_ms), now_ms)

    def execution(self, market: SymbolMarket, trade: Trade, now_ms: int) -> None:
        """A trade of an account is a public trade too: ids leave no gap."""
        market.trades.append(trade)
        for candle in (market.minute, *market.live.values()):
            candle.add(trade)
        self._tell_trade(market, trade, now_ms)

    def _tell_trade(self, market: SymbolMarket, trade: Trade, now_ms: int) -> None:
        second, symbol = self._seconds.get(market.spec.symbol), market.spec.symbol.lower()
        if second is not None:
            second.add(trade)
        channel = self._channel(f"{symbol}@trade")
        for match in messages.matches(trade) if channel is not None else ():
            assert channel is not None
            self._hub.publish(
                channel, messages.trade(market, match, now_ms), self._trade_row(channel, market, match, match.first_id)
            )
        channel = self._channel(f"{symbol}@aggTrade")
        if channel is not None:
            row = self._trade_row(channel, market, trade, trade.id)
            self._hub.publish(channel, messages.agg_trade(market, trade, now_ms), row)

    def _trade_row(self, channel: Channel, market: SymbolMarket, trade: Trade, ident: int) -> Row:
        row = self._row(channel, "trade", market.spec.symbol, trade.time_ms)
        row.trade_id, row.side = str(ident), "sell" if trade.sells else "buy"
        row.price, row.qty = messages.price(market, trade.price), messages.qty(market, trade.qty)
        return row

    def _row(self, channel: Channel, kind: str, symbol: str, ts: int) -> Row:
        return Row(0, self._exchange, self._market, None, kind, symbol, None, None, ts, (), channel.name)

    # ── books ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _step_books(self, now_ms: int) -> None:
        for market in self._active:
            changed = market.book.mutate()
            channel = self._channel(market.spec.symbol.lower() + "@bookTicker") if changed else None
            if channel is not None:
                row = self._row(channel, "book_ticker", market.spec.symbol, now_ms)
                row.last_seq = market.book.last_id
                best = messages.best(market)
                row.price, row.qty = (
                    f"{best['b']}/{best['a']}",
                    f"{best['B']}/{best['A']}",
                )  # its only identity: it has no time
                self._hub.publish(channel, messages.book_ticker(market), row)
        if self._book_slot % 10 == 0:
            for market in self._idle:
                market.book.mutate()

    def _push_depth(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        market = self.markets[stream.symbol]
        drained = market.book.drain(stream.name)
        if drained is None:
            return
        _, last, previous, bids, asks = drained
        row = self._row(channel, "depth", stream.symbol, now_ms)
        row.first_seq, row.last_seq = previous + 1, last  # U is the successor of the last u
        self._hub.publish(channel, messages.depth(market, previous + 1, last, bids, asks, now_ms), row)

    def _push_partial(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        market = self.markets[stream.symbol]
        row = self._row(channel, "depth", stream.symbol, now_ms)
        row.last_seq = market.book.last_id
        self._hub.publish(channel, messages.partial_depth(market, stream.levels), row)

    # ── candles ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _close_candles(self, now_ms: int) -> None:
        done = {symbol: market.roll(now_ms) for symbol, market in self.markets.items()}
        for name, stream in list(self._streams.items()):
            candle, channel = done.get(stream.symbol, {}).get(stream.interval), self._channel(name)
            if stream.kind == "kline" and candle is not None and channel is not None:
                self._publish_kline(stream, channel, candle, now_ms, closed=True)

    def _push_kline(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        if stream.interval == "1s":
            self._push_second(stream, channel, now_ms)
            return
        candle = self.markets[stream.symbol].candle(stream.interval)
        if candle.last_id >= 0 and self._pushed_trade.get(stream.name) != candle.last_id:
            self._pushed_trade[stream.name] = candle.last_id
            self._publish_kline(stream, channel, candle, now_ms, closed=False)

    def _push_second(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        """A second is told once, when it is over."""
        done, last = self._seconds.get(stream.symbol), self.markets[stream.symbol].last
        self._seconds[stream.symbol] = Candle(now_ms - now_ms % 1000, last, last, last, last)
        if done is not None:
            self._publish_kline(stream, channel, done, now_ms, closed=True)

    def _publish_kline(
        self, stream: StreamName, channel: Channel, candle: Candle, now_ms: int, *, closed: bool
    ) -> None:
        market, interval = self.markets[stream.symbol], stream.interval
        row = self._row(channel, "kline", stream.symbol, now_ms)
        row.interval, row.open_time, row.closed = interval, candle.open_ms, closed
        closes_ms = candle.open_ms + 999 if interval == "1s" else close_time(candle.open_ms, interval)
        self._hub.publish(channel, messages.kline(market, candle, interval, closes_ms, closed, now_ms), row)

    # ── tickers ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _push_ticker(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        message = {
            "ticker": messages.ticker, "mini_ticker": messages.mini_ticker, "average_price": messages.average_price,
        }[stream.kind]  # fmt: skip
        row = self._row(channel, stream.kind, stream.symbol, now_ms)
        self._hub.publish(channel, _encode(message(self.markets[stream.symbol], now_ms)), row)

    def _push_all(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        parts = [messages.mini_ticker(market, now_ms) for market in self.markets.values()]
        self._hub.publish(channel, _encode(parts), self._row(channel, "mini_ticker", "", now_ms))
