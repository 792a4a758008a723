"""What must hold of public market data in Kafka, judged while it comes and then forgotten. In: records of the market topics and of
fleet.streams, the exchange's ledger of trades and candles, samples of its books and candles. Out: figures and complaints.

Nothing of the fleet's own rules is used. What both sides told and agreed about is dropped at once, so that memory does not grow
with the length of a run; what the exchange told and Kafka did not is `outstanding`, and a complaint after PATIENCE_S.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from decimal import Decimal
from typing import Any

from tests.campaigns.market.books import Book
from tests.campaigns.market.numbers import Numbers

PATIENCE_S = 240.0  # a read-back may wait for the exchange's weight limit
KEPT = 50_000  # trades of which only Kafka has told; ids kept to see repeats where they do not count
CANDLES_KEPT = 100_000
SHOWN = 20
MINUTE_MS = 60_000

Key = tuple[str, str, str]
"""exchange, market, symbol"""
Facts = tuple[Decimal, Decimal, str]
"""price, quantity, the taker's side"""


class Series:
    """The trades of one symbol."""

    def __init__(self, contiguous: bool) -> None:
        self.contiguous = contiguous
        self.numbers = Numbers()  # where ids count
        self.seen: OrderedDict[str, None] = OrderedDict()  # where they do not
        self.truth: dict[
            str, tuple[Facts, int, float]
        ] = {}  # the exchange's, not in Kafka: id → facts, its ms, heard s
        self.told: OrderedDict[str, tuple[Facts, int]] = OrderedDict()  # Kafka's, not in the ledger (yet): facts, count
        self.covers: dict[
            str, str
        ] = {}  # earlier ids of an event in `told` that tells several trades: id → the event's
        self.compared = self.repeated = self.disorder = 0
        self.newest = 0

    def covered(self, ident: str) -> bool:
        """Is it among the numbers that Kafka told, be it as part of another event?"""
        return self.contiguous and self.numbers.has(int(ident))


