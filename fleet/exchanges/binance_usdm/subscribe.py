"""Binance USDⓈ-M public streams: topics, routed URLs, SUBSCRIBE frames, the order-book snapshot call.

In: symbols and kinds of the settings. Out: data for workers/market_stream.py. Sources: exchanges/binance.md 1.1, 1.4, 3.0.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fleet.core.events import Depth, Kline, Liquidation, MarketRecord, MarkPrice, Ticker, Trade
from fleet.core.exchange import Hosts, HttpCall, MarketKind, Topic

INTERVALS = ("1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")

CANDLE_S = 75.0  # one that only moves when it closes does so each minute, not to the millisecond
# kind -> stream suffix, path, longest believable silence in s.
# mark_price ticks each second on every symbol: the best canary. depth@100ms and ticker (2 s) tick on any symbol that is
# traded at all; klines and best quotes only change with trades; trades and liquidations may rightly be silent for hours.
_KINDS: dict[MarketKind, tuple[str, str, float | None]] = {
    "ticker": ("ticker", "/market", 10.0),
    "book_ticker": ("bookTicker", "/public", 30.0),
    "depth": ("depth@100ms", "/public", 10.0),
    "trade": ("aggTrade", "/market", None),
    "liquidation": ("forceOrder", "/market", None),
    "mark_price": ("markPrice@1s", "/market", 5.0),
    **{f"kline_{interval}": (f"kline_{interval}", "/market", CANDLE_S) for interval in INTERVALS},
}
KINDS: tuple[MarketKind, ...] = tuple(_KINDS)
TRADED_S = 10.0  # candles are pushed each 250 ms and trades each 100 ms while there are any (3.0)


def topics(symbols: Sequence[str], kinds: Sequence[MarketKind]) -> list[Topic]:
    """One topic per symbol and kind; kinds that are not in KINDS are left out (the caller compares with `Market.kinds`)."""
    found = []
    for symbol in symbols:
        for kind in kinds:
            if kind in _KINDS:
                suffix, path, expect_s = _KINDS[kind]
                traded_s = TRADED_S if kind == "trade" or kind.startswith("kline_") else None
                name = f"{symbol.lower()}@{suffix}"
                found.append(Topic(name, path, kind, symbol.upper(), expect_s, traded_s=traded_s))
    return found


def url(hosts: Hosts, path: str) -> str:
    """Combined mode, opened with nothing and then subscribed: a name on the wrong path would be acked and stay silent."""
    return f"{hosts.ws}{path}/stream"


def subscribe(topics: Sequence[Topic], request_id: int) -> bytes:
    """SUBSCRIBE frame; its Reply's key is str(request_id)."""
    return msgspec.json.encode({"method": "SUBSCRIBE", "params": [t.name for t in topics], "id": request_id})


def topic_of(event: MarketRecord) -> str:
    """Name of the topic that `event` proves alive."""
    symbol = event.symbol.lower()
    if isinstance(event, Depth):
        return f"{symbol}@depth@100ms"
    if isinstance(event, Trade):
        return f"{symbol}@aggTrade"
    if isinstance(event, Ticker):
        return f"{symbol}@ticker" if event.bid is None else f"{symbol}@bookTicker"
    if isinstance(event, Kline):
        return f"{symbol}@kline_{event.interval}"
    if isinstance(event, MarkPrice):
        return f"{symbol}@markPrice@1s"
    assert isinstance(event, Liquidation)
    return f"{symbol}@forceOrder"


def snapshot(symbol: str) -> HttpCall:
    """The order book to synchronise a diff stream with (3.5): 1000 levels, weight 20."""
    return HttpCall("GET", "/fapi/v1/depth", (("symbol", symbol), ("limit", "1000")), weight=20)
