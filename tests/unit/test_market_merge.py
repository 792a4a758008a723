"""Tickers that tell only what changed, made whole per socket."""

from __future__ import annotations

import msgspec

from fleet.core.events import MarkPrice, Ticker
from fleet.exchanges.bybit import EXCHANGE
from workers.market_merge import Merged

MARKET = EXCHANGE.market_data
PATH = "/v5/public/linear"


def told(kind: str, cs: int, **data: str) -> bytes:
    envelope = {"topic": "tickers.BTCUSDT", "type": kind, "cs": cs, "ts": 1_700_000_000_000 + cs}
    return msgspec.json.encode({**envelope, "data": {"symbol": "BTCUSDT", **data}})


def test_a_delta_is_filled_in_from_the_snapshot_of_its_socket() -> None:
    merged = Merged()

    def take(frame: bytes) -> list[Ticker | MarkPrice]:
        events = [e for e in MARKET.parse(frame, PATH, 1) if isinstance(e, (Ticker, MarkPrice))]
        assert MARKET.changes is not None and all(MARKET.changes(e) for e in events)
        return [whole for e in events if isinstance(whole := merged.whole(e), (Ticker, MarkPrice))]

    assert take(told("delta", 1, fundingRate="0.5", bid1Price="1")) == [], "before the snapshot nothing is whole"
    ticker, mark = take(
        told("snapshot", 2, lastPrice="10", bid1Price="9", ask1Price="11", markPrice="10.10", indexPrice="10.2")
    )
    assert isinstance(ticker, Ticker) and (ticker.last, ticker.bid, ticker.ask) == ("10", "9", "11")
    assert isinstance(mark, MarkPrice) and (mark.mark, mark.index, mark.funding_rate) == ("10.10", "10.2", "0.5")
    (ticker,) = take(told("delta", 3, ask1Price="12"))
    assert isinstance(ticker, Ticker) and (ticker.last, ticker.bid, ticker.ask) == ("10", "9", "12")
    assert ticker.ts_event == 1_700_000_000_003 and ":3:" in ticker.id
    (mark,) = take(told("delta", 4, fundingRate="0.6"))
    assert isinstance(mark, MarkPrice) and (mark.mark, mark.index, mark.funding_rate) == ("10.10", "10.2", "0.6")


def test_best_quotes_come_whole_and_an_empty_side_stays_empty() -> None:
    book = {"s": "BTCUSDT", "b": [], "a": [], "u": 1, "seq": 2}
    frame = msgspec.json.encode({"topic": "orderbook.1.BTCUSDT", "type": "snapshot", "ts": 1, "data": book})
    (quote,) = MARKET.parse(frame, PATH, 1)
    assert isinstance(quote, Ticker) and MARKET.changes is not None and not MARKET.changes(quote)
