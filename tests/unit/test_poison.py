"""R13: three deaths while starting the same account, and no innocent is blamed for long."""

from __future__ import annotations

import random

from fleet.core.model import AccountSpec, Ownership
from fleet.core.poison import PATIENCE_S, RETRY_S, WINDOW_S, Suspicion


class Case:
    """A worker that restarts after each death; `guilty` kill it as soon as they are started."""

    def __init__(self, innocent: int, *guilty: str) -> None:
        self.suspicion, self.guilty = Suspicion(), guilty
        self.names = [f"a{i}" for i in range(innocent)] + list(guilty)
        self.now, self.token, self.deaths, self.live = 0.0, 0, 0, set[str]()

    def life(self) -> bool:
        """One life of the worker, or the rest of one; True if it survived with all that may run live."""
        inc = f"i{self.deaths}-0"
        while True:
            waiting = self.suspicion.waiting(self.now)
            start = [a for a in self.names if a not in waiting | self.live | set(self.suspicion.quarantined)]
            if not start:
                self.now += 1.0
                if not waiting:
                    return True
                continue
            for name in start:
                self.token += 1
                self.suspicion.assigned(name, Ownership("h:0", inc, self.token, "run", 0, 1), self.now)
            self.now += 1.0
            if any(g in start for g in self.guilty):
                self.deaths += 1
                for account in self.suspicion.died("h:0", inc, self.now):
                    self.suspicion.quarantine(account, 1, self.now)
                self.live.clear()
                return False
            for name in start:
                self.suspicion.live(name, self.suspicion.starting[name].token)
                self.live.add(name)

    def settle(self) -> None:
        while not self.life():
            assert self.deaths < 30


def test_a_single_poison_account_is_found_after_three_deaths_and_the_others_run() -> None:
    case = Case(0, "poison")
    case.settle()
    assert (case.deaths, set(case.suspicion.quarantined)) == (3, {"poison"})


def test_it_is_found_among_many_without_blaming_one_of_them() -> None:
    for n in (1, 5, 40, 500):
        case = Case(n, "poison")
        case.settle()
        assert set(case.suspicion.quarantined) == {"poison"}
        assert len(case.live) == n
        assert case.deaths <= 10


def test_it_is_found_whatever_its_name() -> None:
    for guilty in ("A", "a20x", "z"):
        case = Case(40, guilty)
        case.settle()
        assert set(case.suspicion.quarantined) == {guilty}
        assert len(case.live) == 40


def test_a_newcomer_beside_probationers_is_found() -> None:
    case = Case(8, "p1")
    for _ in range(2):
        case.life()
    case.guilty, case.names = ("p1", "p2"), [*case.names, "p2"]
    case.settle()
    assert set(case.suspicion.quarantined) == {"p1", "p2"}
    assert len(case.live) == 8


def test_two_of_them() -> None:
    case = Case(20, "p1", "p2")
    case.settle()
    assert set(case.suspicion.quarantined) == {"p1", "p2"}
    assert len(case.live) == 20


def test_a_worker_killed_again_and_again_from_outside_costs_no_account() -> None:
    rng = random.Random(1)
    case = Case(100)
    for _ in range(12):
        inc = f"k{case.deaths}-0"
        waiting = case.suspicion.waiting(case.now)
        for name in case.names:
            if name not in waiting:
                case.token += 1
                case.suspicion.assigned(name, Ownership("h:0", inc, case.token, "run", 0, 1), case.now)
        case.now += rng.random() * 3
        case.deaths += 1
        assert case.suspicion.died("h:0", inc, case.now) == []
    case.settle()
    assert not case.suspicion.quarantined
    assert len(case.live) == 100


def test_deaths_far_apart_are_no_pattern() -> None:
    suspicion = Suspicion()
    for i in range(6):
        now = i * WINDOW_S / 1.9
        suspicion.assigned("a", Ownership("h:0", f"i{i}", i, "run", 0, 1), now)
        assert suspicion.died("h:0", f"i{i}", now + 1) == []


def test_who_neither_goes_live_nor_kills_is_let_go() -> None:
    suspicion = Suspicion()
    for i in range(2):
        suspicion.assigned("a", Ownership("h:0", f"i{i}", i, "run", 0, 1), float(i))
        suspicion.died("h:0", f"i{i}", i + 0.5)
    suspicion.assigned("a", Ownership("h:0", "i3", 3, "run", 0, 1), 2.0)
    assert suspicion.waiting(2.0) == frozenset()
    suspicion.waiting(2.0 + PATIENCE_S)
    assert not suspicion.strikes
    assert not suspicion.starting


def test_who_was_found_guilty_is_tried_again_alone_and_ever_more_seldom() -> None:
    case = Case(5, "poison")
    case.settle()
    assert set(case.suspicion.quarantined) == {"poison"}
    for pause in (RETRY_S, 2 * RETRY_S, 4 * RETRY_S):
        deaths = case.deaths
        assert case.suspicion.retry(case.now + 0.9 * pause) == []
        case.now += 1.1 * pause
        assert case.suspicion.retry(case.now) == ["poison"]
        case.settle()
        assert (case.deaths, set(case.suspicion.quarantined)) == (deaths + 1, {"poison"}), "one death is enough now"
        assert len(case.live) == 5


def test_an_innocent_that_was_blamed_streams_again_and_starts_with_a_clean_record() -> None:
    case = Case(5, "blamed")
    case.settle()
    case.guilty = ()  # it was the machine
    case.now += RETRY_S + 1.0
    assert case.suspicion.retry(case.now) == ["blamed"]
    case.settle()
    assert len(case.live) == 6 and not case.suspicion.strikes and not case.suspicion.again


def test_a_changed_row_is_forgiven() -> None:
    suspicion = Suspicion()
    suspicion.quarantine("a", 1, 0.0)
    row = AccountSpec("a", "u", "binance", "usdm", "", False, 1, 0)
    assert suspicion.forgive({"a": row}) == []
    assert suspicion.forgive({"a": AccountSpec("a", "u", "binance", "usdm", "", False, 2, 0)}) == ["a"]
    suspicion.quarantine("a", 1, 0.0)
    assert suspicion.forgive({}) == ["a"]


def test_a_probationer_that_is_taken_away_keeps_nobody_waiting() -> None:
    suspicion = Suspicion()
    for i in range(2):
        for account in "ab":
            suspicion.assigned(account, Ownership("h:0", f"i{i}", i, "run", 0, 1), float(i))
        suspicion.died("h:0", f"i{i}", i + 0.5)
    assert suspicion.waiting(2.0) == {"b"}
    suspicion.forgive({"b": AccountSpec("b", "u", "binance", "usdm", "", False, 1, 0)})
    assert suspicion.waiting(2.0) == frozenset()


def test_a_probationer_that_does_not_start_keeps_nobody_waiting_for_long() -> None:
    """Its start was not seen (an answer was lost), so it runs; or there is no room for it."""
    suspicion = Suspicion()
    for i in range(2):
        for account in "ab":
            suspicion.assigned(account, Ownership("h:0", f"i{i}", i, "run", 0, 1), float(i))
        suspicion.died("h:0", f"i{i}", i + 0.5)
    assert suspicion.waiting(2.0) == {"b"}
    suspicion.waiting(2.0 + PATIENCE_S)
    assert suspicion.waiting(2.5 + PATIENCE_S) == frozenset()
