"""Backoff as numbers: how long to wait before attempt n. The waiting itself is the caller's.

Full jitter: uniform in [0, min(cap, first * 2**attempt)], with a small floor so that nobody dials in a tight loop. Full
jitter spreads a crowd of reconnecting streams best when they all failed at the same instant.
"""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 1.0
CAP_S = 60.0
FLOOR_S = 0.05
STABLE_S = 60.0  # a stream that lived this long starts again from attempt 0


def delay_s(
    attempt: int,
    random: Callable[[], float],
    *,
    first_s: float = FIRST_S,
    cap_s: float = CAP_S,
    floor_s: float = FLOOR_S,
) -> float:
    """Seconds to wait before reconnect number `attempt` (0 = the first one after a stable connection: only the floor's jitter,
    because the usual cause is one cut socket). `random` gives uniform numbers in [0, 1)."""
    if attempt <= 0:
        return floor_s + random() * floor_s * 4
    ceiling = min(cap_s, first_s * 2.0 ** min(attempt - 1, 30))
    return max(floor_s, random() * ceiling)


def next_attempt(attempt: int, lived_s: float, *, stable_s: float = STABLE_S) -> int:
    """The attempt counter after a connection that lived `lived_s` seconds died (0.0 = it never came up)."""
    return 0 if lived_s >= stable_s else attempt + 1
