"""Is a quiet socket alive? Pings due and death, as functions of (liveness, times). Pure; seconds of one monotonic clock.

A socket is dead when a ping of ours has gone unanswered for `timeout_s` − `interval_s` and nothing of any kind came for
`timeout_s`. Both are judged at the instant before the last read began: what the kernel held by then has been read. So a process
that was paused or got no processor finds out what came meanwhile, and asks, before it takes its own silence for the exchange's.
"""

from __future__ import annotations

import enum

from fleet.core.exchange import Liveness


class Due(enum.Enum):
    NOTHING = enum.auto()
    PING = enum.auto()
    DEAD = enum.auto()


def due(liveness: Liveness, looked_s: float, heard_s: float, pinged_s: float) -> Due:
    """`looked_s`: before the last read began; `heard_s`: the last bytes of any kind; `pinged_s`: after our last ping was sent."""
    silent_s, asked = looked_s - heard_s, pinged_s > heard_s
    if asked and silent_s > liveness.timeout_s and looked_s - pinged_s >= liveness.timeout_s - liveness.interval_s:
        return Due.DEAD
    if silent_s >= liveness.interval_s and not asked:
        return Due.PING
    if liveness.keepalive_s and looked_s - pinged_s >= liveness.keepalive_s:
        return Due.PING
    return Due.NOTHING


def wait_s(liveness: Liveness, now_s: float, heard_s: float, pinged_s: float) -> float:
    """Seconds from now until `due` may say something new, if nothing comes meanwhile; 0.0 where it has to be asked now."""
    if pinged_s > heard_s:
        at_s = max(heard_s + liveness.timeout_s, pinged_s + liveness.timeout_s - liveness.interval_s)
    else:
        at_s = heard_s + liveness.interval_s
    if liveness.keepalive_s:
        at_s = min(at_s, pinged_s + liveness.keepalive_s)
    return max(0.0, at_s - now_s)
