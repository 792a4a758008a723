"""One OKX account's stream against the simulated exchange: what differs from other venues in login, pings, notices and codes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from fleet.core.model import Credentials, StreamState
from tests.component.test_stream import Bench, until
from tests.support.simulator import Simulator

KEY, SECRET, PHRASE = "okx-component", "okx-secret", "okx-phrase"


class OkxBench(Bench):
    exchange, market, credentials = "okx", "unified", Credentials(KEY, SECRET, PHRASE)

    def order(self, fills: int = 1, symbol: str = "BTC-USDT-SWAP") -> None:
        self.simulator.order(KEY, symbol, "buy", "0.1", "50000", fills=fills, market="unified")

    def opened(self) -> int:
        return sum(row.get("api_key") == KEY for row in self.simulator.connections())


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(("okx",), rate=20) as simulator:
        simulator.account(KEY, SECRET, exchange="okx", market="unified", passphrase=PHRASE)
        yield simulator


@pytest.fixture
def bench(simulator: Simulator) -> Iterator[OkxBench]:
    made = OkxBench(simulator)
    yield made
    made.close()


def test_events_arrive_once_and_the_fill_comes_before_its_order(bench: OkxBench) -> None:
    bench.live()
    bench.order(fills=3)
    bench.order(fills=1, symbol="ETH-USDT")
    until(lambda: not bench.missing(), 5.0, "fills")
    records = [r for r in bench.kafka.records if r["type"] in ("fill", "order")]
    assert records[-1]["type"] == "order" and records[-1]["status"] == "filled"
    assert len({r["id"] for r in records}) == len(records) and {r["source"] for r in records} == {"stream"}
    (socket,) = bench.simulator.connections(only_open=True, api_key=KEY)
    assert socket["path"] == "/ws/v5/private"
    assert sorted(socket["subscriptions"]) == ["account", "balance_and_position", "orders:ANY", "positions:ANY"]


def test_what_a_cut_missed_is_read_back_once(bench: OkxBench) -> None:
    bench.live()
    bench.simulator.fault("reject", path="/ws/v5/private", status=503, seconds=2)
    bench.simulator.fault("cut", api_key=KEY, count=1)
    until(lambda: bench.stream.state is not StreamState.LIVE, 5.0)
    bench.order(fills=2)
    bench.order(fills=1, symbol="BTC-USDT")
    until(lambda: not bench.missing(), 15.0, "recovered fills")
    until(lambda: bench.stream.progress.gap is None, 10.0, "the gap closes")
    assert len(bench.fills()) == 3 and {f["source"] for f in bench.fills()} == {"rest"}
    assert len({f["id"] for f in bench.fills()}) == 3


def test_fills_dropped_from_the_socket_then_a_reconnect(bench: OkxBench) -> None:
    bench.live()
    fault = bench.simulator.fault("drop_event", api_key=KEY)
    bench.order(fills=4)
    bench.order(fills=2, symbol="ETH-USDT")
    bench.simulator.end_fault(fault)
    bench.order(fills=1)
    until(lambda: len(bench.missing()) == 6, 5.0, "six of seven")
    bench.simulator.fault("cut", api_key=KEY, count=1)
    until(lambda: not bench.missing(), 20.0, "recovered fills")
    sources = [f["source"] for f in bench.fills()]
    assert (sources.count("rest"), sources.count("stream")) == (6, 1)
    assert len({f["id"] for f in bench.fills()}) == 7


def test_a_fill_dropped_from_a_living_socket_is_noticed(bench: OkxBench) -> None:
    bench.live()
    opened = bench.opened()
    bench.simulator.fault("drop_event", api_key=KEY, count=5)  # live, fill, balance_and_position, account, positions
    bench.order()
    bench.order()
    until(lambda: len(bench.missing()) == 1, 5.0, "one fill of two")
    until(lambda: not bench.missing(), 25.0, "the dropped fill")
    assert bench.opened() == opened, "no reconnect"


def test_the_upgrade_notice_rotates_and_loses_nothing(bench: OkxBench) -> None:
    bench.live()
    opened = bench.opened()
    bench.simulator.fault("expire_listen_key", exchange="okx", api_key=KEY)  # here: notice 64008
    for _ in range(10):
        bench.order()
        time.sleep(0.1)
    until(lambda: bench.opened() > opened and bench.stream.state is StreamState.LIVE, 8.0, "the new socket")
    until(lambda: not bench.missing(), 5.0)
    assert bench.stream.reconnects == 0 and {f["source"] for f in bench.fills()} == {"stream"}
    assert len({f["id"] for f in bench.fills()}) == len(bench.fills())


def test_pings_keep_a_quiet_socket_and_find_a_dead_one(bench: OkxBench) -> None:
    bench.simulator.settings(idle_s=6.5)  # the real server waits 30 s; our text ping comes after 5
    bench.live()
    opened = bench.opened()
    time.sleep(9.0)  # longer than the server's patience with a socket on which nothing happens
    assert bench.opened() == opened and bench.stream.state is StreamState.LIVE
    bench.simulator.settings(idle_s=30)
    bench.simulator.fault("half_open", api_key=KEY, seconds=60)
    bench.order(fills=2)
    until(lambda: bench.opened() > opened, 15.0, "a replacement")
    until(lambda: not bench.missing(), 15.0, "what the dead socket did not deliver")


def test_a_key_that_never_worked_here_is_deactivated_and_the_reason_names_environment_and_region(
    simulator: Simulator,
) -> None:
    simulator.set_state(KEY, "invalid")  # 60032, 50119: exactly what a key of another region gets
    bench = OkxBench(simulator)
    try:
        until(lambda: bench.accounts.deactivated, 30.0, "two strikes")
        assert "50119 (also the answer to a key of another environment or region)" in bench.accounts.deactivated[0]
    finally:
        bench.close()


def test_a_key_that_worked_here_and_is_deleted_is_deactivated(bench: OkxBench) -> None:
    bench.live()
    until(lambda: bench.stream.known_here, 10.0)
    bench.simulator.set_state(KEY, "invalid")  # the venue closes with 4007, then 60032, then 50119
    until(lambda: bench.accounts.deactivated, 30.0, "two strikes")
    assert "50119" in bench.accounts.deactivated[0]


def test_a_thirty_first_socket_of_a_channel_is_met_with_an_error_event(bench: OkxBench) -> None:
    bench.live()
    bench.simulator.settings(connections_per_channel=0)
    bench.simulator.fault("cut", api_key=KEY, count=1)
    until(lambda: bench.opened() >= 3, 20.0, "dialled again and again")
    bench.simulator.settings(connections_per_channel=30)
    bench.order()
    until(lambda: bench.stream.state is StreamState.LIVE and not bench.missing(), 30.0)
