"""Names of public streams. In: a stream name; out: what it carries and how often it ticks (sheet 3.0), or None.

None means: acknowledged like any other and silent for ever, as the real server does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from simulator.market import INTERVALS

_SYMBOL = r"(?P<symbol>[^@!]+)"
_FORMS = (
    (re.compile(_SYMBOL + r"@trade"), "trade", 0),
    (re.compile(_SYMBOL + r"@aggTrade"), "agg_trade", 0),
    (re.compile(_SYMBOL + r"@kline_(?P<arg>\w+)"), "kline", 2000),
    (re.compile(_SYMBOL + r"@ticker"), "ticker", 1000),
    (re.compile(_SYMBOL + r"@miniTicker"), "mini_ticker", 1000),
    (re.compile(r"!miniTicker@arr"), "mini_tickers", 1000),
    (re.compile(_SYMBOL + r"@avgPrice"), "average_price", 1000),
    (re.compile(_SYMBOL + r"@bookTicker"), "book_ticker", 0),
    (re.compile(_SYMBOL + r"@depth(?P<levels>5|10|20)(?P<arg>@100ms)?"), "partial_depth", 1000),
    (re.compile(_SYMBOL + r"@depth(?P<arg>@100ms)?"), "depth", 1000),
)


@dataclass(frozen=True)
class StreamName:
    """One valid stream. `period_ms` 0 = pushed when something happens."""

    name: str
    kind: str
    symbol: str  # upper case, "" for all-market streams
    period_ms: int
    interval: str = ""
    levels: int = 0


def understand(name: str, symbols: dict[str, object]) -> StreamName | None:
    """What `name` means, None when no such stream exists (bad symbol, upper case, made-up suffix)."""
    for pattern, kind, period_ms in _FORMS:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        found = match.groupdict()
        symbol, arg = (found.get("symbol") or "").upper(), found.get("arg") or ""
        if symbol and (symbol not in symbols or found["symbol"] != symbol.lower()):
            return None
        interval = arg if kind == "kline" else ""
        if kind == "kline" and arg != "1s" and arg not in INTERVALS:
            return None
        period_ms = 100 if arg == "@100ms" else 1000 if interval == "1s" else period_ms
        return StreamName(name, kind, symbol, period_ms, interval, int(found.get("levels") or 0))
    return None
