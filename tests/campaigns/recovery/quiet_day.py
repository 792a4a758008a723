"""Accounts on which nothing happens for hours, speeded up: nobody may dial again, no gap may open. In: accounts, hours.
Out: figures.

The worker's own streams, read-backs and upkeep in this process, against the simulator; pings, renewals and audits come as often as
in the hours asked for, in the time that the machine needs for so many pings.
"""

from __future__ import annotations

import random
import time
from dataclasses import replace
from typing import Any

from fleet import exchanges
from fleet.core.exchange import Exchange
from fleet.core.model import AccountSpec, Credentials
from fleet.runtime.http import Http
from fleet.runtime.logs import configure
from fleet.runtime.settings import Settings
from tests.support.bench import LateKafka, NoLimit, Rows, WorkerBench
from tests.support.simulator import Simulator
from workers import stream
from workers.rest import VenueRest
from workers.stream import Worker

HOUR_S = 3600.0
PINGS_PER_S = 2500.0  # of all accounts; both ends of the sockets run on this machine
TIMEOUT_S = 8.0  # of speeded-up pings; generous because the machine is busy
SHORTEST_S = 30.0
LIVE_PER_ACCOUNT_S = 0.5
# The simulated venues' limits are per real second; what is compressed here is far from them in real time.
UNLIMITED = {
    "weight_limit": 10**9, "rest_limits": 0, "messages_per_s": 1e6, "messages_burst": 1e6, "dials_per_5min": 10**6,
    "dials_per_s": 10**6, "calls_per_5s": 10**9, "calls_per_s": 10**9, "probes_per_s": 10**9, "requests_per_hour": 10**9,
}  # fmt: skip


class Compressed(WorkerBench):
    """A worker whose clocks run `speed` times as fast."""

    speed = 1.0

    def _worker(self, incarnation: str) -> Worker:
        return replace(super()._worker(incarnation), random=random.random)

    def _rest(self, spec: AccountSpec) -> VenueRest:
        venue = exchanges.for_account(spec.exchange, spec.market)
        if venue.name not in self._rests:
            http = Http(exchanges.hosts(venue, False, self.settings.endpoints).rest)
            quick = faster(venue, self.speed)
            self._rests[venue.name] = VenueRest(quick, False, http, NoLimit(), "default", self.metrics, self.stop)
        return self._rests[venue.name]


def faster(venue: Exchange, speed: float) -> Exchange:
    """The venue, pinged `speed` times as often."""
    liveness = type(venue.user_liveness)(
        venue.user_liveness.ping,
        interval_s=venue.user_liveness.interval_s / speed,
        timeout_s=TIMEOUT_S,
        keepalive_s=venue.user_liveness.keepalive_s / speed,
    )
    return replace(venue, user_liveness=liveness)


def length_s(accounts: int, hours: float) -> float:
    """How long the hours take here: a ping each five seconds and account, as many a second as the machine takes."""
    return max(SHORTEST_S, accounts * hours * HOUR_S / 5.0 / PINGS_PER_S)


def run(accounts: int, hours: float, names: tuple[str, ...]) -> dict[str, Any]:
    configure(Settings(log_level="warning"), "quiet-day")
    seconds = length_s(accounts, hours)
    speed = hours * HOUR_S / seconds
    stream.TICK_MAX_S = min(stream.TICK_MAX_S, 2.5 / speed)
    settings = {
        "FLEET_AUDIT_INTERVAL_S": f"{Settings().audit_interval_s / speed:g}",
        "FLEET_LISTENKEY_RENEWAL_S": f"{1800 / speed:g}",
    }
    print(f"{hours:g} h on {accounts} accounts in {seconds:.0f} s, {speed:.0f} times as fast", flush=True)
    with Simulator(names, plain=True, rate=1) as simulator:
        simulator.settings(**UNLIMITED)
        simulator.settings(listen_key_ttl_s=max(3 * TIMEOUT_S, 3600 / speed))
        pings = {
            "first_ping_s": 140 / speed,
            "ping_interval_s": 180 / speed,
            "pong_deadline_s": TIMEOUT_S + 180 / speed,
        }
        simulator.call("PATCH", "/settings", {"exchange": "binance", **pings})
        rows = _rows(simulator, accounts, names)
        kafka = LateKafka()
        Compressed.speed = speed
        bench = Compressed(simulator, kafka, rows, "quiet", settings)
        try:
            return _watch(simulator, kafka, bench, accounts, seconds)
        finally:
            bench.kill()


def _rows(simulator: Simulator, accounts: int, names: tuple[str, ...]) -> Rows:
    rows, known = Rows(), exchanges.exchanges()
    for number in range(accounts):
        venue = known[names[number % len(names)]]
        key = Credentials(f"quiet-{number}".ljust(64, "k"), "s" * 64, "phrase" if venue.needs_passphrase else None)
        more = {"passphrase": "phrase"} if venue.needs_passphrase else {}
        simulator.account(key.api_key, key.secret, exchange=venue.exchange, market=venue.market, **more)
        rows.add(f"account-{number}", key, venue.exchange, venue.market)
    return rows


def _watch(simulator: Simulator, kafka: LateKafka, bench: Compressed, accounts: int, seconds: float) -> dict[str, Any]:
    end = time.monotonic() + 60.0 + LIVE_PER_ACCOUNT_S * accounts
    while not bench.settled():
        if time.monotonic() > end:
            return {"wrong": ["not everybody became live"]}
        time.sleep(0.2)
    dials = len([c for c in simulator.connections() if c["api_key"]])
    calls, first = _calls(simulator), len(kafka.records)
    print(f"all {accounts} are live", flush=True)
    time.sleep(seconds)
    more = {path: count - calls.get(path, 0) for path, count in _calls(simulator).items()}
    streams = bench.streams.values()
    told = [r for _, r in kafka.records[first:]]
    again = len([c for c in simulator.connections() if c["api_key"]]) - dials
    gaps = sum(r.get("event") == "gap_opened" for r in told)
    reconnects = sum(s.reconnects for s in streams)
    wrong = [f"{n} {what}" for n, what in ((again, "dials"), (gaps, "gaps"), (reconnects, "reconnects")) if n]
    wrong += [f"{n} told: {r}" for n, r in enumerate(told) if r["topic"] != "fleet.streams"][:3]
    wrong += [] if bench.settled() else ["not everybody is live at the end"]
    return {
        "accounts": accounts, "seconds": round(seconds, 1), "speed": round(Compressed.speed, 1), "dials": again, "gaps": gaps,
        "reconnects": reconnects, "events": len(told), "rest_calls": more, "wrong": wrong,
    }  # fmt: skip


def _calls(simulator: Simulator) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in simulator.calls()["rest"]:
        sums[f"{row['market']} {row['path']} {row['status']}"] = row["count"]
    return sums
