"""The ownership rules under random faults on a virtual clock: the short, fixed version of `python -m tests.rules`."""

from __future__ import annotations

from collections import Counter

from tests.rules.world import CONTROL_FAULTS, WORKER_FAULTS, World

SEEDS = range(5000, 5060)


def test_no_history_breaks_an_invariant_and_every_fault_is_reached() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        world = World(seed)
        world.run()  # raises Violation with the command that replays it
        seen += world.seen
    assert set(seen) == set(WORKER_FAULTS + CONTROL_FAULTS)
