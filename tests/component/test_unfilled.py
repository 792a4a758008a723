"""Orders that were placed and cancelled without a fill while nobody listened, on accounts that had been quiet for an hour: on each
of the four venues they are told once. No gap waits for that, and it outlives the worker."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.core.model import Credentials
from fleet.core.recovery import order_key
from fleet.exchanges import exchanges
from tests.support.bench import LateKafka, Rows, WorkerBench
from tests.support.simulator import Simulator, eventually, rest

SECRET = "s" * 64
HOUR_MS = 3_600_000
LISTED = {"okx": "BTC-USDT-SWAP"}
NEVER_USED = {"binance_usdm": "ETHUSDT", "okx": "ETH-USDT"}  # found too, where one call tells the orders of all symbols
CROWD = 40


class Quiet:
    """One account of each venue in one worker, each of which has traded one symbol: an hour ago, as far as its watermark knows."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator, self.kafka, self.rows, self.venues = simulator, LateKafka(), Rows(), exchanges()
        self.keys = {name: f"quiet-{name}".ljust(64, "k") for name in self.venues}
        for name, venue in self.venues.items():
            more = {"passphrase": "phrase"} if venue.needs_passphrase else {}
            simulator.account(self.keys[name], SECRET, exchange=venue.exchange, market=venue.market, **more)
            self.rows.add(name, Credentials(self.keys[name], SECRET, "phrase"), venue.exchange, venue.market)
        self.worker = self.work("first")
        for name in self.venues:
            self.order(name, fills=1)
        eventually(lambda: all(self.orders(name) for name in self.venues), 10.0, "the first orders")
        eventually(self.worker.settled, 10.0, "all in Kafka")
        self.an_hour_passes()

    def work(self, incarnation: str) -> WorkerBench:
        worker = WorkerBench(self.simulator, self.kafka, self.rows, incarnation, {"FLEET_SECOND_READ_S": "1"})
        eventually(worker.settled, 30.0, "all live, no gap open")
        return worker

    def an_hour_passes(self) -> None:
        """For who looks at the watermarks: everything in them becomes an hour older, which is less than waiting for it."""
        for stream in self.worker.streams.values():
            progress = stream.progress
            with progress._lock:
                progress.mark.symbols = {s: at_ms - HOUR_MS for s, at_ms in progress.mark.symbols.items()}
                progress.last_live_ms = 0
                progress.dirty = True

    def order(self, name: str, *, fills: int, symbol: str = "") -> str:
        """→ its `order_key`."""
        symbol = symbol or LISTED.get(name, "BTCUSDT")
        more: dict[str, Any] = {"fills": fills, "market": self.venues[name].market}
        placed = self.simulator.order(self.keys[name], symbol, "buy", "0.1", "84000", **more)
        return order_key(symbol, placed["order_id"])

    def come_and_go(self) -> set[tuple[str, str]]:
        """An order of each account in the symbol it used, and in one that it never used; both are cancelled."""
        gone = {(name, self.order(name, fills=0)) for name in self.venues}
        gone |= {(name, self.order(name, fills=0, symbol=symbol)) for name, symbol in NEVER_USED.items()}
        for name, order in gone:
            self.simulator.cancel(self.keys[name], *order.split("|"))
        return gone

    def conditional(self) -> tuple[str, str]:
        """A stop of the USDⓈ-M account in the symbol it used, placed and cancelled."""
        call = (self.keys["binance_usdm"], SECRET)
        stop = {"symbol": "BTCUSDT", "side": "SELL", "type": "STOP_MARKET", "quantity": "0.1", "triggerPrice": "1"}
        _, placed, _ = rest(self.simulator, "POST", "/fapi/v1/algoOrder", *call, algoType="CONDITIONAL", **stop)
        status, _, _ = rest(self.simulator, "DELETE", "/fapi/v1/algoOrder", *call, algoId=str(placed["algoId"]))
        assert status == 200
        return "binance_usdm", order_key("BTCUSDT", f"algo-{placed['algoId']}")

    def in_a_gap(self) -> set[tuple[str, str]]:
        """The sockets die and cannot be replaced until the orders are gone."""
        refusal = self.simulator.fault("reject", status=503)
        for key in self.keys.values():
            self.simulator.fault("cut", api_key=key)
        eventually(lambda: all(s.socket is None for s in self.worker.streams.values()), 5.0, "the cut")
        gone = self.come_and_go() | {self.conditional()}
        self.simulator.end_fault(refusal)
        return gone

    def orders(self, name: str) -> list[dict[str, Any]]:
        return [record for _, record in self.kafka.user_records(name) if record["type"] == "order"]

    def told(self, gone: set[tuple[str, str]]) -> list[tuple[str, str, str, str]]:
        """What of these orders reached Kafka."""
        return sorted(
            (name, order, r["status"], r["source"])
            for name in self.venues
            for r in self.orders(name)
            if (name, order := order_key(r["symbol"], r["order_id"])) in gone
        )

    def answered(self) -> bool:
        return self.worker.settled() and not any(s.progress.unasked for s in self.worker.streams.values())


