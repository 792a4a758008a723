"""Market messages of Binance USDⓈ-M as JSON bytes (sheet section 3). In: market state; out: payloads. Pure.

Written as text rather than through an encoder: they are most of what the simulator does, and every value is a number
or a decimal string that needs no escaping.
"""

from __future__ import annotations

from simulator.candles import DAY, Candle, Trade, close_time
from simulator.market import SymbolMarket

EIGHT_HOURS = 8 * 3_600_000


def agg_trade(market: SymbolMarket, trade: Trade, now_ms: int) -> bytes:
    qty = market.qty(trade.qty)
    return (
        f'{{"e":"aggTrade","E":{now_ms},"a":{trade.id},"s":"{market.spec.symbol}","p":"{market.price(trade.price)}","q":"{qty}","nq":"{qty}",'
        f'"f":{trade.first_id},"l":{trade.last_id},"T":{trade.time_ms},"m":{"true" if trade.sells else "false"},"st":1}}'
    ).encode()


def trade(market: SymbolMarket, ident: int, agg: Trade, qty: int, now_ms: int) -> bytes:
    """One of the trades that an aggregated one is made of."""
    maker = "true" if agg.sells else "false"
    return (
        f'{{"e":"trade","E":{now_ms},"T":{agg.time_ms},"s":"{market.spec.symbol}","t":{ident},"p":"{market.price(agg.price)}",'
        f'"q":"{market.qty(qty)}","X":"MARKET","m":{maker}}}'
    ).encode()


def book_ticker(market: SymbolMarket, now_ms: int) -> bytes:
    book, symbol = market.book, market.spec.symbol
    return (
        f'{{"e":"bookTicker","u":{book.last_id},"s":"{symbol}","ps":"{symbol}","b":"{market.price(book.best_bid)}",'
        f'"B":"{market.qty(book.bids[book.best_bid])}","a":"{market.price(book.best_ask)}","A":"{market.qty(book.asks[book.best_ask])}",'
        f'"T":{now_ms},"E":{now_ms},"st":1}}'
    ).encode()


def _levels(market: SymbolMarket, levels: list[tuple[int, int]]) -> str:
    return ",".join(f'["{market.price(price)}","{market.qty(qty) if qty else 0}"]' for price, qty in levels)


def _depth(market: SymbolMarket, now_ms: int, ids: tuple[int, int, int], bids: str, asks: str) -> bytes:
    symbol = market.spec.symbol
    return (
        f'{{"e":"depthUpdate","E":{now_ms},"T":{now_ms},"s":"{symbol}","ps":"{symbol}","U":{ids[0]},"u":{ids[1]},"pu":{ids[2]},'
        f'"b":[{bids}],"a":[{asks}],"st":1}}'
    ).encode()


def depth(market: SymbolMarket, drained: tuple[int, int, int, dict[int, int], dict[int, int]], now_ms: int) -> bytes:
    first, last, previous, bids, asks = drained
    return _depth(
        market, now_ms, (first, last, previous),
        _levels(market, sorted(bids.items(), reverse=True)), _levels(market, sorted(asks.items())),
    )  # fmt: skip


def partial_depth(market: SymbolMarket, levels: int, now_ms: int) -> bytes:
    bids, asks = market.book.top(levels)
    last = market.book.last_id
    return _depth(market, now_ms, (last - 10, last, last - 11), _levels(market, bids), _levels(market, asks))


def _candle(market: SymbolMarket, candle: Candle, interval: str, closed: bool, symbol: str) -> str:
    price, qty, quote = market.price, market.qty, market.quote
    return (
        f'"k":{{"t":{candle.open_ms},"T":{close_time(candle.open_ms, interval)},{symbol}"i":"{interval}","f":{candle.first_id},'
        f'"L":{candle.last_id},"o":"{price(candle.open)}","c":"{price(candle.close)}","h":"{price(candle.high)}","l":"{price(candle.low)}",'
        f'"v":"{qty(candle.volume)}","n":{candle.trades},"x":{"true" if closed else "false"},"q":"{quote(candle.quote)}",'
        f'"V":"{qty(candle.buy_volume)}","Q":"{quote(candle.buy_quote)}","B":"0"}}'
    )


def kline(market: SymbolMarket, candle: Candle, interval: str, closed: bool, now_ms: int) -> bytes:
    symbol = market.spec.symbol
    inner = _candle(market, candle, interval, closed, f'"s":"{symbol}",')
    return f'{{"e":"kline","E":{now_ms},"s":"{symbol}",{inner}}}'.encode()


