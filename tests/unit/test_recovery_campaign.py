"""The recovery campaigns' own arithmetic: bounds from limits, who was overtaken, what exceeds a documented limit."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.core.backoff import CAP_S
from fleet.core.exchange import Rate
from fleet.exchanges import exchanges
from tests.campaigns.recovery.bounds import (
    Proof,
    beyond,
    dial_bound_s,
    dials_in_span,
    most_within,
    outage_bound_s,
    overtaken,
    weight_per_min,
)

STEADY, WINDOWED = Rate(500, 5), Rate(290, 290 / 300, 300.0, sliding=True)


@pytest.mark.parametrize(
    ("accounts", "rate", "bound_s"),
    [(300, STEADY, 0.0), (5000, STEADY, 900.0), (290, WINDOWED, 0.0), (291, WINDOWED, 300.0), (581, WINDOWED, 600.0)],
)
def test_bound_of_dialling(accounts: int, rate: Rate, bound_s: float) -> None:
    assert dial_bound_s(accounts, rate) == bound_s


def test_after_an_outage_nothing_is_left_to_be_dialled_at_once() -> None:
    assert outage_bound_s([(300, STEADY)]) == CAP_S
    assert outage_bound_s([(5000, STEADY), (2000, STEADY)]) == 1000.0
    assert outage_bound_s([]) == CAP_S


def test_who_was_overtaken() -> None:
    in_turn = [Proof(True, 1.0, 12.0), Proof(False, 1.0, 11.0), Proof(False, 1.0, 40.0)]
    assert overtaken(in_turn, 15.0)["by"] == 0
    late = [Proof(True, 1.0, 60.0), *in_turn[1:]]
    assert overtaken(late, 15.0) == {"by": 1, "traded_longest_s": 59.0, "quiet_longest_s": 39.0}
    assert overtaken([], 15.0)["by"] == 0


def test_most_within_a_span() -> None:
    assert most_within([0, 500, 999, 1000, 1400], 1.0) == 4
    assert most_within([], 1.0) == 0


def calls(weight: int, status: int = 200) -> dict[str, Any]:
    venue = {"exchange": "binance", "market": "usdm"}
    return {
        "weight_per_minute": [
            {**venue, "ip": "127.0.0.1", "minute": 0, "weight": weight},
            {**venue, "ip": "127.0.0.1", "minute": 60_000, "weight": 1},
        ],
        "rest": [{**venue, "path": "/fapi/v3/account", "status": status, "count": 2}],
        "handshakes": [{**venue, "path": "/private", "status": 101, "count": 1}],
    }


def test_what_exceeds_a_limit() -> None:
    assert beyond(calls(2400), {"binance:usdm 127.0.0.1": 800, "okx:unified 127.0.0.1": 3}) == []
    assert weight_per_min(calls(2400)) == {"binance:usdm 127.0.0.1": 2400}
    assert beyond(calls(2401, 429), {"okx:unified 127.0.0.1": 4}) == [
        "binance:usdm 127.0.0.1: 2401 weight in a minute",
        "okx:unified 127.0.0.1: 4 handshakes in 1 s",
        "binance:usdm /fapi/v3/account 429: refused 2 times",
    ]


def test_handshakes_are_counted_by_address_and_only_those_of_accounts() -> None:
    one = {"exchange": "okx", "market": "unified", "ip": "127.0.0.2", "api_key": "k", "opened_at": 5}
    assert dials_in_span([one, {**one, "opened_at": 900}, {**one, "api_key": None}, {**one, "opened_at": 1005}]) == {
        "okx:unified 127.0.0.2": 2
    }


def test_the_adapters_stay_below_what_is_documented() -> None:
    from tests.campaigns.recovery.bounds import DIALS, WEIGHT_PER_MIN

    for venue in exchanges().values():
        name = f"{venue.exchange}:{venue.market}"
        weight, dial = venue.limits.weight, venue.limits.dial
        in_minute = weight.burst if weight.window_s else weight.burst + 60 * weight.per_s
        assert in_minute <= WEIGHT_PER_MIN.get(name, in_minute)
        count, span_s = DIALS[name]
        assert (dial.burst if dial.window_s else dial.burst + span_s * dial.per_s) <= count
