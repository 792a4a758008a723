"""REST that tells fills later than the account shows them: no fill is explained away. The real read-backs and progress of one
Binance account each, driven job by job under a clock of its own, against the venues of the plans' tests."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest

from fleet.core.exchange import HttpCall, HttpReply
from fleet.core.model import Credentials
from fleet.core.recovery import Watermark
from fleet.exchanges import exchanges
from fleet.runtime.metrics import Metrics
from tests.unit import test_binance_spot_recover as spot
from tests.unit.test_binance_recover import SPEC, T0, Venue, items
from workers.progress import Progress
from workers.publish import Publisher
from workers.readback import ReadBack, Reading
from workers.rest import VenueRest
from workers.rest_queue import RestQueue

HOUR_MS, PERIOD_MS = 3_600_000, 1_200_000


class LaggingUsdm(Venue):
    """Trades, and orders where asked for, are told `lag_ms` late; the account at once."""

    lag_ms, orders_lag = 0, True

    def reply(self, call: HttpCall) -> bytes:
        trades, orders = self.trades, self.orders
        self.trades = [t for t in trades if t["time"] <= self.now_ms - self.lag_ms]
        if self.orders_lag:
            self.orders = [o for o in orders if o["updateTime"] <= self.now_ms - self.lag_ms]
        try:
            return json.dumps(self.answer(call)).encode()
        finally:
            self.trades, self.orders = trades, orders


class LaggingSpot(spot.Exchange):
    lag_ms = 0
    now_ms = spot.NOW

    def reply(self, call: HttpCall) -> bytes:
        trades, orders = self.trades, self.orders
        self.trades = [t for t in trades if t["time"] <= self.now_ms - self.lag_ms]
        self.orders = {n: o for n, o in orders.items() if o["updateTime"] <= self.now_ms - self.lag_ms}
        try:
            if call.path.endswith("account"):
                self.trades, self.orders = trades, orders
            return self.answer(call)
        finally:
            self.trades, self.orders = trades, orders


class OldSpot(spot.Exchange):
    """Answers as it was `lag_ms` ago, the account too."""

    lag_ms = 0
    now_ms = spot.NOW

    def __init__(self) -> None:
        super().__init__()
        self.past = [(0, dict(self.wallets), self.updated_ms)]

    def trade(self, symbol: str, side: str, qty: str, price: str, at_ms: int) -> dict[str, Any]:
        row = super().trade(symbol, side, qty, price, at_ms)
        self.past.append((at_ms, dict(self.wallets), self.updated_ms))
        return row

    def reply(self, call: HttpCall) -> bytes:
        now = self.trades, self.orders, self.wallets, self.updated_ms
        then_ms = self.now_ms - self.lag_ms
        self.trades = [t for t in self.trades if t["time"] <= then_ms]
        self.orders = {n: o for n, o in self.orders.items() if o["updateTime"] <= then_ms}
        _, self.wallets, self.updated_ms = [past for past in self.past if past[0] <= then_ms][-1]
        try:
            return self.answer(call)
        finally:
            self.trades, self.orders, self.wallets, self.updated_ms = now


class Rest:
    def __init__(self, venue: LaggingUsdm | LaggingSpot | OldSpot, name: str) -> None:
        self.venue, self.exchange = venue, exchanges()[name]

    def now_ms(self) -> int:
        return self.venue.now_ms

    def call(self, call: HttpCall, credentials: Credentials, cancelled: Callable[[], bool], **_: object) -> HttpReply:
        return HttpReply(200, {}, self.venue.reply(call), at_ms=self.venue.now_ms)


class Kafka:
    """Acknowledges when told to."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.waiting: list[Callable[[], None]] = []

    def offer(
        self,
        topic: str,
        key: bytes,
        value: bytes,
        headers: object,
        acked: Callable[[], None] | None = None,
        refused: object = None,
        valid: object = None,
    ) -> bool:
        self.records.append(json.loads(value))
        self.waiting += [acked] if acked else []
        return True

    def acknowledge(self) -> None:
        waiting, self.waiting = self.waiting, []
        for acked in waiting:
            acked()


class Gate:
    def valid(self) -> bool:
        return True


class Jobs:
    """The queue of REST jobs, run by the test: the clock jumps over every wait."""

    def __init__(self) -> None:
        self.jobs: list[tuple[float, Callable[[], None]]] = []

    def submit(self, job: Callable[[], None], delay_s: float = 0.0, deadline_s: float = 0.0) -> None:
        self.jobs.append((delay_s, job))


