"""Circuit breaker as numbers: it slows a failing stream down and never gives it up.

Closed: every attempt may go. After `threshold` consecutive failures it opens for `cool_down_s`; then one trial goes through
(half-open); a success closes it, a failure opens it again for another cool-down. Time is passed in.
"""

from __future__ import annotations

import msgspec

THRESHOLD = 8
COOL_DOWN_S = 60.0


class Breaker(msgspec.Struct, frozen=True):
    """State of one stream's breaker; every change gives a new value."""

    failures: int = 0
    open_until_s: float = 0.0
    threshold: int = THRESHOLD
    cool_down_s: float = COOL_DOWN_S

    def wait_s(self, now_s: float) -> float:
        """Seconds until an attempt may go; 0.0 = now."""
        return max(0.0, self.open_until_s - now_s)

    def is_open(self, now_s: float) -> bool:
        return self.wait_s(now_s) > 0.0

    def failed(self, now_s: float) -> Breaker:
        failures = self.failures + 1
        until = now_s + self.cool_down_s if failures >= self.threshold else 0.0
        return msgspec.structs.replace(self, failures=failures, open_until_s=until)

    def succeeded(self) -> Breaker:
        return msgspec.structs.replace(self, failures=0, open_until_s=0.0)
