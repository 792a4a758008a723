"""What the market campaign knows of each venue by itself, not from the fleet's adapters: symbols, where to cut, what to drop, what
a witness subscribes, and how the exchange's own book and candles are asked for. In: names. Out: data and pure readers.

A cut names a stream that only the fleet's lane holds (a ticker, a five-minute candle), so that the witness stays on: the simulated
exchange pushes, and so records, only what somebody is subscribed to.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Side = list[tuple[str, str]]
BookRead = tuple[int, Side, Side]  # the number it stands at, bids and asks
Candle = tuple[int, tuple[Decimal, ...]]  # opening time; open, high, low, close, volume
Frames = list[tuple[str, list[dict[str, Any]]]]  # path of a socket, and what to send on it
KINDS = "kline_1m,kline_5m,ticker,depth,trade,mark_price"


@dataclass(frozen=True)
class Lane:
    """One socket of the fleet: its path, and a stream that nobody else has there."""

    path: str
    only: str


@dataclass(frozen=True)
class Campaigner:
    """One venue. `symbols` as FLEET_MARKET_SYMBOLS has them."""

    name: str
    ws_setting: str
    rest_setting: str
    symbols: tuple[str, ...]
    lanes: tuple[Lane, ...]
    candle_lane: Lane
    drops: tuple[tuple[str, int], ...]  # stream of a symbol, at most so many frames
    witness: Callable[[Sequence[str]], Frames]
    book_of: Callable[[str], str]  # symbol → target of a REST call, "" = the witness' own book is compared
    book: Callable[[Any], BookRead]
    candles_of: Callable[[str], str]  # symbol → target
    candles: Callable[[Any], list[Candle]]  # closed ones

    def bare(self, symbol: str) -> tuple[str, str]:
        """(market, symbol) as events name them."""
        category, _, name = symbol.rpartition("/")
        market = {"binance_usdm": "usdm", "binance_spot": "spot", "okx": "unified"}.get(self.name, category or "linear")
        return market, name


def _numbers(row: Sequence[Any]) -> tuple[Decimal, ...]:
    return tuple(Decimal(str(value)) for value in row)


# ── Binance ──────────────────────────────────────────────────────────────────────────────────────────────────────
def _binance(path: str, trade: str) -> Callable[[Sequence[str]], Frames]:
    def frames(symbols: Sequence[str]) -> Frames:
        wanted = [f"{symbol.lower()}@{what}" for symbol in symbols for what in (trade, "kline_1m")]
        return [(path, [{"method": "SUBSCRIBE", "params": wanted, "id": 1}])]

    return frames


def _binance_book(body: Any) -> BookRead:
    return body["lastUpdateId"], body["bids"], body["asks"]


def _binance_candles(body: Any) -> list[Candle]:
    return [(row[0], _numbers(row[1:6])) for row in body[:-1]]


USDM = Campaigner(
    "binance_usdm", "FLEET_BINANCE_USDM_WS_URL", "FLEET_BINANCE_USDM_REST_URL",
    ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"),
    (Lane("/market/stream", "*@ticker"), Lane("/public/stream", "*@depth@100ms")), Lane("/market/stream", "*@ticker"),
    (("{lower}@aggTrade", 50), ("{lower}@depth@100ms", 1), ("{lower}@kline_1m", 30)),
    _binance("/market/ws", "aggTrade"), "/fapi/v1/depth?symbol={}&limit=20".format, _binance_book,
    "/fapi/v1/klines?symbol={}&interval=1m&limit=4".format, _binance_candles,
)  # fmt: skip
SPOT = Campaigner(
    "binance_spot", "FLEET_BINANCE_SPOT_WS_URL", "FLEET_BINANCE_SPOT_REST_URL",
    ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT"), (Lane("/stream", "*@ticker"),), Lane("/stream", "*@ticker"),
    (("{lower}@trade", 50), ("{lower}@depth@100ms", 1), ("{lower}@kline_1m", 30)),
    _binance("/ws", "trade"), "/api/v3/depth?symbol={}&limit=20".format, _binance_book,
    "/api/v3/klines?symbol={}&interval=1m&limit=4".format, _binance_candles,
)  # fmt: skip


# ── Bybit ────────────────────────────────────────────────────────────────────────────────────────────────────────
def _bybit(symbols: Sequence[str]) -> Frames:
    found: dict[str, list[str]] = {}
    for given in symbols:
        category, _, symbol = given.rpartition("/")
        names = [f"{stem}.{symbol}" for stem in ("publicTrade", "kline.1", "orderbook.50")]
        found.setdefault(f"/v5/public/{category or 'linear'}", []).extend(names)
    return [(path, [{"op": "subscribe", "args": [name]} for name in names]) for path, names in found.items()]


def _category(symbol: str) -> str:
    category, _, name = symbol.rpartition("/")
    return f"category={category or 'linear'}&symbol={name}"


def _bybit_candles(body: Any) -> list[Candle]:
    return [(int(row[0]), _numbers(row[1:6])) for row in body["result"]["list"][1:]]


# Trade ids do not count, so a trade that a living socket loses cannot be seen there: none is dropped.
BYBIT = Campaigner(
    "bybit", "FLEET_BYBIT_WS_URL", "FLEET_BYBIT_REST_URL",
    ("BTCUSDT", "ETHUSDT", "SOLUSDT", "spot/BTCUSDT", "spot/ETHUSDT"),
    (Lane("/v5/public/linear", "tickers.*"), Lane("/v5/public/spot", "tickers.*")), Lane("/v5/public/linear", "tickers.*"),
    (("orderbook.50.{symbol}", 1), ("kline.1.{symbol}", 30)), _bybit, lambda symbol: "", lambda body: (0, [], []),
    lambda symbol: f"/v5/market/kline?{_category(symbol)}&interval=1&limit=4", _bybit_candles,
)  # fmt: skip


# ── OKX ──────────────────────────────────────────────────────────────────────────────────────────────────────────
def _okx(symbols: Sequence[str]) -> Frames:
    return [
        (path, [{"op": "subscribe", "args": [{"channel": channel, "instId": symbol} for symbol in symbols]}])
        for path, channel in (("/ws/v5/public", "trades"), ("/ws/v5/business", "candle1m"))
    ]


def _okx_book(body: Any) -> BookRead:
    row = body["data"][0]
    return row["seqId"], [(p, q) for p, q, *_ in row["bids"]], [(p, q) for p, q, *_ in row["asks"]]


def _okx_candles(body: Any) -> list[Candle]:
    return [(int(row[0]), _numbers(row[1:6])) for row in body["data"] if row[8] == "1"]


OKX = Campaigner(
    "okx", "FLEET_OKX_WS_URL", "FLEET_OKX_REST_URL", ("BTC-USDT-SWAP", "ETH-USDT-SWAP", "BTC-USDT", "ETH-USDT"),
    (Lane("/ws/v5/public", "tickers:*"), Lane("/ws/v5/business", "candle5m:*")), Lane("/ws/v5/business", "candle5m:*"),
    (("trades:{symbol}", 50), ("books:{symbol}", 1), ("candle1m:{symbol}", 30)),
    _okx, "/api/v5/market/books?instId={}&sz=20".format, _okx_book,
    "/api/v5/market/candles?instId={}&bar=1m&limit=4".format, _okx_candles,
)  # fmt: skip

VENUES = {venue.name: venue for venue in (USDM, SPOT, BYBIT, OKX)}


def witnessed_book(frame: bytes | str) -> dict[str, Any] | None:
    """A Bybit book frame as the judge's books take it, None for anything else."""
    told = json.loads(frame)
    if not str(told.get("topic", "")).startswith("orderbook.50."):
        return None
    data = told["data"]
    whole = told["type"] == "snapshot" or data["u"] == 1
    return {
        "symbol": data["s"], "kind": "snapshot" if whole else "update", "bids": data["b"], "asks": data["a"],
        "first_seq": data["u"], "last_seq": data["u"], "prev_seq": None,
    }  # fmt: skip
