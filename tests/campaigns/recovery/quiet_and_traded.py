"""Many quiet accounts and a few that trade, all cut at once, one address, documented weights. In: how many. Out: figures.

While the exchange is away the few trade on, and place and cancel orders. Then everybody comes back: who traded has to be served
first, everybody proven complete in time, and the exchange must never have counted more weight than it allows.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from fleet.core.exchange import Rate
from fleet.demo.options import Options
from fleet.exchanges import exchanges
from tests.campaigns.recovery.bounds import MINUTE_MS, Proof, dial_bound_s, overtaken
from tests.campaigns.recovery.running import SEEN_ALIVE_MS, Running, now_ms

VENUE = "binance_usdm"
AWAY_S = 12.0
PROVEN_WITHIN_S = 360.0
GRACE_S = 15.0  # the second read comes 8 s after the socket, and takes its turn
SYMBOLS = (("BTCUSDT", "84000"), ("ETHUSDT", "3000"))


class QuietAndTraded(Running):
    """One cut of everybody."""

    def run_once(self, traded: int) -> dict[str, Any]:
        self.start()
        keys = list(self.keys)
        each = max(1, len(keys) // traded)
        traders = keys[::each][:traded]
        for key in traders:
            self._trade(key)
        if not self.wait(lambda: not self.verdict().outstanding(), 60.0):
            return {"wrong": ["trades before the cut did not arrive"]}
        self._new_minute()
        since_ms, away = now_ms() - SEEN_ALIVE_MS, self.away()
        self.screen.note("the exchange is away")
        began = time.monotonic()
        for key in traders:
            self._trade(key)
        time.sleep(max(0.0, AWAY_S - (time.monotonic() - began)))
        self.heal(away)
        back_s = time.time()
        self.screen.note("the exchange is back")
        closed = self.until_closed(since_ms, 2 * PROVEN_WITHIN_S)
        return self._figures(set(traders), since_ms, back_s, closed)

    def _trade(self, key: str) -> None:
        for symbol, price in SYMBOLS:
            self.order(key, "usdm", symbol, price, fills=2)
            self.cancel(key, symbol, self.order(key, "usdm", symbol, price, fills=0))

    def _new_minute(self) -> None:
        """Let the minute pass in which the start was paid for; the limit counts by it."""
        time.sleep(60.0 - time.time() % 60.0 + 1.0)

    def _figures(self, traders: set[str], since_ms: int, back_s: float, closed: bool) -> dict[str, Any]:
        self.wait(lambda: not self.verdict().outstanding(), 30.0)
        connected = {c["api_key"]: c["opened_at"] / 1000 - back_s for c in self.open_sockets()}
        by_account = {row["account"]: row for row in self.gaps(since_ms)}
        proofs = []
        for key, account in self.keys.items():
            row = by_account.get(account)
            if row is not None and row["closed_at"] is not None and key in connected:
                proofs.append(Proof(key in traders, connected[key], row["closed_at"].timestamp() - back_s))
        limits, order = self.limits(), overtaken(proofs, GRACE_S)
        minutes = [
            row for row in self.control.calls()["weight_per_minute"] if row["minute"] >= back_s * 1000 - MINUTE_MS
        ]
        proven_s = max((p.proven_s for p in proofs), default=0.0)
        wrong = list(limits["beyond"])
        wrong += [] if closed else [f"only {len(proofs)} of {len(self.keys)} accounts are proven complete"]
        wrong += [f"the last one was proven complete after {proven_s:.0f} s"] if proven_s > PROVEN_WITHIN_S else []
        wrong += [f"{order['by']} quiet accounts were served before one that traded"] if order["by"] else []
        wrong += [f"gap without recovery: {r}" for r in by_account.values() if not r["recoverable"]][:5]
        wrong += [self.verdict().outstanding()]
        return {
            "accounts": len(self.keys), "traded": len(traders), "away_s": AWAY_S,
            "all_connected_s": round(max(connected.values(), default=0.0), 1), "all_proven_s": round(proven_s, 1),
            "traded_proven_s": round(max((p.proven_s for p in proofs if p.traded), default=0.0), 1),
            "dial_bound_s": round(dial_bound_s(len(self.keys), _dial()), 1), "overtaken": order,
            "weight_afterwards": sum(row["weight"] for row in minutes), **limits,
            "recovered_events": sum(row["recovered_events"] for row in by_account.values()),
            "wrong": [what for what in wrong if what],
        }  # fmt: skip


def _dial() -> Rate:
    return exchanges()[VENUE].limits.dial


def run(options: Options, traded: int) -> dict[str, Any]:
    with ExitStack() as stack:
        campaign = QuietAndTraded(options, {}, stack)
        figures = campaign.run_once(traded)
        problems = campaign.fleet.stop()
    return {**figures, "wrong": [*figures["wrong"], *problems]}
