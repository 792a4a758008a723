"""Private sockets on which nothing happens: an hour's pings, speeded up, and nobody dials again; a dead one among them is found."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fleet import exchanges
from fleet.core.model import Credentials, StreamState
from tests.component.test_stream import Bench, until
from tests.support.simulator import Simulator
from workers import stream
from workers.connection import Connection

PINGS_OF_AN_HOUR = 720  # one each 5 s
TIMEOUT_S = 3.0  # of speeded-up pings; generous because the machine may be busy
FOUND_S = 15.0
# venue -> seconds between two pings; Binance lets a client send only a few frames a second
INTERVALS_S = {"bybit": 0.02, "okx": 0.02, "binance_usdm": 0.2, "binance_spot": 0.4}


class Quiet(Bench):
    """The stream of one account of one venue."""

    def __init__(self, simulator: Simulator, name: str, number: int) -> None:
        venue = exchanges.exchanges()[name]
        self.exchange, self.market = venue.exchange, venue.market
        self.credentials = Credentials(f"quiet-{name}-{number}".ljust(64, "k"), "s" * 64, "phrase")
        more = {"passphrase": "phrase"} if name == "okx" else {}
        simulator.account(self.credentials.api_key, "s" * 64, exchange=venue.exchange, market=venue.market, **more)
        self.name = name
        super().__init__(simulator)

    def is_live(self) -> bool:
        return self.stream.state is StreamState.LIVE and self.stream.progress.gap is None


@pytest.fixture
def pings(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Pings by socket; every venue's interval and timeout are shortened, and the streams look at them often enough."""
    sent: Counter[int] = Counter()
    send, ping, found = Connection.send, Connection.ping, exchanges.for_account

    def counted_send(self: Connection, payload: bytes, *, binary: bool = False) -> None:
        sent[id(self)] += 1
        send(self, payload, binary=binary)

    def counted_ping(self: Connection, payload: bytes = b"") -> None:
        sent[id(self)] += 1
        ping(self, payload)

    def speeded_up(exchange: str, market: str) -> object:
        venue = found(exchange, market)
        quick = {"interval_s": INTERVALS_S[venue.name], "timeout_s": TIMEOUT_S, "keepalive_s": 0.0}
        liveness = type(venue.user_liveness)(venue.user_liveness.ping, **quick)
        return replace(venue, user_liveness=liveness)

    monkeypatch.setattr(Connection, "send", counted_send)
    monkeypatch.setattr(Connection, "ping", counted_ping)
    monkeypatch.setattr(exchanges, "for_account", speeded_up)
    monkeypatch.setattr(stream, "TICK_MAX_S", 0.01)
    return sent


@pytest.fixture
def quiet(pings: Counter[int]) -> Iterator[list[Quiet]]:
    with Simulator(tuple(INTERVALS_S), rate=1) as simulator:
        made = [Quiet(simulator, name, number) for name in INTERVALS_S for number in range(2)]
        yield made
        for each in made:
            each.close()


def test_a_quiet_hour_costs_no_reconnect_and_a_dead_socket_is_found(quiet: list[Quiet], pings: Counter[int]) -> None:
    until(lambda: all(each.is_live() for each in quiet), 30.0, "all live")

    def an_hour_passed() -> bool:
        assert all(each.is_live() and each.stream.reconnects == 0 for each in quiet)
        return sum(count >= PINGS_OF_AN_HOUR for count in pings.values()) >= 4  # the sockets of Bybit and OKX

    until(an_hour_passed, 100.0, "an hour's pings")
    assert sum(count >= 20 for count in pings.values()) == len(quiet)
    for name in INTERVALS_S:
        dead = next(each for each in quiet if each.name == name)
        fault = dead.simulator.fault("half_open", api_key=dead.credentials.api_key, seconds=60)
        since = time.monotonic()
        until(lambda: dead.stream.reconnects == 1, FOUND_S, f"the dead socket of {name}")  # noqa: B023
        assert time.monotonic() - since >= TIMEOUT_S / 2
        dead.simulator.end_fault(fault)
        until(dead.is_live, 20.0, f"{name} live again")
    assert sum(each.stream.reconnects for each in quiet) == len(INTERVALS_S)
