"""Fills that the socket drops while it stays up, one in twenty. In: accounts, venues, the audit's period. Out: how long
each took to be found, and what audits cost while nothing happens.

A dropped fill goes down with everything else that the exchange tells of its order, so that nothing hints at it.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack
from random import Random
from typing import Any

import msgspec

from fleet.core.names import USER_TOPICS
from fleet.demo.options import Options
from fleet.exchanges import exchanges
from fleet.runtime.kafka_io import Consumer
from tests.campaigns.recovery.bounds import WEIGHT_PER_MIN
from tests.campaigns.recovery.running import Running

DROP_EACH = 20
PERIODS = 2.0
SLACK_S = 15.0  # the reads themselves, on a machine that runs everything
SHARE = 0.10
PRICES = {"BTCUSDT": "84000", "BTC-USDT-SWAP": "84000"}
FOUND = "SELECT account_id::text AS account, symbol, trade_id, order_id, source, ts_event, ts_recv, exchange, market FROM fills"


class Audit(Running):
    """One run: orders at a steady pace for one period, then silence."""

    def run_once(self, orders_per_account: int, watch_s: float) -> dict[str, Any]:
        self.start()
        self.dropped: set[tuple[str, str]] = set()  # account, order id
        self._trade(orders_per_account)
        period_s = self.settings.audit_interval_s
        self.screen.note(f"{len(self.dropped)} fills were dropped; waiting for audits of {period_s:.0f} s")
        found = self.wait(lambda: not self._outstanding(), PERIODS * period_s + SLACK_S + 30.0, 2.0)
        shares = self._shares(watch_s)
        return self._figures(found, shares)

    def _trade(self, orders_per_account: int) -> None:
        """Each account's orders, spread over one audit period, one in twenty without a word on the socket."""
        venues = {v.name: v for v in exchanges().values()}
        names = self.options.venues
        length_s = self.settings.audit_interval_s
        todo = [(turn, n, key) for turn in range(orders_per_account) for n, key in enumerate(self.keys)]
        dropped = set(Random(self.seed).sample(range(len(todo)), max(1, len(todo) // DROP_EACH)))
        began = time.monotonic()
        for number, (_, n, key) in enumerate(todo):
            venue = venues[names[n % len(names)]]
            time.sleep(max(0.0, began + length_s * number / len(todo) - time.monotonic()))
            symbol = "BTC-USDT-SWAP" if venue.name == "okx" else "BTCUSDT"
            drops = number in dropped
            fault = self.control.fault({"kind": "drop_event", "api_key": key}) if drops else ""
            order = self.order(key, venue.market, symbol, PRICES[symbol])
            if drops:
                self.control.heal(fault)
                self.dropped.add((self.keys[key], order))
            self.say(f"{number} of {len(todo)} orders")

    def _outstanding(self) -> str:
        said = self.verdict().outstanding()
        self.say(said or "nothing outstanding")
        return said

    def _shares(self, watch_s: float) -> dict[str, float]:
        """What audits cost while nothing else happens, of the documented weight, by venue and address."""
        before, began = self._weight(), time.monotonic()
        self.screen.note(f"watching the audits' weight for {watch_s:.0f} s")
        time.sleep(watch_s)
        minutes = (time.monotonic() - began) / 60.0
        spent = {name: weight - before.get(name, 0) for name, weight in self._weight().items()}
        limits = {name: WEIGHT_PER_MIN.get(name.partition(" ")[0]) for name in spent}
        return {name: round(spent[name] / minutes / limit, 4) for name, limit in limits.items() if limit}

    def _weight(self) -> dict[str, int]:
        sums: dict[str, int] = {}
        for row in self.control.calls()["weight_per_minute"]:
            name = f"{row['exchange']}:{row['market']} {row['ip']}"
            sums[name] = sums.get(name, 0) + row["weight"]
        return sums

    def _figures(self, found: bool, shares: dict[str, float]) -> dict[str, Any]:
        rows = [r for r in self.pg.fetch(FOUND) if (r["account"], r["order_id"]) in self.dropped]
        late_s = {f"{r['exchange']}:{r['market']}": 0.0 for r in rows}
        for r in rows:
            venue = f"{r['exchange']}:{r['market']}"
            late_s[venue] = max(late_s[venue], round((r["ts_recv"] - r["ts_event"]) / 1000, 1))
        allowed_s = PERIODS * self.settings.audit_interval_s + SLACK_S
        repeated, limits = self._repeated(), self.limits()
        wrong = limits["beyond"] + ([] if found else [self.verdict().outstanding()])
        wrong += [f"{name}: found after {s:.0f} s" for name, s in late_s.items() if s > allowed_s]
        told = sum(r["source"] != "rest" for r in rows)
        wrong += [f"{told} dropped fills came by the socket"] if told else []
        wrong += [f"{len(repeated)} ids came twice: {repeated[:3]}"] if repeated else []
        wrong += [f"{name}: audits cost {share:.1%}" for name, share in shares.items() if share > SHARE]
        return {
            "accounts": len(self.keys), "audit_period_s": self.settings.audit_interval_s, "dropped": len(self.dropped),
            "found": len(rows), "found_after_s_max": late_s, "audit_share": shares, **limits, "wrong": wrong,
        }  # fmt: skip

    def _repeated(self) -> list[str]:
        """Ids that Kafka has more than once; no process was replaced, so none may be."""
        consumer = Consumer(self.settings.kafka_bootstrap, None, USER_TOPICS)
        ids: Counter[str] = Counter()
        while page := consumer.poll(2.0, 20_000):
            ids.update(msgspec.json.decode(record.value)["id"] for record in page if record.value)
        consumer.close()
        return [ident for ident, count in ids.items() if count > 1]


def run(options: Options, audit_s: float, orders_per_account: int, watch_s: float) -> dict[str, Any]:
    with ExitStack() as stack:
        campaign = Audit(options, {"FLEET_AUDIT_INTERVAL_S": f"{audit_s:g}"}, stack)
        figures = campaign.run_once(orders_per_account, watch_s)
        problems = campaign.fleet.stop()
    return {**figures, "wrong": [*figures["wrong"], *problems]}
