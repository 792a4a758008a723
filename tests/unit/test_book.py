"""Order-book sequence rules, by example, by property against a plain model, and on the recorded capture."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core import book as module
from fleet.core.book import Book, BookState
from fleet.core.events import Depth
from fleet.exchanges import exchanges
from tests.support.captures import binance_depth

USDM, SPOT, BYBIT, OKX = (
    exchanges()[name].market_data.book for name in ("binance_usdm", "binance_spot", "bybit", "okx")
)
Levels = list[tuple[str, str]]


def update(
    first: int, last: int, prev: int | None = None, bids: Levels | None = None, asks: Levels | None = None
) -> Depth:
    return Depth(
        id=f"{first}-{last}", exchange="x", market="m", symbol="S", ts_event=1, ts_recv=1, kind="update",
        bids=bids or [], asks=asks or [], first_seq=first, last_seq=last, prev_seq=prev,
    )  # fmt: skip


def snapshot(seq: int, bids: Levels | None = None, asks: Levels | None = None) -> Depth:
    return Depth(
        id=f"s{seq}", exchange="x", market="m", symbol="S", ts_event=1, ts_recv=1, kind="snapshot", source="rest",
        bids=[("10", "1")] if bids is None else bids, asks=[("11", "1")] if asks is None else asks, first_seq=seq, last_seq=seq,
    )  # fmt: skip


def names(events: list[Depth]) -> list[str]:
    return [event.id for event in events]


def test_futures_sync_then_gap_then_sync() -> None:
    book = Book(USDM)
    assert (book.state, book.needs_snapshot) == (BookState.INVALID, False)
    assert book.feed(update(1, 5, 0)) == [] and book.feed(update(8, 12, 5)) == []
    assert (book.state, book.needs_snapshot) == (BookState.BUFFERING, True)
    assert names(book.load(snapshot(10))) == ["1-5", "s10", "8-12"]
    assert book.valid and book.last_seq == 12 and not book.needs_snapshot
    assert names(book.feed(update(20, 25, 12))) == ["20-25"]
    assert names(book.feed(update(20, 25, 12))) == ["20-25"]  # twice: no harm
    assert book.feed(update(40, 45, 33)) == []
    assert book.state is BookState.BUFFERING and book.reason == "sequence gap after 25"
    assert names(book.load(snapshot(44))) == ["s44", "40-45"]


def test_futures_snapshot_equal_to_the_previous_update() -> None:
    book = Book(USDM)
    book.feed(update(1, 5, 0))
    book.feed(update(9, 12, 5))
    assert names(book.load(snapshot(5))) == ["s5", "1-5", "9-12"]
    book = Book(USDM)
    book.feed(update(9, 12, 5))
    assert names(book.load(snapshot(5))) == ["s5", "9-12"]


def test_snapshot_older_than_the_buffer_is_refused() -> None:
    book = Book(USDM)
    book.feed(update(10, 12, 8))
    assert book.load(snapshot(7)) == []
    assert book.needs_snapshot and book.reason == "snapshot older than the updates"
    assert names(book.load(snapshot(11))) == ["s11", "10-12"]


def test_snapshot_ahead_of_the_stream() -> None:
    book = Book(USDM)
    book.feed(update(1, 5, 0))
    assert names(book.load(snapshot(20))) == ["1-5", "s20"]
    assert names(book.feed(update(6, 9, 5))) == ["6-9"]  # in the snapshot already
    assert book.last_seq == 20
    assert names(book.feed(update(18, 22, 9))) == ["18-22"]
    book.load(snapshot(30))
    assert book.feed(update(35, 36, 33)) == []
    assert book.reason == "no update meets the snapshot 30"


def test_spot_rules() -> None:
    book = Book(SPOT)
    book.feed(update(1, 5))
    book.feed(update(6, 8))
    assert names(book.load(snapshot(5))) == ["1-5", "s5", "6-8"]
    assert names(book.feed(update(9, 9))) == ["9-9"]
    assert book.feed(update(11, 12)) == []
    assert book.load(snapshot(9)) == []
    assert names(book.load(snapshot(11))) == ["s11", "11-12"]


def test_a_spot_update_that_begins_before_the_end_of_the_book_is_no_gap() -> None:
    """binance.md 3.5: a gap is U > local id + 1. Two sockets may cut the same changes at different places."""
    book = Book(SPOT)
    book.feed(update(1, 5))
    book.load(snapshot(5))
    assert names(book.feed(update(6, 10))) == ["6-10"]
    assert names(book.feed(update(8, 13, bids=[("10", "7")]))) == ["8-13"]
    assert book.valid and book.last_seq == 13 and book.best_bid() == ("10", "7")
    assert book.feed(update(15, 16)) == [] and not book.valid


def test_snapshots_in_the_stream() -> None:
    book = Book(BYBIT)
    assert book.feed(update(5, 5)) == [] and not book.needs_snapshot
    assert names(book.feed(snapshot(7))) == ["5-5", "s7"]
    assert names(book.feed(update(8, 8))) == ["8-8"]
    assert book.feed(update(10, 10)) == [] and book.state is BookState.BUFFERING
    assert names(book.feed(snapshot(1))) == ["10-10", "s1"]  # service restart: u = 1
    assert names(book.feed(update(2, 2))) == ["2-2"]


def test_okx_reset_and_heartbeat() -> None:
    book = Book(OKX)
    book.feed(snapshot(100))
    assert names(book.feed(update(101, 110, 100))) == ["101-110"]
    assert names(book.feed(update(110, 110, 110))) == ["110-110"]  # nothing changed for a minute
    assert names(book.feed(update(3, 3, 110))) == ["3-3"]  # maintenance: the sequence restarts
    assert book.last_seq == 3
    assert book.feed(update(7, 9, 7)) == [] and book.needs_snapshot
    assert names(book.load(snapshot(8))) == ["s8", "7-9"]  # by REST, of the same sequence


def test_snapshots_in_the_stream_or_by_rest() -> None:
    book = Book(OKX)
    assert book.feed(update(5, 9, 5)) == [] and book.needs_snapshot  # it began with an update
    assert names(book.load(snapshot(7))) == ["s7", "5-9"]  # REST: the update begins before it and reaches it
    assert (
        book.feed(snapshot(8), overlap=True) == [] and book.last_seq == 9
    )  # a second socket begins; the book is further
    assert names(book.feed(update(9, 12, 9))) == ["9-12"]
    assert names(book.feed(snapshot(20))) == ["s20"] and book.last_seq == 20
    book.invalidate("disconnected")
    assert names(book.feed(snapshot(19))) == ["s19"] and book.valid


@pytest.mark.parametrize("rules", [BYBIT, OKX])
def test_a_snapshot_in_mid_stream_replaces_the_book_whatever_its_sequence(rules: module.Rules) -> None:
    book = Book(rules)
    book.feed(snapshot(100))
    assert names(book.feed(snapshot(40, [("9", "2")], []))) == ["s40"]
    assert (book.last_seq, book.best_bid(), book.best_ask()) == (40, ("9", "2"), None)
    assert names(book.feed(update(41, 41, 40))) == ["41-41"] and book.last_seq == 41


def test_a_sequence_that_goes_on_lower_down_is_no_repetition() -> None:
    """The venue counts anew and the message that said so was lost: what follows looks like repetitions, but for ever."""
    book = Book(OKX)
    book.feed(snapshot(1000))
    book.feed(update(1000, 1001, 1000))
    for n in range(1, module.LATE_RUN):
        assert book.feed(update(n, n + 1, n))
    assert book.feed(update(60, 61, 60)) == [] and book.needs_snapshot and book.reason == "sequence gap after 1001"


def test_levels_best_and_deletion() -> None:
    book = Book(USDM)
    book.feed(update(1, 1, 0))
    book.load(snapshot(1, [("10", "1"), ("9.50", "2")], [("11", "1"), ("12", "3")]))
    assert (book.best_bid(), book.best_ask(), book.sizes()) == (("10", "1"), ("11", "1"), (2, 2))
    book.feed(update(2, 2, 1, [("10.0", "0.000"), ("9.5", "7"), ("1", "0")], [("11", "0"), ("12", "0")]))
    assert (book.best_bid(), book.best_ask(), book.sizes()) == (("9.5", "7"), None, (1, 0))
    book.feed(update(3, 3, 2, [("9.5", "0")]))
    assert book.best_bid() is None


@pytest.mark.parametrize("bids", [[("11", "1")], [("11.5", "1")], [("abc", "1")], [("NaN", "1")]])
def test_what_cannot_be_makes_it_invalid(bids: Levels) -> None:
    book = Book(USDM)
    book.feed(update(1, 1, 0))
    book.load(snapshot(1))
    assert book.feed(update(2, 2, 1, bids)) == []
    assert book.needs_snapshot and book.reason.split(":")[0] in ("crossed", "unreadable level")
    assert names(book.load(snapshot(2, bids))) == []  # the snapshot is as bad
    assert not book.valid
    book.feed(update(3, 3, 2))
    assert names(book.load(snapshot(3))) == ["2-2", "s3", "3-3"] or book.valid


def test_waiting_is_bounded_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    book = Book(USDM)
    out = [event for n in range(1, 6) for event in book.feed(update(n, n, n - 1))]
    assert names(out) == ["1-1", "2-2"]
    assert names(book.drain()) == ["3-3", "4-4", "5-5"]
    assert (book.state, book.reason, book.drain()) == (BookState.INVALID, "drained", [])


def test_invalidate_from_outside() -> None:
    book = Book(USDM)
    book.feed(update(1, 1, 0))
    book.load(snapshot(1))
    book.invalidate("socket replaced")
    assert not book.valid and not book.needs_snapshot
    book.feed(update(5, 6, 4))
    assert book.needs_snapshot and book.reason == "socket replaced"


def test_the_heap_of_prices_stays_small() -> None:
    book = Book(USDM)
    book.feed(update(1, 1, 0))
    book.load(snapshot(1, [("10", "1")], []))
    for n in range(2, 6000):
        book.feed(update(n, n, n - 1, [("5", "0" if n % 2 else "1")]))
    assert len(book._bids._heap) < 1100 and book.best_bid() == ("10", "1")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_valid_book_equals_the_truth(data: st.DataObject) -> None:
    """A venue makes updates and snapshots; some updates are lost, doubled or swapped. Whenever the book says valid, it is."""
    rules = data.draw(st.sampled_from([USDM, SPOT]))
    truth: dict[int, tuple[dict[str, str], dict[str, str]]] = {}
    sides: tuple[dict[str, str], dict[str, str]] = ({"100": "1"}, {"200": "1"})
    updates: list[Depth] = []
    seq = 10
    truth[seq] = (dict(sides[0]), dict(sides[1]))
    for _ in range(data.draw(st.integers(1, 15))):
        first = seq + 1 if rules.link == "next" else seq + data.draw(st.integers(1, 3))
        last = first + data.draw(st.integers(0, 3))
        changes: list[Levels] = []
        for side, low in ((0, 90), (1, 195)):
            drawn = data.draw(
                st.dictionaries(st.integers(low, low + 20).map(str), st.sampled_from(["0", "1", "2.50"]), max_size=3)
            )
            changes.append(list(drawn.items()))
            for price, qty in drawn.items():
                if qty == "0":
                    sides[side].pop(price, None)
                else:
                    sides[side][price] = qty
        updates.append(update(first, last, seq, changes[0], changes[1]))
        seq = last
        truth[seq] = (dict(sides[0]), dict(sides[1]))
    stream = list(updates)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(stream) - 1))
        kind = data.draw(st.sampled_from(["lose", "double", "swap"]))
        if kind == "lose" and len(stream) > 1:
            del stream[at]
        elif kind == "double":
            stream.insert(at, stream[at])
        elif at:
            stream[at - 1], stream[at] = stream[at], stream[at - 1]
    book = Book(rules)
    published: list[str] = []
    for event in stream:
        published += names(book.feed(event))
        if book.needs_snapshot and data.draw(st.booleans()):
            known = data.draw(st.sampled_from(sorted(truth)))
            bids, asks = truth[known]
            published += [
                n for n in names(book.load(snapshot(known, list(bids.items()), list(asks.items())))) if n[0] != "s"
            ]
        if book.valid:
            assert (book._bids.levels, book._asks.levels) == truth[book.last_seq]
            for mine, best in ((book.best_bid(), max), (book.best_ask(), min)):
                held = truth[book.last_seq][0 if best is max else 1]
                assert mine == ((p := best(held, key=Decimal)), held[p]) if held else mine is None
    published += names(book.drain())
    assert sorted(published) == sorted(names(stream))  # whatever came in went out once


def test_the_recorded_books_synchronise_without_a_break() -> None:
    books: dict[str, Book] = {}
    turns: list[tuple[str, BookState]] = []
    for event in binance_depth():
        book = books.setdefault(event.symbol, Book(USDM))
        before = book.state
        book.load(event) if event.kind == "snapshot" else book.feed(event)
        if book.state is not before:
            turns.append((event.symbol, book.state))
    assert all(book.valid for book in books.values())
    assert len(books) == 4 and len(turns) == 8  # buffering, valid: once each


def test_numbers_seen_before_continue_a_book_that_was_counted_anew() -> None:
    book = Book(OKX)
    for event in (snapshot(10), update(10, 15, 10), update(15, 3, 15)):
        book.feed(event)
    assert not book.continues(update(10, 15, 10)), "a repetition"
    book.feed(update(3, 10, 3))
    assert book.continues(update(10, 15, 10)) and not book.continues(update(10, 10, 10))
