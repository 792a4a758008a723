"""Changes that come before the whole message of their symbol are passed over."""

from __future__ import annotations

import msgspec

from fleet.core.events import MarkPrice
from workers.market_merge import Merged


def mark(mark: str | None, index: str | None) -> MarkPrice:
    return MarkPrice(
        id="m", exchange="bybit", market="linear", symbol="BTCUSDT", ts_event=1, ts_recv=1, mark=mark, index=index,
        funding_rate=None, next_funding=None,
    )  # fmt: skip


def test_a_change_before_the_whole_message_is_not_told_as_one() -> None:
    merged = Merged()
    assert merged.whole(mark("10", None)) is None
    whole = mark("11", "12")
    assert merged.whole(whole) == whole
    assert merged.whole(mark("13", None)) == msgspec.structs.replace(whole, mark="13")
