"""Seeded faults: the simulator's and those of processes. In: a seed and a length; out: a schedule, then faults when they are due.

One seed is one schedule. The FIRST kinds come first, and every kind before any repeats. Nothing that loses data at the exchange
itself is in here (`drop_event`). No fault begins after SPAN of the time, and none but a dead socket lasts longer, so that the
rest heals.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

SPAN = 0.7
FIRST_S = 2.0
EVERY_S = (1.5, 3.5)  # from one fault to the next

SIMULATOR_FAULTS: dict[str, dict[str, Any]] = {
    "cut": {"count": 3},
    "half_open": {},
    "stall": {},
    "close": {"code": 1001, "count": 2},
    "reject": {"status": 503, "count": 3},
    "rest_error": {"status": 503, "code": -1001, "count": 4},
    "rest_lag": {"ms": 1500, "seconds": 4},
    "duplicate_event": {"count": 5},
    "reorder": {"count": 4},
    "garbage": {"count": 3},
    "fragment": {"seconds": 5},
    "slow": {"seconds": 3},
    "expire_listen_key": {"count": 2},
    "refuse": {"seconds": 2},
    "maintenance": {"seconds": 3},
}
FIRST = ("cut", "half_open", "kill_worker", "rest_error")  # what a short run must have seen
LASTING = frozenset(("half_open", "stall"))  # such a socket never gets well again: the fleet has to find and replace it
ON_ONE = frozenset((*LASTING, "slow", "expire_listen_key"))  # one account's socket, or the market sockets of one path
MARKET_PATHS = ("/market", "/public")
PROCESS_FAULTS = ("kill_worker", "kill_marketdata", "kill_sink", "pause_worker", "kill_coordinator")
LEFT_S = 10.0  # a fault whose count is not used up by then is taken back
PAUSE_S = (2.0, 7.0)  # some of it past the worker's lease


class Fault(msgspec.Struct, frozen=True):
    """`at_s` after the beginning; `body` for the simulator, `pick` to choose among processes or accounts."""

    at_s: float
    kind: str
    seconds: float
    pick: float
    body: dict[str, Any] = {}


class Targets(Protocol):
    """What faults act upon; the running demo, or a test's fake."""

    def fault(self, body: dict[str, Any]) -> str: ...
    def heal(self, fault_id: str) -> None: ...
    def api_keys(self) -> list[str]: ...
    def pids(self, program: str) -> list[int]: ...
    def signal(self, pid: int, signum: signal.Signals) -> bool: ...


def schedule(seed: int, length_s: float) -> list[Fault]:
    """The faults of a seed, in order of time; the last one is over at SPAN × `length_s`."""
    rng = random.Random(seed)
    end_s = length_s * SPAN
    faults: list[Fault] = []
    kinds = list(FIRST)
    rng.shuffle(kinds)
    at_s = min(FIRST_S, length_s * 0.1)
    while at_s < end_s:
        if not kinds:
            kinds = [*SIMULATOR_FAULTS, *PROCESS_FAULTS] if faults[len(FIRST) :] else rest_of(FIRST)
            rng.shuffle(kinds)
        kind = kinds.pop()
        body = {"kind": kind, **SIMULATOR_FAULTS[kind]} if kind in SIMULATOR_FAULTS else {}
        seconds = rng.uniform(*PAUSE_S) if kind == "pause_worker" else float(body.get("seconds", 0.0))
        seconds = min(seconds, end_s - at_s)
        if "seconds" in body:
            body["seconds"] = round(seconds, 3)
        faults.append(Fault(round(at_s, 3), kind, round(seconds, 3), rng.random(), body))
        at_s += rng.uniform(*EVERY_S)
    return faults


def rest_of(first: tuple[str, ...]) -> list[str]:
    return [kind for kind in (*SIMULATOR_FAULTS, *PROCESS_FAULTS) if kind not in first]


class Chaos:
    """Carries a schedule out. One thread calls `step` often."""

    def __init__(self, faults: list[Fault], targets: Targets) -> None:
        self.counts: Counter[str] = Counter()
        self._todo = sorted(faults, key=lambda fault: fault.at_s)
        self._targets = targets
        self._undo: list[tuple[float, Callable[[], object]]] = []

    def step(self, elapsed_s: float) -> list[str]:
        """Start what is due and undo what is over; returns the kinds that were started."""
        for _, undo in [item for item in self._undo if item[0] <= elapsed_s]:
            undo()
        self._undo = [item for item in self._undo if item[0] > elapsed_s]
        started: list[str] = []
        while self._todo and self._todo[0].at_s <= elapsed_s:
            fault = self._todo.pop(0)
            if self._start(fault, elapsed_s):
                self.counts[fault.kind] += 1
                started.append(fault.kind)
        return started

    def end(self) -> None:
        """No more faults: undo whatever still acts."""
        self._todo.clear()
        for _, undo in self._undo:
            undo()
        self._undo.clear()

    def _start(self, fault: Fault, elapsed_s: float) -> bool:
        if fault.body:
            fault_id = self._targets.fault(self._aimed(fault))
            if fault.kind not in LASTING:
                over_s = elapsed_s + (fault.seconds or LEFT_S)
                self._undo.append((over_s, lambda: self._targets.heal(fault_id)))
            return True
        action, _, program = fault.kind.partition("_")
        pids = self._targets.pids(program)
        if not pids:
            return False
        pid = pids[int(fault.pick * len(pids))]
        if action == "kill":
            return self._targets.signal(pid, signal.SIGKILL)
        self._undo.append((elapsed_s + fault.seconds, lambda: self._targets.signal(pid, signal.SIGCONT)))
        return self._targets.signal(pid, signal.SIGSTOP)

    def _aimed(self, fault: Fault) -> dict[str, Any]:
        """Faults of ON_ONE hit one account in two cases of three, else market sockets; the others whoever comes."""
        keys = self._targets.api_keys()
        if fault.kind not in ON_ONE:
            return fault.body
        if keys and (fault.pick < 2 / 3 or fault.kind == "expire_listen_key"):
            return {**fault.body, "api_key": keys[int(fault.pick * 1000) % len(keys)]}
        return {**fault.body, "path": MARKET_PATHS[int(fault.pick * 1000) % 2]}
