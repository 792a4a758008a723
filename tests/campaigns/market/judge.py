"""What must hold of public market data in Kafka, judged while it comes. In: records of the market topics and fleet.streams,
samples of the exchange's REST. Out: figures and complaints. Nothing of the fleet's own rules.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

RECENT = 300_000
LEVELS = 20

Key = tuple[str, str]
"""market and symbol"""


class Numbers:
    """A set of whole numbers as ranges."""

    def __init__(self) -> None:
        self.begins: list[int] = []
        self.ends: list[int] = []  # included
        self.repeated = 0

    def add(self, number: int) -> None:
        at = bisect_right(self.begins, number)
        if at and number <= self.ends[at - 1]:
            self.repeated += 1
            return
        after_left = bool(at) and self.ends[at - 1] == number - 1
        before_right = at < len(self.begins) and self.begins[at] == number + 1
        if after_left and before_right:
            self.ends[at - 1] = self.ends.pop(at)
            self.begins.pop(at)
        elif after_left:
            self.ends[at - 1] = number
        elif before_right:
            self.begins[at] = number
        else:
            self.begins.insert(at, number)
            self.ends.insert(at, number)

    @property
    def holes(self) -> list[tuple[int, int]]:
        return [(a + 1, b - 1) for a, b in zip(self.ends, self.begins[1:], strict=False)]


class Book:
    """A consumer's order book: it breaks where the numbers do, and a snapshot mends it. Compared with the exchange's at the
    same number."""

    def __init__(self) -> None:
        self.last: int | None = None
        self.met = False
        self.sides: tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]] = ({}, {})
        self.breaks = self.snapshots = self.compared = 0
        self.wrong: list[str] = []
        self.samples: OrderedDict[int, Any] = OrderedDict()
        self.states: OrderedDict[int, tuple[list[Any], list[Any]]] = OrderedDict()

    def feed(self, event: dict[str, Any]) -> None:
        if event["kind"] == "snapshot":
            self.sides, self.last, self.met = ({}, {}), event["last_seq"], False
            self.snapshots += 1
        elif self.last is None or event["last_seq"] <= self.last:
            return
        else:
            first, last, prev = event["first_seq"], event["last_seq"], event["prev_seq"]
            links = prev == self.last if prev is not None else first == self.last + 1
            if not links and (self.met or not first <= self.last + 1 <= last + 1):
                self.last, self.breaks = None, self.breaks + 1
                return
            self.last, self.met = last, True
        for side, levels in zip(self.sides, (event["bids"], event["asks"]), strict=True):
            for price, qty in levels:
                if Decimal(qty):
                    side[Decimal(price)] = Decimal(qty)
                else:
                    side.pop(Decimal(price), None)
        if event["kind"] == "update":
            self._keep()

    def sample(self, last: int, bids: Iterable[Any], asks: Iterable[Any]) -> None:
        """The exchange's own book at `last`."""
        mine = tuple([(Decimal(p), Decimal(q)) for p, q, *_ in levels][:LEVELS] for levels in (bids, asks))
        self.samples[last] = mine
        if last in self.states:
            self._compare(last)
        if len(self.samples) > 500:
            self.samples.popitem(last=False)

    def _keep(self) -> None:
        assert self.last is not None
        self.states[self.last] = self._top()
        if self.last in self.samples:
            self._compare(self.last)
        if len(self.states) > 300:
            self.states.popitem(last=False)

    def _top(self) -> tuple[list[Any], list[Any]]:
        bids = sorted(self.sides[0].items(), reverse=True)[:LEVELS]
        return bids, sorted(self.sides[1].items())[:LEVELS]

    def _compare(self, last: int) -> None:
        self.compared += 1
        mine, truth = self.states[last], self.samples[last]
        if mine != truth:
            self.wrong.append(f"at {last}: {mine[0][:2]} {mine[1][:2]} instead of {truth[0][:2]} {truth[1][:2]}")


