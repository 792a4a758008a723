"""The worker's REST of one venue, with an exchange that answers at once: whose clock counts, what it learns of the weight used."""

from __future__ import annotations

import threading
import time

import pytest

from fleet.core.errors import NoPermit
from fleet.core.exchange import HttpReply, HttpRequest, Rate
from fleet.exchanges import exchanges
from fleet.runtime.metrics import Metrics
from workers.rest import PROBE_SHARE, VenueRest

SERVER_MS = 1_800_000_000_000
HEADER = exchanges()["binance_usdm"].limits.weight.used_header


class Server:
    """Answers every call with its time, and with headers if it has any."""

    root_url = "https://fapi.binance.com"

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.headers: dict[str, str] = {}
        self.asked = 0

    def send(self, request: HttpRequest) -> HttpReply:
        self.asked += 1
        server_ms = SERVER_MS + round((time.monotonic() - self.began_s) * 1000)
        return HttpReply(200, dict(self.headers), b'{"serverTime":%d}' % server_ms)


class Permits:
    def __init__(self) -> None:
        self.told: list[float] = []
        self.wait_s = 0.0

    def take(self, kind: str, exchange: str, egress_ip: str, amount: float, rate: Rate, reserve: float = 0.0) -> float:
        return self.wait_s

    def block(self, kind: str, exchange: str, egress_ip: str, seconds: float) -> None:
        raise AssertionError("nothing was refused")

    def observed(self, kind: str, exchange: str, egress_ip: str, used: float, rate: Rate, sent_s: float) -> None:
        self.told.append(used)


def rest() -> tuple[VenueRest, Server, Permits]:
    server, permits = Server(), Permits()
    venue = exchanges()["binance_usdm"]
    made = VenueRest(venue, False, server, permits, "default", Metrics(), threading.Event())  # type: ignore[arg-type]
    return made, server, permits


@pytest.mark.parametrize("jump_s", [-600.0, 25.0, 600.0])
def test_a_wall_clock_that_is_set_moves_nothing(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proven is proven up to an instant of the exchange: 25 s too late would hide fills, and OKX would take the call."""
    venue, server, _ = rest()
    assert abs(venue.now_ms() - SERVER_MS) < 5000
    asked, wall = server.asked, time.time
    monkeypatch.setattr(time, "time", lambda: wall() + jump_s)
    assert abs(venue.now_ms() - SERVER_MS) < 5000
    assert server.asked == asked  # and nobody had to be asked again


def test_the_weight_used_is_learnt_and_its_absence_too() -> None:
    venue, server, permits = rest()
    call = exchanges()["binance_usdm"].clock
    venue.call(call, None)
    server.headers = {HEADER: "1234"}
    venue.call(call, None)
    server.headers = {HEADER: "many"}
    venue.call(call, None)
    assert permits.told == [0.0, 0.0, 1234.0]  # the first call asked for the time before


def test_who_does_not_wait_for_a_permit_is_told_at_once() -> None:
    venue, server, permits = rest()
    permits.wait_s = 60.0
    with pytest.raises(NoPermit):
        venue.call(exchanges()["binance_usdm"].clock, None, patient=False)
    assert server.asked == 0


def test_nobody_asks_for_the_time_while_the_exchange_wants_to_be_left_alone() -> None:
    """Whoever goes on calling is banned for longer, for three days in the end."""
    venue, server, permits = rest()
    permits.wait_s = 60.0
    venue.now_ms()
    venue.resync()
    assert server.asked == 0
    permits.wait_s = 0.0
    venue.resync()
    assert server.asked == 1


def test_a_question_for_the_time_that_is_refused_blocks_the_fleet_too(monkeypatch: pytest.MonkeyPatch) -> None:
    venue, server, permits = rest()
    blocked: list[float] = []
    monkeypatch.setattr(permits, "block", lambda kind, exchange, ip, seconds: blocked.append(seconds))
    monkeypatch.setattr(server, "send", lambda request: HttpReply(418, {"retry-after": "120"}, b"{}"))
    venue.now_ms()
    assert blocked == [120.0]


def test_probes_take_a_share_of_the_weight_and_those_that_are_due_take_theirs_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    venue, workers = exchanges()["binance_usdm"], 3
    made = VenueRest(venue, False, Server(), Permits(), "default", Metrics(), threading.Event(), None, workers)  # type: ignore[arg-type]
    proofs = 0
    for second in range(3600):
        now_s[0] = 1000.0 + second
        proofs += made.may_prove(due=second % 60 == 0) + made.may_prove(due=False)
    spent = workers * proofs * venue.limits.proof_weight
    assert 0.95 <= spent / (PROBE_SHARE * venue.limits.weight.per_s * 3600) <= 1.01
    for _ in range(10):
        assert made.may_prove(due=True)
    assert not made.may_prove(due=False), "they come out of the same share"
