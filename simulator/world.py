"""Everything the simulated exchanges share, and the one periodic tick. In: options; out: running listeners. One per
simulator process.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any

from simulator.calls import Calls
from simulator.faults import Faults
from simulator.ledger import Ledger
from simulator.sockets import Sockets
from simulator.venue import Venue

TICK_S = 0.01
SWEEP_S = 0.25


@dataclass(frozen=True)
class Options:
    """The command line. `rate` is market frames a second and venue."""

    exchanges: tuple[str, ...]
    endpoints: Path
    plain: bool = False
    seed: int = 1
    rate: float = 200.0
    replay: tuple[Path, ...] = ()
    replay_loop: bool = False
    replay_keeps_times: bool = False
    echo_port: int | None = None
    admin_port: int = 0


class World:
    """What venues, listeners and the control interface work on."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.random = random.Random(options.seed)
        self.ledger = Ledger()
        self.calls = Calls()
        self.sockets = Sockets()
        self.venues: dict[str, Venue] = {}
        self.faults = Faults(self.sockets, self.venues, self.random)
        self._date = (0, "")
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine to its end; the world holds the reference."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def http_date(self) -> str:
        """The Date header, made once a second."""
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, formatdate(second, usegmt=True))
        return self._date[1]

    async def run(self, stop: asyncio.Event) -> None:
        """Tick the venues and sweep the sockets until `stop`."""
        swept = 0.0
        while not stop.is_set():
            for venue in self.venues.values():
                venue.tick()
            now = time.monotonic()
            if now - swept >= SWEEP_S:
                swept = now
                self._sweep(now)
            await asyncio.sleep(TICK_S)

    def _sweep(self, now: float) -> None:
        """Server pings, pong deadlines and the end of a socket's life."""
        for socket in self.sockets.open():
            settings = socket.venue.settings
            if now - socket.opened_mono >= settings.lifetime_s:
                socket.close(1001, "connection lifetime reached")
            elif settings.ping_interval_s and now - socket.last_pong >= settings.pong_deadline_s:
                socket.close(1008, "Pong timeout")
            elif settings.ping_interval_s and now >= socket.next_ping:
                socket.next_ping = now + settings.ping_interval_s
                socket.ping(socket.venue.ping_payload())
