"""Carrying out a plan: coordinator/dispatch.py over a Redis that takes its time."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from coordinator import dispatch as dispatch_module
from coordinator.dispatch import Dispatch
from fleet.core.model import Ownership
from fleet.core.plan import Assign, Plan, Release
from fleet.core.wire import RUN, Generation
from fleet.runtime.redis_store import Change

READY = Generation("g", True)
CALL_S = 0.2


@pytest.mark.parametrize(("releases", "batches"), [(0, [("assign", 2)] * 3), (8, [("release", 2)] * 3)])
def test_a_plan_takes_no_more_of_a_tick_than_its_share(
    monkeypatch: pytest.MonkeyPatch, releases: int, batches: list[tuple[str, int]]
) -> None:
    """The leader's lease is renewed between ticks only; what is left is planned again. Stops come first."""
    now, written = [0.0], []

    def apply(leader: str, generation: Generation, changes: Sequence[Change]) -> list[bool]:
        now[0] += CALL_S
        written.append(("assign" if changes[0].new else "release", len(changes)))
        return [True] * len(changes)

    monkeypatch.setattr(dispatch_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(dispatch_module, "BATCH", 2)
    store: Any = SimpleNamespace(apply=apply)
    leadership: Any = SimpleNamespace(leader="c|1", next_token=count(1).__next__)
    observed: Any = SimpleNamespace(applied=lambda changes, results: None)
    assignments: Any = SimpleNamespace(record=lambda changes, removed: None)
    moves: Any = SimpleNamespace(put=lambda *_: None)
    metrics: Any = None
    former = Ownership("h:1", "dead", 1, RUN, 0, 1)
    plan = Plan(
        releases=[Release(f"r{n}", former, False, "inactive") for n in range(releases)],
        assigns=[Assign(f"a{n}", None, "h:0", "i", 1, "new") for n in range(20)],
    )
    dispatch = Dispatch(store, leadership, observed, assignments, moves, metrics, lambda: 0)
    moved = [account for batch in dispatch.carry_out(plan, READY, {}) for account in batch]
    assert written == batches
    assert moved == ([] if releases else [f"a{n}" for n in range(6)])
