"""Market messages of Binance Spot as JSON bytes (sheet section 3). In: market state; out: payloads. Pure.

Prices and quantities always show 8 decimals. Written as text rather than through an encoder: they are most of what the
simulator does, and every value is a number or a decimal string that needs no escaping.
"""

from __future__ import annotations

from simulator.market import DAY, Candle, SymbolMarket, Trade, close_time

ZERO = "0.00000000"


def eight(text: str) -> str:
    """A decimal string with exactly 8 decimals (it has no more)."""
    whole, _, part = text.partition(".")
    return f"{whole}.{part[:8]:0<8}"


def price(market: SymbolMarket, ticks: int) -> str:
    return eight(market.price(ticks))


def qty(market: SymbolMarket, steps: int) -> str:
    return eight(market.qty(steps)) if steps else ZERO


def quote(market: SymbolMarket, product: int) -> str:
    return eight(market.quote(product))


def trade(market: SymbolMarket, t: Trade, now_ms: int) -> bytes:
    return (
        f'{{"e":"trade","E":{now_ms},"s":"{market.spec.symbol}","t":{t.first_id},"p":"{price(market, t.price)}",'
        f'"q":"{qty(market, t.qty)}","T":{t.time_ms},"m":{"true" if t.sells else "false"},"M":true}}'
    ).encode()


def matches(t: Trade) -> list[Trade]:
    """The single trades that an aggregated one is made of: their ids count by one (it has at least as many steps)."""
    count = t.last_id - t.first_id + 1
    if count == 1:
        return [t]
    part = t.qty // count
    sizes = [part] * (count - 1) + [t.qty - part * (count - 1)]
    return [t._replace(qty=size, first_id=t.first_id + n, last_id=t.first_id + n) for n, size in enumerate(sizes)]


def agg_trade(market: SymbolMarket, t: Trade, now_ms: int) -> bytes:
    return (
        f'{{"e":"aggTrade","E":{now_ms},"s":"{market.spec.symbol}","a":{t.id},"p":"{price(market, t.price)}",'
        f'"q":"{qty(market, t.qty)}","f":{t.first_id},"l":{t.last_id},"T":{t.time_ms},'
        f'"m":{"true" if t.sells else "false"},"M":true}}'
    ).encode()


def best(market: SymbolMarket) -> dict[str, str]:
    """Best bid and ask under the stream's names."""
    book = market.book
    return {
        "b": price(market, book.best_bid), "B": qty(market, book.bids[book.best_bid]),
        "a": price(market, book.best_ask), "A": qty(market, book.asks[book.best_ask]),
    }  # fmt: skip


def book_ticker(market: SymbolMarket) -> bytes:
    """No type and no time."""
    n = best(market)
    return (
        f'{{"u":{market.book.last_id},"s":"{market.spec.symbol}","b":"{n["b"]}","B":"{n["B"]}","a":"{n["a"]}","A":"{n["A"]}"}}'
    ).encode()


def levels(market: SymbolMarket, rows: list[tuple[int, int]]) -> list[tuple[str, str]]:
    return [(price(market, p), qty(market, q)) for p, q in rows]


def _levels(market: SymbolMarket, rows: list[tuple[int, int]]) -> str:
    return ",".join(f'["{p}","{q}"]' for p, q in levels(market, rows))


def depth(
    market: SymbolMarket, first: int, last: int, bids: dict[int, int], asks: dict[int, int], now_ms: int
) -> bytes:
    down = sorted(bids.items(), reverse=True)
    return (
        f'{{"e":"depthUpdate","E":{now_ms},"s":"{market.spec.symbol}","U":{first},"u":{last},"b":[{_levels(market, down)}],'
        f'"a":[{_levels(market, sorted(asks.items()))}]}}'
    ).encode()


def partial_depth(market: SymbolMarket, count: int) -> bytes:
    bids, asks = market.book.top(count)
    return (
        f'{{"lastUpdateId":{market.book.last_id},"bids":[{_levels(market, bids)}],"asks":[{_levels(market, asks)}]}}'
    ).encode()


