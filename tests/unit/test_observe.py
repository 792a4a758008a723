"""R3, R8, R9, R11: standings and verdicts."""

from __future__ import annotations

import msgspec
import pytest

from fleet.core import observe, wire
from fleet.core.model import WorkerView
from fleet.core.observe import Seen, Standing, Timing, WitnessRow
from fleet.core.wire import WorkerRecord

TIMING = Timing()


def worker(slot: str = "h:0", inc: str = "i1", seq: int = 1, state: str = wire.UP, **fields: object) -> WorkerRecord:
    record = WorkerRecord(WorkerView(slot, inc, seq, state, "h", 1, 100, 0.0, 0))
    return msgspec.structs.replace(record, **fields)


def standing_after(record: WorkerRecord, s: float) -> Standing:
    memory = observe.see({}, {"h:0": record}, (), 0.0)
    memory = observe.see(memory, {"h:0": record}, (), s)
    return observe.standing(record, memory["h:0"], s, TIMING)


def test_a_counter_that_moves_is_alive_whatever_its_clock_says() -> None:
    memory: dict[str, Seen] = {}
    for s in range(100):
        record = worker(seq=s, beat_ms=0)
        memory = observe.see(memory, {"h:0": record}, (), float(s))
        assert observe.standing(record, memory["h:0"], float(s), TIMING) is Standing.UP


@pytest.mark.parametrize(("after_s", "expected"), [(6.9, Standing.UP), (7.0, Standing.SILENT)])
def test_an_unchanged_counter_is_timed(after_s: float, expected: Standing) -> None:
    assert standing_after(worker(), after_s) is expected


def test_forgetting_starts_the_time_over() -> None:
    record = worker()
    memory = observe.see({}, {"h:0": record}, (), 100.0)  # the memory of before was dropped
    assert observe.standing(record, memory["h:0"], 106.0, TIMING) is Standing.UP


def test_a_clean_exit_rests_then_is_dead() -> None:
    record = worker(state=wire.GONE)
    assert standing_after(record, 1.0) is Standing.RESTING
    assert standing_after(record, 2.6) is Standing.DEAD


def test_the_grace_counts_from_the_change_of_state_not_from_the_last_beat() -> None:
    memory = observe.see({}, {"h:0": worker()}, (), 0.0)
    gone = worker(state=wire.GONE)
    memory = observe.see(memory, {"h:0": gone}, (), 6.0)
    assert observe.standing(gone, memory["h:0"], 8.0, TIMING) is Standing.RESTING


def test_fenced_and_draining() -> None:
    assert standing_after(worker(fenced="i1"), 5.0) is Standing.DEAD
    assert standing_after(worker(fenced="i0"), 0.0) is Standing.UP
    assert standing_after(worker(state=wire.DRAINING), 0.0) is Standing.LEAVING
    assert standing_after(worker(drain=True), 0.0) is Standing.DRAIN


def test_a_fenced_incarnation_is_dead_when_its_last_lease_is_over() -> None:
    """It may have beaten a moment before the verdict."""
    memory = observe.see({}, {"h:0": worker(seq=1)}, (), 0.0)
    memory = observe.see(memory, {"h:0": worker(seq=2)}, (), 3.0)
    fenced = worker(seq=2, state=wire.FENCED, fenced="i1")
    memory = observe.see(memory, {"h:0": fenced}, (), 4.0)
    assert observe.standing(fenced, memory["h:0"], 7.9, TIMING) is Standing.SILENT
    assert observe.standing(fenced, memory["h:0"], 8.0, TIMING) is Standing.DEAD


def test_an_owner_without_a_record_is_silent_and_timed() -> None:
    memory = observe.see({}, {}, ["h:9"], 0.0)
    memory = observe.see(memory, {}, ["h:9"], 7.0)
    assert memory["h:9"].beat_at == 0.0
    assert observe.standing(None, memory["h:9"], 7.0, TIMING) is Standing.SILENT
    fenced = wire.parse_worker("h:9", {"fenced_inc": "i1"})
    assert observe.standing(fenced, memory["h:9"], 7.0, TIMING) is Standing.DEAD


# ── R9, R11 ──────────────────────────────────────────────────────────────────────────────────────────────────────
def judge(suspects: int, watched: int, witness: dict[str, WitnessRow] | None, **more: float) -> observe.Verdicts:
    names = {f"h:{i}": "i1" for i in range(suspects)}
    cut = {"h:0": more["cut_since"]} if "cut_since" in more else {}
    return observe.judge(names, watched, witness, cut, more.get("postgres_s", 60.0), more.get("now", 100.0), TIMING)


def test_nobody_is_judged_without_the_witness() -> None:
    assert judge(1, 2, None) == observe.Verdicts()


def test_nobody_is_judged_by_a_postgres_that_has_just_come_back() -> None:
    assert judge(1, 2, {}, postgres_s=3.0) == observe.Verdicts()


@pytest.mark.parametrize("rows", [{}, {"h:0": WitnessRow("i1", "", 60.0)}, {"h:0": WitnessRow("i0", "", 1.0)}])
def test_stale_in_both_is_condemned_first(rows: dict[str, WitnessRow]) -> None:
    verdicts = judge(1, 2, rows)
    assert (verdicts.condemn, verdicts.fence) == ({"h:0": "i1"}, {})


def test_fenced_only_when_its_last_beat_in_the_witness_is_older_than_a_lease_and_q() -> None:
    assert judge(1, 2, {"h:0": WitnessRow("i1", "i1", 4.9)}) == observe.Verdicts()
    assert judge(1, 2, {"h:0": WitnessRow("i1", "i1", 5.0)}).fence == {"h:0": "i1"}


def test_fresh_in_the_witness_is_cut_off_and_left_alone_for_the_grace() -> None:
    rows = {"h:0": WitnessRow("i1", "", 1.0)}
    first = judge(1, 2, rows, now=100.0)
    assert (first.condemn, first.fence, first.cut) == ({}, {}, {"h:0": 100.0})
    assert judge(1, 2, rows, now=129.0, cut_since=100.0).condemn == {}
    late = judge(1, 2, rows, now=130.0, cut_since=100.0)
    assert (late.condemn, late.fence) == ({"h:0": "i1"}, {})


@pytest.mark.parametrize(
    ("silent", "watched", "held"),
    [(1, 1, False), (2, 2, False), (2, 3, False), (3, 5, True), (3, 6, False), (9, 9, True)],
)
def test_mass_guard(silent: int, watched: int, held: bool) -> None:
    verdicts = judge(silent, watched, {})
    assert verdicts.held is held
    assert len(verdicts.condemn) == (0 if held else silent)
    condemned = judge(silent, watched, {f"h:{i}": WitnessRow("i1", "i1", 60.0) for i in range(silent)})
    assert (condemned.held, len(condemned.fence)) == (held, 0 if held else silent)
