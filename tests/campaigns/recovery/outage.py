"""Everybody cut by an outage of minutes; how long until all stream again? In: accounts, minutes, addresses. Out: figures,
among them the bound that the dial limits give, and the exchange's own counts.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

from fleet.core.exchange import Rate
from fleet.demo.options import Options
from fleet.exchanges import exchanges
from tests.campaigns.recovery.bounds import dial_bound_s, outage_bound_s
from tests.campaigns.recovery.running import SEEN_ALIVE_MS, Running, now_ms

MARGIN = 1.1


class Outage(Running):
    """One outage."""

    def run_once(self, outage_s: float) -> dict[str, Any]:
        self.start()
        addresses = self._by_address()
        dials = [(count, self._rate(name)) for name, count in addresses.items()]
        bound_s, best_s = outage_bound_s(dials), max(dial_bound_s(*each) for each in dials)
        since_ms, away = now_ms() - SEEN_ALIVE_MS, self.away()
        self.screen.note(f"the exchange is away for {outage_s:.0f} s; the bound afterwards is {bound_s:.0f} s")
        time.sleep(outage_s)
        self.heal(away)
        began = time.monotonic()
        self.screen.note("the exchange is back")
        streaming = self.wait(self._streaming, 2 * bound_s + 60.0, 1.0)
        streaming_s = time.monotonic() - began
        self.screen.note(f"{'all' if streaming else 'not all'} stream after {streaming_s:.0f} s")
        closed = self.until_closed(since_ms, 600.0 + len(self.keys))
        proven_s = time.monotonic() - began
        limits = self.limits()
        wrong = limits["beyond"] + ([] if streaming else ["not everybody streams again"])
        wrong += [] if closed else ["gaps are still open"]
        wrong += [f"{streaming_s:.0f} s, the bound is {bound_s:.0f} s"] if streaming_s > MARGIN * bound_s else []
        return {
            "accounts": len(self.keys), "outage_s": outage_s, "addresses": dict(addresses),
            "bound_s": round(bound_s, 1), "bound_if_nothing_was_spent_s": round(best_s, 1),
            "streaming_s": round(streaming_s, 1), "of_bound": round(streaming_s / bound_s, 2),
            "proven_s": round(proven_s, 1), **limits, "wrong": wrong,
        }  # fmt: skip

    def _by_address(self) -> Counter[str]:
        """Account sockets now, by venue and address."""
        return Counter(f"{c['exchange']}:{c['market']} {c['ip']}" for c in self.open_sockets())

    def _rate(self, name: str) -> Rate:
        venues = {f"{venue.exchange}:{venue.market}": venue for venue in exchanges().values()}
        return venues[name.partition(" ")[0]].limits.dial

    def _streaming(self) -> bool:
        count = len({c["api_key"] for c in self.open_sockets()})
        self.say(f"{count} sockets")
        return count >= len(self.keys) and self.live() >= len(self.keys)


def run(options: Options, outage_s: float, addresses: int) -> dict[str, Any]:
    chosen = ",".join(f"127.0.0.{number + 2}" for number in range(addresses))
    with ExitStack() as stack:
        campaign = Outage(options, {"FLEET_EGRESS_IPS": chosen} if chosen else {}, stack)
        figures = campaign.run_once(outage_s)
        problems = campaign.fleet.stop()
    return {**figures, "wrong": [*figures["wrong"], *problems]}
