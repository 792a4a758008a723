"""Market data of Binance USDⓈ-M. In: time and who is subscribed; out: published frames (sheet section 3) and their
ledger rows.

A tick lets every symbol trade, moves books, closes candles at the minute, and pushes each subscribed stream when its
period is over. `rate` is the wanted number of frames a second over all streams: what the periodic streams leave is
filled with trades.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random

from simulator.book import Sequence
from simulator.candles import Candle, Trade
from simulator.hub import Channel, Hub
from simulator.ledger import Row
from simulator.market import SymbolMarket
from simulator.venues.binance_usdm import market_messages as messages
from simulator.venues.binance_usdm.rules import UsdmSettings
from simulator.venues.binance_usdm.streams import StreamName
from simulator.venues.binance_usdm.symbols import specs

BASE_TRADES_PER_S = 5.0
IDLE_TRADES_PER_S = 0.5
BOOK_STEP_MS = 100
MAX_CATCH_UP_MS = 200


class Feed:
    """The markets of the venue and the pushing of their streams."""

    def __init__(
        self,
        hub: Hub,
        random: Random,
        seed: int,
        rate: float,
        settings: UsdmSettings,
        now_ms: int,
        ids: tuple[str, str],
    ) -> None:
        self._hub = hub
        self._random = random
        self._settings = settings
        self._exchange, self._market = ids
        self.rate = rate
        sequence = Sequence(now_ms * 7)
        self.markets = {spec.symbol: SymbolMarket(spec, seed, sequence, now_ms) for spec in specs()}
        self._streams: dict[str, StreamName] = {}
        self._due: list[tuple[int, str]] = []
        self._last_ms = now_ms
        self._book_slot = 0
        self._minute = now_ms // 60_000
        self._last_kline_push: dict[str, int] = {}
        self._active: list[SymbolMarket] = list(self.markets.values())
        self._idle: list[SymbolMarket] = []
        self._agg: list[SymbolMarket] = []
        self._single_trades = False  # is any `@trade` stream subscribed?
        self._debt = 0.0
        self._base_debt = 0.0
        self._idle_debt = 0.0
        self._window: tuple[float, int] = (0.0, 0)
        self._push: dict[str, Callable[[StreamName, Channel, int], None]] = {
            "kline": self._push_kline, "continuous_kline": self._push_kline, "mark_price": self._push_mark,
            "ticker": self._push_ticker,
            "mini_ticker": self._push_mini_ticker, "partial_depth": self._push_partial, "depth": self._push_depth,
            "mark_prices": self._push_marks, "tickers": self._push_tickers, "mini_tickers": self._push_mini_tickers,
            "book_tickers": self._push_book_tickers,
        }  # fmt: skip
        self._regroup()

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────
    def start(self, stream: StreamName, now_ms: int) -> None:
        """A stream got its first subscriber."""
        self._streams[stream.name] = stream
        if stream.period_ms:
            first = now_ms - now_ms % stream.period_ms + stream.period_ms
            heapq.heappush(self._due, (first, stream.name))
        if stream.kind == "depth":
            self.markets[stream.symbol].book.feed(stream.name)
        if stream.interval and stream.symbol:
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
        every = any(not stream.symbol for stream in self._streams.values())
        wanted = {stream.symbol for stream in self._streams.values()}
        self._active = [m for s, m in self.markets.items() if every or s in wanted]
        self._idle = [m for s, m in self.markets.items() if not (every or s in wanted)]
        self._single_trades = any(s.kind == "trade" for s in self._streams.values())
        self._agg = [self.markets[s.symbol] for s in self._streams.values() if s.kind == "agg_trade"]

    # ── the tick ─────────────────────────────────────────────────────────────────────────────────────────────────
    def tick(self, now_ms: int) -> None:
        """Advance to `now_ms`."""
        if now_ms <= self._last_ms:
            if self._last_ms - now_ms > 1000:
                self._last_ms = now_ms  # the clock was set back
            return
        elapsed_ms = min(MAX_CATCH_UP_MS, now_ms - self._last_ms)
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
            self._push_due(name, due, now_ms)
        self._trade(now_ms, elapsed_ms / 1000, self._hub.published - before)

    def _push_due(self, name: str, due: int, now_ms: int) -> None:
        stream, channel = self._streams.get(name), self._hub.channels.get(name)
        if stream is None or channel is None:
            return
        heapq.heappush(self._due, (max(due, now_ms - stream.period_ms) + stream.period_ms, name))
        self._push[stream.kind](stream, channel, now_ms)

    def _trade(self, now_ms: int, elapsed_s: float, pushed: int) -> None:
        self._idle_debt += IDLE_TRADES_PER_S * len(self._idle) * elapsed_s
        while self._idle_debt >= 1:
            self._idle_debt -= 1
            self._random.choice(self._idle).trade(now_ms)
        if not self._active:
            return
        self._base_debt += min(BASE_TRADES_PER_S * len(self._active), self.rate) * elapsed_s
        count = int(self._base_debt)
        self._base_debt -= count
        self._debt = max(min(self._debt + self.rate * elapsed_s, self.rate) - pushed, -self.rate)
        for _ in range(count):
            self._publish_trade(self._random.choice(self._active), now_ms)
        if not self._agg:
            self._debt = 0.0
            return
        while self._debt >= 1:
            for market in self._agg:
                self._publish_trade(market, now_ms)
                if self._debt < 1:
                    break

    def _publish_trade(self, market: SymbolMarket, now_ms: int) -> None:
        trade = market.trade(now_ms)
        channel = self._hub.channels.get(market.spec.symbol.lower() + "@aggTrade")
        if channel is not None and channel.name in self._streams:
            self._debt -= 1
            payload = messages.agg_trade(market, trade, now_ms)
            self._hub.publish(channel, payload, self._trade_row(channel, market, trade))
        if self._single_trades:
            self._publish_parts(market, trade, now_ms)

    def _publish_parts(self, market: SymbolMarket, trade: Trade, now_ms: int) -> None:
        """The same trade on `<symbol>@trade`, one message per trade id; the quantities add up."""
        channel = self._hub.channels.get(market.spec.symbol.lower() + "@trade")
        if channel is None or channel.name not in self._streams:
            return
        count = min(trade.last_id - trade.first_id + 1, trade.qty)
        for i in range(count):
            qty = trade.qty // count if i else trade.qty - trade.qty // count * (count - 1)
            row = self._trade_row(channel, market, trade)
            row.trade_id, row.qty = str(trade.first_id + i), market.qty(qty)
            self._hub.publish(channel, messages.trade(market, trade.first_id + i, trade, qty, now_ms), row)

    def _trade_row(self, channel: Channel, market: SymbolMarket, trade: Trade) -> Row:
        return Row(
            0, self._exchange, self._market, None, "trade", market.spec.symbol, None, str(trade.id), trade.time_ms,
            (), channel.name,
            "sell" if trade.sells else "buy", market.price(trade.price), market.qty(trade.qty),
        )  # fmt: skip

    def _row(self, channel: Channel, kind: str, symbol: str, ts: int) -> Row:
        return Row(0, self._exchange, self._market, None, kind, symbol, None, None, ts, (), channel.name)

    # ── books ────────────────────────────────────────────────────────────────────────────────────────────────────
    def _step_books(self, now_ms: int) -> None:
        for market in self._active:
            changed = market.book.mutate()
            if changed:
                channel = self._hub.channels.get(market.spec.symbol.lower() + "@bookTicker")
                if channel is not None and channel.name in self._streams:
                    row = self._row(channel, "book_ticker", market.spec.symbol, now_ms)
                    self._hub.publish(channel, messages.book_ticker(market, now_ms), row)
            self._perhaps_liquidate(market, now_ms)
        if self._book_slot % 10 == 0:
            for market in self._idle:
                market.book.mutate()

    def _push_depth(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        market = self.markets[stream.symbol]
        drained = market.book.drain(stream.name)
        if drained is None:
            return
        row = self._row(channel, "depth", stream.symbol, now_ms)
        row.first_seq, row.last_seq = drained[0], drained[1]
        self._hub.publish(channel, messages.depth(market, drained, now_ms), row)

    def _push_partial(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        market = self.markets[stream.symbol]
        row = self._row(channel, "depth", stream.symbol, now_ms)
        row.last_seq = market.book.last_id
        self._hub.publish(channel, messages.partial_depth(market, stream.levels, now_ms), row)

    def _perhaps_liquidate(self, market: SymbolMarket, now_ms: int) -> None:
        channels = [
            self._hub.channels.get(name) for name in (market.spec.symbol.lower() + "@forceOrder", "!forceOrder@arr")
        ]
        if not any(channels) or self._random.random() * self._settings.liquidation_interval_s * 1000 > BOOK_STEP_MS:
            return
        sells = self._random.random() < 0.5
        price, qty = market.book.take_best(sells), 1 + int(market.typical_qty * 20 * self._random.random())
        for channel in channels:
            if channel is not None and channel.name in self._streams:
                row = self._row(channel, "liquidation", market.spec.symbol, now_ms)
                row.side, row.price, row.qty = "sell" if sells else "buy", market.price(price), market.qty(qty)
                payload = messages.force_order(market, sells, price, qty, now_ms, channel.name.startswith("!"))
                self._hub.publish(channel, payload, row)

    # ── candles ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _close_candles(self, now_ms: int) -> None:
        done = {symbol: market.roll(now_ms) for symbol, market in self.markets.items()}
        for name, stream in list(self._streams.items()):
            candle = done[stream.symbol].get(stream.interval) if stream.interval else None
            channel = self._hub.channels.get(name)
            if candle is not None and channel is not None:
                self._publish_kline(stream, channel, candle, now_ms, closed=True)

    def _push_kline(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        candle = self.markets[stream.symbol].candle(stream.interval)
        if candle.last_id >= 0 and self._last_kline_push.get(stream.name) != candle.last_id:
            self._last_kline_push[stream.name] = candle.last_id
            self._publish_kline(stream, channel, candle, now_ms, closed=False)

    def _publish_kline(
        self, stream: StreamName, channel: Channel, candle: Candle, now_ms: int, *, closed: bool
    ) -> None:
        market = self.markets[stream.symbol]
        row = self._row(channel, "kline", stream.symbol, now_ms)
        row.interval, row.open_time, row.closed = stream.interval, candle.open_ms, closed
        kind = messages.continuous_kline if stream.kind == "continuous_kline" else messages.kline
        self._hub.publish(channel, kind(market, candle, stream.interval, closed, now_ms), row)

    # ── tickers and mark prices ──────────────────────────────────────────────────────────────────────────────────
    def _push_mark(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        at_ms = now_ms - now_ms % 1000
        row = self._row(channel, "mark_price", stream.symbol, at_ms)
        self._hub.publish(channel, messages.mark_price(self.markets[stream.symbol], at_ms), row)

    def _push_ticker(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        row = self._row(channel, "ticker", stream.symbol, now_ms)
        self._hub.publish(channel, messages.ticker(self.markets[stream.symbol], now_ms), row)

    def _push_mini_ticker(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        row = self._row(channel, "ticker", stream.symbol, now_ms)
        self._hub.publish(channel, messages.mini_ticker(self.markets[stream.symbol], now_ms), row)

    def _push_all(self, channel: Channel, kind: str, now_ms: int, parts: list[bytes]) -> None:
        self._hub.publish(channel, b"[" + b",".join(parts) + b"]", self._row(channel, kind, "", now_ms))

    def _push_marks(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        at_ms = now_ms - now_ms % 1000
        parts = [messages.mark_price(market, at_ms) for market in self.markets.values()]
        self._push_all(
            channel, "mark_price", at_ms, [*parts, messages.coin_m_mark_price(self.markets["BTCUSDT"], at_ms)]
        )

    def _push_tickers(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        self._push_all(channel, "ticker", now_ms, [messages.ticker(market, now_ms) for market in self.markets.values()])

    def _push_mini_tickers(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        self._push_all(
            channel, "ticker", now_ms, [messages.mini_ticker(market, now_ms) for market in self.markets.values()]
        )

    def _push_book_tickers(self, stream: StreamName, channel: Channel, now_ms: int) -> None:
        for market in self.markets.values():
            row = self._row(channel, "book_ticker", market.spec.symbol, now_ms)
            self._hub.publish(channel, messages.book_ticker(market, now_ms), row)
