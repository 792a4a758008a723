"""Whose word counts when ownership is rebuilt (R10): pure parts of coordinator/rebuild.py."""

from __future__ import annotations

import itertools

from coordinator.rebuild import agreed
from fleet.core.model import Ownership
from fleet.core.wire import RUN
from fleet.runtime.redis_store import Change


def record(slot: str, token: int) -> Ownership:
    return Ownership(slot, f"{slot}-inc", token, RUN, 0, 1, "")


def test_who_runs_an_account_counts_more_than_who_does_not() -> None:
    """Postgres was away when the account moved from a to b: its row still names a, which says that it does not run it."""
    old, new = record("a", 3), record("b", 9)
    changes = [Change("x", old, None), Change("x", old, new), Change("y", record("a", 4), None)]
    for order in itertools.permutations(changes):
        assert {change.account_id: change.new for change in agreed(order)} == {"x": new, "y": None}


def test_of_two_who_run_it_the_higher_token_counts() -> None:
    changes = [Change("x", None, record("a", 12)), Change("x", None, record("b", 9))]
    for order in itertools.permutations(changes):
        assert [change.new for change in agreed(order)] == [record("a", 12)]
