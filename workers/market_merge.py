"""Messages of changes made whole: a field that a venue did not repeat is the one it told before. Runs in the lane's thread.

In: tickers and mark prices of one socket, null where the message did not say. Out: the same, filled in. Belongs to one socket: on
a new one a whole message comes first, and what comes before it is passed over (bybit.md 4.2).
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from fleet.core.events import MarketRecord, MarkPrice, Ticker

E = TypeVar("E", Ticker, MarkPrice)


class Merged:
    """What one socket told of each symbol so far."""

    def __init__(self) -> None:
        self._tickers: dict[str, Ticker] = {}
        self._marks: dict[str, MarkPrice] = {}

    def whole(self, event: MarketRecord) -> MarketRecord | None:
        """`event` with what it did not repeat; None before the first whole message of its symbol."""
        if isinstance(event, Ticker):
            ticker = _filled(event, self._tickers.get(event.symbol))
            self._tickers[event.symbol] = ticker
            return ticker if ticker.last is not None else None
        if isinstance(event, MarkPrice):
            mark = _filled(event, self._marks.get(event.symbol))
            self._marks[event.symbol] = mark
            return mark if mark.mark is not None and mark.index is not None else None
        return event


def _filled(event: E, before: E | None) -> E:
    silent = [name for name in event.__struct_fields__ if getattr(event, name) is None]
    return msgspec.structs.replace(event, **{name: getattr(before, name) for name in silent}) if before else event
