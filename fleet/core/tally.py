"""Do the fills of each order add up to the filled quantity that its states tell? Pure; one per stream, kept by workers/progress.py.

In: the orders and fills of one account as they are published, from the socket or from REST. Out: whether an order has told of more
than its fills for a while: then the socket has dropped a fill, though it lives. Positions show that too, but only where fills and
position events name a position alike, and not for a fill that another one undid.
"""

from __future__ import annotations

from decimal import Decimal

from fleet.core.events import Fill, Order, UserRecord
from fleet.core.recovery import order_key

MAX_ORDERS = 300  # the newest of one account; a few hundred bytes each


class Tally:
    """Filled quantities of the account's newest orders. Not thread-safe."""

    def __init__(self) -> None:
        self._told: dict[str, Decimal] = {}  # `order_key` -> filled quantity that its states tell
        self._filled: dict[str, Decimal] = {}  # `order_key` -> sum of its fills
        self._short: dict[
            str, tuple[int, int]
        ] = {}  # `order_key` -> ts_recv and ts_event of the state that tells of more

    def take(self, event: UserRecord) -> None:
        """One event, once per id."""
        if not isinstance(event, Fill | Order):
            return
        order = order_key(event.symbol, event.order_id)
        if isinstance(event, Fill):
            self._filled[order] = self._filled.get(order, Decimal(0)) + Decimal(event.qty or "0")
        else:
            told = Decimal(event.filled_qty or "0")
            self._told[order] = max(told, self._told.get(order, Decimal(0)))
            if event.source == "rest":  # with its fills, or before all that is known here
                self._filled[order] = max(told, self._filled.get(order, Decimal(0)))
        if self._told.get(order, Decimal(0)) <= self._filled.get(order, Decimal(0)):
            self._short.pop(order, None)
        else:
            self._short[order] = self._short.get(order) or (event.ts_recv, event.ts_event)
        for known in (self._told, self._filled):
            if len(known) > MAX_ORDERS:
                oldest = next(iter(known))
                self._told.pop(oldest, None)
                self._filled.pop(oldest, None)
                self._short.pop(oldest, None)

    def short(self, before_ms: int) -> bool:
        """Has an order told, earlier than `before_ms` (our clock), of more than its fills, and do they lack still?"""
        return any(recv_ms < before_ms for recv_ms, _ in self._short.values())

    def proven(self, proven_ms: int) -> None:
        """Every fill before `proven_ms` (exchange time) is known: what orders told of more then was filled before their first event
        here, by another owner of the account."""
        for order in [order for order, (_, event_ms) in self._short.items() if event_ms < proven_ms]:
            del self._short[order]
            self._filled[order] = self._told[order]
