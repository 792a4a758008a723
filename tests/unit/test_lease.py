"""R4, R5, R6: who may extend the deadline, and what a worker obeys."""

from __future__ import annotations

import msgspec
import pytest

from fleet.core import lease as rules
from fleet.core.lease import Answer, Lease, Order, Times
from fleet.core.model import Desired

TIMES = Times(heartbeat_s=1.0, lease_s=4.0, isolation_max_s=20.0)


def held(at: float = 100.0) -> Lease:
    """A lease granted by a beat sent at `at`."""
    lease, _ = rules.answered(rules.observe(rules.fresh(at), at, TIMES), at, at, Answer.OK, TIMES)
    return lease


def run(lease: Lease, start: float, steps: int, answer: Answer, *, every_s: float = 1.0) -> tuple[Lease, list[Order]]:
    """`steps` beats in a row, each answered the same 10 ms after it was sent."""
    orders = []
    for i in range(steps):
        asked = start + i * every_s
        lease = rules.observe(lease, asked, TIMES)
        lease = rules.observe(lease, asked + 0.01, TIMES)
        lease, order = rules.answered(lease, asked, asked + 0.01, answer, TIMES)
        orders.append(order)
    return lease, orders


def test_a_ok_counts_from_before_the_send() -> None:
    lease = rules.observe(rules.fresh(100.0), 100.0, TIMES)
    lease, order = rules.answered(lease, 100.0, 100.4, Answer.OK, TIMES)
    assert (lease.deadline, order) == (104.0, Order.NOTHING)


def test_a_new_incarnation_holds_nothing() -> None:
    assert rules.fresh(100.0).deadline == 0.0
    lease, orders = run(rules.fresh(100.0), 100.0, 30, Answer.NONE)
    assert lease.deadline == 0.0
    assert set(orders) == {Order.NOTHING}


def test_b_fenced_aborts() -> None:
    lease, orders = run(held(), 101.0, 1, Answer.FENCED)
    assert orders == [Order.ABORT]
    assert lease.deadline == 104.0  # not extended


def test_b_a_lapsed_lease_is_never_revived() -> None:
    for answer in Answer:
        _, order = rules.answered(held(), 104.5, 104.6, answer, TIMES)
        assert order is Order.ABORT


def test_b_an_ok_that_arrives_after_the_deadline_is_too_late() -> None:
    lease, order = rules.answered(held(), 103.9, 104.1, Answer.OK, TIMES)
    assert order is Order.ABORT
    assert lease.deadline == 104.0


def test_c_unknown_keeps_streaming_and_registers() -> None:
    lease, orders = run(held(), 101.0, 3, Answer.UNKNOWN)
    assert orders == [Order.REGISTER] * 3
    assert lease.deadline == 107.0


def test_d_silence_asks_the_witness_from_two_heartbeats_before_the_deadline() -> None:
    lease, orders = run(held(), 101.0, 2, Answer.NONE)
    assert orders == [Order.NOTHING, Order.ASK_WITNESS]
    assert lease.deadline == 104.0


def test_d_the_witness_extends_as_long_as_it_answers() -> None:
    lease = held()
    for i in range(1, 100):
        asked = 100.0 + i
        lease = rules.observe(lease, asked, TIMES)
        lease, order = rules.answered(lease, asked, asked, Answer.NONE, TIMES)
        if order is Order.ASK_WITNESS:
            lease, _ = rules.witnessed(lease, asked, Answer.OK, TIMES)
        assert asked < lease.deadline
    assert lease.deadline >= 202.0


def test_d_a_witness_that_says_fenced_aborts() -> None:
    assert rules.witnessed(held(), 102.0, Answer.FENCED, TIMES)[1] is Order.ABORT


def test_d_a_witness_cannot_grant_what_redis_never_granted() -> None:
    lease, _ = rules.witnessed(rules.fresh(100.0), 100.0, Answer.OK, TIMES)
    assert lease.deadline == 0.0


