"""Who is dead? The leader's verdicts on silent workers: witness before verdict (R9), mass guard (R11).

In: the silent workers (observed.py), witness rows (assignments.py). Out: fenced incarnations. Runs in the leader's loop and
waits for nothing: a witness that was not read yet is asked for, and the verdict comes with a later tick.
"""

from __future__ import annotations

from coordinator.assignments import Assignments
from coordinator.dispatch import Dispatch
from coordinator.observed import Observed
from fleet.core import observe
from fleet.core.observe import Timing
from fleet.runtime.logs import get


class Verdicts:
    """Carries out `fleet.core.observe.judge`."""

    def __init__(self, observed: Observed, assignments: Assignments, dispatch: Dispatch, timing: Timing) -> None:
        self._observed, self._assignments, self._dispatch, self._timing = observed, assignments, dispatch, timing
        self._cut: dict[str, float] = {}
        self._condemned: dict[str, str] = {}  # fenced in the witness, not yet in Redis
        self._held = False
        self._log = get("verdicts")

    def pass_on(self, now: float) -> dict[str, str]:
        """Slot → incarnation of the workers that were fenced. Raises StoreUnavailable or NotLeader."""
        self._condemned = {s: i for s, i in self._condemned.items() if self._observed.may_live(s, i)}
        suspects = {**self._condemned, **self._observed.suspects(now)}
        read = self._assignments.witness(suspects)
        up_since = self._assignments.up_since
        verdicts = observe.judge(
            suspects,
            self._observed.watched(),
            read[1] if read is not None and now - read[0] < self._timing.silence_s else None,
            self._cut,
            now - up_since if up_since is not None else 0.0,
            now,
            self._timing,
        )
        self._note(verdicts, len(suspects))
        if verdicts.condemn:
            self._condemned.update(verdicts.condemn)  # carried through even if it is heard of in Redis meanwhile
            self._assignments.fence(verdicts.condemn)
        return {slot: inc for slot, inc in verdicts.fence.items() if self._dispatch.fence(slot, inc, "silent")}

    def _note(self, verdicts: observe.Verdicts, silent: int) -> None:
        for slot in verdicts.cut.keys() - self._cut.keys():
            self._log.warning("worker is cut off from redis, left alone", action="verdict", shard=slot)
        for slot in verdicts.condemn.keys() - self._condemned.keys():
            self._log.warning("worker condemned, waiting for its lease to end", action="verdict", shard=slot)
        if verdicts.held and not self._held:
            self._log.error("too many workers silent at once: verdicts held", action="alert", silent=silent)
        self._cut, self._held = verdicts.cut, verdicts.held
