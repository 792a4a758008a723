"""The campaign's faults: every kind of the simulator, kills and freezes of processes, outages of Kafka, Redis and Postgres.

In: a seed, a length, how close faults follow each other. Out: a schedule (one seed, one schedule), then the faults when they are
due. None begins after SPAN of the time. Outages of services run in a thread of their own, one at a time: the load goes on.
"""

from __future__ import annotations

import queue
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from fleet.demo.chaos import LASTING, LEFT_S, SIMULATOR_FAULTS, SPAN, Fault
from fleet.demo.children import send
from fleet.demo.simulated import Control
from fleet.demo.supervised import Supervised
from fleet.services import Services
from fleet.services.daemon import Daemon

FIRST_S = 3.0
MORE_FAULTS: dict[str, dict[str, Any]] = {
    "drop_event": {"count": 3, "seconds": 10},
    "clock_skew": {"ms": 1200, "seconds": 4},
    "reject_429": {"kind": "reject", "status": 429, "retry_after": 2, "count": 1},
    "rest_429": {"kind": "rest_error", "status": 429, "retry_after": 2, "count": 1},
}
EXCHANGE_FAULTS = {**SIMULATOR_FAULTS, **MORE_FAULTS}
ON_ONE_ACCOUNT = frozenset((*LASTING, "slow", "expire_listen_key", "drop_event", "duplicate_event", "reorder"))
PROCESS_FAULTS = ("kill_worker", "kill_marketdata", "kill_sink", "kill_coordinator", "pause_worker", "pause_sink")
SERVICES = ("kafka", "redis", "postgres")
SERVICE_FAULTS = tuple(f"{action}_{name}" for name in SERVICES for action in ("stop", "kill", "freeze"))
KINDS = (*EXCHANGE_FAULTS, *PROCESS_FAULTS, *SERVICE_FAULTS)
PAUSE_S = (2.0, 9.0)  # some of it past the worker's lease and past T_dead
OUTAGE_S = (1.0, 8.0)


def schedule(seed: int, length_s: float, every_s: float) -> list[Fault]:
    """Every kind before any repeats, in random order, `every_s` apart on average."""
    rng = random.Random(seed)
    end_s, at_s = length_s * SPAN, min(FIRST_S, length_s * 0.1)
    faults: list[Fault] = []
    kinds: list[str] = []
    while at_s < end_s:
        if not kinds:
            kinds = list(KINDS)
            rng.shuffle(kinds)
        kind = kinds.pop()
        body = {"kind": kind, **EXCHANGE_FAULTS[kind]} if kind in EXCHANGE_FAULTS else {}
        seconds = float(body.get("seconds", 0.0)) or rng.uniform(*(OUTAGE_S if kind in SERVICE_FAULTS else PAUSE_S))
        faults.append(Fault(round(at_s, 3), kind, round(min(seconds, end_s - at_s + 1.0), 3), rng.random(), body))
        at_s += rng.uniform(0.3, 1.7) * every_s
    return faults


class Faults:
    """Carries a schedule out against a running fleet. One thread calls `step` often."""

    def __init__(
        self, todo: list[Fault], control: Control, fleet: Supervised, services: Services, keys: list[str]
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.begun: list[tuple[int, str]] = []  # (UNIX ms, kind)
        self.problems: list[str] = []
        self._todo, self._control, self._fleet, self._keys = list(todo), control, fleet, keys
        self._daemons: dict[str, Daemon] = {
            "kafka": services.kafka,
            "redis": services.redis,
            "postgres": services.postgres,
        }
        self._undo: list[tuple[float, Callable[[], object]]] = []
        self._outages: queue.SimpleQueue[Fault | None] = queue.SimpleQueue()
        self._over = threading.Event()  # no further outage begins
        self._thread = threading.Thread(target=self._run_outages, name="outages")
        self._thread.start()

    def step(self, elapsed_s: float) -> list[str]:
        """Start what is due and undo what is over; → the kinds started."""
        for _, undo in [item for item in self._undo if item[0] <= elapsed_s]:
            undo()
        self._undo = [item for item in self._undo if item[0] > elapsed_s]
        if not self._todo:
            self._over.set()
        started: list[str] = []
        while self._todo and self._todo[0].at_s <= elapsed_s:
            fault = self._todo.pop(0)
            if self._start(fault, elapsed_s):
                self._note(fault.kind)
                started.append(fault.kind)
        return started

    def end(self) -> None:
        """No more faults: undo whatever still acts, and wait until every service is back."""
        self._todo.clear()
        self._over.set()
        self._outages.put(None)
        self._thread.join()
        for _, undo in self._undo:
            undo()
        self._undo.clear()

    def _note(self, kind: str) -> None:
        self.counts[kind] += 1
        self.begun.append((int(time.time() * 1000), kind))

    def _start(self, fault: Fault, elapsed_s: float) -> bool:
        if fault.kind in EXCHANGE_FAULTS:
            body = {**fault.body, "kind": EXCHANGE_FAULTS[fault.kind].get("kind", fault.kind)}
            if fault.kind in ON_ONE_ACCOUNT:
                body["api_key"] = self._keys[int(fault.pick * len(self._keys))]
            fault_id = self._control.fault(body)
            if fault.kind not in LASTING:  # such a socket never gets well again: the fleet has to replace it
                over_s = elapsed_s + (float(fault.body.get("seconds", 0.0)) or LEFT_S)
                self._undo.append((over_s, lambda: self._control.heal(fault_id)))
            return True
        action, _, target = fault.kind.partition("_")
        if target in SERVICES:
            self._outages.put(fault)
            return False  # counted when it begins
        pids = self._fleet.pids(target)
        if not pids:
            return False
        pid = pids[int(fault.pick * len(pids))]
        if action == "kill":
            return send(pid, signal.SIGKILL)
        self._undo.append((elapsed_s + fault.seconds, lambda: send(pid, signal.SIGCONT)))
        return send(pid, signal.SIGSTOP)

    def _run_outages(self) -> None:
        while (fault := self._outages.get()) is not None:
            if self._over.is_set():
                continue
            action, _, name = fault.kind.partition("_")
            daemon = self._daemons[name]
            self._note(fault.kind)
            try:
                {"stop": daemon.stop, "kill": daemon.kill, "freeze": daemon.pause}[action]()
                time.sleep(fault.seconds)
                daemon.resume() if action == "freeze" else daemon.start(60.0)
            except Exception as error:  # noqa: BLE001  # told in the report; the campaign goes on
                self.problems.append(f"{fault.kind}: {error}")
