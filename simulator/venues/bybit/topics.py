"""Names of Bybit topics. In: a topic and its socket's category; out: what it carries, or None where the real server says
"handler not found" (sheet 1.4, 4, 5).
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

INTERVALS = {  # the venue's -> the market's
    "1": "1m", "3": "3m", "5": "5m", "15": "15m", "30": "30m", "60": "1h", "120": "2h", "240": "4h", "360": "6h", "720": "12h",
    "D": "1d", "W": "1w", "M": "1M",
}  # fmt: skip
DEPTHS = ("1", "50", "200", "1000")
PRIVATE = ("order", "execution", "position", "wallet", "greeks", "execution.fast")
CATEGORIES = ("linear", "spot", "inverse", "option")


@dataclass(frozen=True)
class Topic:
    """One valid topic; `arg` is the depth or the interval."""

    name: str
    kind: str  # kline | tickers | orderbook | publicTrade | allLiquidation
    symbol: str
    arg: str = ""


def understand(name: str, category: str, symbols: Container[str]) -> Topic | None:
    """What a public topic means, None for an unknown symbol, depth, interval or kind."""
    kind, *rest = name.split(".")
    symbol = rest[-1] if rest else ""
    arg = ".".join(rest[:-1])
    valid = {
        "kline": arg in INTERVALS, "tickers": arg == "", "orderbook": arg in DEPTHS, "publicTrade": arg == "",
        "allLiquidation": arg == "" and category != "spot",
    }  # fmt: skip
    if symbol not in symbols or not valid.get(kind, False):
        return None
    return Topic(name, kind, symbol, arg)


def is_private(name: str) -> bool:
    """All-in-one, or narrowed to a category."""
    stem, _, last = name.rpartition(".")
    return name in PRIVATE or (stem in PRIVATE and stem != "wallet" and last in CATEGORIES)


def clash(names: list[str]) -> bool:
    """All-in-one and narrowed names must not stand in one request."""
    return any(name.rpartition(".")[0] in names and name.rpartition(".")[2] in CATEGORIES for name in names)