class Judge:
    """Everything of one run. Belongs to whoever holds the campaign's lock."""

    def __init__(self, contiguous: dict[str, bool]) -> None:
        """`contiguous`: exchange → do its trade ids count by one?"""
        self._contiguous = contiguous
        self.series: dict[Key, Series] = {}
        self.candles: dict[Key, Counter[int]] = {}  # closed ones of a minute in Kafka
        self.candle_data: OrderedDict[tuple[Key, int], tuple[Decimal, ...]] = OrderedDict()
        self.due: dict[tuple[Key, int], float] = {}  # closed candles that the exchange told and Kafka did not: heard s
        self.books: dict[Key, Book] = {}
        self.said: Counter[str] = Counter()
        self.lost: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.read_back = self.events = self.rest = self.candles_compared = 0
        self.newest_ms = 0  # of the trades in Kafka

    def complain(self, text: str) -> None:
        if len(self.wrong) < SHOWN:
            self.wrong.append(text)

    # ── Kafka ────────────────────────────────────────────────────────────────────────────────────────────────────
    def record(self, event: dict[str, Any]) -> None:
        self.events += 1
        kind = event["type"]
        if kind == "trade":
            self._trade(event)
        elif kind == "kline":
            self._kline(event)
        elif kind == "depth":
            self.book(_key(event)).feed(event)
        elif kind == "stream":
            self._stream(event)
        self.rest += event.get("source") == "rest"

    def book(self, key: Key) -> Book:
        if key not in self.books:
            self.books[key] = Book(lambda text: self.complain(f"book {'/'.join(key)} {text}"))
        return self.books[key]

    def _of(self, key: Key) -> Series:
        if key not in self.series:
            self.series[key] = Series(self._contiguous[key[0] + ":" + key[1]])
        return self.series[key]

    def _trade(self, event: dict[str, Any]) -> None:
        series, ident, count = self._of(_key(event)), event["trade_id"], event.get("count", 1)
        self.newest_ms = max(self.newest_ms, event["ts_event"])
        if self._is_repeat(series, ident, count):
            series.repeated += (
                1  # after a kill perhaps in part: what it tells for the first time is told, if not comparable
            )
            for covered in (*_earlier(ident, count), ident):
                if covered not in series.told:
                    series.truth.pop(covered, None)
            return
        series.told[ident] = (Decimal(event["price"]), Decimal(event["qty"]), event["side"]), count
        series.covers |= dict.fromkeys(_earlier(ident, count), ident)
        self._match(_key(event), series, ident)
        if len(series.told) > KEPT:
            oldest, (_, count) = series.told.popitem(last=False)
            for covered in _earlier(oldest, count):
                series.covers.pop(covered, None)

    def _is_repeat(self, series: Series, ident: str, count: int) -> bool:
        if series.contiguous:
            last = int(ident)
            series.disorder += last < series.newest
            series.newest = max(series.newest, last)
            fresh = [series.numbers.add(number) for number in range(last - count + 1, last + 1)]
            return not all(fresh)
        if ident in series.seen:
            return True
        series.seen[ident] = None
        if len(series.seen) > KEPT:
            series.seen.popitem(last=False)
        return False

    def _match(self, key: Key, series: Series, ident: str) -> None:
        """The exchange's word and Kafka's, once both are there. An event may cover several trades of one order."""
        if ident not in series.truth or ident not in series.told:
            return
        (price, qty, side), count = series.told.pop(ident)
        parts = [series.truth.pop(ident)[0]]
        for covered in _earlier(ident, count):
            series.covers.pop(covered, None)
            if covered in series.truth:
                parts.append(series.truth.pop(covered)[0])
        series.compared += len(parts)
        true = (sum((p[1] for p in parts), Decimal(0)), {p[0] for p in parts}, {p[2] for p in parts})
        if (qty, {price}, {side}) != true:
            self.complain(f"trade {ident} of {'/'.join(key)} is {price} {qty} {side}, true is {true}")

    def _kline(self, event: dict[str, Any]) -> None:
        if not event["closed"] or event["interval"] != "1m":
            return
        key, opened = _key(event), event["open_time"]
        self.candles.setdefault(key, Counter())[opened] += 1
        self.due.pop((key, opened), None)
        values = tuple(Decimal(event[name]) for name in ("open", "high", "low", "close", "volume"))
        self.candle_data[key, opened] = values
        if len(self.candle_data) > CANDLES_KEPT:
            self.candle_data.popitem(last=False)

    def _stream(self, event: dict[str, Any]) -> None:
        self.said[event["event"]] += 1
        if event["event"] == "gap" and event["data"].get("class") in ("trade", "kline"):
            self.lost.append({"key": _key(event), **event["data"], "reason": event["reason"]})
        if event["event"] == "backfilled":
            self.read_back += event["data"]["events"]

    # ── the exchange ─────────────────────────────────────────────────────────────────────────────────────────────
    def ledger(self, row: dict[str, Any], heard_s: float) -> None:
        key = (row["exchange"], row["market"], row["symbol"])
        if row["type"] == "trade":
            series, ident = self._of(key), row["trade_id"]
            facts = Decimal(row["price"]), Decimal(row["qty"]), row["side"]
            awaited = ident in series.told or ident in series.covers
            if awaited or not series.covered(ident):  # else it is compared and forgotten
                series.truth[ident] = facts, row["ts"], heard_s
                self._match(key, series, ident)
        elif row["closed"] and row["interval"] == "1m" and not self.candles.get(key, {}).get(row["open_time"]):
            self.due[key, row["open_time"]] = heard_s

    def candle(self, key: Key, opened: int, values: tuple[Decimal, ...]) -> None:
        """A closed candle as the exchange's REST has it."""
        mine = self.candle_data.pop((key, opened), None)
        if mine is not None:
            self.candles_compared += 1
            if mine != values:
                self.complain(f"candle {opened} of {'/'.join(key)} is {mine}, true is {values}")

    # ── the judgement ────────────────────────────────────────────────────────────────────────────────────────────
    def outstanding(self, now_s: float, older_than_s: float = 0.0) -> list[str]:
        """What the exchange told at least `older_than_s` ago and Kafka has not, nor said that it is lost."""
        found: list[str] = []
        for key, series in self.series.items():
            losses = [loss for loss in self.lost if loss["key"] == key and loss["class"] == "trade"]
            for ident, (_, at_ms, heard_s) in list(series.truth.items()):
                if series.covered(ident) and now_s - heard_s < PATIENCE_S:
                    continue  # part of an event of which the exchange's last word is on its way
                if _excused(losses, ident, at_ms, series.contiguous):
                    del series.truth[ident]
                elif now_s - heard_s >= older_than_s:
                    found.append(f"trade {ident} of {'/'.join(key)}, {now_s - heard_s:.0f} s ago")
        for (key, opened), heard_s in self.due.items():
            if now_s - heard_s >= older_than_s:
                found.append(f"candle {opened} of {'/'.join(key)}, {now_s - heard_s:.0f} s ago")
        return found

    def holes(self) -> int:
        """Ids between the first and the last that Kafka does not have, of the venues where ids count."""
        return sum(series.numbers.missing for series in self.series.values() if series.contiguous)

    def broken_books(self, for_s: float = 0.0) -> list[str]:
        """Those whose numbers broke so long ago, with no snapshot since."""
        return ["/".join(key) for key, book in self.books.items() if book.broken_s() > for_s]

    def missing_candles(self) -> int:
        """Minutes without a closed candle between the first and the last."""
        return sum((max(seen) - min(seen)) // MINUTE_MS + 1 - len(seen) for seen in self.candles.values() if seen)

    def repeated_candles(self) -> int:
        return sum(count - 1 for seen in self.candles.values() for count in seen.values())

    def needless_losses(self) -> list[dict[str, Any]]:
        """Told as lost where the exchange serves every trade by its id."""
        return [x for x in self.lost if x["class"] == "kline" or self._contiguous[x["key"][0] + ":" + x["key"][1]]]

    def figures(self) -> dict[str, Any]:
        books, all_series = self.books.values(), self.series.values()
        return {
            "events": self.events, "from_rest": self.rest, "read_back": self.read_back, "said": dict(self.said),
            "trades": {"/".join(k): s.compared for k, s in self.series.items()},
            "trades_compared": sum(s.compared for s in all_series), "trade_holes": self.holes(),
            "trades_repeated": sum(s.repeated for s in all_series), "trades_out_of_order": sum(s.disorder for s in all_series),
            "trades_told_otherwise": sum(s.covered(ident) for s in all_series for ident in s.truth),
            "trades_not_in_the_ledger": sum(len(s.told) for s in all_series),
            "candles": sum(len(c) for c in self.candles.values()), "candles_compared": self.candles_compared,
            "candles_missing": self.missing_candles(), "candles_repeated": self.repeated_candles(),
            "books": len(self.books), "books_compared": sum(b.compared for b in books),
            "book_breaks": sum(b.breaks for b in books), "book_snapshots": sum(b.snapshots for b in books),
            "books_never_compared": ["/".join(k) for k, b in self.books.items() if not b.compared],
            "lost": [{**x, "key": "/".join(x["key"])} for x in self.lost[:SHOWN]], "losses": len(self.lost),
            "needless_losses": len(self.needless_losses()), "wrong": self.wrong,
        }  # fmt: skip


def _key(event: dict[str, Any]) -> Key:
    return event["exchange"], event["market"], event["symbol"]


def _earlier(ident: str, count: int) -> list[str]:
    """The ids before `ident` that an event of `count` covers too."""
    return [str(number) for number in range(int(ident) - count + 1, int(ident))] if count > 1 else []


def _excused(losses: list[dict[str, Any]], ident: str, at_ms: int, contiguous: bool) -> bool:
    """Is it within what was announced as lost for good?"""
    for loss in losses:
        if contiguous and loss.get("first") is not None and int(loss["first"]) <= int(ident) <= int(loss["last"]):
            return True
        if not contiguous and loss.get("until_ms") is not None and loss["since_ms"] <= at_ms <= loss["until_ms"]:
            return True
    return False
