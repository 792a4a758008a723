"""Witness before verdict, as the leader does it: reconciler, verdicts, assignments and dispatch as they are, over stores and a
clock of our own."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator import assignments as assignments_module
from coordinator.assignments import Assignments
from coordinator.dispatch import Dispatch
from coordinator.observed import Observed
from coordinator.reconciler import Reconciler
from fleet.core.errors import StoreUnavailable
from fleet.core.model import WorkerView
from fleet.core.observe import Timing
from fleet.core.wire import Generation, WorkerRecord
from fleet.runtime.redis_store import Observation, OwnPart
from fleet.runtime.settings import Settings

READY = Generation("g", True)
TICK_S = 0.5


class Nothing:
    """Stands for metrics: every name is a function that returns it again."""

    def __getattr__(self, name: str) -> Nothing:
        return self

    def __call__(self, *_: Any) -> Nothing:
        return self


class Redis:
    """Workers' records, and no account's."""

    def __init__(self, slots: list[str]) -> None:
        self.seq = dict.fromkeys(slots, 1)
        self.fenced: dict[str, str] = {}
        self.drained: set[str] = set()

    def observe(self) -> Observation:
        views = {slot: WorkerView(slot, f"{slot}-inc", seq, "up", "h", 1, 10, 0.0, 0) for slot, seq in self.seq.items()}
        records = {
            slot: WorkerRecord(view, self.fenced.get(slot, ""), drain=slot in self.drained)
            for slot, view in views.items()
        }
        return Observation(READY, 1, records, [])

    def own_page(self, cursor: int) -> OwnPart:
        return OwnPart(READY, 1, 0, {}, [], 0)

    def fence_worker(self, leader: str, slot: str, incarnation: str) -> bool:
        self.fenced[slot] = incarnation
        return True

    def set_unplaced(self, leader: str, reasons: Any, answers: object) -> None: ...


class Postgres:
    """fleet_witness, in which nobody beats. `away`: it answers nothing."""

    def __init__(self) -> None:
        self.fenced: dict[str, str] = {}
        self.away = False

    def execute(self, sql: str, values: dict[str, str]) -> None:
        self._answer()
        self.fenced[values["slot"]] = values["incarnation"]

    def fetch(self, sql: str, values: Any = ()) -> list[dict[str, Any]]:
        self._answer()
        if "transaction_read_only" in sql:
            return [{"writable": True}]
        asked = dict(values).get("slots", ())
        rows = [(slot, inc) for slot, inc in self.fenced.items() if slot in asked]
        return [{"slot": slot, "incarnation": inc, "fenced_inc": inc, "beat": 0} for slot, inc in rows]

    def _answer(self) -> None:
        if self.away:
            raise StoreUnavailable("postgres: away")


class Fleet:
    """A coordinator and the workers it watches; each tick, the workers in `beating` beat."""

    def __init__(self, clock: list[float], *slots: str) -> None:
        self.clock, self.redis, self.postgres = clock, Redis(list(slots)), Postgres()
        self.beating = set(slots)
        self.leads, self.woken = True, 0
        store: Any = self.redis
        leadership: Any = SimpleNamespace(hold=lambda: self.leads, leader="c|1")
        self.assignments = Assignments(lambda: self.postgres, self._wake)  # type: ignore[arg-type, return-value]
        self.assignments.up_since = 0.0
        observed = Observed(store, Timing())
        nothing: Any = Nothing()
        dispatch = Dispatch(store, leadership, observed, self.assignments, nothing, nothing, lambda: 0)
        self.reconciler = Reconciler(
            Settings(), Timing(), store, leadership, SimpleNamespace(snapshot=None), observed, self.assignments,  # type: ignore[arg-type]
            dispatch, nothing, nothing, {}, threading.Event(), threading.Event(),
            clock=lambda: self.clock[0], now_ms=lambda: 0,
        )  # fmt: skip

    def _wake(self) -> None:
        self.woken += 1

    def go_on(self, for_s: float) -> None:
        until = self.clock[0] + for_s
        while self.clock[0] < until:
            self.clock[0] += TICK_S
            for slot in self.beating:
                self.redis.seq[slot] += 1
            self.reconciler.tick(self.clock[0])
            if not self.postgres.away:
                self.assignments._round(self.postgres)  # type: ignore[arg-type]

    def fenced_after(self, at_most_s: float) -> float | None:
        """Seconds until Redis has a fence; None = none by then."""
        started = self.clock[0]
        while not self.redis.fenced and self.clock[0] - started < at_most_s:
            self.go_on(TICK_S)
        return self.clock[0] - started if self.redis.fenced else None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(assignments_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_silent_worker_is_condemned_and_then_fenced(clock: list[float]) -> None:
    fleet = Fleet(clock, "h:0", "h:1")
    fleet.go_on(3)
    fleet.beating.discard("h:0")
    took_s = fleet.fenced_after(30)
    assert took_s is not None and 7 <= took_s <= 9
    assert fleet.redis.fenced == fleet.postgres.fenced == {"h:0": "h:0-inc"}


def test_workers_that_an_operator_drains_are_given_up_by_the_mass_guard(clock: list[float]) -> None:
    """A host with most of the workers is gone for good: nobody else can tell that from a detector that broke."""
    lost = {f"h:{n}" for n in range(4)}
    fleet = Fleet(clock, *lost, "other:0", "other:1")
    fleet.go_on(3)
    fleet.beating -= lost
    assert fleet.fenced_after(60) is None
    fleet.redis.drained = {"h:0"}
    assert fleet.fenced_after(60) is None  # 3 of the other 5
    fleet.redis.drained = {"h:0", "h:1", "h:2"}
    assert fleet.fenced_after(30) is not None
    fleet.go_on(TICK_S)
    assert fleet.redis.fenced.keys() == lost


def test_workers_that_are_late_do_not_put_off_the_verdict_on_one_that_is_dead(clock: list[float]) -> None:
    """Among a thousand, others fall quiet and are heard of again in each tick: the witness was asked anew each time, and woke the
    leader for nothing."""
    slots = [f"h:{n}" for n in range(20)]
    fleet = Fleet(clock, *slots)
    fleet.go_on(3)
    ticks = 0
    while not fleet.redis.fenced and ticks < 60:
        ticks += 1
        fleet.beating = set(slots[1:][ticks % 5 :: 5])  # each of them every 2.5 s
        fleet.go_on(TICK_S)
    assert fleet.redis.fenced == {"h:0": "h:0-inc"} and ticks * TICK_S <= 9
    assert fleet.woken <= 3  # the durable copy was read; the first rows; the fence was written


def test_a_condemnation_ends_with_its_leadership(clock: list[float]) -> None:
    """Condemned while Postgres was about to go, heard of again under another leader, and well: an hour later it was fenced."""
    fleet = Fleet(clock, "h:0", "h:1")
    fleet.go_on(3)
    fleet.beating.discard("h:0")
    fleet.go_on(6.5)
    fleet.postgres.away = True
    while not fleet.assignments._fences:
        fleet.go_on(TICK_S)
    fleet.leads = False
    fleet.go_on(TICK_S)
    fleet.postgres.away = False
    fleet.beating.add("h:0")
    fleet.go_on(60)
    fleet.leads = True
    assert fleet.fenced_after(30) is None
    assert fleet.postgres.fenced == {}


def test_a_verdict_that_reached_the_witness_is_carried_through_by_the_next_leader(clock: list[float]) -> None:
    """It was left alone until the next outage of Redis, in which the witness told it that it was fenced."""
    fleet = Fleet(clock, "h:0", "h:1", "h:2")
    fleet.postgres.fenced = {"h:0": "h:0-inc", "h:1": "a former life", "h:3": "h:3-inc"}
    took_s = fleet.fenced_after(30)
    assert took_s is not None and 5 <= took_s <= 7
    fleet.go_on(30)
    assert fleet.redis.fenced == {"h:0": "h:0-inc"}
