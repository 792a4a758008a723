"""Numbers that must be there once each: what is new, what is missing, where a later life resumes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from fleet.core.series import Series, interval_ms


def test_a_candle_is_as_long_as_its_name_says() -> None:
    assert [interval_ms(name) for name in ("1s", "15m", "4h", "1d", "3d", "1w")] == [
        1000, 900_000, 14_400_000, 86_400_000, 259_200_000, 604_800_000,
    ]  # fmt: skip
    assert [interval_ms(name) for name in ("1M", "", "m", "1x", "-1m")] == [0] * 5


def test_what_follows_is_new_and_what_was_told_is_not() -> None:
    series = Series()
    assert series.take(10, 10)
    assert series.take(11, 13)
    assert not series.take(12, 12)
    assert not series.take(9, 9)
    assert series.missing == []
    assert series.floor() == 13


def test_a_jump_is_a_gap_and_late_numbers_close_it() -> None:
    series = Series(last=5)
    assert series.take(9, 9)
    assert series.missing == [(6, 8)]
    assert series.floor() == 5
    assert series.take(7, 7)
    assert not series.take(7, 7)
    assert series.missing == [(6, 6), (8, 8)]
    assert series.remove(0, 100) == 2
    assert series.floor() == 9


def test_an_aggregate_that_is_half_known_counts_as_new() -> None:
    series = Series(last=5)
    assert series.take(4, 7)
    assert series.last == 7
    assert series.missing == []


def test_a_boundary_that_passed_is_expected() -> None:
    series = Series()
    assert not series.expect(59_999)
    assert not series.expect(59_999)
    assert series.expect(119_999)
    assert series.missing == [(60_000, 119_999)]
    assert series.take(60_000, 119_999)
    assert series.missing == []


def test_a_later_life_resumes_before_and_after_its_first_event() -> None:
    fresh = Series()
    assert not fresh.resume(10)
    fresh.take(13, 13)
    assert fresh.missing == [(11, 12)]
    running = Series()
    running.take(13, 13)
    running.take(14, 14)
    assert running.resume(10)
    assert running.missing == [(11, 12)]
    assert not running.resume(10)
    assert not running.resume(14)


def test_what_was_dropped_is_missing_again() -> None:
    series = Series(last=20)
    series.reopen(8, 12)
    series.reopen(10, 30)
    assert series.count() == 13
    assert series.floor() == 7


def test_a_gap_that_is_too_long_loses_its_older_end() -> None:
    series = Series(last=0)
    series.take(1001, 1001)
    assert series.cap(100) == (1, 900)
    assert series.missing == [(901, 1000)]
    assert series.cap(100) is None


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 4)), max_size=40), st.integers(0, 10))
def test_told_and_missing_are_everything_once(spans: list[tuple[int, int]], mark: int) -> None:
    series = Series(last=mark)
    told: set[int] = set(range(mark + 1))
    for lo, extra in spans:
        span = set(range(lo, lo + extra + 1))
        assert series.take(lo, lo + extra) == bool(span - told)
        told |= span
    missing = {n for a, b in series.missing for n in range(a, b + 1)}
    assert series.last == max(told)
    assert missing == set(range(max(told) + 1)) - told
    assert series.missing == sorted(series.missing)
    assert series.floor() == (min(missing) - 1 if missing else max(told))
