"""Market data of OKX. In: time and who is subscribed; out: published frames (sheet section 4) and their ledger rows.

A tick lets every instrument trade, moves books, closes candles at the minute, and pushes each subscribed channel when its
period is over. `rate` is the wanted number of frames a second over all channels: what the periodic ones leave is filled with
trades.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from simulator.book import Sequence
from simulator.candles import Candle, Trade, close_time
from simulator.hub import Channel, Hub
from simulator.ledger import Row
from simulator.market import SymbolMarket
from simulator.venues.okx import market_messages as messages
from simulator.venues.okx.rules import OkxSettings
from simulator.venues.okx.symbols import product, specs
from simulator.venues.okx.topics import Topic

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket

BASE_TRADES_PER_S = 5.0
IDLE_TRADES_PER_S = 0.5
FIRST_TRADES = 5  # so that REST has some from the start
STEP_MS = 100
MAX_CATCH_UP_MS = 200
LEVELS = 400
REPEAT_MS = 60_000  # a book without a change repeats itself
MARK_MS = 10_000  # a mark price without a change too
KINDS = {
    "tickers": "ticker", "trades": "trade", "trades-all": "trade", "books": "depth", "books5": "depth", "bbo-tbt": "book_ticker",
    "mark-price": "mark_price", "funding-rate": "mark_price",
}  # fmt: skip


class Feed:
    """The markets of the venue and the pushing of their channels."""

    def __init__(
        self, hub: Hub, random: Random, seed: int, rate: float, settings: OkxSettings, now_ms: int, ids: tuple[str, str]
    ) -> None:
        self._hub, self._random, self.rate, self._settings = hub, random, rate, settings
        self._exchange, self._market = ids
        self._sequence = Sequence(now_ms * 3)
        self.markets = {spec.symbol: SymbolMarket(spec, seed, self._sequence, now_ms) for spec in specs()}
        self._topics: dict[str, Topic] = {}
        self._due_ms: dict[str, int] = {}
        self._said: dict[
            str, tuple[int, int]
        ] = {}  # channel -> what was pushed last (a number that tells it apart), and when
        self._active: list[SymbolMarket] = []
        self._traded: list[SymbolMarket] = []
        self._last_ms = now_ms
        self._slot = 0
        self._minute = now_ms // 60_000
        self._base_debt = self._debt = self._idle_debt = 0.0
        self._idle: list[SymbolMarket] = list(self.markets.values())
        for market in self._idle:
            for _ in range(FIRST_TRADES):
                market.trade(now_ms)
        self._push: dict[str, Callable[[Topic, Channel, int], None]] = {
            "tickers": self._ticker, "books": self._book, "books5": self._top, "bbo-tbt": self._top, "mark-price": self._mark,
        }  # fmt: skip
        self._rows: dict[str, Callable[[SymbolMarket, int], str]] = {
            "index-tickers": messages.index_ticker, "funding-rate": messages.funding, "price-limit": messages.price_limit,
            "open-interest": lambda market, now_ms: messages.open_interest(market, product(market.spec.symbol), now_ms),
        }  # fmt: skip

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────
    def start(self, topic: Topic, socket: StreamSocket, now_ms: int, *, replayed: bool = False) -> None:
        """A socket subscribed: count it, and send it the state it starts from. `replayed`: a recording feeds this channel."""
        known = self._hub.channels.get(topic.name)
        if known is not None and topic.channel == "books" and not replayed:
            self._book(topic, known, now_ms)  # the others go on from the same number as the new one's snapshot
        fresh = self._hub.subscribe(topic.name, topic.path, socket)
        if replayed:
            return
        if fresh:
            self._topics[topic.name] = topic
            self._due_ms[topic.name] = now_ms + min(topic.period_ms, 1000)
            if topic.channel == "books":
                self.markets[topic.symbol].book.feed(topic.name)
            if topic.interval:
                self.markets[topic.symbol].candle(topic.interval)
            self._regroup()
        if topic.channel == "books":
            self._snapshot(topic, socket, now_ms)
        elif topic.symbol and topic.channel not in ("trades", "trades-all") and not topic.interval:
            self._say(topic, self._hub.channels[topic.name], now_ms)

    def stop(self, name: str, socket: StreamSocket) -> None:
        """A socket unsubscribed or is gone."""
        if not self._hub.unsubscribe(name, socket):
            return
        topic = self._topics.pop(name, None)
        self._due_ms.pop(name, None)
        self._said.pop(name, None)
        if topic is not None and topic.channel == "books":
            self.markets[topic.symbol].book.feeds.pop(name, None)
        self._regroup()

    def _regroup(self) -> None:
        wanted = {topic.symbol for topic in self._topics.values()}
        whole = {topic.name.partition(":")[2] for topic in self._topics.values() if not topic.symbol}
        self._active = [m for s, m in self.markets.items() if s in wanted or _margin(s) in whole]
        self._idle = [market for market in self.markets.values() if market not in self._active]
        self._traded = [self.markets[t.symbol] for t in self._topics.values() if t.channel == "trades"]

    def _snapshot(self, topic: Topic, socket: StreamSocket, now_ms: int) -> None:
        market = self.markets[topic.symbol]
        bids, asks = market.book.top(LEVELS)
        row = messages.book(market, bids, asks, market.book.last_id, -1, now_ms)
        socket.send_text(messages.push("books", topic.symbol, row, "snapshot"), topic.name)

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
            self._close_candles()
        before = self._hub.published
        if now_ms // STEP_MS != self._slot:
            self._slot = now_ms // STEP_MS
            self._step(now_ms)
        for name, due_ms in list(self._due_ms.items()):
            topic, channel = self._topics[name], self._hub.channels.get(name)
            if channel is not None and topic.period_ms and due_ms <= now_ms:
                self._due_ms[name] = max(due_ms, now_ms - topic.period_ms) + topic.period_ms
                self._say(topic, channel, now_ms)
        self._trade(now_ms, elapsed_s, self._hub.published - before)

    def _step(self, now_ms: int) -> None:
        for market in self._active:
            name = f"bbo-tbt:{market.spec.symbol}"
            if market.book.mutate() and name in self._topics:
                self._top(self._topics[name], self._hub.channels[name], now_ms)
            self._perhaps_liquidate(market, now_ms)
        if self._slot % 10 == 0:
            for market in self._idle:
                market.book.mutate()

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
        if not self._traded:
            self._debt = 0.0
        while self._debt >= 1:
            for market in self._traded:
                self._publish_trade(market, now_ms)
                if self._debt < 1:
                    break

    def _publish_trade(self, market: SymbolMarket, now_ms: int) -> None:
        made, symbol = market.trade(now_ms), market.spec.symbol
        aggregated, single = self._topics.get(f"trades:{symbol}"), self._topics.get(f"trades-all:{symbol}")
        if aggregated is not None:
            self._tell_trade(aggregated, market, made, messages.trade(market, made, self._sequence.value))
        if single is not None:
            for match in messages.matches(made):
                self._tell_trade(single, market, match, messages.single(market, match))

    def _tell_trade(self, topic: Topic, market: SymbolMarket, made: Trade, text: str) -> None:
        self._debt -= 1
        row = self._row(topic, topic.symbol, made.time_ms)
        row.trade_id, row.side = str(made.last_id), "sell" if made.sells else "buy"
        row.price, row.qty = market.price(made.price), market.qty(made.qty)
        self._hub.publish(self._hub.channels[topic.name], messages.push(topic.channel, topic.symbol, text), row)

    def _row(self, topic: Topic, symbol: str, ts: int) -> Row:
        kind = KINDS.get(topic.channel, "kline" if topic.interval else topic.channel)
        return Row(0, self._exchange, self._market, None, kind, symbol, None, None, ts, (), topic.name)

    # ── pushes ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _say(self, topic: Topic, channel: Channel, now_ms: int) -> None:
        if topic.interval:
            self._kline(topic, channel)
            return
        push = self._push.get(topic.channel)
        if push is not None:
            push(topic, channel, now_ms)
        elif topic.channel in self._rows:
            market = self.markets.get(topic.symbol) or self.markets[f"{topic.symbol}-SWAP"]
            payload = messages.push(topic.channel, topic.symbol, self._rows[topic.channel](market, now_ms))
            self._hub.publish(channel, payload, self._row(topic, topic.symbol, now_ms))

    def _changed(self, topic: Topic, state: int, now_ms: int, repeat_ms: int) -> bool:
        """Is there something new, or has nothing been said for long?"""
        before, at_ms = self._said.get(topic.name, (-1, 0))
        if before == state and now_ms - at_ms < repeat_ms:
            return False
        self._said[topic.name] = (state, now_ms)
        return True

    def _ticker(self, topic: Topic, channel: Channel, now_ms: int) -> None:
        market = self.markets[topic.symbol]
        state = hash((market.day_trades, market.book.best_bid, market.book.best_ask))
        if self._changed(topic, state, now_ms, 10**12):
            text = messages.ticker(market, product(topic.symbol), now_ms)
            self._hub.publish(
                channel, messages.push("tickers", topic.symbol, text), self._row(topic, topic.symbol, now_ms)
            )

    def _book(self, topic: Topic, channel: Channel, now_ms: int) -> None:
        market = self.markets[topic.symbol]
        drained = market.book.drain(topic.name)
        if drained is None:
            if not self._changed(topic, market.book.last_id, now_ms, REPEAT_MS):
                return
            drained = (0, market.book.last_id, market.book.last_id, {}, {})
        _, seq, prev, bids, asks = drained
        self._said[topic.name] = (seq, now_ms)
        text = messages.book(market, sorted(bids.items(), reverse=True), sorted(asks.items()), seq, prev, now_ms)
        row = self._row(topic, topic.symbol, now_ms)
        row.first_seq, row.last_seq = prev, seq
        self._hub.publish(channel, messages.push("books", topic.symbol, text, "update"), row)

    def _top(self, topic: Topic, channel: Channel, now_ms: int) -> None:
        market = self.markets[topic.symbol]
        if self._changed(topic, market.book.last_id, now_ms, REPEAT_MS):
            text = messages.plain_book(market, 1 if topic.channel == "bbo-tbt" else 5, now_ms)
            row = self._row(topic, topic.symbol, now_ms)
            row.last_seq = market.book.last_id
            self._hub.publish(channel, messages.push(topic.channel, topic.symbol, text), row)

    def _mark(self, topic: Topic, channel: Channel, now_ms: int) -> None:
        market = self.markets[topic.symbol]
        if self._changed(topic, market.last, now_ms, MARK_MS):
            text = messages.mark_price(market, product(topic.symbol), now_ms)
            self._hub.publish(
                channel, messages.push("mark-price", topic.symbol, text), self._row(topic, topic.symbol, now_ms)
            )

    def _perhaps_liquidate(self, market: SymbolMarket, now_ms: int) -> None:
        kind = _margin(market.spec.symbol)
        topic = self._topics.get(f"liquidation-orders:{kind}")
        if topic is None or self._random.random() * self._settings.liquidation_interval_s * 1000 > STEP_MS:
            return
        sells = self._random.random() < 0.5
        price, qty = market.book.take_best(sells), 1 + int(market.typical_qty * 20 * self._random.random())
        row = self._row(topic, market.spec.symbol, now_ms)
        row.type, row.side = "liquidation", "sell" if sells else "buy"
        row.price, row.qty = market.price(price), market.qty(qty)
        payload = messages.liquidation(market, kind, sells, price, qty, now_ms)
        self._hub.publish(self._hub.channels[topic.name], payload, row)

    # ── candles ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _close_candles(self) -> None:
        done = {symbol: market.roll(self._last_ms) for symbol, market in self.markets.items()}
        for name, topic in self._topics.items():
            candle = done[topic.symbol].get(topic.interval) if topic.interval else None
            if candle is not None:
                self._publish_candle(topic, self._hub.channels[name], candle, closed=True)

    def _kline(self, topic: Topic, channel: Channel) -> None:
        candle = self.markets[topic.symbol].candle(topic.interval)
        if candle.last_id >= 0 and self._changed(topic, candle.last_id, self._last_ms, 10**12):
            self._publish_candle(topic, channel, candle, closed=False)

    def _publish_candle(self, topic: Topic, channel: Channel, candle: Candle, *, closed: bool) -> None:
        """The message tells no time but the opening: an open candle is recorded under it, a closed one under its end."""
        market = self.markets[topic.symbol]
        ts = close_time(candle.open_ms, topic.interval) if closed else candle.open_ms
        row = self._row(topic, topic.symbol, ts)
        row.interval, row.open_time, row.closed = topic.interval, candle.open_ms, closed
        self._hub.publish(
            channel, messages.push(topic.channel, topic.symbol, messages.candle(market, candle, closed)), row
        )


def _margin(symbol: str) -> str:
    """The product under which liquidations of an instrument come: spot pairs are liquidated as margin."""
    kind = product(symbol)
    return "MARGIN" if kind == "SPOT" else kind