class Judge:
    """Everything of one run."""

    def __init__(self) -> None:
        self.trades: dict[Key, Numbers] = {}
        self.trade_data: OrderedDict[tuple[Key, int], tuple[str, str, str]] = OrderedDict()
        self.trade_truth: dict[tuple[Key, int], tuple[str, str, str]] = {}
        self.disorder = 0
        self.candles: dict[tuple[str, str, str], Counter[int]] = {}
        self.candle_data: dict[tuple[str, str, str, int], tuple[str, ...]] = {}
        self.books: dict[Key, Book] = {}
        self.said: Counter[str] = Counter()
        self.lost: list[dict[str, Any]] = []
        self.read_back = self.events = self.rest = 0
        self._newest: dict[Key, int] = {}

    def record(self, value: bytes) -> None:
        for line in value.split(b"\n"):
            event = json.loads(line)
            self.events += 1
            read = getattr(self, f"_{event['type']}", None)
            if read is not None:
                self.rest += event.get("source") == "rest"
                read(event)

    def _trade(self, event: dict[str, Any]) -> None:
        key, number = (event["market"], event["symbol"]), int(event["trade_id"])
        self.trades.setdefault(key, Numbers()).add(number)
        self.disorder += number < self._newest.get(key, 0)
        self._newest[key] = max(number, self._newest.get(key, 0))
        self.trade_data[key, number] = (event["price"], event["qty"], event["side"])
        if len(self.trade_data) > RECENT:
            self.trade_data.popitem(last=False)

    def _kline(self, event: dict[str, Any]) -> None:
        if event["closed"]:
            key = (event["market"], event["symbol"], event["interval"])
            self.candles.setdefault(key, Counter())[event["open_time"]] += 1
            values = tuple(event[name] for name in ("open", "high", "low", "close", "volume"))
            self.candle_data[(*key, event["open_time"])] = values

    def _depth(self, event: dict[str, Any]) -> None:
        self.books.setdefault((event["market"], event["symbol"]), Book()).feed(event)

    def _stream(self, event: dict[str, Any]) -> None:
        self.said[event["event"]] += 1
        if event["event"] == "gap" and event["data"].get("class") in ("trade", "kline"):
            self.lost.append({**event["data"], "symbol": event["symbol"], "reason": event["reason"]})
        if event["event"] == "backfilled":
            self.read_back += event["data"]["events"]

    def wrong_trades(self) -> int:
        """Trades of which Kafka tells something else than the exchange's REST."""
        return sum(1 for key, told in self.trade_data.items() if self.trade_truth.get(key, told) != told)

    def compared_trades(self) -> int:
        return sum(1 for key in self.trade_data if key in self.trade_truth)

    def missing_candles(self) -> int:
        """Minutes without a closed candle between the first and the last."""
        return sum(
            (max(seen) - min(seen)) // 60_000 + 1 - len(seen) for (_, _, i), seen in self.candles.items() if i == "1m"
        )

    def repeated_candles(self) -> int:
        return sum(count - 1 for seen in self.candles.values() for count in seen.values())

    def figures(self) -> dict[str, Any]:
        books = self.books.values()
        return {
            "events": self.events, "from_rest": self.rest, "read_back": self.read_back, "said": dict(self.said),
            "trades": {f"{m}:{s}": n.ends[-1] - n.begins[0] + 1 for (m, s), n in self.trades.items()},
            "trade_holes": sum(b - a + 1 for n in self.trades.values() for a, b in n.holes),
            "trades_repeated": sum(n.repeated for n in self.trades.values()), "trades_out_of_order": self.disorder,
            "trades_compared": self.compared_trades(), "trades_wrong": self.wrong_trades(),
            "candles": sum(len(c) for c in self.candles.values()), "candles_missing": self.missing_candles(),
            "candles_repeated": self.repeated_candles(),
            "books_compared": sum(b.compared for b in books), "books_wrong": sum(len(b.wrong) for b in books),
            "book_breaks": sum(b.breaks for b in books), "book_snapshots": sum(b.snapshots for b in books),
            "lost": self.lost,
        }  # fmt: skip
