"""Market data of Bybit. In: time and who is subscribed; out: published frames (sheet section 4) and their ledger rows.

A tick lets every symbol trade, moves books, closes candles at the minute and pushes what its period or its change makes due.
`rate` is the wanted number of frames a second over both categories: what the periodic topics leave is filled with trades.
A topic's state as last published is kept, because a delta is the difference from it and a new subscriber gets it whole.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Any

from simulator.book import Sequence
from simulator.candles import Candle, close_time
from simulator.hub import Channel, Hub
from simulator.ledger import Ledger, Row
from simulator.market import SymbolMarket
from simulator.venues.bybit.messages import encode, uuid_of
from simulator.venues.bybit.rules import BybitSettings
from simulator.venues.bybit.symbols import specs
from simulator.venues.bybit.topics import INTERVALS, Topic

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket

BASE_TRADES_PER_S = 5.0
STEP_MS = 100
MAX_CATCH_UP_MS = 200
FUNDING_MOVES = 0.02  # per step: the predicted rate moves now and then, with or without the mark price
EIGHT_HOURS_MS = 8 * 3_600_000
QUOTES = frozenset({
    "lastPrice", "bid1Price", "bid1Size", "ask1Price", "ask1Size", "prevPrice24h", "highPrice24h", "lowPrice24h", "volume24h",
    "turnover24h",
})  # fmt: skip
MARKS = frozenset({"markPrice", "indexPrice", "fundingRate", "nextFundingTime"})
Side = dict[str, str]


class Listed:
    """One symbol of one category, with what is not the market's: mark price, cross sequence, last liquidation."""

    def __init__(self, category: str, market: SymbolMarket) -> None:
        self.category, self.market = category, market
        self.symbol = market.spec.symbol
        self.mark = market.last
        self.funding = 100  # millionths

    def trade_id(self, number: int) -> str:
        return str(number) if self.category == "spot" else uuid_of("public", self.symbol, number)


class BookState:
    """A depth topic as its subscribers have it."""

    def __init__(self, first_id: int) -> None:
        self.bids: Side = {}
        self.asks: Side = {}
        self.update_id = first_id
        self.at_ms = 0
        self.sent_ms = 0

    def move(self, bids: Side, asks: Side) -> tuple[list[list[str]], list[list[str]]]:
        """Take over a new state; the levels that changed, "0" for those that are gone."""
        changed = (_changes(self.bids, bids), _changes(self.asks, asks))
        self.bids, self.asks = bids, asks
        if changed[0] or changed[1]:
            self.update_id += 1
        return changed


def _changes(before: Side, after: Side) -> list[list[str]]:
    found = [[price, qty] for price, qty in after.items() if before.get(price) != qty]
    return found + [[price, "0"] for price in before if price not in after]


