"""Quiet is not dead, and a process without a processor is not a dead exchange."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core.exchange import Liveness
from fleet.core.liveness import Due, due, wait_s
from fleet.exchanges import exchanges

VENUES = {name: venue.user_liveness for name, venue in exchanges().items()}
PLAIN = Liveness(ping=None, interval_s=5.0, timeout_s=11.0)


@pytest.mark.parametrize("liveness", VENUES.values(), ids=VENUES)
@given(tick_s=st.floats(0.05, 1.0), latency_s=st.floats(0.0, 3.0))
def test_a_socket_that_answers_pings_lives_for_hours(liveness: Liveness, tick_s: float, latency_s: float) -> None:
    heard_s = pinged_s = answer_s = 0.0
    for n in range(1, 2000):
        looked_s = n * tick_s
        if 0.0 < answer_s <= looked_s:
            heard_s, answer_s = looked_s, 0.0
        what = due(liveness, looked_s, heard_s, pinged_s)
        assert what is not Due.DEAD
        if what is Due.PING:
            pinged_s = looked_s
            answer_s = answer_s or looked_s + latency_s + 0.001


@pytest.mark.parametrize("liveness", VENUES.values(), ids=VENUES)
@given(tick_s=st.floats(0.05, 1.0), last_ping_s=st.floats(0.0, 30.0))
def test_a_half_open_socket_is_found_soon_after_its_timeout(
    liveness: Liveness, tick_s: float, last_ping_s: float
) -> None:
    heard_s = 100.0
    looked_s, pinged_s = heard_s, heard_s - last_ping_s
    while looked_s - heard_s < 30.0:
        what = due(liveness, looked_s, heard_s, pinged_s)
        if what is Due.DEAD:
            break
        looked_s += tick_s
        if what is Due.PING:
            pinged_s = looked_s
    assert liveness.timeout_s < looked_s - heard_s <= liveness.timeout_s + 3 * tick_s


def test_who_got_no_processor_for_a_minute_asks_first() -> None:
    """Nothing was read for a minute, because nothing looked. A ping is due, not death; then six seconds for the answer."""
    assert due(PLAIN, looked_s=100.0, heard_s=40.0, pinged_s=30.0) is Due.PING
    assert due(PLAIN, looked_s=100.5, heard_s=40.0, pinged_s=100.2) is Due.NOTHING
    assert due(PLAIN, looked_s=106.3, heard_s=40.0, pinged_s=100.2) is Due.DEAD


def test_what_came_while_the_reader_slept_counts() -> None:
    """The pong of 46 s lay in the kernel while the reader got no processor from 45 to 75 s: the time that counts is the one
    before the read that found nothing."""
    assert due(PLAIN, looked_s=45.0, heard_s=40.0, pinged_s=44.9) is Due.NOTHING


@pytest.mark.parametrize("liveness", VENUES.values(), ids=VENUES)
@given(heard_s=st.floats(100.0, 130.0), pinged_s=st.floats(100.0, 130.0), now_s=st.floats(130.0, 150.0))
def test_nothing_is_due_before_the_wait_is_over_and_something_is_after_it(
    liveness: Liveness, heard_s: float, pinged_s: float, now_s: float
) -> None:
    left_s = wait_s(liveness, now_s, heard_s, pinged_s)
    if left_s > 0.001:
        assert due(liveness, now_s + left_s - 0.001, heard_s, pinged_s) is Due.NOTHING
    assert due(liveness, now_s + left_s + 0.001, heard_s, pinged_s) is not Due.NOTHING
