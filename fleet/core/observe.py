"""Who lives? Rules R3, R8, R9, R11 of ownership.md as functions of (state, message, time). Pure; used by the leader.

In: worker records as read from Redis, witness rows as read from Postgres, and the instant of reading on the leader's own
monotonic clock. Out: a standing per slot, and verdicts. No timestamp written by another machine is ever compared: the
leader times how long a heartbeat counter has not changed since it saw it last.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Set

import msgspec

from fleet.core.wire import DRAINING, GONE, WorkerRecord


class Timing(msgspec.Struct, frozen=True):
    """Seconds, all on the leader's monotonic clock."""

    dead_after_s: float = 7.0
    restart_grace_s: float = 2.5  # after a clean exit the accounts wait this long for the slot to come back (R8)
    partitioned_grace_s: float = 30.0  # a worker seen by the witness only is left alone this long (R9)
    witness_lease_s: float = 4.0  # also the worker's lease L in Redis
    silence_s: float = 1.0  # Q: silence after the deadline
    leader_gap_s: float = 2.0  # a longer step between two observations: the leader was paused


FADE_S = (
    2.0  # workers that were heard of last within so long of each other fell silent together: a heartbeat, calls, a tick
)


class Standing(enum.StrEnum):
    """What the leader may do with a slot's accounts."""

    UP = "up"  # takes accounts
    LEAVING = "leaving"  # got SIGTERM: takes none, keeps what it has until it is gone
    DRAIN = "drain"  # an operator empties it: takes none, gives up what it has
    SILENT = "silent"  # no beat for T_dead and no verdict yet, or fenced and its lease not over: leave its accounts
    RESTING = "resting"  # exited cleanly a moment ago: its accounts wait for the slot's next incarnation
    DEAD = "dead"  # fenced, or gone for good: its accounts are orphans


class Seen(msgspec.Struct, frozen=True):
    """What the leader remembers of one slot: since when the heartbeat counter has not changed, and since when the state."""

    incarnation: str
    seq: int
    state: str
    beat_at: float
    state_at: float


class WitnessRow(msgspec.Struct, frozen=True):
    """A slot's row of fleet_witness. `beat` counts; 0 = the leader's verdict made the row, nobody has beaten there."""

    incarnation: str
    fenced: str
    beat: int


class Watched(msgspec.Struct, frozen=True):
    """The leader's memory of one witness row (R3 holds for Postgres too: its clock may jump): the counter, since when it has
    not changed on the leader's own clock, and whether it was ever seen to change."""

    incarnation: str
    beat: int
    since: float
    moved: bool = False


class Verdicts(msgspec.Struct, frozen=True):
    """`condemn`: slot → incarnation to fence in the witness now. `fence`: those that may be fenced in Redis and lose their
    accounts now. `cut`: slots that only the witness sees, since when. `held`: R11 applies, nothing is done."""

    condemn: dict[str, str] = {}
    fence: dict[str, str] = {}
    cut: dict[str, float] = {}
    held: bool = False


def see(
    memory: Mapping[str, Seen], workers: Mapping[str, WorkerRecord], owners: Iterable[str], now: float
) -> dict[str, Seen]:
    """The memory after one reading (R3). Slots that own accounts but have no record are timed as well."""
    after: dict[str, Seen] = {}
    for slot, record in workers.items():
        view, known = record.view, memory.get(slot)
        if known is None or known.incarnation != view.incarnation:
            after[slot] = Seen(view.incarnation, view.seq, view.state, now, now)
        else:
            beat_at = known.beat_at if known.seq == view.seq else now
            state_at = known.state_at if known.state == view.state else now
            after[slot] = Seen(view.incarnation, view.seq, view.state, beat_at, state_at)
    for slot in owners:
        if slot not in after:
            known = memory.get(slot)
            after[slot] = known if known and known.incarnation == "" else Seen("", 0, "", now, now)
    return after


def standing(record: WorkerRecord | None, seen: Seen, now: float, timing: Timing) -> Standing:
    """One slot's standing. A slot without a record is silent from the start: it may be alive and about to register. A fenced
    incarnation is dead when its last lease is over: it may have beaten a moment before the verdict, and hears of it later."""
    if record is None or not record.view.incarnation:
        return Standing.DEAD if record and record.fenced else Standing.SILENT
    view = record.view
    if record.fenced == view.incarnation:
        over = now - seen.beat_at >= timing.witness_lease_s + timing.silence_s
        return Standing.DEAD if over else Standing.SILENT
    if view.state == GONE:
        return Standing.RESTING if now - seen.state_at < timing.restart_grace_s else Standing.DEAD
    if now - seen.beat_at >= timing.dead_after_s:
        return Standing.SILENT
    if view.state == DRAINING:
        return Standing.LEAVING
    return Standing.DRAIN if record.drain else Standing.UP


def watch(
    memory: Mapping[str, Watched], rows: Mapping[str, WitnessRow], slots: Iterable[str], read_at: float
) -> dict[str, Watched]:
    """The memory after one reading of the witness rows of `slots`."""
    after: dict[str, Watched] = {}
    for slot in slots:
        row, known = rows.get(slot), memory.get(slot)
        key = (row.incarnation, row.beat) if row is not None and row.beat > 0 else ("", 0)
        if known is not None and (known.incarnation, known.beat) == key:
            after[slot] = known
        else:
            after[slot] = Watched(*key, since=read_at, moved=known is not None)
    return after


def judge(
    suspects: Mapping[str, str],
    workers: int,
    rows: Mapping[str, WitnessRow],
    watched: Mapping[str, Watched],
    cut: Mapping[str, float],
    postgres_s: float,
    read_at: float,
    timing: Timing,
    given_up: Set[str] = frozenset(),
) -> Verdicts:
    """Witness before verdict (R9), and the mass guard (R11).

    `suspects`: slot → incarnation of those silent for T_dead. `workers`: how many are not dead, gone or `given_up`: those that an
    operator drains, which the guard does not count. `rows` as read at
    `read_at`, `watched` the memory of them; `postgres_s` = for how long Postgres had answered without a break by then: a
    worker could have beaten there.

    Two steps, so that a worker which only sees Postgres hears of it before anybody else starts its accounts: first its
    witness row is fenced, from when on no beat is accepted there; only when it has not beaten for longer than a lease and
    the silence Q, its lease is over for certain, and it is fenced in Redis.
    """
    over_s = timing.witness_lease_s + timing.silence_s
    after_cut: dict[str, float] = {}
    condemn: dict[str, str] = {}
    fence: dict[str, str] = {}
    for slot, incarnation in suspects.items():
        row, memory = rows.get(slot), watched.get(slot)
        if memory is None:
            continue
        quiet = min(read_at - memory.since, postgres_s) >= over_s
        if row is not None and row.fenced == incarnation:
            if quiet:
                fence[slot] = incarnation
        elif quiet:
            condemn[slot] = incarnation
        elif memory.moved and memory.incarnation == incarnation:
            after_cut[slot] = cut.get(slot, read_at)
            if read_at - after_cut[slot] >= timing.partitioned_grace_s:
                condemn[slot] = incarnation
    if mass(len((condemn.keys() | fence.keys()) - given_up), workers):
        return Verdicts(cut=after_cut, held=True)
    return Verdicts(condemn, fence, after_cut)


def mass(silent: int, workers: int) -> bool:
    """R11: more than half of the workers, and at least three: it is the detector that broke. The leader asks with those that
    are about to be silent, too (FADE_S): they do not reach T_dead together, for each beats at its own instant."""
    return silent >= 3 and 2 * silent > workers