class Feed:
    """The markets of the venue and the pushing of their topics. `hubs` has one per category."""

    def __init__(
        self,
        hubs: dict[str, Hub],
        ledger: Ledger,
        random: Random,
        seed: int,
        rate: float,
        settings: BybitSettings,
        now_ms: int,
    ) -> None:
        self._hubs, self._ledger, self._random, self.rate, self._settings = hubs, ledger, random, rate, settings
        sequence = Sequence(now_ms * 5)
        self.seq = Sequence(814_547_787_693)
        self.listed = {
            (category, spec.symbol): Listed(category, SymbolMarket(spec, seed + (category == "spot"), sequence, now_ms))
            for category, found in specs().items()
            for spec in found
        }
        self._topics: dict[tuple[str, str], Topic] = {}
        self._books: dict[tuple[str, str], BookState] = {}
        self._tickers: dict[tuple[str, str], dict[str, str]] = {}
        self._active: list[Listed] = list(self.listed.values())
        self._traded: list[Listed] = []
        self._last_ms = now_ms
        self._minute = now_ms // 60_000
        self._last_kline: dict[tuple[str, str], int] = {}
        self._base_debt = self._debt = 0.0

    def symbols(self, category: str) -> dict[str, Listed]:
        return {symbol: found for (at, symbol), found in self.listed.items() if at == category}

    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────────────────
    def start(self, category: str, topic: Topic, socket: StreamSocket, now_ms: int) -> None:
        """A socket subscribed: count it, and send it the state it starts from."""
        key = (category, topic.name)
        fresh = self._hubs[category].subscribe(topic.name, f"/v5/public/{category}", socket)
        listed = self.listed[category, topic.symbol]
        if fresh:
            self._topics[key] = topic
            if topic.kind == "orderbook":
                self._books[key] = book = BookState(self._random.randint(10**7, 2 * 10**8))
                book.move(*self._top(listed, int(topic.arg)))
                book.at_ms = now_ms
            elif topic.kind == "tickers":
                self._tickers[key] = self.ticker(listed, now_ms)
            elif topic.kind == "kline":
                listed.market.candle(INTERVALS[topic.arg])
            self._regroup()
        if topic.kind == "orderbook":
            book = self._books[key]
            bids, asks = [list(level) for level in book.bids.items()], [list(level) for level in book.asks.items()]
            socket.send_text(self._book_frame(topic, book, bids, asks, "snapshot", now_ms), topic.name)
        elif topic.kind == "tickers":
            socket.send_text(self._frame(topic, self._tickers[key], now_ms, cs=self.seq.value), topic.name)

    def stop(self, category: str, name: str, socket: StreamSocket) -> None:
        """A socket unsubscribed or is gone."""
        if self._hubs[category].unsubscribe(name, socket):
            for table in (self._topics, self._books, self._tickers, self._last_kline):
                table.pop((category, name), None)
            self._regroup()

    def _regroup(self) -> None:
        wanted = {(category, topic.symbol) for (category, _), topic in self._topics.items()}
        self._active = [found for key, found in self.listed.items() if key in wanted]
        self._traded = [self.listed[c, t.symbol] for (c, _), t in self._topics.items() if t.kind == "publicTrade"]

    # ── the tick ─────────────────────────────────────────────────────────────────────────────────────────────────
    def tick(self, now_ms: int) -> None:
        """Advance to `now_ms`."""
        if now_ms <= self._last_ms:
            if self._last_ms - now_ms > 1000:
                self._last_ms = now_ms  # the clock was set back
            return
        before_ms, self._last_ms = self._last_ms, now_ms
        pushed = sum(hub.published for hub in self._hubs.values())
        if now_ms // 60_000 != self._minute:
            self._minute = now_ms // 60_000
            self._close_candles(now_ms)
        if now_ms // STEP_MS != before_ms // STEP_MS:
            self._step(now_ms, second=now_ms // 1000 != before_ms // 1000)
        pushed = sum(hub.published for hub in self._hubs.values()) - pushed
        self._trade(now_ms, min(MAX_CATCH_UP_MS, now_ms - before_ms) / 1000, pushed)

    def _step(self, now_ms: int, *, second: bool) -> None:
        for listed in self._active if not second else self.listed.values():
            listed.market.book.mutate()
            if self._random.random() < FUNDING_MOVES:
                listed.funding += self._random.choice((-1, 1))
            if second:
                listed.mark = max(1, round(listed.market.last * self._random.uniform(0.9998, 1.0002)))
        for (category, _), topic in list(self._topics.items()):
            listed, channel = self.listed[category, topic.symbol], self._hubs[category].channels.get(topic.name)
            if channel is None:
                continue
            if topic.kind == "orderbook":
                self._push_book(listed, topic, channel, now_ms)
            elif topic.kind == "tickers":
                self._push_ticker(listed, topic, channel, now_ms)
            elif topic.kind == "kline" and second:
                candle = listed.market.candle(INTERVALS[topic.arg])
                if candle.last_id >= 0 and self._last_kline.get((category, topic.name)) != candle.last_id:
                    self._last_kline[category, topic.name] = candle.last_id
                    self._push_candle(listed, topic, channel, candle, now_ms, closed=False)
            elif topic.kind == "allLiquidation":
                self._perhaps_liquidate(listed, topic, channel, now_ms)

    def _trade(self, now_ms: int, elapsed_s: float, pushed: int) -> None:
        if not self._active:
            return
        self._base_debt += min(BASE_TRADES_PER_S * len(self._active), max(self.rate, 1.0)) * elapsed_s
        self._debt = max(min(self._debt + self.rate * elapsed_s, self.rate) - pushed, -self.rate)
        while self._base_debt >= 1:
            self._base_debt -= 1
            self._debt -= self._publish_trade(self._random.choice(self._active), now_ms)
        while self._debt >= 1 and self._traded:
            self._debt -= self._publish_trade(self._random.choice(self._traded), now_ms)

    # ── what is pushed ───────────────────────────────────────────────────────────────────────────────────────────
    def _row(self, listed: Listed, kind: str, channel: Channel, ts: int) -> Row:
        return Row(0, "bybit", listed.category, None, kind, listed.symbol, None, None, ts, (), channel.name)

    @staticmethod
    def _frame(topic: Topic, data: Any, now_ms: int, kind: str = "snapshot", **more: int) -> bytes:
        return encode({"topic": topic.name, "type": kind, "ts": now_ms, "data": data, **more})

    def _publish_trade(self, listed: Listed, now_ms: int) -> int:
        """How many frames it made."""
        market = listed.market
        trade = market.trade(now_ms)
        channel = self._hubs[listed.category].channels.get(f"publicTrade.{listed.symbol}")
        if channel is None:
            return 0
        topic = self._topics[listed.category, channel.name]
        side, price, qty = "Sell" if trade.sells else "Buy", market.price(trade.price), market.qty(trade.qty)
        data = {
            "T": now_ms, "s": listed.symbol, "S": side, "v": qty, "p": price, "i": listed.trade_id(trade.id), "BT": False,
            "RPI": False, "seq": self.seq.advance(3),
        }  # fmt: skip
        if listed.category != "spot":
            data["L"] = "PlusTick"
        row = self._row(listed, "trade", channel, now_ms)
        row.trade_id, row.side, row.price, row.qty = listed.trade_id(trade.id), side.lower(), price, qty
        self._hubs[listed.category].publish(channel, self._frame(topic, [data], now_ms), row)
        return 1

    @staticmethod
    def _top(listed: Listed, depth: int) -> tuple[Side, Side]:
        market = listed.market
        bids, asks = market.book.top(depth)
        return (
            {market.price(price): market.qty(qty) for price, qty in bids},
            {market.price(price): market.qty(qty) for price, qty in asks},
        )

    def _book_frame(
        self, topic: Topic, book: BookState, bids: list[list[str]], asks: list[list[str]], kind: str, now_ms: int
    ) -> bytes:
        data = {"s": topic.symbol, "b": bids, "a": asks, "u": book.update_id, "seq": self.seq.value}
        return self._frame(topic, data, now_ms, kind, cts=book.at_ms)

    def _push_book(self, listed: Listed, topic: Topic, channel: Channel, now_ms: int) -> None:
        """Depth 1 is sent whole, and again where nothing changed for three seconds; the others as differences."""
        book, best = self._books[listed.category, topic.name], topic.arg == "1"
        bids, asks = book.move(*self._top(listed, int(topic.arg)))
        if bids or asks:
            book.at_ms = now_ms
            self.seq.advance(2)
        elif not best or now_ms - book.sent_ms < self._settings.resend_best_s * 1000:
            return
        book.sent_ms = now_ms
        if best:
            bids, asks = [list(level) for level in book.bids.items()], [list(level) for level in book.asks.items()]
        row = self._row(listed, "book_ticker" if best else "depth", channel, book.at_ms)
        if not best:
            row.first_seq = row.last_seq = book.update_id
        frame = self._book_frame(topic, book, bids, asks, "snapshot" if best else "delta", now_ms)
        self._hubs[listed.category].publish(channel, frame, row)

    def ticker(self, listed: Listed, now_ms: int) -> dict[str, str]:
        """The whole ticker; spot has no quotes and no mark price in it."""
        market = listed.market
        bids, asks = market.book.top(1)
        fields = {
            "symbol": listed.symbol, "lastPrice": market.price(market.last), "prevPrice24h": market.price(market.day_open),
            "highPrice24h": market.price(market.day_high), "lowPrice24h": market.price(market.day_low),
            "volume24h": market.qty(market.day_volume), "turnover24h": market.quote(market.day_quote),
            "price24hPcnt": f"{(market.last - market.day_open) / market.day_open:.6f}",
        }  # fmt: skip
        if listed.category == "spot":
            return fields | {"usdIndexPrice": market.price(market.last)}
        return fields | {
            "tickDirection": "PlusTick", "prevPrice1h": market.price(market.day_open), "markPrice": market.price(listed.mark),
            "indexPrice": market.price(listed.mark - 1), "openInterest": "492373.72", "openInterestValue": "32824881841.75",
            "fundingRate": f"{listed.funding / 1e6:.6f}", "nextFundingTime": str((now_ms // EIGHT_HOURS_MS + 1) * EIGHT_HOURS_MS),
            "fundingIntervalHour": "8", "fundingCap": "0.005", "bid1Price": market.price(bids[0][0]),
            "bid1Size": market.qty(bids[0][1]), "ask1Price": market.price(asks[0][0]), "ask1Size": market.qty(asks[0][1]),
            "preOpenPrice": "", "preQty": "", "curPreListingPhase": "",
        }  # fmt: skip

    def _push_ticker(self, listed: Listed, topic: Topic, channel: Channel, now_ms: int) -> None:
        """A derivative's changes, or all of a spot ticker if it changed."""
        key = (listed.category, topic.name)
        before, now = self._tickers[key], self.ticker(listed, now_ms)
        changed = {name: value for name, value in now.items() if before.get(name) != value}
        if not changed:
            return
        self._tickers[key] = now
        spot = listed.category == "spot"
        data = now if spot else {"symbol": listed.symbol, **changed}
        rows = []
        if spot or "lastPrice" in changed:
            rows.append(self._row(listed, "ticker", channel, now_ms))
        elif QUOTES & changed.keys():
            rows.append(self._row(listed, "book_ticker", channel, now_ms))
        if MARKS & changed.keys():
            rows.append(self._row(listed, "mark_price", channel, now_ms))
        rows = rows or [self._row(listed, "open_interest", channel, now_ms)]
        frame = self._frame(topic, data, now_ms, "snapshot" if spot else "delta", cs=self.seq.advance(1))
        self._hubs[listed.category].publish(channel, frame, rows[0])
        for row in rows[1:]:  # one frame tells both
            row.sockets = rows[0].sockets
            self._ledger.add(row)

    # ── candles and liquidations ─────────────────────────────────────────────────────────────────────────────────
    def _close_candles(self, now_ms: int) -> None:
        done = {key: listed.market.roll(now_ms) for key, listed in self.listed.items()}
        for (category, _), topic in list(self._topics.items()):
            channel = self._hubs[category].channels.get(topic.name)
            candle = done[category, topic.symbol].get(INTERVALS[topic.arg]) if topic.kind == "kline" else None
            if candle is not None and channel is not None:
                self._push_candle(self.listed[category, topic.symbol], topic, channel, candle, now_ms, closed=True)

    def _push_candle(
        self, listed: Listed, topic: Topic, channel: Channel, candle: Candle, now_ms: int, *, closed: bool
    ) -> None:
        market, interval = listed.market, INTERVALS[topic.arg]
        data = {
            "start": candle.open_ms, "end": close_time(candle.open_ms, interval), "interval": topic.arg,
            "open": market.price(candle.open), "close": market.price(candle.close), "high": market.price(candle.high),
            "low": market.price(candle.low), "volume": market.qty(candle.volume), "turnover": market.quote(candle.quote),
            "confirm": closed, "timestamp": now_ms,
        }  # fmt: skip
        row = self._row(listed, "kline", channel, now_ms)
        row.interval, row.open_time, row.closed = interval, candle.open_ms, closed
        self._hubs[listed.category].publish(channel, self._frame(topic, [data], now_ms), row)

    def _perhaps_liquidate(self, listed: Listed, topic: Topic, channel: Channel, now_ms: int) -> None:
        """`S` names the position's side (4.5); the ledger, like our events, the order's."""
        if self._random.random() * self._settings.liquidation_interval_s * 1000 > STEP_MS:
            return
        market, long = listed.market, self._random.random() < 0.5
        price = market.price(market.book.take_best(long))
        qty = market.qty(1 + int(market.typical_qty * 20 * self._random.random()))
        row = self._row(listed, "liquidation", channel, now_ms)
        row.side, row.price, row.qty = "sell" if long else "buy", price, qty
        data = [{"T": now_ms, "s": listed.symbol, "S": "Buy" if long else "Sell", "v": qty, "p": price}]
        self._hubs[listed.category].publish(channel, self._frame(topic, data, now_ms), row)
