"""The exchange's clock: wall time plus a skew that the fault `clock_skew` sets. In: nothing; out: UNIX ms. Runs in
the simulator process.
"""

from __future__ import annotations

import time


class Clock:
    """One venue's clock. `skew_ms` moves everything the venue says or checks about time."""

    def __init__(self) -> None:
        self.skew_ms = 0

    def now_ms(self) -> int:
        """UNIX milliseconds as this venue believes them."""
        return time.time_ns() // 1_000_000 + self.skew_ms
