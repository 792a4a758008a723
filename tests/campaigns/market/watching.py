"""The exchange's side of the market campaign: its ledger, its books and candles by REST, and a witness subscribed all the time.

In: the simulator, the judge and the lock that guards it. Out: what the exchange knows, told to the judge, from three threads. The
witness calls from an address of its own, so that the weight of the fleet's address is the fleet's.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

import msgspec

from fleet.core.errors import ConnectionFailed
from tests.campaigns.market.books import Book
from tests.campaigns.market.judge import Judge, Key
from tests.campaigns.market.venues import Campaigner, witnessed_book
from tests.support.simulator import Simulator
from workers.connection import Connection

JUDGE_IP = "127.0.0.2"
LEDGER_EVERY_S = 1.0
SAMPLE_EVERY_S = 0.1  # one book of one symbol: at most 600 calls a minute over all venues
KEEP_S = 0.6  # states of a book are kept around its sample
WITNESSED_EVERY_S = 1.0
PING_EVERY_S = 15.0
PINGS = {"bybit": b'{"op":"ping"}', "okx": b"ping"}  # venues that want to hear from us
CANDLES_AT_S = 20  # of each minute


class Exchange:
    """Everything the exchange tells."""

    def __init__(self, simulator: Simulator, venues: list[Campaigner], judge: Judge, lock: threading.Lock) -> None:
        self.simulator, self.venues, self.judge, self.lock = simulator, venues, judge, lock
        self.done = threading.Event()
        self.failed = ""  # why the judgement cannot go on
        self.behind_s = 0.0  # how old the ledger's newest row was, when it came
        self._decode = msgspec.json.Decoder(dict[str, Any]).decode
        jobs: list[Callable[[], None]] = [self._ledger, self._samples]
        self._threads = [threading.Thread(target=job) for job in jobs]
        for venue in venues:
            for path, frames in venue.witness(venue.symbols):
                self._threads.append(threading.Thread(target=self._witness, args=(venue, path, frames)))

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self.done.set()
        for thread in self._threads:
            thread.join()

    # ── trades and closed candles ────────────────────────────────────────────────────────────────────────────────
    def _ledger(self) -> None:
        since = self._rows(0)[1]  # what happened before is not judged
        while not self.done.wait(LEDGER_EVERY_S):
            rows, _, oldest = self._rows(since)
            heard_s = time.monotonic()
            if oldest > since + 1 and rows and rows[0]["seq"] > since + 1 and since < oldest - 1:
                self.failed = f"the ledger's ring has lost rows {since + 1} to {oldest - 1}: the judge is too slow"
            with self.lock:
                for row in rows:
                    self.judge.ledger(row, heard_s)
            if rows:
                since = rows[-1]["seq"]
                self.behind_s = time.time() - rows[-1]["ts"] / 1000

    def _rows(self, since: int) -> tuple[list[dict[str, Any]], int, int]:
        """Rows after `since`; the newest number there is, and the oldest that is kept."""
        url = f"{self.simulator.endpoints['admin']}/ledger?since={since or 2**62}&type=trade,kline"
        with urllib.request.urlopen(url, timeout=30) as reply:
            rows = [self._decode(line) for line in reply.read().splitlines()]
            return rows, int(reply.headers["X-Ledger-Seq"]), int(reply.headers["X-Ledger-Oldest-Market-Seq"])

    # ── books and candles by REST ────────────────────────────────────────────────────────────────────────────────
    def _samples(self) -> None:
        pairs = [(venue, symbol) for venue in self.venues for symbol in venue.symbols if venue.book_of(symbol)]
        turn, minute = 0, int(time.time()) // 60
        while not self.done.wait(SAMPLE_EVERY_S):
            if pairs:
                self._sample(*pairs[turn % len(pairs)])
                turn += 1
            now_s = int(time.time())
            if now_s // 60 != minute and now_s % 60 >= CANDLES_AT_S:
                minute = now_s // 60
                self._candles()

    def _sample(self, venue: Campaigner, symbol: str) -> None:
        book = self._book(venue, symbol)
        with self.lock:
            book.keeping = True
        self.done.wait(KEEP_S / 2)
        body = self._rest(venue, venue.book_of(venue.bare(symbol)[1]))
        with self.lock:
            if body is not None:
                book.sample(*venue.book(body))
        self.done.wait(KEEP_S / 2)
        with self.lock:
            book.keeping = False

    def _book(self, venue: Campaigner, symbol: str) -> Book:
        with self.lock:
            return self.judge.book(key_of(venue, symbol))

    def _candles(self) -> None:
        for venue in self.venues:
            for symbol in venue.symbols:
                body = self._rest(venue, venue.candles_of(symbol))
                with self.lock:
                    for opened, values in venue.candles(body) if body is not None else ():
                        self.judge.candle(key_of(venue, symbol), opened, values)

    def _rest(self, venue: Campaigner, target: str) -> Any:
        host, port = self.simulator.endpoints[venue.rest_setting].removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20, source_address=(JUDGE_IP, 0))
        try:
            connection.request("GET", target)
            reply = connection.getresponse()
            body = json.loads(reply.read())
            return body if reply.status == 200 else None
        except OSError:  # the simulator was busy for that long: one sample less
            return None
        finally:
            connection.close()

    # ── the witness ──────────────────────────────────────────────────────────────────────────────────────────────
    def _witness(self, venue: Campaigner, path: str, frames: list[dict[str, Any]]) -> None:
        url = self.simulator.endpoints[venue.ws_setting] + path
        while not self.done.is_set():
            with contextlib.suppress(ConnectionFailed):
                socket = Connection.open(url)
                try:
                    for frame in frames:
                        socket.send(json.dumps(frame).encode())
                    self._follow(venue, path, socket)
                finally:
                    socket.close()

    def _follow(self, venue: Campaigner, path: str, socket: Connection) -> None:
        books: dict[str, Book] = {}
        sampled: dict[str, float] = {}
        pinged_s = time.monotonic()
        while not self.done.is_set():
            frames = socket.read(0.5)
            if time.monotonic() - pinged_s > PING_EVERY_S and venue.name in PINGS:
                pinged_s = time.monotonic()
                socket.send(PINGS[venue.name])
            for frame in frames if venue.name == "bybit" else ():
                event = witnessed_book(frame) if b"orderbook.50." in frame[:60] else None
                if event is not None and not self._witnessed(venue, path, event, books, sampled):
                    return

    def _witnessed(
        self, venue: Campaigner, path: str, event: dict[str, Any], books: dict[str, Book], sampled: dict[str, float]
    ) -> bool:
        """False if an update was dropped: a new socket begins with a snapshot."""
        symbol, now_s = event["symbol"], time.monotonic()
        book = books.setdefault(symbol, Book())
        book.feed(event)
        if book.last is None:
            return False
        if now_s - sampled.get(symbol, 0.0) > WITNESSED_EVERY_S and event["kind"] == "update":
            sampled[symbol] = now_s
            with self.lock:
                self.judge.book((venue.name, path.rpartition("/")[2], symbol)).sample(book.last, *book.top())
        return True


def key_of(venue: Campaigner, symbol: str) -> Key:
    return venue.name.partition("_")[0], *venue.bare(symbol)
