"""Recorded traffic of real exchanges goes through the adapters: everything parsed, nothing unknown."""

from __future__ import annotations

from collections import Counter

import msgspec

from fleet.core.events import Event
from fleet.exchanges import exchanges
from tests.support.captures import answers, received


def test_binance_capture_is_understood_completely() -> None:
    market = exchanges()["binance_usdm"].market_data
    frames = received("binance_usdm.ws.gz")
    items = [item for at_s, frame in frames for item in market.parse(frame, "/public", round(at_s * 1000))]
    assert len(frames) == len(items) == 1535
    assert Counter(type(item).__name__ for item in items) == {"Depth": 764, "Ticker": 613, "Trade": 91, "Kline": 67}
    ids = {item.id for item in items if isinstance(item, Event)}
    assert len(ids) == 1535  # no two frames share an id: rows are counted by it
    for (_, frame), item in zip(frames, items, strict=True):
        assert market.topic_of(item) == msgspec.json.decode(frame)["stream"]  # type: ignore[arg-type]
    assert len(answers("binance_usdm.http.gz")) == 4
