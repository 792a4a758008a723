"""Binance Spot public streams: topics, URL, SUBSCRIBE frames, the order-book snapshot call.

In: symbols and kinds of the settings. Out: data for workers/market_stream.py. Spot has no liquidations and no mark price.
Sources: exchanges/binance.md 1.2, 1.4, 3.0, 3.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fleet.core.events import Depth, Kline, MarketRecord, Ticker, Trade
from fleet.core.exchange import Hosts, HttpCall, MarketKind, Topic

PATH = "/stream"
INTERVALS = ("1s", "1m", "3m", "5m", "15m", "30m", "1h", "2h", "4h", "6h", "8h", "12h", "1d", "3d", "1w", "1M")

CANDLE_S = 75.0  # one that only moves when it closes does so each minute, not to the millisecond
# kind -> stream suffix, longest believable silence in s: ticker ticks each second and depth each 100 ms on any symbol that is
# traded at all; klines and best quotes only change with trades and orders; trades may rightly be silent for hours.
_KINDS: dict[MarketKind, tuple[str, float | None]] = {
    "ticker": ("ticker", 10.0),
    "book_ticker": ("bookTicker", 30.0),
    "depth": ("depth@100ms", 10.0),
    "trade": ("trade", None),
    **{f"kline_{interval}": (f"kline_{interval}", CANDLE_S) for interval in INTERVALS},
}
KINDS: tuple[MarketKind, ...] = tuple(_KINDS)
TRADED_S = 10.0  # candles are pushed each 2 s and trades at once while there are any (3.0)


def topics(symbols: Sequence[str], kinds: Sequence[MarketKind]) -> list[Topic]:
    """One topic per symbol and kind; kinds that are not in KINDS are left out (the caller compares with `Market.kinds`)."""
    return [
        Topic(
            f"{symbol.lower()}@{_KINDS[kind][0]}",
            PATH,
            kind,
            symbol.upper(),
            _KINDS[kind][1],
            traded_s=TRADED_S if kind == "trade" or kind.startswith("kline_") else None,
        )  # fmt: skip
        for symbol in symbols
        for kind in kinds
        if kind in _KINDS
    ]


def url(hosts: Hosts, path: str) -> str:
    """Combined mode, opened with nothing and then subscribed."""
    return f"{hosts.ws}{path}"


def subscribe(topics: Sequence[Topic], request_id: int) -> bytes:
    """SUBSCRIBE frame; its Reply's key is str(request_id)."""
    return msgspec.json.encode({"method": "SUBSCRIBE", "params": [t.name for t in topics], "id": request_id})


def topic_of(event: MarketRecord) -> str:
    """Name of the topic that `event` proves alive. A day's ticker has quotes too: only it tells the last price."""
    symbol = event.symbol.lower()
    if isinstance(event, Depth):
        return f"{symbol}@depth@100ms"
    if isinstance(event, Trade):
        return f"{symbol}@trade"
    if isinstance(event, Ticker):
        return f"{symbol}@bookTicker" if event.last is None else f"{symbol}@ticker"
    assert isinstance(event, Kline)
    return f"{symbol}@kline_{event.interval}"


def snapshot(symbol: str) -> HttpCall:
    """The order book to synchronise a diff stream with (3.5): 1000 levels for weight 50 (5000 would cost 250)."""
    return HttpCall("GET", "/api/v3/depth", (("symbol", symbol), ("limit", "1000")), weight=50)
