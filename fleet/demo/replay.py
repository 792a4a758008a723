"""What a recorded capture holds: symbols, kinds of streams, frames of each. In: capture files; out: settings and counts.

Format: one frame a line, gzip; `URL <-> time` opens a connection, `time: {…}` is what it received (captures' README).
Only Binance combined streams are understood here.
"""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from fleet.core.errors import FleetError
from fleet.core.names import TOPIC_OF_TYPE

VENUE = "binance_usdm"
KINDS = {
    "aggTrade": "trade",
    "depth": "depth",
    "bookTicker": "book_ticker",
    "ticker": "ticker",
    "forceOrder": "liquidation",
    "markPrice": "mark_price",
}


def streams(captures: Sequence[str]) -> Iterator[str]:
    """Name of the stream of every received frame."""
    for capture in captures:
        if capture.endswith((".http", ".http.gz")):
            continue
        opener = gzip.open if capture.endswith(".gz") else open
        with opener(Path(capture), "rt", encoding="utf-8") as lines:
            for line in lines:
                frame = re.match(r"[0-9.]+: (\{.*)", line)
                name = json.loads(frame[1]).get("stream") if frame else None
                if name:
                    yield str(name)


def kind_of(stream: str) -> str | None:
    """`sushiusdt@depth@100ms` → `depth`, `…@kline_1m` → `kline_1m`."""
    what = stream.split("@")[1]
    return what if what.startswith("kline_") else KINDS.get(what)


def capture_settings(captures: Sequence[str]) -> dict[str, str]:
    """FLEET_MARKET_SYMBOLS and FLEET_MARKET_STREAMS that subscribe to what the captures hold. Raises FleetError for none."""
    names = Counter(streams(captures))
    symbols = dict.fromkeys(f"{VENUE}:{name.split('@')[0].upper()}" for name in names)
    kinds = dict.fromkeys(kind for name in names if (kind := kind_of(name)))
    if not symbols or not kinds:
        raise FleetError("the captures hold no Binance combined stream")
    return {"FLEET_MARKET_SYMBOLS": ",".join(symbols), "FLEET_MARKET_STREAMS": ",".join(kinds)}


def capture_rows(captures: Sequence[str]) -> dict[str, int]:
    """Frames per Kafka topic."""
    rows: Counter[str] = Counter()
    for name in streams(captures):
        kind = kind_of(name)
        if kind:
            event = "kline" if kind.startswith("kline_") else "ticker" if kind == "book_ticker" else kind
            rows[TOPIC_OF_TYPE[event]] += 1
    return dict(rows)
