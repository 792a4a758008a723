"""Frames as Binance's combined streams send them: what the benchmarks feed to both sides. Deterministic."""

from __future__ import annotations

import json
import random
from typing import Any

SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "BNBUSDT", "XRPUSDT", "DOGEUSDT")
MIX = ("aggTrade",) * 10 + ("bookTicker",) * 10 + ("depth",) * 4 + ("markPrice",) * 2 + ("kline",) * 3 + ("ticker",)
START_MS = 1_790_000_000_000


def frames(count: int, seed: int = 1) -> list[bytes]:
    """`count` messages of the mix above, each with its own ids."""
    chance = random.Random(seed)  # noqa: S311 - test traffic
    return [_frame(n, MIX[n % len(MIX)], chance) for n in range(count)]


def _frame(n: int, kind: str, chance: random.Random) -> bytes:
    symbol = SYMBOLS[chance.randrange(len(SYMBOLS))]
    ms = START_MS + n
    price = f"{chance.uniform(100, 90000):.2f}"
    qty = f"{chance.uniform(0.001, 9):.3f}"
    name, data = _PAYLOADS[kind](n, ms, symbol, price, qty)
    return json.dumps({"stream": f"{symbol.lower()}@{name}", "data": data}, separators=(",", ":")).encode()


Payload = tuple[str, dict[str, Any]]


def _agg_trade(n: int, ms: int, symbol: str, price: str, qty: str) -> Payload:
    ids = {"a": 3_000_000_000 + n, "p": price, "q": qty, "f": 6_000_000_000 + n, "l": 6_000_000_000 + n}
    return "aggTrade", {"e": "aggTrade", "E": ms, "s": symbol, **ids, "T": ms - 2, "m": n % 2 == 0, "nq": qty, "st": 1}


def _book_ticker(n: int, ms: int, symbol: str, price: str, qty: str) -> Payload:
    best = {"s": symbol, "b": price, "B": qty, "a": price, "A": qty}
    return "bookTicker", {
        "e": "bookTicker",
        "u": 9_000_000_000_000 + n,
        **best,
        "T": ms - 1,
        "E": ms,
        "ps": symbol,
        "st": 1,
    }


def _depth(n: int, ms: int, symbol: str, price: str, qty: str) -> Payload:
    ids = {"U": 9_000_000_000_000 + n * 10, "u": 9_000_000_000_009 + n * 10, "pu": 8_999_999_999_999 + n * 10}
    levels = [[price, qty], [qty, "0"], [price, "1.5"], [qty, price]]
    return "depth@100ms", {
        "e": "depthUpdate",
        "E": ms,
        "T": ms - 1,
        "s": symbol,
        **ids,
        "b": levels,
        "a": levels,
        "st": 1,
    }


def _mark_price(n: int, ms: int, symbol: str, price: str, qty: str) -> Payload:
    prices = {"p": price, "ap": price, "P": price, "i": price, "r": "0.00010000"}
    return "markPrice@1s", {"e": "markPriceUpdate", "E": ms, "s": symbol, **prices, "T": ms + 3600000, "st": 1}


def _kline(n: int, ms: int, symbol: str, price: str, qty: str) -> Payload:
    candle = {
        "t": ms // 60000 * 60000,
        "T": ms // 60000 * 60000 + 59999,
        "s": symbol,
        "i": "1m",
        "f": 8153633367,
        "L": 8153634395,
    }
    prices = {"o": price, "c": price, "h": price, "l": price, "v": qty, "n": 1027, "x": False, "q": "1125714.73960"}
    return "kline_1m", {"e": "kline", "E": ms, "s": symbol, "k": {**candle, **prices, "V": qty, "Q": price, "B": "0"}}


def _ticker(n: int, ms: int, symbol: str, price: str, qty: str) -> Payload:
    change = {"p": "-94.99", "P": "-0.114", "w": price, "c": price, "Q": qty, "o": price, "h": price, "l": price}
    span = {"v": "173208.318", "q": "14341094163.63", "O": ms - 86400000, "C": ms, "F": 1, "L": 18150, "n": 18151}
    return "ticker", {"e": "24hrTicker", "E": ms, "s": symbol, **change, **span, "st": 1, "ps": symbol}


_PAYLOADS = {
    "aggTrade": _agg_trade,
    "bookTicker": _book_ticker,
    "depth": _depth,
    "markPrice": _mark_price,
    "kline": _kline,
    "ticker": _ticker,
}
