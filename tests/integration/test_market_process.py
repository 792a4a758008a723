"""`python -m workers marketdata` against the simulator over TLS, a real Kafka and a real Redis: faults, then the ledger."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fleet.core import names
from fleet.runtime.kafka_io import Consumer, create_topics
from fleet.services import Kafka, Services
from tests.support.services import SharedServices, free_ports
from tests.support.simulator import ROOT, Simulator, eventually

TOPICS = {
    "trade": "market.trades",
    "kline": "market.klines",
    "ticker": "market.tickers",
    "mark_price": "market.mark_prices",
    "depth": "market.depth",
    "liquidation": "market.liquidations",
}


class Process:
    """A market-data process and everything around it."""

    def __init__(self, services: Services | SharedServices, simulator: Simulator, directory: Path) -> None:
        self.services, self.simulator, self.log_dir = services, simulator, directory / "log"
        self.log_dir.mkdir()
        self.port = free_ports(40)
        settings = {
            "FLEET_NAME": f"market{os.getpid()}",
            "FLEET_LOG_DIR": str(self.log_dir),
            "FLEET_METRICS_BASE_PORT": str(self.port),
            "FLEET_HEALTH_CHECK_INTERVAL_S": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workers", "marketdata"],
            cwd=ROOT,
            env={**os.environ, **services.env, **simulator.env, **settings},
        )

    def log(self) -> str:
        path = self.log_dir / "marketdata.log"
        return path.read_text() if path.exists() else ""

    def metric(self, line: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port + 1}/metrics", timeout=5) as reply:
            found = re.search(rf"^{re.escape(line)} (\S+)$", reply.read().decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def reconnects(self) -> float:
        return self.metric('prometheus_marketdata_reconnects_total{status="success"}')

    def sockets(self) -> list[int]:
        return [int(c["opened_at"]) for c in self.simulator.connections(only_open=True) if "private" not in c["path"]]

    def replaced(self, fault: str, within_s: float, **spec: Any) -> float:
        """Inject a fault into both sockets; seconds until two newer ones are subscribed and live."""
        before, started = self.reconnects(), time.monotonic()
        ident = self.simulator.fault(fault, **spec)
        eventually(lambda: self.reconnects() >= before + 2, within_s + 5, f"two sockets replaced after {fault}")
        took_s = time.monotonic() - started
        self.simulator.end_fault(ident)
        return took_s

    def records(self) -> dict[str, list[dict[str, Any]]]:
        """Every event in Kafka by topic; for when nothing more is produced."""
        consumer = Consumer(self.services.kafka.bootstrap, None, [*names.MARKET_TOPICS, names.TOPIC_STREAMS])
        found: dict[str, list[dict[str, Any]]] = {}
        try:
            while batch := consumer.poll(2.0, 10_000):
                for record in batch:
                    assert record.value is not None
                    found.setdefault(record.topic, []).extend(json.loads(line) for line in record.value.split(b"\n"))
        finally:
            consumer.close()
        return found


@contextmanager
def running(services: Services | SharedServices, directory: Path) -> Iterator[Process]:
    """The process, live, with valid books."""
    create_topics(services.kafka.bootstrap)
    with Simulator(plain=False, rate=100, seed=11) as simulator:
        market = Process(services, simulator, directory)
        try:
            eventually(lambda: len(market.sockets()) == 2, 15)
            eventually(lambda: market.log().count("market data live") == 2, 10)
            eventually(lambda: market.log().count("order book valid") == 2, 10)
            yield market
        finally:
            market.process.kill()
            market.process.wait(10)


@pytest.fixture
def market(own_services: Callable[..., Services], tmp_path: Path) -> Iterator[Process]:
    """With services of its own: the Kafka topics hold nothing else."""
    with running(own_services("redis", "kafka"), tmp_path) as market:
        yield market


@pytest.fixture
def shared_market(services: SharedServices, tmp_path: Path) -> Iterator[Process]:
    with running(services, tmp_path) as market:
        yield market


def stop(market: Process) -> float:
    """SIGTERM; seconds until it is gone with exit code 0."""
    started = time.monotonic()
    market.process.send_signal(signal.SIGTERM)
    assert market.process.wait(12) == 0, market.log()[-3000:]
    return time.monotonic() - started


def missing(market: Process, found: dict[str, list[dict[str, Any]]]) -> dict[str, int]:
    """By type: how many rows that the simulator wrote to a socket are not in Kafka."""
    lost = {}
    for kind, topic in TOPICS.items():
        sent = [r for r in market.simulator.ledger(type=kind) if r["api_key"] is None and r["sockets"]]
        assert sent or kind == "liquidation", f"the simulator sent no {kind}"
        have = {e["id"] for e in found.get(topic, ()) if e.get("kind") != "snapshot"}
        if kind == "trade":
            lost[kind] = len(
                {(r["symbol"], r["trade_id"]) for r in sent} - {(e["symbol"], e["trade_id"]) for e in found[topic]}
            )
        else:
            lost[kind] = max(
                0, len({(r["symbol"], r["ts"], r.get("last_seq"), r.get("seq")) for r in sent}) - len(have)
            )
    return lost


def assert_books_whole(found: dict[str, list[dict[str, Any]]]) -> None:
    """Each book in Kafka breaks only where book_invalid was said, and was read again after it."""
    for symbol in ("BTCUSDT", "ETHUSDT"):
        last, met, breaks = None, False, 0
        for event in (e for e in found["market.depth"] if e["symbol"] == symbol):
            if event["kind"] == "snapshot":
                last, met = event["last_seq"], False
            elif last is not None and event["last_seq"] > last:
                links = event["prev_seq"] == last or (not met and event["first_seq"] <= last <= event["last_seq"])
                last, met, breaks = (event["last_seq"], True, breaks) if links else (None, False, breaks + 1)
        said = [e for e in found["fleet.streams"] if e["symbol"] == symbol and e["event"] == "book_invalid"]
        assert breaks <= len(said)


@pytest.mark.timeout(180)
def test_transport_faults_cost_nothing_that_reached_a_socket(market: Process) -> None:
    assert market.replaced("cut", 5.0) <= 5.0
    assert market.replaced("stall", 15.0, seconds=60) <= 15.0
    assert market.replaced("half_open", 15.0, seconds=60) <= 15.0
    market.replaced("close", 8.0, code=1008)
    eventually(lambda: len(market.sockets()) == 2, 5)
    eventually(lambda: market.log().count(names.MARKET_RECONNECTED) >= 8, 5)
    assert market.log().count(names.MARKET_DISCONNECTED) >= 8
    assert market.log().count(names.MARKET_STARTED) == 1
    assert stop(market) < 10.0
    found = market.records()
    assert missing(market, found) == dict.fromkeys(TOPICS, 0)
    assert_books_whole(found)


@pytest.mark.timeout(180)
def test_data_faults_and_a_kafka_outage_cost_nothing(market: Process) -> None:
    simulator = market.simulator
    simulator.fault("drop_event", stream="btcusdt@depth@100ms", count=1)
    eventually(lambda: market.log().count("order book invalid") == 1, 15)
    eventually(lambda: market.log().count("order book valid") == 3, 15)
    simulator.fault("duplicate_event", stream="btcusdt@aggTrade", count=3)
    simulator.fault("reorder", stream="ethusdt@depth@100ms", count=1)
    for kind in ("garbage", "fragment"):
        simulator.fault(kind, path="/market", count=5)
    eventually(lambda: market.metric('fleet_frames_malformed_total{exchange="binance"}') >= 1, 15)
    kafka = market.services.kafka
    if not isinstance(kafka, Kafka):
        pytest.skip("Tansu keeps its records in memory: it cannot be stopped and started again")
    kafka.stop()
    sent = len(simulator.ledger(market="1", type="trade"))
    eventually(lambda: market.metric("fleet_buffer_bytes") > 20_000, 20)
    kafka.start()
    eventually(lambda: market.metric("fleet_buffer_bytes") < 20_000, 40)
    assert len(simulator.ledger(type="trade")) > sent
    assert market.reconnects() == 0, "a fault of the data or of Kafka is no reason to reconnect"
    stop(market)
    found = market.records()
    assert missing(market, found) == dict.fromkeys(TOPICS, 0)
    trades = [(e["symbol"], e["trade_id"]) for e in found["market.trades"]]
    assert len(trades) - len(set(trades)) <= 600, "only records that Kafka may have taken twice may repeat"
    assert_books_whole(found)


@pytest.mark.timeout(60)
def test_a_429_at_the_handshake_keeps_the_process_away_and_is_no_crash(shared_market: Process) -> None:
    market = shared_market
    simulator = market.simulator
    simulator.fault("reject", status=429, retry_after=3, count=2)
    simulator.fault("cut")
    eventually(lambda: not market.sockets(), 5)
    refused = time.monotonic()
    eventually(lambda: len(market.sockets()) == 2, 20)
    assert time.monotonic() - refused >= 2.0
    eventually(lambda: market.log().count(names.MARKET_RECONNECTED) == 2, 5)
    assert market.metric('prometheus_marketdata_reconnects_total{status="failed"}') >= 1
    stop(market)


@pytest.mark.timeout(60)
def test_three_failed_health_checks_warn(shared_market: Process) -> None:
    market = shared_market
    market.simulator.fault("refuse", seconds=30)
    market.simulator.fault("cut")
    eventually(lambda: "market data health check failed" in market.log(), 15)
    stop(market)