@pytest.fixture
def quiet() -> Iterator[Quiet]:
    with Simulator(tuple(exchanges()), rate=1) as simulator:
        simulator.settings(weight_limit=1_000_000)
        made = Quiet(simulator)
        yield made
        made.worker.kill()


def once(gone: set[tuple[str, str]]) -> list[tuple[str, str, str, str]]:
    return sorted((name, order, "canceled", "rest") for name, order in gone)


def test_orders_that_came_and_went_in_a_gap_are_told_once(quiet: Quiet) -> None:
    gone = quiet.in_a_gap()
    eventually(lambda: len(quiet.told(gone)) >= len(gone), 20.0, "told")
    eventually(quiet.answered, 10.0, "nothing is unasked any more")
    assert quiet.told(gone) == once(gone)
    assert not any(quiet.rows.load(name).mark.unasked_ms for name in ("bybit",)), "its full reads ask for all"
    again = quiet.in_a_gap()  # the next gap tells its own, and nothing of this one again
    eventually(lambda: len(quiet.told(again)) >= len(again), 20.0, "told")
    eventually(quiet.answered, 10.0, "nothing is unasked any more")
    assert quiet.told(gone | again) == once(gone | again)


def test_no_gap_waits_for_them_and_the_next_worker_asks_where_this_one_died(quiet: Quiet) -> None:
    asked_alone = ("binance_usdm", "binance_spot")
    faults = [
        quiet.simulator.fault("rest_error", path=path, status=503)
        for path in ("/fapi/v1/allOrders", "/api/v3/allOrders")
    ]
    gone = quiet.in_a_gap()
    eventually(quiet.worker.settled, 20.0, "the gaps are closed")
    assert all(quiet.worker.streams[name].progress.unasked for name in asked_alone)
    assert not [row for row in quiet.told(gone) if row[0] in asked_alone]
    eventually(lambda: all(quiet.rows.load(name).mark.unasked_ms for name in asked_alone), 5.0, "saved")
    quiet.worker.kill()
    for fault in faults:
        quiet.simulator.end_fault(fault)
    quiet.worker = quiet.work("second")
    eventually(lambda: len({row[:2] for row in quiet.told(gone)}) >= len(gone), 20.0, "told")
    eventually(quiet.answered, 10.0, "nothing is unasked any more")
    ids = [(by, r["id"]) for name in quiet.venues for by, r in quiet.kafka.user_records(name)]
    assert len(set(ids)) == len(ids)
    assert [row for row in quiet.told(gone) if row[0] in asked_alone] == [
        row for row in once(gone) if row[0] in asked_alone
    ]


def test_the_gaps_of_a_quiet_crowd_close_while_their_orders_are_asked_for_slowly() -> None:
    with Simulator(rate=1) as simulator:
        simulator.settings(weight_limit=1_000_000)
        rows, keys = Rows(), [f"crowd{n}".ljust(64, "k") for n in range(CROWD)]
        for key in keys:
            simulator.account(key, SECRET)
            rows.add(key, Credentials(key, SECRET), "binance", "usdm")
        worker = WorkerBench(simulator, LateKafka(), rows, "crowd", {"FLEET_SECOND_READ_S": "1"})
        try:
            streams = worker.streams.values()
            eventually(lambda: worker.settled() and not any(s.progress.unasked for s in streams), 60.0, "all settled")
            simulator.fault("slow", path="/fapi/v1/allOrders", ms=1500)
            simulator.fault("cut", market="usdm")
            began_s = time.monotonic()
            eventually(lambda: all(s.reconnects for s in streams) and worker.settled(), 30.0, "all gaps are closed")
            took_s = time.monotonic() - began_s
            unasked = sum(s.progress.unasked for s in streams)
            assert unasked >= CROWD // 2, f"closed after {took_s:.1f} s, {CROWD - unasked} asked by then"
        finally:
            worker.kill()
