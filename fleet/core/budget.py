"""Token bucket as numbers: state, time, amount, rate → state, wait. Pure.

The shared bucket runs the same arithmetic inside Redis (`lua/bucket_take.lua`); this one serves a process on its own share
while Redis is away. Times are seconds of any monotonic clock.
"""

from __future__ import annotations

import msgspec

from fleet.core.exchange import Rate


class Bucket(msgspec.Struct, frozen=True):
    """`tokens` as of `at`; nothing is granted before `blocked_until`."""

    tokens: float
    at: float
    blocked_until: float = 0.0


class Taken(msgspec.Struct, frozen=True):
    """What the shared bucket said. `wait_s`: 0.0 = granted. `left`: what this window has left (None: it has no windows, or is
    blocked). `unknown_since`: it does not know what was spent before, names the time from which it counts; "" = it knows."""

    wait_s: float
    left: float | None = None
    unknown_since: str = ""


def share(rate: Rate, part: float) -> Rate:
    """The part of a rate one process may use alone; at least one token, so that the last process is not shut out. A windowed
    rate becomes a steady one that fits into any window: half of it at once, the other half over the window."""
    if rate.window_s:
        half = max(1.0, rate.burst * part / 2)
        return Rate(half, half / rate.window_s)
    return Rate(max(1.0, rate.burst * part), rate.per_s * part)


def take(bucket: Bucket | None, now: float, amount: float, rate: Rate) -> tuple[Bucket, float]:
    """The bucket afterwards and how long to wait (0.0 = granted). An amount above the burst counts as the whole burst.
    An amount of 0.0 only refills and asks for a block."""
    if bucket is None:
        bucket = Bucket(rate.burst, now)
    if bucket.blocked_until > now:
        return bucket, bucket.blocked_until - now
    tokens = min(rate.burst, bucket.tokens + max(0.0, now - bucket.at) * rate.per_s)
    amount = min(amount, rate.burst)
    if amount == 0.0 or tokens + 1e-6 >= amount:
        return Bucket(tokens - amount, now, bucket.blocked_until), 0.0
    return Bucket(tokens, now, bucket.blocked_until), (amount - tokens) / rate.per_s


def spend(bucket: Bucket, amount: float) -> Bucket:
    """What somebody else granted counts here too; it makes no debts."""
    return Bucket(min(bucket.tokens, max(0.0, bucket.tokens - amount)), bucket.at, bucket.blocked_until)


def observe(bucket: Bucket | None, now: float, used: float, rate: Rate, part: float, rest_s: float) -> Bucket:
    """The exchange says that `used` of a windowed rate is gone, whoever spent it. In the rest of the window this process spends no
    more than its part of what is left: the bucket may go into debt, which its refill pays off by the window's end."""
    mine = share(rate, part)
    bucket, _ = take(bucket, now, 0.0, mine)
    left = max(0.0, rate.burst - used) * part
    return Bucket(min(bucket.tokens, left - mine.per_s * rest_s), bucket.at, bucket.blocked_until)


def block(bucket: Bucket | None, now: float, seconds: float) -> Bucket:
    """Stay away for `seconds`; a shorter block never shortens a longer one. A fresh bucket starts empty after it."""
    if bucket is None:
        return Bucket(0.0, now, now + seconds)
    return Bucket(bucket.tokens, bucket.at, max(bucket.blocked_until, now + seconds))
