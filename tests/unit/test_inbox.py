"""When the inbox looks at its desired view, with everything around it replaced."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from tests.support.control import Remembering, wait_for
from workers.heartbeat import LeaseGate
from workers.inbox import LEASE_TICK_S, Inbox


def test_a_view_that_comes_before_the_lease_is_not_slept_over() -> None:
    """The leader answers a registration within milliseconds: its poke may come before the first beat has brought a lease."""
    gate, pulled, waits = LeaseGate(), threading.Event(), list[float]()

    def pull(*_: Any) -> Any:
        pulled.set()
        return SimpleNamespace(standing="FENCED")

    def wait(timeout_s: float) -> bool:
        waits.append(timeout_s)
        if len(waits) > 3:
            gate.deadline = float("inf")
        return pulled.wait(0.001)

    heartbeat: Any = SimpleNamespace(
        incarnation="i", registered=True, gate=gate, upload=threading.Event(), beat_now=lambda: None, lock=threading.Lock()
    )  # fmt: skip
    store: Any = SimpleNamespace(pull=pull, close=lambda: None)
    poke: Any = SimpleNamespace(wait=wait, close=lambda: None)
    inbox = Inbox(lambda: store, lambda: poke, Remembering(), "a:0", heartbeat).start()
    wait_for(pulled.is_set, 5.0, "a pull")
    inbox.stop()
    assert waits[:3] == [LEASE_TICK_S] * 3
