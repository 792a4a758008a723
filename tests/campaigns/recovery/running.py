"""A whole fleet for a campaign: the demo's services, simulator and supervised processes with settings of the campaign's own.

In: options and settings. Out: handles, and what the exchange and Postgres say. Everything it starts is put on the stack.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from fleet.core.errors import FleetError
from fleet.demo.options import Options
from fleet.demo.run import Demo
from tests.campaigns.loss.campaign import Campaign
from tests.campaigns.recovery.bounds import beyond, dials_in_span, weight_per_min

SAY_EVERY_S = 10.0
SEEN_ALIVE_MS = 20_000  # a gap begins when its socket was last heard, which a quiet one is each five seconds
PROVEN = "SELECT count(*) AS n FROM stream_watermarks WHERE jsonb_typeof(watermark -> 'base') = 'object'"
GAPS_SINCE = (
    "SELECT account_id::text AS account, opened_at, closed_at, reason, recoverable, recovered_events FROM stream_gaps "
    "WHERE account_id IS NOT NULL AND coalesce(closed_at, now()) >= to_timestamp(%(since_ms)s / 1000.0)"
)
# One public stream is enough of a neighbour: its calls count on the same address.
MARKET = {"FLEET_MARKET_STREAMS": "mark_price,ticker"}


def now_ms() -> int:
    return int(time.time() * 1000)


class Surroundings(Demo):
    """A demo's surroundings, and settings of the campaign's own."""

    settings: dict[str, str]

    def patience(self) -> dict[str, str]:
        return self.settings


class Running(Campaign):
    """One run of one campaign."""

    def __init__(self, options: Options, settings: dict[str, str], stack: ExitStack) -> None:
        super().__init__(options, 0.0, stack)
        demo = Surroundings(options, self.screen, self.demo.interrupts, stack)
        demo.settings = MARKET | settings
        self.demo = demo
        self._said_s = 0.0

    def start(self) -> None:
        """Everything up, every account live and proven complete once. Raises FleetError."""
        super().start()
        patience_s = 60.0 + 0.6 * len(self.keys)
        if not self.wait(self._proven, patience_s, 1.0):
            raise FleetError(f"{self.pg.fetch(PROVEN)[0]['n']} of {len(self.keys)} accounts are proven complete")
        self.screen.note("all are proven complete")

    def _proven(self) -> bool:
        n = int(self.pg.fetch(PROVEN)[0]["n"])
        self.say(f"{n} proven complete")
        return n >= len(self.keys)

    def say(self, text: str) -> None:
        """A line of progress, not too often."""
        if time.monotonic() - self._said_s >= SAY_EVERY_S:
            self._said_s = time.monotonic()
            self.screen.note(text)

    # ── the exchange's side ──────────────────────────────────────────────────────────────────────────────────────
    def away(self) -> list[str]:
        """From now on the exchange takes no connection and has none; → faults to heal."""
        refusing = self.control.fault({"kind": "refuse"})
        self.control.fault({"kind": "cut"})
        return [refusing]

    def heal(self, faults: Iterable[str]) -> None:
        for fault in faults:
            self.control.heal(fault)

    def order(self, api_key: str, market: str, symbol: str, price: str, side: str = "buy", fills: int = 1) -> str:
        spec = {"api_key": api_key, "market": market, "symbol": symbol, "side": side, "qty": "0.1", "price": price}
        return str(self.control.call("POST", "/orders", {**spec, "fills": fills})["order_id"])

    def cancel(self, api_key: str, symbol: str, order_id: str) -> None:
        self.control.call("DELETE", f"/orders/{order_id}?api_key={api_key}&symbol={symbol}")

    def open_sockets(self) -> list[dict[str, Any]]:
        """Private sockets of our accounts."""
        return [c for c in self.control.call("GET", "/connections?open=1") if c["api_key"] in self.keys]

    def limits(self) -> dict[str, Any]:
        """What was spent, and where that was too much."""
        calls, dials = self.control.calls(), dials_in_span(self.control.connections())
        return {
            "weight_per_min_max": weight_per_min(calls),
            "dials_in_span_max": dials,
            "beyond": beyond(calls, dials),
        }

    # ── the fleet's side ─────────────────────────────────────────────────────────────────────────────────────────
    def gaps(self, since_ms: int) -> list[dict[str, Any]]:
        return self.pg.fetch(GAPS_SINCE, {"since_ms": since_ms})

    def until_closed(self, since_ms: int, within_s: float) -> bool:
        """Until every account has a gap that opened since then, and none is open."""

        def closed() -> bool:
            rows = self.gaps(since_ms)
            left = sum(row["closed_at"] is None for row in rows)
            self.say(f"{len(rows)} gaps, {left} open")
            return left == 0 and len({row["account"] for row in rows}) >= len(self.keys)

        return self.wait(closed, within_s, 1.0)