def test_e_neither_answers_goes_on_up_to_isolation_max() -> None:
    lease, orders = run(held(), 101.0, 40, Answer.NONE)
    assert 120.0 <= lease.deadline <= 100.0 + TIMES.isolation_max_s + TIMES.lease_s
    assert orders[-1] is Order.ABORT


def test_e_who_was_isolated_hears_the_witness_before_it_trusts_redis_again() -> None:
    lease, _ = run(held(), 101.0, 6, Answer.NONE)
    assert lease.isolated
    lease, orders = run(lease, 107.0, 2, Answer.OK)
    assert orders == [Order.ASK_WITNESS] * 2
    assert rules.witnessed(lease, 108.0, Answer.FENCED, TIMES)[1] is Order.ABORT
    lease, _ = rules.witnessed(lease, 108.0, Answer.OK, TIMES)
    assert run(lease, 109.0, 1, Answer.OK)[1] == [Order.NOTHING]


def test_e_a_pause_ends_isolation() -> None:
    lease, _ = run(held(), 101.0, 5, Answer.NONE)
    before = lease.deadline
    lease = rules.observe(lease, 105.01 + 1.6, TIMES)  # 1.6 s without a look at the clock
    assert lease.paused
    lease, _ = run(lease, 106.7, 1, Answer.NONE)
    assert lease.deadline == before


def test_a_fresh_ok_after_a_pause_clears_it() -> None:
    lease = rules.observe(held(), 102.0, TIMES)
    assert lease.paused
    lease, order = rules.answered(lease, 102.0, 102.1, Answer.OK, TIMES)
    assert (lease.paused, lease.deadline, order) == (False, 106.0, Order.NOTHING)


def test_an_answer_to_a_question_from_before_the_pause_does_not_clear_it() -> None:
    lease = rules.observe(held(), 101.0, TIMES)
    lease = rules.observe(lease, 103.0, TIMES)
    lease, _ = rules.answered(lease, 101.0, 103.0, Answer.OK, TIMES)
    assert lease.paused
    assert lease.deadline == 105.0


def test_a_slow_store_is_not_a_pause() -> None:
    lease = held()
    for i in range(10):
        lease = rules.observe(lease, 101.0 + i * 1.5, TIMES)
        lease = rules.observe(lease, 102.0 + i * 1.5, TIMES)
    assert not lease.paused


def test_the_deadline_never_moves_back() -> None:
    lease = msgspec.structs.replace(held(), deadline=200.0)
    lease, _ = rules.answered(lease, 101.0, 101.0, Answer.OK, TIMES)
    assert lease.deadline == 200.0


# ── R2, R5c, R6 ──────────────────────────────────────────────────────────────────────────────────────────────────
CURRENT = {"a": Desired(5, "run"), "b": Desired(6, "run")}
SEEN = {"a": 5, "b": 6}


def test_a_generation_that_is_not_rebuilt_changes_nothing() -> None:
    assert rules.obey(CURRENT, SEEN, {}, rebuilt=False) == CURRENT
    assert rules.obey(CURRENT, SEEN, {"a": Desired(9, "revoke")}, rebuilt=False) == CURRENT


def test_what_vanished_from_a_rebuilt_view_stops() -> None:
    assert rules.obey(CURRENT, SEEN, {"a": Desired(5, "run")}, rebuilt=True) == {"a": Desired(5, "run")}


@pytest.mark.parametrize("state", ["run", "revoke"])
def test_older_information_is_not_obeyed(state: str) -> None:
    assert rules.obey(CURRENT, SEEN, {"a": Desired(4, state)}, rebuilt=True) == {"a": CURRENT["a"]}


def test_an_account_met_before_does_not_start_under_an_older_token() -> None:
    assert rules.obey({}, {"c": 9}, {"c": Desired(8, "run")}, rebuilt=True) == {}


def test_newer_information_is_obeyed() -> None:
    view = {"a": Desired(5, "revoke"), "b": Desired(7, "run"), "c": Desired(1, "run")}
    assert rules.obey(CURRENT, SEEN, view, rebuilt=True) == view
