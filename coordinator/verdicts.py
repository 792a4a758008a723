"""Who is dead? The leader's verdicts on silent workers: witness before verdict (R9), mass guard (R11).

In: the silent workers (observed.py), witness rows (assignments.py). Out: fenced incarnations. Runs in the leader's loop and
waits for nothing: a witness that was not read yet is asked for, and the verdict comes with a later tick.
"""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.assignments import Assignments
from coordinator.dispatch import Dispatch
from coordinator.observed import Observed
from fleet.core import observe
from fleet.core.observe import Timing, Watched, WitnessRow
from fleet.runtime.logs import get

EARLY_S = 0.75  # a reading takes a tick


class Verdicts:
    """Carries out `fleet.core.observe.judge`."""

    def __init__(self, observed: Observed, assignments: Assignments, dispatch: Dispatch, timing: Timing) -> None:
        self._observed, self._assignments, self._dispatch, self._timing = observed, assignments, dispatch, timing
        self._cut: dict[str, float] = {}
        self._condemned: dict[str, str] = {}  # fenced in the witness, not yet in Redis
        self._memory: dict[str, Watched] = {}  # of the witness rows of workers that have begun to be silent
        self._passed_at = 0.0
        self._held = False
        self._inherited = False  # are the verdicts known that a former leader left half done?
        self._log = get("verdicts")

    def begin(self) -> None:
        """A new leadership: what the last one left half done is in the witness, or it never was a verdict."""
        self._cut, self._condemned, self._memory = {}, {}, {}
        self._held = self._inherited = False

    def pass_on(self, now: float) -> dict[str, str]:
        """Slot → incarnation of the workers that were fenced. Raises StoreUnavailable or NotLeader."""
        self._condemned = {s: i for s, i in self._condemned.items() if self._observed.may_live(s, i)}
        if self._mass(now):
            return {}
        timing = self._timing
        early_s = timing.witness_lease_s + timing.silence_s + EARLY_S  # watched for so long when T_dead is over
        for_s = timing.dead_after_s - early_s if self._inherited else 0.0
        watching = {**self._condemned, **self._observed.quiet(now, for_s)}
        read = self._assignments.witness(watching)
        if read is None or now - read.at >= self._timing.silence_s:
            return {}
        read_at, rows = read.at, read.rows
        if now - self._passed_at > self._timing.leader_gap_s:
            self._memory = {}
        self._passed_at = now
        if not self._inherited and watching.keys() <= read.slots:
            self._inherit(watching, rows)
        self._memory = observe.watch(self._memory, rows, watching.keys() & read.slots, read_at)
        suspects = {**self._condemned, **self._observed.suspects(now)}
        up_since = self._assignments.up_since
        postgres_s = read_at - up_since if up_since is not None else 0.0
        given_up, workers = self._observed.given_up(), self._observed.watched()
        verdicts = observe.judge(
            suspects, workers, rows, self._memory, self._cut, postgres_s, read_at, self._timing, given_up
        )
        self._note(verdicts)
        if verdicts.condemn:
            self._condemned.update(verdicts.condemn)  # carried through even if it is heard of in Redis meanwhile
            self._assignments.fence(verdicts.condemn)
        return {slot: inc for slot, inc in verdicts.fence.items() if self._dispatch.fence(slot, inc, "silent")}

    def _inherit(self, alive: Mapping[str, str], rows: Mapping[str, WitnessRow]) -> None:
        """Somebody who was fenced in the witness and not in Redis, and was heard of there again, would lose its streams in the
        next outage of Redis, when nobody can give it new ones: it loses them now, when its next life has them within seconds."""
        self._inherited = True
        for slot, incarnation in alive.items():
            if slot in rows and rows[slot].fenced == incarnation:
                self._condemned[slot] = incarnation
                self._log.warning("verdict of a former leader carried through", action="verdict", shard=slot)

    def _mass(self, now: float) -> bool:
        """R11: too many at once. When the first of them are back, or an operator gives some up, the others are timed anew, as
        after any other failure of the detector (R3)."""
        silent = self._observed.quiet(now, self._timing.dead_after_s - observe.FADE_S).keys()
        quiet = len(silent - self._observed.given_up())
        held, self._held = self._held, observe.mass(quiet, self._observed.watched())
        if self._held and not held:
            self._log.error(
                "too many workers silent at once: verdicts held", action="alert", silent=quiet,
                hint="their accounts stay theirs; `fleet drain SLOT` of each that is gone for good gives them to others",
            )  # fmt: skip
        elif held and not self._held:
            self._observed.forget("verdicts were held")
            self._memory = {}
        return held or self._held

    def _note(self, verdicts: observe.Verdicts) -> None:
        for slot in verdicts.cut.keys() - self._cut.keys():
            self._log.warning("worker is cut off from redis, left alone", action="verdict", shard=slot)
        for slot in verdicts.condemn.keys() - self._condemned.keys():
            self._log.warning("worker condemned, waiting for its lease to end", action="verdict", shard=slot)
        self._cut = verdicts.cut
