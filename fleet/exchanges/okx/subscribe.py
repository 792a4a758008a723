"""OKX public streams: topics, paths, subscribe frames, the order-book call. Sources: exchanges/okx.md 1.1, 1.2, 4.

In: symbols (instIds) and kinds of the settings. Out: data for workers/market_stream.py. One topic per symbol and kind, named
`channel:instId`; liquidations come for all instruments of a product at once: they are one topic, named `channel:instType`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from fleet.core.events import Depth, Kline, Liquidation, MarketRecord, MarkPrice, Ticker, Trade
from fleet.core.exchange import Hosts, HttpCall, MarketKind, Topic
from fleet.exchanges.okx.limits import BUSINESS, IN_TWO_SECONDS, PUBLIC

# Our interval -> the venue's bar. From 6 hours on the plain names begin at 16:00 UTC (midnight in Hong Kong).
BARS = {
    "1s": "1s", "1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1h": "1H", "2h": "2H", "4h": "4H", "6h": "6Hutc",
    "12h": "12Hutc", "1d": "1Dutc", "3d": "3Dutc", "1w": "1Wutc", "1M": "1Mutc",
}  # fmt: skip
INTERVALS = {bar: interval for interval, bar in BARS.items()}

LIQUIDATIONS = "liquidation-orders"
MARK_PRICES, FUNDING = "mark-price", "funding-rate"  # the second comes with the first, for perpetual swaps
CANDLE_S = 75.0  # one that only moves when it closes does so each minute, not to the millisecond
# kind -> channel, path, longest believable silence in s. A mark price comes at least each 10 s: the best canary. Books repeat
# themselves after 60 s without a change; tickers, quotes and candles only move with the market.
_KINDS: dict[MarketKind, tuple[str, str, float | None]] = {
    "ticker": ("tickers", PUBLIC, 60.0),
    "book_ticker": ("bbo-tbt", PUBLIC, 75.0),
    "depth": ("books", PUBLIC, 75.0),
    "trade": ("trades", PUBLIC, None),
    "liquidation": (LIQUIDATIONS, PUBLIC, None),
    "mark_price": (MARK_PRICES, PUBLIC, 12.0),
    **{f"kline_{interval}": (f"candle{bar}", BUSINESS, CANDLE_S) for interval, bar in BARS.items()},
}
KINDS: tuple[MarketKind, ...] = tuple(_KINDS)
FIRST_S = 10.0  # but for trades and liquidations a subscription begins with how things stand (7)
EVENTS = frozenset({"trade", "liquidation"})
TRADED_S = 10.0  # trades come at once (4.3), and a ticker whose last price moves says that there are any
_PRODUCTS = (
    (re.compile(r".+-SWAP"), "SWAP"),
    (re.compile(r".+-[0-9]{6}-[0-9.]+-[CP]"), "OPTION"),
    (re.compile(r".+-[0-9]{6}"), "FUTURES"),
)


def product_of(symbol: str) -> str:
    """instType by the form of an instId; a plain pair is SPOT (its orders may be MARGIN)."""
    return next((product for form, product in _PRODUCTS if form.fullmatch(symbol)), "SPOT")


def liquidated(symbol: str) -> str:
    """The instType under which the liquidations of an instrument come."""
    product = product_of(symbol)
    return "MARGIN" if product == "SPOT" else product


def topics(symbols: Sequence[str], kinds: Sequence[MarketKind]) -> list[Topic]:
    """One topic per symbol and kind, but one for all liquidations of a product: on two sockets each would come twice. Kinds that
    are not in KINDS are left out (the caller compares with `Market.kinds`)."""
    found: dict[str, Topic] = {}
    for symbol in symbols:
        for kind in kinds:
            if kind in _KINDS:
                channel, path, expect_s = _KINDS[kind]
                what = liquidated(symbol) if channel == LIQUIDATIONS else symbol
                first_s, traded_s = None if kind in EVENTS else FIRST_S, TRADED_S if kind == "trade" else None
                topic = Topic(f"{channel}:{what}", path, kind, what, expect_s, first_s=first_s, traded_s=traded_s)
                found.setdefault(topic.name, topic)
    return list(found.values())


def url(hosts: Hosts, path: str) -> str:
    """`path` is the whole one; a channel on the wrong one is refused with 60018."""
    return f"{hosts.ws}{path}"


def subscribe(topics: Sequence[Topic], request_id: int) -> bytes:
    """One request; acknowledged argument by argument, each with the id."""
    args: list[dict[str, str]] = []
    for topic in topics:
        channel, _, what = topic.name.partition(":")
        args.append({"channel": channel, "instType" if channel == LIQUIDATIONS else "instId": what})
        if channel == MARK_PRICES and product_of(what) == "SWAP":
            args.append({"channel": FUNDING, "instId": what})
    return msgspec.json.encode({"id": str(request_id), "op": "subscribe", "args": args})


def topic_of(event: MarketRecord) -> str:
    """Name of the topic that `event` proves alive."""
    symbol = event.symbol
    if isinstance(event, Depth):
        return f"books:{symbol}"
    if isinstance(event, Trade):
        return f"trades:{symbol}"
    if isinstance(event, Ticker):
        return f"bbo-tbt:{symbol}" if event.last is None else f"tickers:{symbol}"
    if isinstance(event, Kline):
        return f"candle{BARS[event.interval]}:{symbol}"
    if isinstance(event, MarkPrice):
        return (
            f"{MARK_PRICES}:{symbol}" if event.mark is not None else ""
        )  # a funding rate proves nothing of mark prices
    assert isinstance(event, Liquidation)
    return f"{LIQUIDATIONS}:{liquidated(symbol)}"


def snapshot(symbol: str) -> HttpCall:
    """The order book, in the stream's own sequence (4.4): for a book that broke, or whose first frame is no snapshot."""
    return HttpCall("GET", "/api/v5/market/books", (("instId", symbol), ("sz", "400")), weight=IN_TWO_SECONDS // 40)