class Life:
    """One account's stream as far as read-backs know it, in one process."""

    credentials, known_here = Credentials("k", "s"), False

    def __init__(self, venue: LaggingUsdm | LaggingSpot | OldSpot, mark: Watermark) -> None:
        usdm = isinstance(venue, LaggingUsdm)
        self.spec = SPEC if usdm else spot.SPEC
        self.venue, self.rest = venue, Rest(venue, "binance_usdm" if usdm else "binance_spot")
        self.kafka, self.jobs = Kafka(), Jobs()
        publisher = cast(Publisher, self.kafka)
        self.progress = Progress(self.spec, mark, 1, "h:0", "i", publisher, Gate(), Metrics())
        self.back = ReadBack(margin_s=10.0, second_read_s=8.0, random=lambda: 0.1, stop=threading.Event(), threads=1)
        self.back._queues[cast(VenueRest, self.rest)] = cast(RestQueue, self.jobs)

    def rejected(self, verdict: object) -> None:
        raise AssertionError(verdict)

    def proven(self, reading: Reading) -> None:
        self.known_here = True

    def read(self, subscribed_ms: int, **how: Any) -> None:
        """A read-back to its end, and what a gap left unasked."""
        self.back.request(self, subscribed_ms, **how)  # type: ignore[arg-type]
        for _ in range(20):
            if not self.jobs.jobs:
                break
            delay_s, job = self.jobs.jobs.pop(0)
            self.venue.now_ms += int(delay_s * 1000)
            job()
            self.kafka.acknowledge()
        assert not self.jobs.jobs, "the read-back does not end"

    def audits(self, count: int) -> None:
        began_ms = self.venue.now_ms
        for n in range(1, count + 1):
            self.venue.now_ms = began_ms + n * PERIOD_MS
            self.read(began_ms, audit="proof" if n % 4 else "full")

    def fills(self) -> list[str]:
        return [r["trade_id"] for r in self.kafka.records if r["type"] == "fill"]

    def closed(self) -> list[bool]:
        """Of each closed gap: was all of it recovered?"""
        return [r["data"]["recoverable"] for r in self.kafka.records if r.get("event") == "gap_closed"]


def proven_usdm() -> Life:
    """An account that was proven when it had nothing."""
    venue = LaggingUsdm()
    life = Life(venue, Watermark(proven_ms=T0))
    venue.now_ms = T0 + 1
    life.read(T0)
    return life


def test_a_new_life_does_not_book_a_fill_twice_and_explain_the_next_one_away() -> None:
    """One lot filled and told, kill -9, one more equal lot in the gap, which REST tells late."""
    first = proven_usdm()
    venue = cast(LaggingUsdm, first.venue)
    at_ms = T0 + 60_000
    first.progress.live(items(venue.trade("BTCUSDT", "BUY", "1", at_ms)))
    first.kafka.acknowledge()
    venue.trade("BTCUSDT", "BUY", "1", at_ms + 10_000)
    venue.now_ms, venue.lag_ms, venue.orders_lag = at_ms + 12_000, 5_000, False
    second = Life(venue, msgspec.json.decode(first.progress.watermark_json(), type=Watermark))
    second.progress.open_gap(at_ms + 3_000, "moved")
    second.progress.taken_over(venue.now_ms)
    second.read(venue.now_ms)
    assert set(second.fills()) == {"1", "2"} and second.closed() == [True]
    assert second.progress.mark.filled_qty("BTCUSDT", "1") == 1


@pytest.mark.parametrize("lag_ms", [10_000, 15_000, 25_000])
def test_an_audit_waits_for_a_fill_that_the_account_shows(lag_ms: int) -> None:
    """The living socket told the position and dropped the order's push."""
    life = proven_usdm()
    venue = cast(LaggingUsdm, life.venue)
    at_ms = T0 + 2 * HOUR_MS
    venue.lag_ms = lag_ms
    life.progress.live(items(venue.trade("BTCUSDT", "BUY", "1", at_ms)[:1]))
    life.kafka.acknowledge()
    venue.now_ms = at_ms + 6_000
    life.read(T0, audit="proof")
    assert life.fills() == ["1"] and life.closed() == []


def test_an_audit_says_so_when_the_exchange_never_tells_it() -> None:
    life = proven_usdm()
    venue = cast(LaggingUsdm, life.venue)
    venue.lag_ms = HOUR_MS
    venue.trade("BTCUSDT", "BUY", "1", T0 + HOUR_MS)
    venue.now_ms = T0 + HOUR_MS + 20_000
    life.read(T0, audit="proof")
    assert life.fills() == [] and life.closed() == [False]


