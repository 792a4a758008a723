"""What lies between a process and a store: delays, refusals, silence. One call = request, execution at the server, reply.

In: a call of a thread of a virtual process. Out: its reply after some virtual time, or the error its client would raise. A
request that was sent may be executed although its sender never hears of it (killed, paused, timed out), as in reality.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.proof.virtual import Process, World

OPEN, REFUSED, SILENT = "open", "refused", "silent"
WAITING = object()


class Silence(Exception):
    """No answer within the caller's time."""


class Refusal(Exception):
    """The connection was refused or broke."""


class Server:
    """One store as its callers meet it. `state` is its own; `cut` holds what single processes meet instead."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.state = OPEN
        self.cut: dict[Process, str] = {}
        self.down_since: float | None = None
        self.slow = 0.0  # share of calls whose reply is late
        self.cut_since: dict[Process, float] = {}
        self.intercept: Callable[[Process, str], float] | None = None  # (who, what) -> how long the request is held up
        self.open_since = 0.0
        self.good_since: dict[Process, float] = {}  # when its own cut ended
        self._backlog: list[Callable[[], object]] = []  # sent to a frozen server: it executes them when it thaws
        self.calls = 0

    def usable(self, process: Process) -> bool:
        return self.state == OPEN and process not in self.cut

    def bad_for(self, process: Process) -> float:
        """For how long this process has not been able to use the store."""
        since = [t for t in (self.down_since, self.cut_since.get(process)) if t is not None]
        return self.world.now - min(since) if since else 0.0

    def good_for(self, process: Process) -> float:
        """For how long it has been able to."""
        if not self.usable(process):
            return 0.0
        return self.world.now - max(self.open_since, self.good_since.get(process, 0.0))

    def set_state(self, state: str) -> None:
        if self.state == OPEN and state != OPEN:
            self.down_since = self.world.now
        if state == OPEN:
            if self.state != OPEN:
                self.open_since = self.world.now
            self.down_since = None
            self.cut_since = {process: since for process, since in self.cut_since.items() if process in self.cut}
            backlog, self._backlog = self._backlog, []
            for execute in backlog:
                execute()
        self.state = state

    def cut_off(self, process: Process, how: str) -> None:
        self.cut[process] = how
        self.cut_since.setdefault(process, self.world.now if self.down_since is None else self.down_since)

    def heal(self, process: Process) -> None:
        self.cut.pop(process, None)
        if self.state == OPEN:
            self.cut_since.pop(process, None)
            self.good_since[process] = self.world.now

    def call(self, execute: Callable[[], Any], timeout_s: float, name: str = "") -> Any:
        """Raises Silence or Refusal, or what `execute` raises at the server."""
        world = self.world
        task, process, rng = world.task, world.process, world.rng
        assert task is not None and process is not None
        self.calls += 1
        state = self.cut.get(process, self.state)
        if state == REFUSED:
            world.block(0.001)
            raise Refusal(self.name)
        if state == SILENT:
            if process not in self.cut and rng.random() < 0.5:
                self._backlog.append(lambda: _quietly(execute))
            world.block(timeout_s)
            raise Silence(self.name)
        late = self.slow and rng.random() < self.slow
        there_s = rng.random() * (0.7 if late else 0.003)
        if self.intercept is not None:
            there_s += self.intercept(process, name)
        back_s = rng.random() * (0.7 if late else 0.003)
        box: list[Any] = [WAITING]
        turn = task.turn

        def arrive() -> None:
            if self.state != OPEN or (process.alive and process in self.cut):
                if self.state == SILENT:
                    self._backlog.append(lambda: _quietly(execute))
                return  # lost on the way: the caller times out
            try:
                box[0] = (execute(), None)
            except Exception as error:  # noqa: BLE001 - handed to the caller
                box[0] = (None, error)
            world.after(back_s, lambda: world.step(task, turn, True))

        started = world.now
        world.after(there_s, arrive)
        woken = world.block(timeout_s)
        late = woken is None and there_s + back_s > timeout_s
        if box[0] is WAITING or (late and process.paused_at < started):  # who was paused finds the late reply waiting
            raise Silence(self.name)
        reply, error = box[0]
        if error is not None:
            raise error
        return reply


def _quietly(execute: Callable[[], Any]) -> None:
    """Executed by a server that thawed; whoever asked is gone."""
    try:
        execute()
    except Exception:  # noqa: BLE001, S110 - its caller has long had a timeout
        return
