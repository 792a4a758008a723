"""Market messages of OKX as JSON bytes (sheet section 4). In: market state; out: payloads. Pure.

Written as text rather than through an encoder: they are most of what the simulator does, and every value is a number or a
decimal string that needs no escaping.
"""

from __future__ import annotations

from simulator.candles import Candle, Trade
from simulator.market import SymbolMarket

EIGHT_HOURS = 8 * 3_600_000


def push(channel: str, symbol: str, row: str, action: str = "") -> bytes:
    """The envelope of one row."""
    extra = f',"action":"{action}"' if action else ""
    return f'{{"arg":{{"channel":"{channel}","instId":"{symbol}"}}{extra},"data":[{row}]}}'.encode()


def ticker(market: SymbolMarket, kind: str, now_ms: int) -> str:
    book, price, qty = market.book, market.price, market.qty
    opened = price(market.day_open)
    return (
        f'{{"instType":"{kind}","instId":"{market.spec.symbol}","last":"{price(market.last)}","lastSz":"{qty(market.last_qty)}",'
        f'"askPx":"{price(book.best_ask)}","askSz":"{qty(book.asks[book.best_ask])}","bidPx":"{price(book.best_bid)}",'
        f'"bidSz":"{qty(book.bids[book.best_bid])}","open24h":"{opened}","high24h":"{price(market.day_high)}",'
        f'"low24h":"{price(market.day_low)}","sodUtc0":"{opened}","sodUtc8":"{opened}","volCcy24h":"{market.quote(market.day_quote)}",'
        f'"vol24h":"{qty(market.day_volume)}","ts":"{now_ms}"}}'
    )


def trade(market: SymbolMarket, made: Trade, seq: int) -> str:
    """The aggregate under the id of its last match."""
    return (
        f'{{"instId":"{market.spec.symbol}","tradeId":"{made.last_id}","px":"{market.price(made.price)}","sz":"{market.qty(made.qty)}",'
        f'"side":"{"sell" if made.sells else "buy"}","ts":"{made.time_ms}","count":"{made.last_id - made.first_id + 1}",'
        f'"source":"0","seqId":{seq}}}'
    )


def matches(made: Trade) -> list[Trade]:
    """The single matches that an aggregate covers."""
    count = made.last_id - made.first_id + 1
    part = max(1, made.qty // count)
    return [
        made._replace(
            first_id=ident, last_id=ident, qty=made.qty - part * (count - 1) if ident == made.last_id else part
        )
        for ident in range(made.first_id, made.last_id + 1)
    ]


def single(market: SymbolMarket, made: Trade) -> str:
    """A row of trades-all and of REST."""
    return (
        f'{{"instId":"{market.spec.symbol}","tradeId":"{made.last_id}","px":"{market.price(made.price)}","sz":"{market.qty(made.qty)}",'
        f'"side":"{"sell" if made.sells else "buy"}","ts":"{made.time_ms}","source":"0"}}'
    )


def _levels(market: SymbolMarket, levels: list[tuple[int, int]]) -> str:
    return ",".join(
        f'["{market.price(price)}","{market.qty(qty) if qty else "0"}","0","{1 + qty % 9 if qty else 0}"]'
        for price, qty in levels
    )


def book(
    market: SymbolMarket, bids: list[tuple[int, int]], asks: list[tuple[int, int]], seq: int, prev: int, now_ms: int
) -> str:
    """`checksum` is constant 0 since 2026-06-23."""
    return (
        f'{{"asks":[{_levels(market, asks)}],"bids":[{_levels(market, bids)}],"ts":"{now_ms}","checksum":0,"seqId":{seq},'
        f'"prevSeqId":{prev}}}'
    )


def plain_book(market: SymbolMarket, levels: int, now_ms: int) -> str:
    """books5, bbo-tbt and REST: no prevSeqId, no checksum."""
    bids, asks = market.book.top(levels)
    return f'{{"asks":[{_levels(market, asks)}],"bids":[{_levels(market, bids)}],"ts":"{now_ms}","seqId":{market.book.last_id}}}'


def candle(market: SymbolMarket, c: Candle, closed: bool) -> str:
    price, volume, quote = market.price, market.qty(c.volume), market.quote(c.quote)
    return (
        f'["{c.open_ms}","{price(c.open)}","{price(c.high)}","{price(c.low)}","{price(c.close)}","{volume}","{quote}","{quote}",'
        f'"{1 if closed else 0}"]'
    )


def mark_price(market: SymbolMarket, kind: str, now_ms: int) -> str:
    kind = "MARGIN" if kind == "SPOT" else kind
    return f'{{"instType":"{kind}","instId":"{market.spec.symbol}","markPx":"{market.price(market.last)}","ts":"{now_ms}"}}'


def index_ticker(market: SymbolMarket, now_ms: int) -> str:
    last, name = market.price(market.last), f"{market.spec.base}-{market.spec.quote}"
    return (
        f'{{"instId":"{name}","idxPx":"{last}","high24h":"{market.price(market.day_high)}","low24h":"{market.price(market.day_low)}",'
        f'"open24h":"{market.price(market.day_open)}","sodUtc0":"{last}","sodUtc8":"{last}","ts":"{now_ms}"}}'
    )


def funding(market: SymbolMarket, now_ms: int) -> str:
    due = now_ms - now_ms % EIGHT_HOURS + EIGHT_HOURS
    return (
        f'{{"instId":"{market.spec.symbol}","instType":"SWAP","fundingRate":"0.0001","fundingTime":"{due}",'
        f'"nextFundingTime":"{due + EIGHT_HOURS}","nextFundingRate":"","method":"current_period","formulaType":"withRate",'
        f'"maxFundingRate":"0.00375","minFundingRate":"-0.00375","premium":"0.0001","interestRate":"0.0001","settState":"settled",'
        f'"settFundingRate":"0.0001","prevFundingTime":"{due - EIGHT_HOURS}","ts":"{now_ms}"}}'
    )


def open_interest(market: SymbolMarket, kind: str, now_ms: int) -> str:
    size, symbol = market.qty(market.typical_qty * 1000), market.spec.symbol
    return (
        f'{{"instId":"{symbol}","instType":"{kind}","oi":"{size}","oiCcy":"{size}","oiUsd":"{size}","ts":"{now_ms}"}}'
    )


def price_limit(market: SymbolMarket, now_ms: int) -> str:
    high, low = market.price(market.last * 105 // 100), market.price(market.last * 95 // 100)
    return f'{{"instId":"{market.spec.symbol}","buyLmt":"{high}","sellLmt":"{low}","ts":"{now_ms}","enabled":true}}'


def liquidation(market: SymbolMarket, kind: str, sells: bool, price: int, qty: int, now_ms: int) -> bytes:
    spec, side = market.spec, ("sell", "long") if sells else ("buy", "short")
    return (
        f'{{"arg":{{"channel":"liquidation-orders","instType":"{kind}"}},"data":[{{"details":[{{"bkLoss":"0",'
        f'"bkPx":"{market.price(price)}","ccy":"","posSide":"{side[1]}","side":"{side[0]}","sz":"{market.qty(qty)}","ts":"{now_ms}"}}],'
        f'"instFamily":"{spec.base}-{spec.quote}","instId":"{spec.symbol}","instType":"{kind}","uly":"{spec.base}-{spec.quote}"}}]}}'
    ).encode()
