"""Backoff as numbers: how long to wait before attempt n. The waiting itself is the caller's.

Full jitter: uniform in [0, min(cap, first * 2**attempt)], with a small floor so that nobody dials in a tight loop. Full
jitter spreads a crowd of reconnecting streams best when they all failed at the same instant.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fleet.core.breaker import Breaker

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


FREE_CUTS = 5.0  # so many short lives in a row are dialled again at once ...
LIFE_PER_CUT_S = 2.0  # ... and each two seconds of life earn one back; a stable minute earns all


class Patience(msgspec.Struct, frozen=True):
    """How patient one stream is with its next dial; every life gives a new value.

    A dial that never came up counts in full: attempts grow, and with them the pause, and the breaker. A life that was cut
    short is an exchange's everyday event: the first few are free, so that fifty cut sockets are back at once, and only a peer
    that keeps accepting and closing is met with growing pauses."""

    attempt: int = 0
    cuts: float = 0.0
    breaker: Breaker = Breaker()

    def after(self, lived_s: float, now_s: float) -> Patience:
        """The stream's last connection lived `lived_s` (0.0 = it never came up) and ended at `now_s` (monotonic)."""
        if lived_s <= 0.0:
            return Patience(next_attempt(self.attempt, 0.0), self.cuts, self.breaker.failed(now_s))
        cuts = 0.0 if lived_s >= STABLE_S else max(0.0, self.cuts + 1.0 - lived_s / LIFE_PER_CUT_S)
        attempt = int(cuts - FREE_CUTS) + 1 if cuts > FREE_CUTS else 0
        return Patience(attempt, cuts, self.breaker.succeeded())

    def pause_s(self, now_s: float, random: Callable[[], float]) -> float:
        """How long to wait before the next dial."""
        return max(delay_s(self.attempt, random), self.breaker.wait_s(now_s))
