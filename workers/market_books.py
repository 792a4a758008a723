"""Order books of one lane. Runs in the lane's thread of the market-data process.

In: depth updates of the socket. Out: those that may be published, snapshots among them, and book_invalid / book_valid
announcements. The sequence rules are `fleet.core.book`'s. REST never blocks a socket: a lane asks the venue's one
MarketReader and finds the answer in its inbox at its next turn.
"""

from __future__ import annotations

import queue
import random
from itertools import islice
from typing import Protocol

from fleet.core.backoff import delay_s
from fleet.core.book import Book, Rules
from fleet.core.events import Depth
from fleet.runtime import logs
from workers.market_reader import Books as Inbox
from workers.market_reader import MarketReader

RETRY_FIRST_S = 0.5
RETRY_CAP_S = 15.0
RENEW_MOST = 50  # at once: two requests each
RENEW_S = 5.0  # a snapshot that was asked for on the socket has this long to come


class Announce(Protocol):
    """Says on fleet.streams what happened to a book."""

    def __call__(self, event: str, reason: str = "", *, symbol: str = "") -> None: ...


class Books:
    """The books of one lane, by symbol. Belongs to the lane's thread."""

    def __init__(self, venue: str, rules: Rules, snapshots: MarketReader | None, announce: Announce) -> None:
        self._venue, self._rules, self._snapshots, self._announce = venue, rules, snapshots, announce
        self._log = logs.get("market_books")
        self._books: dict[str, Book] = {}
        self._inbox: Inbox = queue.SimpleQueue()
        self._asked: set[str] = set()
        self._attempts: dict[str, int] = {}
        self._ask_at_s: dict[str, float] = {}  # symbols to ask for again, and when
        self._renew_at_s: dict[str, float] = {}  # symbols subscribed anew, and when to do it again

    @property
    def waiting(self) -> bool:
        """A snapshot is on its way: look into the inbox often."""
        return bool(self._asked)

    def accept(self, update: Depth, *, overlap: bool = False) -> list[Depth]:
        """What may be published after this message: nothing while its book is invalid. `overlap`: of one of two sockets."""
        book = self._books.get(update.symbol)
        if book is None:
            book = self._books[update.symbol] = Book(self._rules)
        was_valid = book.valid
        out = book.feed(update, overlap=overlap)
        if was_valid != book.valid:
            self._turned(update.symbol, book)
        if book.needs_snapshot and update.symbol not in self._asked and update.symbol not in self._ask_at_s:
            self._ask(update.symbol)
        return out

    def continues(self, update: Depth) -> bool:
        """Is it the next one of its book?"""
        book = self._books.get(update.symbol)
        return book is not None and book.continues(update)

    def settle(self, now_s: float) -> list[Depth]:
        """Apply the snapshots that arrived, ask again for those that failed. → what may be published."""
        for symbol in [s for s, at_s in self._ask_at_s.items() if now_s >= at_s]:
            del self._ask_at_s[symbol]
            if self._books[symbol].needs_snapshot:
                self._ask(symbol)
        out: list[Depth] = []
        while self._asked:
            try:
                symbol, snapshot = self._inbox.get_nowait()
            except queue.Empty:
                break
            self._asked.discard(symbol)
            book = self._books[symbol]
            tried = book.needs_snapshot
            if snapshot is not None and tried:
                out += book.load(snapshot)
            if book.valid:
                self._turned(symbol, book)
            elif tried:
                self._again(symbol, now_s)
        return out

    def to_renew(self, now_s: float) -> list[str]:
        """Symbols to subscribe anew now: their books wait for a snapshot that only the stream can bring."""
        due = (s for s, b in self._books.items() if b.needs_stream and now_s >= self._renew_at_s.get(s, 0.0))
        found = list(islice(due, RENEW_MOST))
        self._renew_at_s |= dict.fromkeys(found, now_s + RENEW_S)
        return found

    def invalidate(self, symbol: str, reason: str) -> None:
        """The continuity of one book is broken, for its consumers or for us."""
        book = self._books.get(symbol)
        if book is not None and book.valid:
            book.invalidate(reason)
            self._turned(symbol, book)

    def invalidate_all(self, reason: str) -> None:
        for symbol in self._books:
            self.invalidate(symbol, reason)

    def drain(self) -> list[Depth]:
        """The updates of unsynchronised books, which were announced as invalid; for the end of the process."""
        return [update for book in self._books.values() if not book.valid for update in book.drain()]

    def _turned(self, symbol: str, book: Book) -> None:
        if book.valid:
            self._attempts.pop(symbol, None)
            self._renew_at_s.pop(symbol, None)
            self._log.info("order book valid", action="book", venue=self._venue, symbol=symbol)
            self._announce("book_valid", symbol=symbol)
        else:
            self._log.info("order book invalid", action="book", venue=self._venue, symbol=symbol, reason=book.reason)
            self._announce("book_invalid", book.reason, symbol=symbol)

    def _ask(self, symbol: str) -> None:
        if self._snapshots is not None:
            self._asked.add(symbol)
            self._snapshots.ask(symbol, self._inbox)

    def _again(self, symbol: str, now_s: float) -> None:
        attempt = self._attempts.get(symbol, 0) + 1
        self._attempts[symbol] = attempt
        pause_s = delay_s(attempt, random.random, first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S, floor_s=RETRY_FIRST_S / 2)
        self._ask_at_s[symbol] = now_s + pause_s
