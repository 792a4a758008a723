"""What the documented dial limits alone cost, from the exchange's own list of sockets. Pure.

In: sockets, a venue's rate, how many dials are to come, the source addresses they are spread over. Out: seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fleet.core.budget import Bucket, take
from fleet.core.exchange import Rate
from tests.campaigns.ownership.judge import Socket


def pacing_s(sockets: Iterable[Socket], rate: Rate, dials: int, addresses: Sequence[str], now_s: float) -> float:
    """When the last of `dials` that begin at `now_s` (seconds since 1970) gets its permit, at best, if they are spread evenly over
    the addresses; 0.0 = at once. Every socket counts as one permit taken when it opened."""
    each = math.ceil(dials / len(addresses))
    return max(max(0.0, each - _left(sockets, rate, address, now_s)) / rate.per_s for address in addresses)


def _left(sockets: Iterable[Socket], rate: Rate, address: str, now_s: float) -> float:
    """Permits that an address has left."""
    bucket: Bucket | None = None
    for opened_ms in sorted(s["opened_at"] for s in sockets if s["ip"] == address):
        bucket, wait_s = take(bucket, opened_ms / 1000, 1.0, rate)
        if wait_s:  # taken a moment before it opened
            bucket = Bucket(0.0, opened_ms / 1000)
    bucket, _ = take(bucket, now_s, 0.0, rate)
    return bucket.tokens