def kline(market: SymbolMarket, c: Candle, interval: str, closes_ms: int, closed: bool, now_ms: int) -> bytes:
    symbol = market.spec.symbol
    return (
        f'{{"e":"kline","E":{now_ms},"s":"{symbol}","k":{{"t":{c.open_ms},"T":{closes_ms},"s":"{symbol}","i":"{interval}",'
        f'"f":{c.first_id},"L":{c.last_id},"o":"{price(market, c.open)}","c":"{price(market, c.close)}",'
        f'"h":"{price(market, c.high)}","l":"{price(market, c.low)}","v":"{qty(market, c.volume)}",'
        f'"n":{c.trades},"x":{"true" if closed else "false"},'
        f'"q":"{quote(market, c.quote)}","V":"{qty(market, c.buy_volume)}","Q":"{quote(market, c.buy_quote)}","B":"0"}}}}'
    ).encode()


def kline_row(market: SymbolMarket, c: Candle, interval: str) -> list[str | int]:
    """A candle as REST prints it."""
    return [
        c.open_ms, price(market, c.open), price(market, c.high), price(market, c.low), price(market, c.close),
        qty(market, c.volume), close_time(c.open_ms, interval), quote(market, c.quote), c.trades, qty(market, c.buy_volume),
        quote(market, c.buy_quote), "0",
    ]  # fmt: skip


def ticker_numbers(market: SymbolMarket, now_ms: int) -> dict[str, str | int]:
    """The 24 h figures under REST's names, for both REST and the stream."""
    opened, last, n = market.day_open, market.last, best(market)
    weighted = market.day_quote // market.day_volume if market.day_volume else last
    return {
        "symbol": market.spec.symbol, "priceChange": price(market, last - opened),
        "priceChangePercent": f"{(last - opened) / opened * 100:.3f}", "weightedAvgPrice": price(market, weighted),
        "prevClosePrice": price(market, opened), "lastPrice": price(market, last), "lastQty": qty(market, market.last_qty),
        "bidPrice": n["b"], "bidQty": n["B"], "askPrice": n["a"], "askQty": n["A"], "openPrice": price(market, opened),
        "highPrice": price(market, market.day_high), "lowPrice": price(market, market.day_low),
        "volume": qty(market, market.day_volume), "quoteVolume": quote(market, market.day_quote), "openTime": now_ms - DAY,
        "closeTime": now_ms, "firstId": market.next_trade_id - market.day_trades, "lastId": market.next_trade_id - 1,
        "count": market.day_trades,
    }  # fmt: skip


_TICKER = {
    "p": "priceChange", "P": "priceChangePercent", "w": "weightedAvgPrice", "x": "prevClosePrice", "c": "lastPrice",
    "Q": "lastQty", "b": "bidPrice", "B": "bidQty", "a": "askPrice", "A": "askQty", "o": "openPrice", "h": "highPrice",
    "l": "lowPrice", "v": "volume", "q": "quoteVolume", "O": "openTime", "C": "closeTime", "F": "firstId", "L": "lastId",
    "n": "count",
}  # fmt: skip


def ticker(market: SymbolMarket, now_ms: int) -> dict[str, str | int]:
    numbers = ticker_numbers(market, now_ms)
    head: dict[str, str | int] = {"e": "24hrTicker", "E": now_ms, "s": market.spec.symbol}
    return head | {short: numbers[name] for short, name in _TICKER.items()}


def mini_ticker(market: SymbolMarket, now_ms: int) -> dict[str, str | int]:
    numbers = ticker_numbers(market, now_ms)
    head: dict[str, str | int] = {"e": "24hrMiniTicker", "E": now_ms, "s": market.spec.symbol}
    return head | {short: numbers[_TICKER[short]] for short in "cohlvq"}


def average_price(market: SymbolMarket, now_ms: int) -> dict[str, str | int]:
    return {
        "e": "avgPrice", "E": now_ms, "s": market.spec.symbol, "i": "5m", "w": price(market, market.last), "T": now_ms,
    }  # fmt: skip
