"""Names of public streams. In: a stream name; out: what it carries, on which path it lives and how often it ticks
(sheet 1.1, 3.0), or None.

None means: acknowledged like any other and silent for ever, as the real server does.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from simulator.candles import INTERVALS

_SYMBOL = r"(?P<symbol>[^@!]+)"
_FORMS = (
    (re.compile(_SYMBOL + r"@aggTrade"), "agg_trade", "/market", 0),
    (re.compile(_SYMBOL + r"@kline_(?P<arg>\w+)"), "kline", "/market", 250),
    (re.compile(_SYMBOL + r"_perpetual@continuousKline_(?P<arg>\w+)"), "continuous_kline", "/market", 250),
    (re.compile(_SYMBOL + r"@markPrice(?P<arg>@1s)?"), "mark_price", "/market", 3000),
    (re.compile(_SYMBOL + r"@ticker"), "ticker", "/market", 2000),
    (re.compile(_SYMBOL + r"@miniTicker"), "mini_ticker", "/market", 2000),
    (re.compile(_SYMBOL + r"@forceOrder"), "liquidation", "/market", 0),
    (re.compile(_SYMBOL + r"@trade"), "trade", "/public", 0),  # undocumented; clients find it on /public
    (re.compile(_SYMBOL + r"@bookTicker"), "book_ticker", "/public", 0),
    (re.compile(_SYMBOL + r"@depth(?P<levels>5|10|20)(?P<arg>@100ms|@500ms)?"), "partial_depth", "/public", 250),
    (re.compile(_SYMBOL + r"@depth(?P<arg>@100ms|@500ms)?"), "depth", "/public", 250),
    (re.compile(r"!markPrice@arr(?P<arg>@1s)?"), "mark_prices", "/market", 3000),
    (re.compile(r"!ticker@arr"), "tickers", "/market", 1000),
    (re.compile(r"!miniTicker@arr"), "mini_tickers", "/market", 1000),
    (re.compile(r"!forceOrder@arr"), "liquidations", "/market", 0),
    (re.compile(r"!bookTicker"), "book_tickers", "/public", 5000),
)
_SPEEDS = {"@1s": 1000, "@100ms": 100, "@500ms": 500}


@dataclass(frozen=True)
class StreamName:
    """One valid stream. `period_ms` 0 = pushed when something happens."""

    name: str
    kind: str
    path: str
    symbol: str  # upper case, "" for all-market streams
    period_ms: int
    interval: str = ""
    levels: int = 0


def understand(name: str, symbols: dict[str, object]) -> StreamName | None:
    """What `name` means, None when no such stream exists (bad symbol, upper case, made-up suffix)."""
    for pattern, kind, path, period_ms in _FORMS:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        found = match.groupdict()
        symbol = (found.get("symbol") or "").upper()
        if symbol and (symbol not in symbols or found["symbol"] != symbol.lower()):
            return None
        arg = found.get("arg") or ""
        if "kline" in kind and arg not in INTERVALS:
            return None
        return StreamName(
            name,
            kind,
            path,
            symbol,
            _SPEEDS.get(arg, period_ms),
            arg if "kline" in kind else "",
            int(found.get("levels") or 0),
        )
    return None