@pytest.mark.parametrize("lag_ms", [4_000, 9_000, 12_000])
@pytest.mark.parametrize("orders_lag", [True, False])
def test_a_new_account_s_first_fill_is_not_taken_for_its_beginning(lag_ms: int, orders_lag: bool) -> None:
    venue = LaggingUsdm()
    venue.lag_ms, venue.orders_lag = lag_ms, orders_lag
    life = Life(venue, Watermark(proven_ms=T0))
    venue.trade("BTCUSDT", "BUY", "1", T0 + 2_000)
    venue.now_ms = T0 + 3_000
    life.read(venue.now_ms)
    assert life.fills() == ["1"]


def test_a_position_from_before_the_account_was_ours_is_no_missing_fill() -> None:
    venue = LaggingUsdm()
    venue.trade("BTCUSDT", "BUY", "1", T0 - HOUR_MS)
    venue.now_ms = T0 + 3_000
    life = Life(venue, Watermark(proven_ms=T0))
    life.read(venue.now_ms)
    assert life.closed() == [] and life.progress.mark.positions == {"BTCUSDT|both": "1"}
    assert venue.now_ms < T0 + 20_000, "nothing was waited for"


@pytest.mark.parametrize("known", [True, False])
def test_a_spot_gap_waits_for_a_trade_that_the_wallets_show(known: bool) -> None:
    """Of a symbol that traded before, and of one that never did."""
    venue = LaggingSpot()
    life = Life(venue, Watermark(proven_ms=spot.NOW - HOUR_MS))
    venue.now_ms = spot.NOW - HOUR_MS + 10_000
    life.read(venue.now_ms)
    if known:
        venue.trade("BTCUSDT", "BUY", "0.1", "100", spot.NOW - 120_000)
        venue.now_ms = spot.NOW - 60_000
        life.read(venue.now_ms, audit="full")
    before = life.fills()
    assert len(before) == known
    venue.trade("BTCUSDT", "BUY", "0.2", "100", spot.NOW - 2_000)
    venue.now_ms, venue.lag_ms = spot.NOW, 12_000
    life.progress.open_gap(spot.NOW - 10_000, "cut")
    life.progress.taken_over(spot.NOW)
    life.read(spot.NOW)
    assert len(life.fills()) == len(before) + 1 and life.closed() == [True]


def test_a_deposit_is_not_taken_for_a_trade() -> None:
    venue = LaggingSpot()
    life = Life(venue, Watermark(proven_ms=spot.NOW - HOUR_MS))
    venue.now_ms = spot.NOW - HOUR_MS + 10_000
    life.read(venue.now_ms)
    venue.wallets["USDT"] = venue.wallets.get("USDT", Decimal(0)) + 50
    venue.now_ms = spot.NOW
    life.progress.open_gap(spot.NOW - 10_000, "cut")
    life.progress.taken_over(spot.NOW)
    life.read(spot.NOW)
    assert life.closed() == [True] and venue.now_ms < spot.NOW + 10_000


def test_a_position_that_the_socket_dropped_while_an_audit_was_under_way_is_told_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The fill came between the audit's snapshot and its end, and the position it led to never."""
    life = proven_usdm()
    venue = cast(LaggingUsdm, life.venue)
    at_ms = T0 + HOUR_MS
    venue.now_ms = at_ms
    life.progress.live(items(venue.trade("BTCUSDT", "BUY", "1", at_ms - 60_000)))
    life.kafka.acknowledge()
    snapshot = venue.reply

    def trades_on(call: HttpCall) -> bytes:
        reply = snapshot(call)
        if call.path.endswith("account") and len(venue.trades) == 1:
            life.progress.live(items(venue.trade("BTCUSDT", "BUY", "2", at_ms + 1)[1:]))
            life.kafka.acknowledge()
        return reply

    monkeypatch.setattr(venue, "reply", trades_on)
    life.read(T0, audit="proof")
    life.audits(2)
    told = [r["qty"] for r in life.kafka.records if r["type"] == "position"]
    assert told == ["1", "3"]


@pytest.mark.parametrize("left_out", [("assets", "positions"), ("positions",)])
def test_an_account_that_leaves_out_what_it_holds_once_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, left_out: tuple[str, ...]
) -> None:
    """Else a quiet account's wallet and position would be told as gone, and what they were before is old news then."""
    venue = LaggingUsdm()
    life = Life(venue, Watermark(proven_ms=T0))
    venue.trade("BTCUSDT", "BUY", "1", T0 + 1)
    venue.now_ms = T0 + 20_000
    life.read(T0)
    reply, answers = venue.reply, 0

    def once(call: HttpCall) -> bytes:
        nonlocal answers
        answers += call.path.endswith("account")
        gone = call.path.endswith("account") and answers == 1
        return json.dumps(json.loads(reply(call)) | dict.fromkeys(left_out, [])).encode() if gone else reply(call)

    venue.now_ms = T0 + HOUR_MS
    life.audits(1)  # the trade is proven
    monkeypatch.setattr(venue, "reply", once)
    life.audits(2)
    told = [r.get("qty") or r["wallet"] for r in life.kafka.records if r["type"] in ("position", "balance")]
    assert answers > 1 and sorted(told) == ["1", "999.99"]


