"""Bybit public streams: topics, sockets per category, subscribe frames.

In: symbols and kinds of the settings. Out: data for workers/market_stream.py. Sources: exchanges/bybit.md 1.1, 1.2, 4.
A symbol is `BTCUSDT` (linear) or has its category in front: `spot/BTCUSDT`, `inverse/BTCUSD`, `linear/BTCPERP`; so
FLEET_MARKET_SYMBOLS="bybit:BTCUSDT,bybit:spot/BTCUSDT". An event's `market` is the category, its `symbol` the exchange's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fleet.core.errors import SettingsError
from fleet.core.events import Depth, Kline, Liquidation, MarketRecord, MarkPrice, Ticker, Trade
from fleet.core.exchange import Hosts, MarketKind, Topic

CATEGORIES = ("linear", "spot", "inverse")
DEFAULT_CATEGORY = "linear"
DERIVATIVES = ("linear", "inverse")
INTERVALS = {  # ours -> the venue's
    "1m": "1", "3m": "3", "5m": "5", "15m": "15", "30m": "30", "1h": "60", "2h": "120", "4h": "240", "6h": "360", "12h": "720",
    "1d": "D", "1w": "W", "1M": "M",
}  # fmt: skip
INTERVALS_BACK = {theirs: ours for ours, theirs in INTERVALS.items()}
BOOK_LEVELS = 50  # 20 ms; 200 and 1000 come slower and change more

FIRST_S = 10.0  # tickers and books begin with a snapshot (4.2, 4.3)
BEGINS = frozenset({"ticker", "mark_price", "book_ticker", "depth"})
TRADED_S = 10.0  # trades come at once (4.4), and a candle whose volume grows says that there are any

# kind -> topic without the symbol, longest believable silence in s on derivatives and on spot.
# orderbook.1 is sent again every 3 s even when nothing changes (4.3): the canary. A derivative's ticker moves with its mark
# price; spot tickers, books and candles move with their market; trades and liquidations may rightly be silent for hours.
_KINDS: dict[MarketKind, tuple[str, float | None, float | None]] = {
    "ticker": ("tickers", 12.0, 60.0),
    "mark_price": ("tickers", 12.0, None),
    "book_ticker": ("orderbook.1", 12.0, 12.0),
    "depth": (f"orderbook.{BOOK_LEVELS}", 30.0, 60.0),
    "trade": ("publicTrade", None, None),
    "liquidation": ("allLiquidation", None, None),
    **{f"kline_{ours}": (f"kline.{theirs}", 90.0, 90.0) for ours, theirs in INTERVALS.items()},
}
KINDS: tuple[MarketKind, ...] = tuple(_KINDS)
EXAMPLES = ("BTCUSDT", "ETHUSDT", "spot/BTCUSDT", "spot/ETHUSDT")
COMES_WITH: dict[MarketKind, MarketKind] = {"mark_price": "ticker"}  # one topic carries both (4.2)
NOT_SPOT = frozenset({"mark_price", "liquidation"})


def topics(symbols: Sequence[str], kinds: Sequence[MarketKind]) -> list[Topic]:
    """One topic per symbol and kind, but one for ticker and mark price together. Kinds that a category does not have, and
    those not in KINDS, are left out. Raises SettingsError for a category that is not streamed."""
    found: dict[tuple[str, str], Topic] = {}
    for given in symbols:
        category, _, symbol = given.rpartition("/")
        category = category.lower() or DEFAULT_CATEGORY
        if category not in CATEGORIES or not symbol:
            raise SettingsError(
                f"FLEET_MARKET_SYMBOLS: bybit:{given} is not SYMBOL or category/SYMBOL; categories: {', '.join(CATEGORIES)}"
            )
        for kind in kinds:
            if kind not in _KINDS or (category == "spot" and kind in NOT_SPOT):
                continue
            stem, derivative_s, spot_s = _KINDS[kind]
            path, name = f"/v5/public/{category}", f"{stem}.{symbol.upper()}"
            expect_s = spot_s if category == "spot" else derivative_s
            first_s = FIRST_S if kind in BEGINS else None
            traded_s = TRADED_S if kind == "trade" else None  # a candle may be pushed each minute only (4.1)
            topic = Topic(name, path, kind, symbol.upper(), expect_s, category, first_s, traded_s)
            found.setdefault((path, name), topic)
    return list(found.values())


def url(hosts: Hosts, path: str) -> str:
    return f"{hosts.ws}{path}"


def subscribe(topics: Sequence[Topic], request_id: int) -> bytes:
    """Subscribe frame; its Reply's key is str(request_id)."""
    return _request("subscribe", topics, str(request_id))


def again(topics: Sequence[Topic], request_id: int) -> list[bytes]:
    """Frames after which the venue sends these topics anew, snapshots first (4.3, gap rule). The first one's Reply has the
    key "", which nobody waits for, the second's str(request_id)."""
    return [_request("unsubscribe", topics, "again"), _request("subscribe", topics, str(request_id))]


def _request(op: str, topics: Sequence[Topic], key: str) -> bytes:
    return msgspec.json.encode({"req_id": key, "op": op, "args": [topic.name for topic in topics]})


def changes(event: MarketRecord) -> bool:
    """A derivative's ticker comes whole once, then only what changed (4.2); best quotes come whole each time (4.3)."""
    return isinstance(event, MarkPrice) or (isinstance(event, Ticker) and ":book_ticker:" not in event.id)


def topic_of(event: MarketRecord) -> str:
    """Name of the topic that `event` proves alive."""
    symbol = event.symbol
    if isinstance(event, Depth):
        return f"orderbook.{BOOK_LEVELS}.{symbol}"
    if isinstance(event, Trade):
        return f"publicTrade.{symbol}"
    if isinstance(event, Ticker):
        return f"orderbook.1.{symbol}" if ":book_ticker:" in event.id else f"tickers.{symbol}"
    if isinstance(event, Kline):
        return f"kline.{INTERVALS.get(event.interval, event.interval)}.{symbol}"
    if isinstance(event, MarkPrice):
        return f"tickers.{symbol}"
    assert isinstance(event, Liquidation)
    return f"allLiquidation.{symbol}"
