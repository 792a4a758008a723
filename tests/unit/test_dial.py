"""Opening a private socket: from when it delivers."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from fleet.core.model import AccountSpec, Credentials
from fleet.exchanges import for_account
from fleet.runtime.metrics import Metrics
from workers.dial import Dialler

SPEC = AccountSpec("a1", "u1", "bybit", "unified", "main", False, 1, 1_000)
BYBIT = for_account("bybit", "unified")
SLOW_MS = 9_000  # of each answer; the venue's clock moves with it


class Venue:
    """Answers every request, late."""

    def __init__(self) -> None:
        self.ms = 1_000_000
        self.asked: list[str] = []
        self.last_rx = 0.0

    def now_ms(self) -> int:
        return self.ms

    def send_fresh(self, make: Callable[[], bytes]) -> None:
        self.asked.append(json.loads(make())["op"])

    def read(self, timeout_s: float) -> list[bytes]:
        self.ms += SLOW_MS
        op = self.asked[-1]
        return [json.dumps({"success": True, "ret_msg": "", "op": op, "req_id": op, "conn_id": "x"}).encode()]


def test_a_socket_delivers_from_the_end_of_its_opening_however_long_that_took() -> None:
    """Else the first read-back would pass for the late one, and close the gap over what REST does not tell yet."""
    venue: Any = Venue()
    rest: Any = SimpleNamespace(exchange=BYBIT, now_ms=venue.now_ms)
    dialler = Dialler(
        SPEC, Credentials("key", "secret"), rest, lambda *_: venue, lambda *_: "ws://x", Metrics(), lambda: False
    )
    opened = dialler.open(lambda phase: None)
    assert venue.asked == ["auth", "subscribe"]
    assert opened.subscribed_ms == venue.ms == 1_000_000 + 2 * SLOW_MS
