"""The local token bucket: never more than burst + rate × time, blocks only lengthen. What a process tells Redis, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import budget
from fleet.core.budget import Bucket, Taken
from fleet.core.errors import StoreUnavailable
from fleet.core.exchange import Rate
from fleet.exchanges import exchanges
from fleet.runtime.budget import Budget


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


TOLD = Rate(1200, 20, 60.0, used_header="x-used")


@given(
    st.floats(0, 2000),
    st.floats(0.05, 1),
    st.floats(1, 60),
    st.lists(st.tuples(st.floats(0, 9), st.floats(1, 90)), max_size=40),
)
def test_after_the_exchange_told_no_more_than_the_part_of_the_rest_is_spent(
    used: float, part: float, rest_s: float, steps: list[tuple[float, float]]
) -> None:
    mine, now, granted = budget.share(TOLD, part), 0.0, 0.0
    bucket = budget.observe(None, now, used, TOLD, part, rest_s)
    assert budget.observe(bucket, now, used, TOLD, part, rest_s) == bucket
    for gap_s, amount in steps:
        now += gap_s
        if now > rest_s:
            break
        bucket, wait_s = budget.take(bucket, now, amount, mine)
        granted += min(amount, mine.burst) if wait_s == 0 else 0
    assert granted <= max(0.0, 1200 - used) * part + 1e-3


def test_who_is_told_that_much_is_used_goes_on_when_the_window_ends() -> None:
    mine = budget.share(TOLD, 0.5)
    bucket = budget.observe(None, 0.0, 1200, TOLD, 0.5, 20.0)
    assert budget.spend(bucket, 5) == bucket  # a debt is not forgiven
    assert budget.take(bucket, 1.0, 0.0, mine)[1] == 0.0  # nor is it a block
    _, wait_s = budget.take(bucket, 0.0, 1, mine)
    assert wait_s == pytest.approx(20.0 + 1 / mine.per_s)


def test_binance_tells_what_was_used_and_others_do_not() -> None:
    told = {name: exchange.limits.weight.used_header for name, exchange in exchanges().items()}
    assert {name: header for name, header in told.items() if header} == {
        "binance_usdm": "x-mbx-used-weight-1m", "binance_spot": "x-mbx-used-weight-1m",
    }  # fmt: skip


class Shared:
    """The shared buckets, as their replies and what they were told."""

    def __init__(self) -> None:
        self.reply, self.away = Taken(0.0, 1000.0), False
        self.observed: list[tuple[float, str]] = []
        self.blocks: list[float] = []

    def _here(self) -> None:
        if self.away:
            raise StoreUnavailable("away")

    def bucket_take(
        self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0
    ) -> Taken:
        self._here()
        return self.reply

    def bucket_observe(
        self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, age_s: float, unknown_since: str
    ) -> Taken:
        self._here()
        self.observed.append((used, unknown_since))
        return Taken(0.0, rate.burst - used)

    def bucket_block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        self._here()
        self.blocks.append(seconds)


class Process:
    """One process' budget on clocks of its own; its window began 30 s before `now_s` 100."""

    def __init__(self) -> None:
        self.now_s, self.shared = 100.0, Shared()
        self.budget = Budget(self.shared, 0.5, clock=lambda: self.now_s, wall=lambda: self.now_s + 50.0)

    def take(self, amount: float = 1.0) -> float:
        return self.budget.take("weight", "x", "ip", amount, TOLD)

    def told(self, used: float, sent_s: float | None = None) -> None:
        self.budget.observed("weight", "x", "ip", used, TOLD, self.now_s if sent_s is None else sent_s)


def test_redis_hears_only_what_the_fleet_does_not_know() -> None:
    process = Process()
    process.told(900)
    assert process.shared.observed == []  # it has not said yet what it knows
    process.take()
    process.told(200)  # as much as the fleet spent
    process.told(220)
    assert process.shared.observed == []
    process.told(300)
    process.told(300)
    assert process.shared.observed == [(300, "")]


def test_only_calls_sent_after_a_bucket_was_heard_of_as_unknown_may_raise_it() -> None:
    process = Process()
    process.shared.reply = Taken(0.0, 100.0, "7.5")
    sent_before_s, process.now_s = process.now_s, process.now_s + 1
    process.take()
    process.told(30, sent_before_s)
    assert process.shared.observed == []
    process.told(1150, sent_before_s)
    process.take()
    process.now_s += 1
    process.take()
    process.told(40)
    process.told(41)  # known now
    assert process.shared.observed == [(1150, ""), (40, "7.5")]


def test_what_the_exchange_told_holds_while_redis_is_away() -> None:
    process = Process()
    process.take()
    process.told(1100)
    process.shared.away = True
    assert sum(process.take(10) == 0.0 for _ in range(50)) == 0
    process.now_s += 29  # 100 are left, half of them for this process
    assert sum(process.take(10) == 0.0 for _ in range(50)) in (4, 5)
    process.told(1199)  # asked and not told, as Redis is away
    process.now_s += 2
    process.told(1100, process.now_s - 5)  # of the window before
    assert process.take() == 0.0


def test_a_block_is_told_again_while_it_lasts_and_somebody_asks() -> None:
    process = Process()
    process.budget.block("weight", "x", "ip", 10.0)
    for _ in range(30):
        process.now_s += 0.5
        process.take()
    assert process.shared.blocks == [10.0, 8.0, 6.0, 4.0, 2.0]


def test_a_block_is_told_again_once_redis_is_back() -> None:
    process = Process()
    process.shared.away = True
    process.budget.block("weight", "x", "ip", 10.0)
    process.now_s += 1.0
    process.shared.away = False
    assert process.take() == 9.0 and process.shared.blocks == []  # left alone for two seconds
    process.now_s += 1.0
    assert process.take() == 8.0 and process.shared.blocks == [8.0]
