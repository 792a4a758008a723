"""The thread that reads public REST: what it does first while weight is short."""

from __future__ import annotations

import queue
import threading
import time

from fleet.core.exchange import HttpReply, HttpRequest, Rate, TradeQuery
from fleet.exchanges import exchanges
from fleet.runtime.metrics import Metrics
from workers.market_reader import RESERVED_SHARE, Answer, MarketReader, Read
from workers.rest import VenueRest

VENUE = exchanges()["binance_usdm"]
BOOK = b'{"lastUpdateId":7,"E":1,"T":1,"bids":[],"asks":[]}'


class Server:
    root_url = "https://fapi.binance.com"

    def send(self, request: HttpRequest) -> HttpReply:
        return HttpReply(
            200, {}, BOOK if "/depth" in request.target else b"[]" if "Trades" in request.target else b"{}"
        )


class Short:
    """Weight is left for books, none for history until `plenty`."""

    plenty = False

    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        return 40.0 if reserve >= rate.burst * RESERVED_SHARE and not self.plenty else 0.0

    def block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        pass

    def observed(self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, sent_s: float) -> None:
        pass


def test_a_book_does_not_wait_for_history_that_waits_for_weight() -> None:
    stop, permits = threading.Event(), Short()
    reader = MarketReader(VENUE, VenueRest(VENUE, False, Server(), permits, "default", Metrics(), stop), stop)  # type: ignore[arg-type]
    answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    books: queue.SimpleQueue[tuple[str, object]] = queue.SimpleQueue()
    history = VENUE.market_data.trade_history
    assert history is not None
    query = TradeQuery("BTCUSDT", "usdm", "5")
    reader.start()
    try:
        reader.read(Read("t", history.call(query), lambda reply, now_ms: history.rows(reply, query, now_ms), answers))
        time.sleep(0.1)  # it is under way
        reader.ask("BTCUSDT", books)  # type: ignore[arg-type]
        symbol, book = books.get(timeout=3.0)
        assert symbol == "BTCUSDT" and book is not None
        assert answers.empty()
        permits.plenty = True
        assert answers.get(timeout=3.0).failure == ""
    finally:
        stop.set()
