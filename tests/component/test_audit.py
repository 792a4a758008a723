"""Silent loss on each of the four venues: the socket drops a fill and all that is told of its order, and stays up. An audit
finds it within two periods, once, and nobody reconnects. Where a gap follows, its read-back finds it, though REST tells it late."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fleet.core.model import Credentials
from fleet.exchanges import exchanges
from tests.support.bench import LateKafka, Rows, WorkerBench
from tests.support.simulator import Simulator, eventually

AUDIT_S = 5.0
PROBE_S = 2.0
SLACK_S = 10.0  # the reads themselves, on a busy machine
SECRET = "s" * 64
ORDERS = 10  # of each account, the last but one of which is dropped: 1 in 10
SYMBOLS = {"okx": "BTC-USDT-SWAP"}
FILLS = {
    "binance_usdm": "/fapi/v1/userTrades", "binance_spot": "/api/v3/myTrades", "bybit": "/v5/execution/list",
    "okx": "/api/v5/trade/fills",
}  # fmt: skip
LAG_S = 6.0  # of REST's fills behind everything else; second reads come after 1 s


class Audited:
    """One account of each venue, in one worker."""

    def __init__(self, simulator: Simulator, audit_s: float, probe_s: float = 3600.0) -> None:
        self.simulator, self.kafka, rows = simulator, LateKafka(), Rows()
        self.venues = exchanges()
        self.keys = {name: f"audit-{name}".ljust(64, "k") for name in self.venues}
        for name, venue in self.venues.items():
            more = {"passphrase": "phrase"} if venue.needs_passphrase else {}
            simulator.account(self.keys[name], SECRET, exchange=venue.exchange, market=venue.market, **more)
            rows.add(name, Credentials(self.keys[name], SECRET, "phrase"), venue.exchange, venue.market)
        settings = {
            "FLEET_AUDIT_INTERVAL_S": str(audit_s), "FLEET_PROBE_INTERVAL_S": str(probe_s), "FLEET_SECOND_READ_S": "1"
        }  # fmt: skip
        self.worker = WorkerBench(simulator, self.kafka, rows, "audited", settings)

    def order(self, name: str) -> str:
        symbol, market = SYMBOLS.get(name, "BTCUSDT"), self.venues[name].market
        return str(self.simulator.order(self.keys[name], symbol, "buy", "0.1", "84000", market=market)["order_id"])

    def drop(self, name: str) -> str:
        fault = self.simulator.fault("drop_event", api_key=self.keys[name])
        order = self.order(name)
        self.simulator.end_fault(fault)
        return order

    def fills(self, name: str) -> list[dict[str, Any]]:
        return [record for _, record in self.kafka.user_records(name) if record["type"] == "fill"]

    def missing(self) -> set[tuple[str, str]]:
        ledger = {
            (name, str(row["trade_id"]))
            for name, key in self.keys.items()
            for row in self.simulator.ledger(api_key=key, type="fill")
        }
        return ledger - {(name, fill["trade_id"]) for name in self.keys for fill in self.fills(name)}

    def counted(self) -> float:
        metrics = self.worker.metrics
        return sum(metrics.recovered(exchange, "audit")._value.get() for exchange in ("binance", "bybit", "okx"))


@pytest.fixture(params=[(AUDIT_S,)])
def audited(request: pytest.FixtureRequest) -> Iterator[Audited]:
    with Simulator(tuple(exchanges()), rate=1) as simulator:
        simulator.settings(weight_limit=1_000_000)  # audits of a test come every few seconds
        made = Audited(simulator, *request.param)
        yield made
        made.worker.kill()


def test_fills_that_a_living_socket_dropped_are_found_within_two_audit_periods(audited: Audited) -> None:
    streams = audited.worker.streams.values()
    eventually(lambda: audited.worker.settled() and all(s.known_here for s in streams), 30.0, "all live and proven")
    dropped: dict[str, str] = {}
    for number in range(ORDERS):
        for name in audited.keys:
            if number == ORDERS - 2:
                dropped[name] = audited.drop(name)
            else:
                audited.order(name)
    eventually(lambda: not audited.missing(), 2 * AUDIT_S + SLACK_S, f"missing {audited.missing()}")
    for name in audited.keys:
        fills = audited.fills(name)
        assert len({fill["id"] for fill in fills}) == len(fills) == ORDERS
        assert {fill["order_id"] for fill in fills if fill["source"] == "rest"} >= {dropped[name]}
        orders = [
            r for _, r in audited.kafka.user_records(name) if r["type"] == "order" and r["order_id"] == dropped[name]
        ]
        assert [(r["status"], r["source"]) for r in orders] == [("filled", "rest")]
        assert audited.worker.streams[name].reconnects == 0
    eventually(lambda: audited.counted() >= len(dropped), 5.0, "counted as found by an audit")


@pytest.mark.parametrize("audited", [(3600.0,)], indirect=True)
def test_a_gap_is_not_closed_before_rest_tells_the_fills_of_its_orders(audited: Audited) -> None:
    streams = audited.worker.streams.values()
    eventually(lambda: audited.worker.settled() and all(s.known_here for s in streams), 30.0, "all live and proven")
    for name in audited.keys:
        audited.order(name)
    eventually(lambda: not audited.missing(), 10.0, "the first fills")
    for name, key in audited.keys.items():
        audited.simulator.fault("rest_lag", api_key=key, path=FILLS[name], ms=int(LAG_S * 1000))
        audited.drop(name)
        audited.simulator.fault("cut", api_key=key)
    eventually(lambda: all(stream.reconnects == 1 for stream in streams), 10.0, "new sockets")
    eventually(audited.worker.settled, 4 * LAG_S + SLACK_S, "no gap open")
    assert audited.missing() == set()


@pytest.mark.parametrize("audited", [(3600.0, PROBE_S)], indirect=True)
def test_a_socket_that_answers_pings_and_tells_nothing_is_found_by_a_probe(audited: Audited) -> None:
    streams = audited.worker.streams.values()
    eventually(lambda: audited.worker.settled() and all(s.known_here for s in streams), 30.0, "all live and proven")
    for name, key in audited.keys.items():
        audited.simulator.fault("stall", api_key=key, seconds=600)
        audited.order(name)
    eventually(lambda: not audited.missing(), 30.0, "what the deaf sockets did not tell")
    eventually(lambda: all(stream.reconnects == 1 for stream in streams), 15.0, "new sockets")
    eventually(audited.worker.settled, 15.0, "live again")
    for name in audited.keys:
        audited.order(name)
    eventually(lambda: not audited.missing(), 10.0, "what the new sockets tell")
