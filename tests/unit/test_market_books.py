"""When the books of a lane ask for snapshots: each costs request weight that read-backs of accounts and of trades need too."""

from __future__ import annotations

from typing import Any

from fleet.core.events import Depth
from tests.unit.test_book import SPOT, snapshot, update
from workers.market_books import Books


class Reader:
    """Answers each request at once with the next of `answers`."""

    def __init__(self, *answers: Depth) -> None:
        self.answers, self.asked = list(answers), 0

    def ask(self, symbol: str, inbox: Any) -> None:
        self.asked += 1
        inbox.put((symbol, self.answers.pop(0)))


def test_snapshots_that_are_crossed_are_asked_for_again_ever_more_slowly() -> None:
    reader = Reader(*(snapshot(10 * n, bids=[("12", "1")]) for n in range(1, 500)))
    books = Books("binance_spot", SPOT, reader, lambda *_, **__: None)  # type: ignore[arg-type]
    for tenth in range(600):  # a minute of ten updates a second
        books.accept(update(tenth + 1, tenth + 1))
        books.settle(tenth / 10)
    assert reader.asked < 25
