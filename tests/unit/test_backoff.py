"""Backoff, breaker and lifecycle: numbers and tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import lifecycle
from fleet.core.backoff import CAP_S, FLOOR_S, Patience, delay_s, next_attempt
from fleet.core.breaker import COOL_DOWN_S, THRESHOLD, Breaker
from fleet.core.model import StreamState


@given(attempt=st.integers(-1, 10_000), roll=st.floats(0, 1, exclude_max=True))
def test_delay_stays_between_floor_and_cap(attempt: int, roll: float) -> None:
    assert FLOOR_S <= delay_s(attempt, lambda: roll) <= CAP_S


def test_delay_doubles_its_ceiling_and_uses_all_of_it() -> None:
    assert [delay_s(n, lambda: 0.999999) for n in (1, 2, 3)] == pytest.approx([1.0, 2.0, 4.0], rel=1e-3)
    assert delay_s(50, lambda: 0.0) == FLOOR_S
    assert delay_s(0, lambda: 0.999) < 0.5


def test_only_a_stable_life_resets_the_attempts() -> None:
    assert next_attempt(7, 60.0) == 0
    assert next_attempt(7, 59.0) == 8


def test_breaker_opens_lets_one_trial_through_and_never_gives_up() -> None:
    breaker, now_s = Breaker(), 100.0
    for _ in range(THRESHOLD - 1):
        breaker = breaker.failed(now_s)
        assert not breaker.is_open(now_s)
    breaker = breaker.failed(now_s)
    assert breaker.wait_s(now_s) == COOL_DOWN_S
    later_s = now_s + COOL_DOWN_S
    assert not breaker.is_open(later_s)  # the trial
    assert breaker.failed(later_s).wait_s(later_s) == COOL_DOWN_S  # it failed: another cool-down
    assert not breaker.succeeded().failed(later_s).is_open(later_s)


def test_every_state_can_end_and_ended_is_final() -> None:
    reachable = {StreamState.IDLE}
    while True:
        more = reachable | {then for now in reachable for then in lifecycle.TRANSITIONS[now]}
        if more == reachable:
            break
        reachable = more
    assert reachable == set(StreamState)
    for state in set(StreamState) - {StreamState.STOPPED, StreamState.DRAINING}:
        assert StreamState.STOPPED in lifecycle.TRANSITIONS[state]
    assert not lifecycle.TRANSITIONS[StreamState.STOPPED]
    with pytest.raises(ValueError, match="cannot go from live to connecting"):
        lifecycle.check(StreamState.LIVE, StreamState.CONNECTING)


def test_patience_forgives_a_few_cuts_but_no_dial_that_never_came_up() -> None:
    patience = Patience()
    for _ in range(5):
        patience = patience.after(0.5, 100.0)
        assert patience.attempt == 0 and patience.pause_s(100.0, lambda: 0.9) < 0.5
    for _ in range(20):
        patience = patience.after(0.1, 100.0)
    assert patience.attempt > 5  # a peer that accepts and closes
    assert patience.after(60.0, 100.0).attempt == 0
    dead = Patience()
    for n in range(THRESHOLD):
        dead = dead.after(0.0, 100.0)
        assert dead.attempt == n + 1
    assert dead.pause_s(100.0, lambda: 0.0) == COOL_DOWN_S