def continuous_kline(market: SymbolMarket, candle: Candle, interval: str, closed: bool, now_ms: int) -> bytes:
    inner = _candle(market, candle, interval, closed, "")
    return f'{{"e":"continuous_kline","E":{now_ms},"ps":"{market.spec.symbol}","ct":"PERPETUAL",{inner}}}'.encode()


def ticker_numbers(market: SymbolMarket, now_ms: int) -> dict[str, str | int]:
    """The 24 h figures under REST's names, for both REST and the stream."""
    opened, last = market.day_open, market.last
    weighted = market.day_quote // market.day_volume if market.day_volume else last
    change = last - opened
    return {
        "priceChange": market.price(change), "priceChangePercent": f"{change / opened * 100:.3f}",
        "weightedAvgPrice": market.price(weighted),
        "lastPrice": market.price(last), "lastQty": market.qty(market.last_qty), "openPrice": market.price(opened),
        "highPrice": market.price(market.day_high), "lowPrice": market.price(market.day_low),
        "volume": market.qty(market.day_volume),
        "quoteVolume": market.quote(market.day_quote), "openTime": now_ms - DAY, "closeTime": now_ms,
        "firstId": market.next_trade_id - market.day_trades, "lastId": market.next_trade_id - 1, "count": market.day_trades,
    }  # fmt: skip


def ticker(market: SymbolMarket, now_ms: int) -> bytes:
    n, symbol = ticker_numbers(market, now_ms), market.spec.symbol
    return (
        f'{{"e":"24hrTicker","E":{now_ms},"s":"{symbol}","ps":"{symbol}","p":"{n["priceChange"]}","P":"{n["priceChangePercent"]}",'
        f'"w":"{n["weightedAvgPrice"]}","c":"{n["lastPrice"]}","Q":"{n["lastQty"]}","o":"{n["openPrice"]}","h":"{n["highPrice"]}",'
        f'"l":"{n["lowPrice"]}","v":"{n["volume"]}","q":"{n["quoteVolume"]}","O":{n["openTime"]},"C":{n["closeTime"]},"F":{n["firstId"]},'
        f'"L":{n["lastId"]},"n":{n["count"]},"st":1}}'
    ).encode()


def mini_ticker(market: SymbolMarket, now_ms: int) -> bytes:
    n, symbol = ticker_numbers(market, now_ms), market.spec.symbol
    return (
        f'{{"e":"24hrMiniTicker","E":{now_ms},"s":"{symbol}","ps":"{symbol}","c":"{n["lastPrice"]}","o":"{n["openPrice"]}",'
        f'"h":"{n["highPrice"]}","l":"{n["lowPrice"]}","v":"{n["volume"]}","q":"{n["quoteVolume"]}","st":1}}'
    ).encode()


def next_funding(now_ms: int) -> int:
    """Funding happens at 00, 08 and 16 h UTC."""
    return now_ms - now_ms % EIGHT_HOURS + EIGHT_HOURS


def mark_price(market: SymbolMarket, now_ms: int) -> bytes:
    mark = market.price(market.last)
    return (
        f'{{"e":"markPriceUpdate","E":{now_ms},"s":"{market.spec.symbol}","p":"{mark}","ap":"{mark}","P":"{market.price(market.day_open)}",'
        f'"i":"{market.price(market.book.best_ask)}","r":"0.00010000","T":{next_funding(now_ms)},"st":1}}'
    ).encode()


def coin_m_mark_price(market: SymbolMarket, now_ms: int) -> bytes:
    """The all-market stream mixes in COIN-M symbols since 2026-06-30."""
    mark = market.price(market.last)
    return (
        f'{{"e":"markPriceUpdate","E":{now_ms},"s":"{market.spec.base}USD_PERP","p":"{mark}","ap":"{mark}","P":"{mark}","i":"{mark}",'
        f'"r":"0.00010000","T":{next_funding(now_ms)},"st":2}}'
    ).encode()


def force_order(market: SymbolMarket, sells: bool, price: int, qty: int, now_ms: int, all_market: bool) -> bytes:
    symbol, text, size, side = market.spec.symbol, market.price(price), market.qty(qty), "SELL" if sells else "BUY"
    extra = f',"ps":"{symbol}","st":1' if all_market else ""
    return (
        f'{{"e":"forceOrder","E":{now_ms},"o":{{"s":"{symbol}","S":"{side}","o":"LIMIT","f":"IOC","q":"{size}",'
        f'"p":"{text}","ap":"{text}","X":"FILLED","l":"{size}","z":"{size}","T":{now_ms - 5}}}{extra}}}'
    ).encode()
