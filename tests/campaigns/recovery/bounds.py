"""What the documented limits allow, and whether the exchange's own counts stay within. In: limits, counts, times. Out: numbers and
words. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from fleet.core.backoff import CAP_S
from fleet.core.exchange import Rate

MINUTE_MS = 60_000
# What the exchanges document, for one address (the adapters stay below): weight a minute, and handshakes in a span of seconds.
WEIGHT_PER_MIN = {"binance:usdm": 2400, "binance:spot": 6000, "bybit:unified": 7200}
DIALS = {"binance:usdm": (800, 60), "binance:spot": (300, 300), "bybit:unified": (500, 300), "okx:unified": (3, 1)}
REFUSALS = (403, 418, 429)


class Proof(NamedTuple):
    """How one account came back; seconds of any one clock."""

    traded: bool
    connected_s: float
    proven_s: float


def dial_bound_s(accounts: int, rate: Rate) -> float:
    """The shortest time in which so many accounts can dial from one address, if nobody dialled before."""
    if rate.window_s:
        return rate.window_s * (math.ceil(accounts / rate.burst) - 1)
    return max(0.0, accounts - rate.burst) / rate.per_s


def outage_bound_s(by_address: Iterable[tuple[int, Rate]]) -> float:
    """The same after an outage, which spent what could be dialled at once: attempts count whether they succeed or not. A stream may
    sit out its longest pause when the exchange comes back."""
    return max([CAP_S, *(accounts / rate.per_s for accounts, rate in by_address)])


def overtaken(proofs: Sequence[Proof], grace_s: float) -> dict[str, float]:
    """Were those that traded served first? `by`: the most quiet accounts that were proven while one that traded was connected for
    over `grace_s` (its second read waits on purpose) and still was not."""
    quiet = sorted(p.proven_s for p in proofs if not p.traded)
    traded = [p for p in proofs if p.traded]
    passed = [sum(p.connected_s + grace_s < at_s < p.proven_s for at_s in quiet) for p in traded]
    return {
        "by": max(passed, default=0),
        "traded_longest_s": round(max((p.proven_s - p.connected_s for p in traded), default=0.0), 1),
        "quiet_longest_s": round(max((p.proven_s - p.connected_s for p in proofs if not p.traded), default=0.0), 1),
    }


def most_within(times_ms: Iterable[int], span_s: float) -> int:
    """The most of `times_ms` in any span of that length."""
    ordered, first, most = sorted(times_ms), 0, 0
    for last, at_ms in enumerate(ordered):
        while at_ms - ordered[first] >= span_s * 1000:
            first += 1
        most = max(most, last - first + 1)
    return most


def weight_per_min(calls: Mapping[str, Any]) -> dict[str, int]:
    """The most weight a minute, by venue and address."""
    most: dict[str, int] = {}
    for row in calls["weight_per_minute"]:
        name = f"{row['exchange']}:{row['market']} {row['ip']}"
        most[name] = max(most.get(name, 0), row["weight"])
    return most


def dials_in_span(connections: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """The most handshakes of account sockets in any span that the venue limits, by venue and address."""
    times: dict[tuple[str, str], list[int]] = {}
    for each in connections:
        if each["api_key"]:
            times.setdefault((f"{each['exchange']}:{each['market']}", each["ip"]), []).append(each["opened_at"])
    return {f"{venue} {ip}": most_within(at, DIALS[venue][1]) for (venue, ip), at in sorted(times.items())}


def beyond(calls: Mapping[str, Any], dials: Mapping[str, int]) -> list[str]:
    """Where a limit was exceeded, by the exchange's counts; [] if nowhere."""
    wrong = []
    for name, weight in weight_per_min(calls).items():
        limit = WEIGHT_PER_MIN.get(name.partition(" ")[0])
        wrong += [f"{name}: {weight} weight in a minute"] if limit is not None and weight > limit else []
    for name, count in dials.items():
        limit, span_s = DIALS[name.partition(" ")[0]]
        wrong += [f"{name}: {count} handshakes in {span_s} s"] if count > limit else []
    refused = Counter(
        {
            f"{row['exchange']}:{row['market']} {row['path']} {row['status']}": row["count"]
            for row in [*calls["rest"], *calls["handshakes"]]
            if row["status"] in REFUSALS
        }
    )
    return wrong + [f"{name}: refused {count} times" for name, count in sorted(refused.items())]
