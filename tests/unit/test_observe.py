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
NOW = 100.0


def judge(
    rows: dict[str, WitnessRow], since: float, *, moved: bool = False, silent: int = 1, workers: int = 2, **more: float
) -> observe.Verdicts:
    """Of `silent` workers whose witness counter has not changed since `since`."""
    names = {f"h:{i}": "i1" for i in range(silent)}
    memory = {
        slot: observe.Watched(*((rows[slot].incarnation, rows[slot].beat) if slot in rows else ("", 0)), since, moved)
        for slot in names
    }
    cut = {"h:0": more["cut_since"]} if "cut_since" in more else {}
    return observe.judge(names, workers, rows, memory, cut, more.get("postgres_s", 60.0), NOW, TIMING)


def test_the_witness_is_watched_by_its_counter_not_by_its_clock() -> None:
    row = WitnessRow("i1", "", 3)
    memory = observe.watch({}, {"h:0": row}, ["h:0", "h:1"], 10.0)
    assert memory == {"h:0": observe.Watched("i1", 3, 10.0), "h:1": observe.Watched("", 0, 10.0)}
    assert observe.watch(memory, {"h:0": row}, ["h:0"], 14.0) == {"h:0": observe.Watched("i1", 3, 10.0)}
    beaten = observe.watch(memory, {"h:0": WitnessRow("i1", "", 4)}, ["h:0"], 14.0)
    assert beaten == {"h:0": observe.Watched("i1", 4, 14.0, moved=True)}


def test_a_row_that_only_a_verdict_made_is_no_beat() -> None:
    memory = observe.watch({}, {}, ["h:0"], 10.0)
    assert observe.watch(memory, {"h:0": WitnessRow("i1", "i1", 0)}, ["h:0"], 14.0) == memory


def test_nobody_is_judged_before_the_witness_was_watched_for_a_lease_and_q() -> None:
    assert judge({}, NOW - 4.9) == observe.Verdicts()
    assert observe.judge({"h:0": "i1"}, 2, {}, {}, {}, 60.0, NOW, TIMING) == observe.Verdicts()


def test_nobody_is_judged_by_a_postgres_that_has_just_come_back() -> None:
    assert judge({}, NOW - 60, postgres_s=4.9) == observe.Verdicts()


@pytest.mark.parametrize("rows", [{}, {"h:0": WitnessRow("i1", "", 7)}, {"h:0": WitnessRow("i0", "", 1)}])
def test_quiet_in_both_is_condemned_first(rows: dict[str, WitnessRow]) -> None:
    verdicts = judge(rows, NOW - 5.0)
    assert (verdicts.condemn, verdicts.fence) == ({"h:0": "i1"}, {})


def test_fenced_only_when_it_has_not_beaten_in_the_witness_for_a_lease_and_q() -> None:
    rows = {"h:0": WitnessRow("i1", "i1", 7)}
    assert judge(rows, NOW - 4.9, moved=True) == observe.Verdicts()
    assert judge(rows, NOW - 5.0, moved=True).fence == {"h:0": "i1"}


def test_beating_in_the_witness_it_is_cut_off_and_left_alone_for_the_grace() -> None:
    rows = {"h:0": WitnessRow("i1", "", 7)}
    first = judge(rows, NOW - 1, moved=True)
    assert (first.condemn, first.fence, first.cut) == ({}, {}, {"h:0": NOW})
    assert judge(rows, NOW - 1, moved=True, cut_since=NOW - 29).condemn == {}
    late = judge(rows, NOW - 1, moved=True, cut_since=NOW - 30)
    assert (late.condemn, late.fence) == ({"h:0": "i1"}, {})


@pytest.mark.parametrize(
    ("silent", "workers", "held"),
    [(1, 1, False), (2, 2, False), (2, 3, False), (3, 5, True), (3, 6, False), (9, 9, True)],
)
def test_mass_guard(silent: int, workers: int, held: bool) -> None:
    for rows in ({}, {f"h:{i}": WitnessRow("i1", "i1", 0) for i in range(silent)}):
        verdicts = judge(rows, NOW - 60, silent=silent, workers=workers)
        assert verdicts.held is held
        assert len(verdicts.condemn) + len(verdicts.fence) == (0 if held else silent)
