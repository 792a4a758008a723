"""Random orders over all accounts. In: `POST /load` {events_per_s, seconds}; out: orders, fills and cancellations at
that rate of user events.

Runs as one task of the simulator's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from simulator.account import Account
from simulator.venue import Refused, Venue

if TYPE_CHECKING:
    from simulator.world import World

STEP_S = 0.02
MAX_BURST_S = 0.25
RESTING_KEPT = 2  # resting orders per account before the load cancels the oldest
log = logging.getLogger("simulator")


class Load:
    """The one load there is; a new request replaces the old."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._task: asyncio.Task[Any] | None = None
        self._resting: dict[str, deque[tuple[str, str]]] = {}  # api_key → (symbol, order id)
        self.events_per_s = 0.0
        self.events = 0

    def set(self, events_per_s: float, seconds: float | None) -> None:
        """Start, change or (with 0) stop."""
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self.events_per_s = events_per_s
        if events_per_s > 0:
            self._task = self._world.spawn(self._run(events_per_s, seconds))

    async def _run(self, events_per_s: float, seconds: float | None) -> None:
        begun = before = time.monotonic()
        debt = 0.0
        while seconds is None or time.monotonic() - begun < seconds:
            now = time.monotonic()
            debt = min(debt + (now - before) * events_per_s, events_per_s * MAX_BURST_S + 1)
            before = now
            accounts = [
                (venue, account)
                for venue in self._world.venues.values()
                for account in venue.accounts.values()
                if account.state == "active"
            ]
            while debt >= 1 and accounts:
                made = self._one(*self._world.random.choice(accounts))
                self.events += made
                debt -= max(1, made)
            await asyncio.sleep(STEP_S)
        self.events_per_s = 0.0

    def _one(self, venue: Venue, account: Account) -> int:
        """One order or one cancellation; returns how many events it made."""
        before = venue.events_sent()
        resting = self._resting.setdefault(account.api_key, deque())
        try:
            if len(resting) > RESTING_KEPT:
                venue.cancel(account.api_key, *resting.popleft())
            else:
                ticket = venue.random_ticket(account)
                placed = venue.place(ticket)
                if ticket.fills == 0:
                    resting.append((ticket.symbol, placed["order_id"]))
        except Refused as error:
            log.warning("load: %s", error)
        return venue.events_sent() - before
