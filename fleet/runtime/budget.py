"""Permits to dial and to spend REST weight: the fleet's shared bucket in Redis, or this process's share while Redis is away.

In: an amount, a documented rate. Out: 0.0 (granted) or how long to wait. Used by each process that talks to exchanges.
Limits hold through a change of the two: what the shared bucket grants is also taken from the local one, so that a process
that loses Redis does not begin with a full share; and a ban heard while Redis is away is handed on when it is back.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

from fleet.core import budget as buckets
from fleet.core.errors import StoreUnavailable
from fleet.core.exchange import Rate

AWAY_S = 2.0  # after a failure Redis is left alone this long: 1,000 waiting streams would each spend a timeout


class SharedBuckets(Protocol):
    """What of fleet.runtime.redis_store.RedisStore is used here."""

    def bucket_take(
        self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0
    ) -> float: ...

    def bucket_block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None: ...


class Budget:
    """Thread-safe. `share` is the part of every rate one process may use on its own (1 / number of processes)."""

    def __init__(
        self, store: SharedBuckets, share: float, *, clock: Callable[[], float] = lambda: time.monotonic()
    ) -> None:
        self._store = store
        self._share = share
        self._clock = clock
        self._lock = threading.Lock()  # guards the store's one connection and everything below
        self._local: dict[str, buckets.Bucket] = {}
        self._unheard: dict[tuple[str, str, str], float] = {}  # blocks that Redis does not know yet: until when
        self._away_until = 0.0

    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        """0.0 = granted; else how long to wait before asking again (spread, so that waiters do not come back together).
        `reserve` is left in the shared bucket for takers who are in more of a hurry."""
        key = f"{kind}:{exchange}:{egress_ip}"
        with self._lock:
            now = self._clock()
            mine = buckets.share(rate, self._share)
            local, blocked_s = buckets.take(self._local.get(key), now, 0.0, mine)
            if blocked_s:
                return blocked_s
            wait_s = self._shared(kind, exchange, egress_ip, amount, rate, reserve) if now >= self._away_until else None
            if wait_s is None:
                local, wait_s = buckets.take(local, now, amount, mine)
            elif wait_s == 0.0:
                local = buckets.spend(local, amount)
            self._local[key] = local
        return wait_s * (1 + random.random() / 2) if wait_s else 0.0

    def block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        """The exchange told us to stay away: for this process at once, for the whole fleet as soon as Redis hears it."""
        key = f"{kind}:{exchange}:{egress_ip}"
        with self._lock:
            now = self._clock()
            self._local[key] = buckets.block(self._local.get(key), now, seconds)
            self._unheard[kind, exchange, egress_ip] = now + seconds
            self._hand_on(now)

    def _hand_on(self, now: float) -> bool:
        """Tell Redis of the blocks it has not heard of; False while it is away."""
        try:
            for (kind, exchange, egress_ip), until in list(self._unheard.items()):
                if until > now:
                    self._store.bucket_block(kind, exchange, egress_ip, until - now)
                del self._unheard[kind, exchange, egress_ip]
        except StoreUnavailable:
            self._away_until = self._clock() + AWAY_S
            return False
        return True

    def _shared(
        self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float
    ) -> float | None:
        if self._unheard and not self._hand_on(self._clock()):
            return None
        try:
            return self._store.bucket_take(kind, exchange, egress_ip, amount, rate, reserve)
        except StoreUnavailable:
            self._away_until = self._clock() + AWAY_S
            return None