@pytest.mark.parametrize("lag_ms", [8_000, 25_000, 60_000])
@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_a_fill_that_old_copies_of_everything_hid_from_a_gap_s_reads_is_found_by_the_next_audit(
    lag_ms: int, symbol: str
) -> None:
    venue = OldSpot()
    life = Life(venue, Watermark(proven_ms=spot.NOW - HOUR_MS))
    venue.now_ms = spot.NOW - HOUR_MS + 10_000
    life.read(venue.now_ms)
    venue.trade("BTCUSDT", "BUY", "0.1", "100", spot.NOW - 200_000)
    venue.now_ms = spot.NOW - 100_000
    life.read(venue.now_ms, audit="full")
    venue.lag_ms = lag_ms
    for ago_ms in (37_000, 25_000, 15_000, 1_000):
        venue.trade(symbol, "BUY", "0.2", "100", spot.NOW - ago_ms)
    venue.now_ms = spot.NOW
    life.progress.open_gap(spot.NOW - 40_000, "cut")
    life.progress.taken_over(spot.NOW)
    life.read(spot.NOW)
    life.audits(2)
    assert sorted(life.fills()) == ["0", "1", "2", "3", "4"] and life.closed() == [True]
    assert life.progress.mark.explains(life.progress.mark.base)


def ahead_of_its_trades(spot_market: bool) -> tuple[Life, int, Callable[[int], object]]:
    """A proven account whose trades REST tells 10 s late; the time; what makes one `ago_ms`, of which the socket says nothing."""
    venue = LaggingSpot() if spot_market else LaggingUsdm()
    start_ms = spot.NOW - HOUR_MS if spot_market else T0
    life = Life(venue, Watermark(proven_ms=start_ms))
    venue.now_ms = start_ms + 10_000
    life.read(venue.now_ms)
    venue.lag_ms, venue.now_ms = 10_000, start_ms + HOUR_MS

    def trade(ago_ms: int) -> object:
        if isinstance(venue, LaggingSpot):
            return venue.trade("BTCUSDT", "BUY", "0.1", "100", venue.now_ms - ago_ms)
        return venue.trade("BTCUSDT", "BUY", "1", venue.now_ms - ago_ms)

    return life, venue.now_ms, trade


def while_read(monkeypatch: pytest.MonkeyPatch, life: Life, after_ms: int, happens: Callable[[], object]) -> None:
    """Something happens once, before the account is asked for after `after_ms`."""
    venue, reply, left = life.venue, life.venue.reply, [happens]

    def answer(call: HttpCall) -> bytes:
        if call.path.endswith("account") and venue.now_ms > after_ms and left:
            left.pop()()
        return reply(call)

    monkeypatch.setattr(venue, "reply", answer)


@pytest.mark.parametrize("spot_market", [False, True])
def test_an_audit_does_not_explain_away_a_fill_of_just_now_that_the_socket_dropped(
    monkeypatch: pytest.MonkeyPatch, spot_market: bool
) -> None:
    """Both reads of the audit find the account ahead of its trades, each by another fill, the second by one of just now."""
    life, now_ms, trade = ahead_of_its_trades(spot_market)
    trade(3_000)
    while_read(monkeypatch, life, now_ms, lambda: trade(2_000))
    life.read(now_ms - HOUR_MS, audit="proof")
    life.audits(1)
    assert len(life.fills()) == 2 and life.closed() == []


@pytest.mark.parametrize("spot_market", [False, True])
def test_a_gap_s_last_read_does_not_explain_away_a_fill_that_the_new_socket_dropped(
    monkeypatch: pytest.MonkeyPatch, spot_market: bool
) -> None:
    life, now_ms, trade = ahead_of_its_trades(spot_market)
    life.progress.open_gap(now_ms - 20_000, "cut")
    life.progress.taken_over(now_ms)
    while_read(monkeypatch, life, now_ms, lambda: trade(1_000))
    life.read(now_ms)
    assert life.closed() == [True] and not life.fills()
    life.audits(1)
    assert len(life.fills()) == 1 and life.closed() == [True]
