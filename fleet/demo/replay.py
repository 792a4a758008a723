"""What a recorded capture holds: symbols, kinds of streams, frames of each. In: capture files; out: settings and counts.

Format: one frame a line, gzip; `URL <-> time` opens a connection, `time: {…}` is what it received (captures' README).
Understood are Binance combined streams (`stream`) and OKX pushes (`arg` and `data`).
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fleet.core.errors import FleetError
from fleet.core.names import TOPIC_OF_TYPE

VENUE = "binance_usdm"
OKX = "okx"
KINDS = {
    "aggTrade": "trade",
    "depth": "depth",
    "bookTicker": "book_ticker",
    "ticker": "ticker",
    "forceOrder": "liquidation",
    "markPrice": "mark_price",
}
OKX_KINDS = {
    "trades": "trade",
    "books": "depth",
    "bbo-tbt": "book_ticker",
    "tickers": "ticker",
    "mark-price": "mark_price",
}
Stream = tuple[str, str, str | None]  # venue, symbol, kind (None: not one of ours)


def streams(captures: Sequence[str]) -> Iterator[Stream]:
    """The stream of every received frame."""
    for capture in captures:
        if capture.endswith((".http", ".http.gz")):
            continue
        opener = gzip.open if capture.endswith(".gz") else open
        with opener(Path(capture), "rt", encoding="utf-8") as lines:
            for line in lines:
                frame = re.match(r"[0-9.]+: (\{.*)", line)
                stream = stream_of(json.loads(frame[1])) if frame else None
                if stream is not None:
                    yield stream


def stream_of(frame: dict[str, Any]) -> Stream | None:
    """None for a frame that carries no data."""
    name, arg = frame.get("stream"), frame.get("arg")
    if name:
        return VENUE, str(name).split("@")[0].upper(), kind_of(str(name))
    if arg and "data" in frame:
        return OKX, str(arg.get("instId", "")), OKX_KINDS.get(str(arg.get("channel")))
    return None


def kind_of(stream: str) -> str | None:
    """`sushiusdt@depth@100ms` → `depth`, `…@kline_1m` → `kline_1m`."""
    what = stream.split("@")[1]
    return what if what.startswith("kline_") else KINDS.get(what)


def capture_settings(captures: Sequence[str]) -> dict[str, str]:
    """FLEET_MARKET_SYMBOLS and FLEET_MARKET_STREAMS that subscribe to what the captures hold. Raises FleetError for none."""
    found = Counter(streams(captures))
    symbols = dict.fromkeys(f"{venue}:{symbol}" for venue, symbol, _ in found)
    kinds = dict.fromkeys(kind for _, _, kind in found if kind)
    if not symbols or not kinds:
        raise FleetError("the captures hold no Binance combined stream and no OKX push")
    return {"FLEET_MARKET_SYMBOLS": ",".join(symbols), "FLEET_MARKET_STREAMS": ",".join(kinds)}


def capture_rows(captures: Sequence[str]) -> dict[str, int]:
    """Frames per Kafka topic."""
    rows: Counter[str] = Counter()
    for _, _, kind in streams(captures):
        if kind:
            event = "kline" if kind.startswith("kline_") else "ticker" if kind == "book_ticker" else kind
            rows[TOPIC_OF_TYPE[event]] += 1
    return dict(rows)
