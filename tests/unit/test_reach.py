"""Leave to dial: a crowd is let in by answers, an exchange that is away is tried by one at a time, the most urgent come first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from fleet.core.errors import ConnectionFailed
from workers import reach as module
from workers.reach import FIRST, LONGEST_TRIAL_S, MOST, TOGETHER, Crowd, Reach, Turn


class Streams:
    """Streams that ask for leave, each in a thread of its own."""

    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        self.entered: list[str] = []
        self.cancelled: set[str] = set()
        self.turns: dict[str, Turn] = {}
        self.given_up: list[str] = []
        self._lock = threading.Lock()  # guards the three above
        self._threads: list[threading.Thread] = []

    def ask(self, who: str, urgency: int = 0) -> None:
        thread = threading.Thread(target=self._ask, args=(who, urgency))
        self._threads.append(thread)
        thread.start()

    def _ask(self, who: str, urgency: int) -> None:
        try:
            self.reach.enter(urgency, lambda: who in self.cancelled, self.turns.setdefault(who, Turn()))
        except ConnectionFailed:
            with self._lock:
                self.given_up.append(who)
            return
        with self._lock:
            self.entered.append(who)

    def until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + 5.0
        while not condition():
            assert time.monotonic() < end, (self.entered, self.given_up)
            time.sleep(0.002)

    def close(self) -> None:
        for thread in self._threads:
            thread.join(5.0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    return [100.0]


@pytest.fixture
def crowd(now: list[float]) -> Streams:
    return Streams(Reach(lambda: now[0]))


def fail_everybody(crowd: Streams, count: int = FIRST) -> None:
    """`count` streams find nobody."""
    for n in range(count):
        crowd.reach.enter(0, lambda: False, Turn())
        crowd.reach.leave(f"failed-{n}", False)


def test_each_answer_lets_one_more_in(crowd: Streams) -> None:
    for n in range(4 * FIRST):
        crowd.ask(f"s{n}")
    crowd.until(lambda: len(crowd.entered) == FIRST)
    for done in range(FIRST):
        crowd.reach.leave(crowd.entered[done], True)
    crowd.until(lambda: len(crowd.entered) == 3 * FIRST)  # in place of those that are done, twice as many
    for done in range(FIRST, 3 * FIRST):
        crowd.reach.leave(crowd.entered[done], True)
    crowd.until(lambda: len(crowd.entered) == 4 * FIRST)
    crowd.close()


def test_no_more_than_the_most_dial_together(crowd: Streams) -> None:
    for _ in range(3 * MOST):
        crowd.reach.enter(0, lambda: False, Turn())
        crowd.reach.leave("somebody", True)
    for n in range(MOST + 5):
        crowd.ask(f"s{n}")
    crowd.until(lambda: len(crowd.entered) == MOST)
    crowd.reach.leave(crowd.entered[0], True)
    crowd.until(lambda: len(crowd.entered) == MOST + 1)
    for done in range(1, 5):
        crowd.reach.leave(crowd.entered[done], True)
    crowd.until(lambda: len(crowd.entered) == MOST + 5)
    crowd.close()


def test_an_exchange_that_is_away_is_tried_by_one_at_a_time_less_and_less_often(
    crowd: Streams, now: list[float]
) -> None:
    fail_everybody(crowd)
    for n in range(6):
        crowd.ask(f"s{n}")
    pauses = []
    for trial in range(1, 6):
        crowd.until(lambda trial=trial: len(crowd.entered) == trial)  # type: ignore[misc]
        crowd.reach.leave(crowd.entered[-1], False)
        began = now[0]
        while len(crowd.entered) == trial:
            now[0] += 0.25
            time.sleep(0.03)
        pauses.append(now[0] - began)
    assert pauses == sorted(pauses) and pauses[-1] <= LONGEST_TRIAL_S + 0.5
    assert pauses[0] < 2.0 < pauses[-1]
    crowd.close()


def test_once_one_is_answered_the_others_follow(crowd: Streams) -> None:
    fail_everybody(crowd)
    for n in range(FIRST):
        crowd.ask(f"s{n}")
    crowd.until(lambda: len(crowd.entered) == 1)
    crowd.reach.leave(crowd.entered[0], True)
    crowd.until(lambda: len(crowd.entered) == FIRST)
    crowd.close()


def test_one_stream_that_never_gets_through_is_not_an_outage(crowd: Streams) -> None:
    for _ in range(5 * FIRST):
        crowd.reach.enter(0, lambda: False, Turn())
        crowd.reach.leave("broken", False)
    for n in range(FIRST):
        crowd.ask(f"s{n}")
    crowd.until(lambda: len(crowd.entered) == FIRST)
    crowd.close()


def test_the_most_urgent_is_next_and_who_gave_up_is_passed_over(crowd: Streams) -> None:
    for _ in range(FIRST):
        crowd.reach.enter(0, lambda: False, Turn())
    crowd.ask("quiet", 0)
    crowd.ask("gone", 50)
    crowd.ask("traded", 9)
    time.sleep(0.05)
    crowd.cancelled.add("gone")
    crowd.until(lambda: crowd.given_up == ["gone"])
    crowd.reach.leave("inside-0", None)
    crowd.until(lambda: crowd.entered == ["traded"])
    crowd.reach.leave("inside-1", None)
    crowd.until(lambda: crowd.entered == ["traded", "quiet"])
    crowd.close()


def test_a_process_dials_so_many_at_a_time_and_waits_for_none_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd()
    inside, let_go = threading.Semaphore(0), threading.Event()

    def dial() -> None:
        with crowd.place():
            inside.release()
            let_go.wait(10.0)

    threads = [threading.Thread(target=dial) for _ in range(TOGETHER + 1)]
    for thread in threads:
        thread.start()
    for _ in range(TOGETHER):
        assert inside.acquire(timeout=5.0)
    assert not inside.acquire(timeout=0.1)
    monkeypatch.setattr(module, "TOGETHER_WAIT_S", 0.05)
    with crowd.place():  # none is free, and nobody leaves: on it goes
        pass
    let_go.set()
    assert inside.acquire(timeout=5.0)
    for thread in threads:
        thread.join(5.0)
    with crowd.place():
        pass
