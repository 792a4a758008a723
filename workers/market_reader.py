"""The thread that reads public REST for the lanes of one venue. Runs in the market-data process.

In: requests of lanes (`ask` for an order book, `read` for trades or candles). Out: answers in the lane's own queue, which it
looks into at its next turn: REST never blocks a socket. One call at a time, within the weight budget, order books first: a
book is invalid while it waits.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fleet.core.errors import ConnectionFailed, ExchangeRefused, NoPermit
from fleet.core.events import Depth, Kline, Trade
from fleet.core.exchange import Exchange, HttpCall, HttpReply, Outcome, Verdict
from fleet.runtime import logs
from workers.rest import VenueRest

Books = queue.SimpleQueue[tuple[str, Depth | None]]
Rows = Sequence[Trade] | Sequence[Kline]
BOOKS_FIRST, HISTORY = 0, 1
RESERVED_SHARE = 0.4  # of the weight: public history waits for the read-backs of accounts
NO_PERMIT_S = 0.25  # then history asks again, and books in between


class Answer(NamedTuple):
    """What became of one read. `at_ms`: exchange time at the call. `failure` "" = `rows` are a reply; `final` = asking again is
    useless."""

    name: object
    rows: Rows = ()
    at_ms: int = 0
    failure: str = ""
    final: bool = False


class Read(NamedTuple):
    """One call of a lane's read-back and how its reply becomes rows."""

    name: object
    call: HttpCall
    rows: Callable[[HttpReply, int], Rows]
    inbox: queue.SimpleQueue[Answer]


class MarketReader:
    """One per venue. `ask` and `read` from any thread."""

    def __init__(self, venue: Exchange, rest: VenueRest, stop: threading.Event) -> None:
        self.venue = venue
        self._rest, self._stop = rest, stop
        self._requests: queue.PriorityQueue[tuple[int, int, Callable[[], None]]] = queue.PriorityQueue()
        self._lock = threading.Lock()  # guards _number
        self._number = 0
        self._log = logs.get("market_reader")
        # daemon: a REST call that is not answered must not hold up the end of the process
        self._thread = threading.Thread(target=self._loop, name=f"market-rest-{venue.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def ask(self, symbol: str, inbox: Books) -> None:
        """Put (symbol, order book) into `inbox`, or (symbol, None) if it cannot be had now."""
        self._put(BOOKS_FIRST, lambda: inbox.put((symbol, self._book(symbol))))

    def read(self, read: Read) -> None:
        """Put an Answer into the inbox."""
        self._put(HISTORY, lambda: read.inbox.put(self._history(read)))

    def _put(self, urgency: int, work: Callable[[], None]) -> None:
        with self._lock:
            self._number += 1
            number = self._number
        self._requests.put((urgency, number, work))

    def _loop(self) -> None:
        while not self._stop.is_set():
            try:
                request = self._requests.get(timeout=0.5)
            except queue.Empty:
                continue
            try:
                request[2]()
            except NoPermit:
                self._requests.put(request)
                self._stop.wait(NO_PERMIT_S)

    def _book(self, symbol: str) -> Depth | None:
        market = self.venue.market_data
        assert market.snapshot is not None
        assert market.parse_snapshot is not None
        try:
            reply = self._rest.call(market.snapshot(symbol), None)
            return market.parse_snapshot(reply, symbol, _now_ms())
        except (ConnectionFailed, ExchangeRefused) as error:
            self._warn("snapshot", symbol, error)
        except Exception:  # noqa: BLE001 - a bug must not end the one thread that reads; asked again, logged with its traceback
            self._log.exception("reading an order book failed", action="bug", symbol=symbol)
        return None

    def _history(self, read: Read) -> Answer:
        """Raises NoPermit: it waits for weight where books, which may spend more of it, can go before it."""
        try:
            reply = self._rest.call(read.call, None, reserved_share=RESERVED_SHARE, patient=False)
            return Answer(read.name, read.rows(reply, _now_ms()), reply.at_ms or _now_ms())
        except NoPermit:
            raise
        except ConnectionFailed as error:
            self._warn("history", str(read.name), error)
            return Answer(read.name, failure=str(error))
        except ExchangeRefused as error:
            self._warn("history", str(read.name), error)
            verdict = error.verdict
            lasting = isinstance(verdict, Verdict) and verdict.outcome in (Outcome.PERMANENT, Outcome.INVALID)
            return Answer(read.name, failure=str(error), final=lasting)
        except Exception as error:  # noqa: BLE001 - as above
            self._log.exception("reading history failed", action="bug", what=str(read.name))
            return Answer(read.name, failure=f"internal error: {type(error).__name__}")

    def _warn(self, action: str, what: str, error: Exception) -> None:
        if not self._stop.is_set():
            self._log.warning("market data could not be read", action=action, what=what, reason=str(error))


def _now_ms() -> int:
    return int(time.time() * 1000)
