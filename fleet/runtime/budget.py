"""Permits to dial and to spend REST weight: the fleet's shared bucket in Redis, or this process's share while Redis is away.

In: an amount, a documented rate; what an exchange told of the weight used. Out: 0.0 (granted) or how long to wait. Used by each
process that talks to exchanges. Limits hold through a change of the two: what the shared bucket grants is also taken from the
local one, so that a process that loses Redis does not begin with a full share; a ban is handed to Redis until it is over, so
that neither its absence nor its loss of everything hides it; and the exchange's own count corrects both buckets.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from fleet.core import budget as buckets
from fleet.core.errors import StoreUnavailable
from fleet.core.exchange import Rate

AGAIN_S = 2.0  # a block that lasts is told to Redis this often while somebody asks: it may have been emptied
MARGIN = 0.02  # of a window: what the exchange may count beyond what the fleet knows before Redis is told
EDGE_S = 1.5  # of a window's beginning, where clocks may differ about which window it is
AWAY_S = 2.0  # after a failure Redis is left alone this long: 1,000 waiting streams would each spend a timeout


class SharedBuckets(Protocol):
    """What of fleet.runtime.redis_store.RedisStore is used here."""

    def bucket_take(
        self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0
    ) -> buckets.Taken: ...

    def bucket_observe(
        self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, age_s: float, unknown_since: str
    ) -> buckets.Taken: ...

    def bucket_block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None: ...


class Heard(msgspec.Struct, frozen=True):
    """What Redis said last of a windowed bucket: what is left, and from when on this process has known what `unknown_since` is."""

    left: float
    unknown_since: str
    heard_s: float


class Budget:
    """Thread-safe. `share` is the part of every rate one process may use on its own (1 / number of processes)."""

    def __init__(
        self,
        store: SharedBuckets,
        share: float,
        *,
        clock: Callable[[], float] = lambda: time.monotonic(),
        wall: Callable[[], float] = lambda: time.time(),
    ) -> None:
        self._store = store
        self._share = share
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()  # guards the store's one connection and everything below
        self._local: dict[str, buckets.Bucket] = {}
        self._unheard: dict[tuple[str, str, str], float] = {}  # blocks that Redis does not know yet: until when
        self._told: dict[tuple[str, str, str], float] = {}  # when Redis was last told of a block
        self._heard: dict[str, Heard] = {}
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
                self._remind(kind, exchange, egress_ip, now, blocked_s)
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

    def observed(self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, sent_s: float) -> None:
        """The exchange says what this address has used of a windowed rate, in answer to a call sent at `sent_s` of the clock. Redis
        is told where that is clearly more than the fleet knows of, or where the fleet does not know."""
        key = f"{kind}:{exchange}:{egress_ip}"
        with self._lock:
            now = self._clock()
            passed_s = self._wall() % rate.window_s
            if now - sent_s + EDGE_S < passed_s:  # a call of this window, as far as this machine's clock knows
                rest_s = rate.window_s - passed_s
                self._local[key] = buckets.observe(self._local.get(key), now, used, rate, self._share, rest_s)
            heard = self._heard.get(key)
            if heard is None or now < self._away_until:
                return
            # only a call sent after this process heard of an unknown bucket is certain to be younger than that bucket
            since = heard.unknown_since if heard.heard_s <= sent_s else ""
            if not since and used <= rate.burst * (1 + MARGIN) - heard.left:
                return
            try:
                said = self._store.bucket_observe(kind, exchange, egress_ip, used, rate, max(0.0, now - sent_s), since)
            except StoreUnavailable:
                self._away_until = self._clock() + AWAY_S
            else:
                self._hear(key, said)

    def _hear(self, key: str, said: buckets.Taken) -> None:
        before = self._heard.get(key)
        if said.left is not None:
            known = before is not None and before.unknown_since == said.unknown_since
            heard_s = before.heard_s if known and before else self._clock()
            self._heard[key] = Heard(said.left, said.unknown_since, heard_s)

    def _remind(self, kind: str, exchange: str, egress_ip: str, now: float, blocked_s: float) -> None:
        """A block lasts: tell Redis again now and then."""
        bucket = kind, exchange, egress_ip
        if now >= self._away_until and now >= self._told.get(bucket, -math.inf) + AGAIN_S:
            self._unheard[bucket] = now + blocked_s
            self._hand_on(now)

    def _hand_on(self, now: float) -> bool:
        """Tell Redis of the blocks it has not heard of; False while it is away."""
        try:
            for (kind, exchange, egress_ip), until in list(self._unheard.items()):
                if until > now:
                    self._store.bucket_block(kind, exchange, egress_ip, until - now)
                    self._told[kind, exchange, egress_ip] = now
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
            said = self._store.bucket_take(kind, exchange, egress_ip, amount, rate, reserve)
        except StoreUnavailable:
            self._away_until = self._clock() + AWAY_S
            return None
        self._hear(f"{kind}:{exchange}:{egress_ip}", said)
        return said.wait_s
