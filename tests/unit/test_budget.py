"""The local token bucket: never more than burst + rate × time, blocks only lengthen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.core import budget
from fleet.core.budget import Bucket
from fleet.core.exchange import Rate


@given(
    st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 4)), min_size=1, max_size=60),
    st.floats(1, 20),
    st.floats(0.1, 10),
)
def test_never_grants_more_than_the_limit(steps: list[tuple[float, float]], burst: float, per_s: float) -> None:
    rate = Rate(burst, per_s)
    bucket: Bucket | None = None
    now = granted = 0.0
    for gap_s, amount in steps:
        now += gap_s
        bucket, wait_s = budget.take(bucket, now, amount, rate)
        if wait_s == 0:
            granted += min(amount, burst)
        assert granted <= burst + per_s * now + 1e-3


def test_the_wait_is_long_enough() -> None:
    rate = Rate(2, 0.5)
    bucket, _ = budget.take(None, 10.0, 2, rate)
    bucket, wait_s = budget.take(bucket, 10.0, 1, rate)
    assert wait_s == 2.0
    bucket, again_s = budget.take(bucket, 10.0 + wait_s, 1, rate)
    assert again_s == 0.0


def test_a_block_only_lengthens() -> None:
    bucket = budget.block(None, 0.0, 30)
    bucket = budget.block(bucket, 1.0, 5)
    _, wait_s = budget.take(bucket, 2.0, 1, Rate(10, 10))
    assert wait_s == 28.0


def test_a_share_still_lets_one_through() -> None:
    assert budget.share(Rate(10, 1), 0.01) == Rate(1.0, 0.01)


def test_an_amount_above_the_burst_is_the_whole_burst() -> None:
    _, wait_s = budget.take(None, 0.0, 100, Rate(5, 1))
    assert wait_s == 0.0


def test_the_share_of_a_windowed_rate_fits_into_any_window() -> None:
    share = budget.share(Rate(2200, 2200 / 60, 60.0), 0.5)
    assert share.burst + 60 * share.per_s == 1100
    assert share.window_s == 0.0
