"""Public market data under cuts, drops and kills, compared with the simulated exchange's truth.

    python -m tests.campaigns.market --minutes 60 --rate 5000 --cut-every 30
    python -m tests.campaigns.market --minutes 2 --rate 2000 --cut-every 5 --kill-every 40

Starts services, the simulator and `python -m workers marketdata`; prints the figures as JSON; exit code 1 if trades have a hole
that was not told, a closed candle is missing, or a book was wrong while its numbers said it is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from fleet.core import names
from fleet.runtime.kafka_io import Consumer, create_topics
from fleet.runtime.postgres import Postgres, migrate
from fleet.services import Services
from tests.campaigns.market.judge import Book, Judge
from tests.support.services import free_ports
from tests.support.simulator import ROOT, Simulator

SYMBOLS = ("BTCUSDT", "ETHUSDT")
KINDS = "kline_1m,ticker,depth,trade,mark_price"
JUDGE_IP = "127.0.0.2"
SAMPLE_S = 0.25  # 4 × 2 × (2 + 20/24) a second: within the judge's own weight
DRAIN_S = 300.0
SETTLE_S = 12.0  # after the last fault


class Campaign:
    """One run of one venue (binance_usdm)."""

    def __init__(self, services: Services, simulator: Simulator, directory: Path, seed: int) -> None:
        self.services, self.simulator, self.directory = services, simulator, directory
        self.judge = Judge()
        self.random = random.Random(seed)
        self.faults: dict[str, int] = {}
        self.kills = 0
        self._port = free_ports(40)
        self._done = threading.Event()
        self._lock = threading.Lock()  # guards judge
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        settings = {
            "FLEET_NAME": f"campaign{os.getpid()}", "FLEET_LOG_DIR": str(self.directory), "FLEET_MARKET_STREAMS": KINDS,
            "FLEET_MARKET_SYMBOLS": ",".join(SYMBOLS), "FLEET_METRICS_BASE_PORT": str(self._port),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "workers", "marketdata"],
            cwd=ROOT,
            env={**os.environ, **self.services.env, **self.simulator.env, **settings},
        )

    def run(self, seconds: float, cut_every_s: float, kill_every_s: float) -> dict[str, Any]:
        threads = [threading.Thread(target=each) for each in (self._consume, self._sample, self._watch)]
        for thread in threads:
            thread.start()
        started = time.monotonic()
        self._until(started + 5)
        boundary_s = 0.0
        cut_s, kill_s = started + 5, started + kill_every_s if kill_every_s else float("inf")
        while (now_s := time.monotonic()) < started + seconds:
            if now_s >= cut_s:
                cut_s = now_s + cut_every_s * self.random.uniform(0.7, 1.3)
                self._fault()
            if time.time() % 60 > 59 and now_s > boundary_s:
                boundary_s = now_s + 30
                self._miss_a_boundary()
            if now_s >= kill_s:
                kill_s = now_s + kill_every_s
                self.kill()
            self._until(min(cut_s, kill_s, started + seconds, now_s + 0.3))
        self._until(time.monotonic() + SETTLE_S)
        drain_s = self._drain()
        self.process.terminate()
        code = self.process.wait(15)
        time.sleep(1.0)  # what Kafka took last
        self._done.set()
        for thread in threads:
            thread.join()
        calls = self.simulator.calls()
        return {
            "seconds": round(seconds), "drain_s": drain_s, "exit_code": code, "faults": self.faults, "kills": self.kills,
            **self.judge.figures(), "weight_per_min_max": _most_weight(calls),
            "refused_429": sum(row["count"] for row in calls["rest"] if row["status"] in (418, 429)),
        }  # fmt: skip

    def _drain(self) -> float:
        """Seconds until nothing is missing any more: the exchange's weight limit sets the pace of reading back."""
        started = time.monotonic()
        while time.monotonic() < started + DRAIN_S:
            with self._lock:
                holes = self.judge.figures()["trade_holes"]
            if not holes:
                break
            self._until(time.monotonic() + 1)
        return round(time.monotonic() - started, 1)

    def kill(self) -> None:
        """kill -9, and a supervisor that starts it again."""
        self.kills += 1
        self.process.kill()
        self.process.wait()
        self._until(time.monotonic() + self.random.uniform(0.2, 2.0))
        self.process = self._spawn()

    def _fault(self) -> None:
        symbol = self.random.choice(SYMBOLS).lower()
        kind, spec = self.random.choice([
            ("cut", {"path": "/*/stream"}), ("cut", {"path": "/*/stream"}), ("cut", {"path": "/market/stream"}),
            ("cut", {"path": "/public/stream"}),
            ("drop_event", {"stream": f"{symbol}@aggTrade", "count": self.random.randint(1, 50)}),
            ("drop_event", {"stream": f"{symbol}@depth@100ms", "count": 1}),
            ("drop_event", {"stream": f"{symbol}@kline_1m", "seconds": 3}),
            ("duplicate_event", {"stream": f"{symbol}@aggTrade", "count": 20}),
            ("reorder", {"stream": f"{symbol}@aggTrade", "count": 3}), ("garbage", {"path": "/market/stream", "count": 2}),
        ])  # fmt: skip
        self.faults[kind] = self.faults.get(kind, 0) + 1
        self.simulator.fault(kind, **spec)  # type: ignore[arg-type]

    def _miss_a_boundary(self) -> None:
        """No socket while a minute ends."""
        self.faults["boundary"] = self.faults.get("boundary", 0) + 1
        self.simulator.fault("reject", path="/market/stream", status=503, seconds=self.random.uniform(2, 6))
        self.simulator.fault("cut", path="/market/stream")

    def _until(self, at_s: float) -> None:
        time.sleep(max(0.0, at_s - time.monotonic()))

    # ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _consume(self) -> None:
        topics = [names.TOPIC_TRADES, names.TOPIC_KLINES, names.TOPIC_DEPTH, names.TOPIC_STREAMS]
        consumer = Consumer(self.services.kafka.bootstrap, None, topics)
        try:
            while not (self._done.is_set() and not self._poll(consumer)):
                self._poll(consumer)
        finally:
            consumer.close()

    def _poll(self, consumer: Consumer) -> int:
        batch = consumer.poll(0.5, 5_000)
        with self._lock:
            for record in batch:
                assert record.value is not None
                self.judge.record(record.value)
        return len(batch)

    def _sample(self) -> None:
        turn = 0
        while not self._done.wait(SAMPLE_S):
            turn += 1
            for symbol in SYMBOLS:
                book = self._rest(f"/fapi/v1/depth?symbol={symbol}&limit=20")
                rows = self._rest(f"/fapi/v1/aggTrades?symbol={symbol}&limit=200") if turn % 24 == 0 else None
                with self._lock:
                    if book is None:
                        continue
                    kept = self.judge.books.setdefault(("usdm", symbol), Book())
                    kept.sample(book["lastUpdateId"], book["bids"], book["asks"])
                    for row in rows or ():
                        side = "sell" if row["m"] else "buy"
                        self.judge.trade_truth[("usdm", symbol), row["a"]] = (row["p"], row["q"], side)

    def _watch(self) -> None:
        """Somebody else who is subscribed all the time: without, the simulated market would rest while our socket is away."""
        url = self.simulator.endpoints["FLEET_BINANCE_USDM_WS_URL"] + "/market/ws"
        wanted = [f"{s.lower()}@{what}" for s in SYMBOLS for what in ("aggTrade", "kline_1m")]
        while not self._done.is_set():
            with (
                contextlib.suppress(WebSocketException, OSError, TimeoutError),
                connect(url, compression=None) as socket,
            ):
                socket.send(json.dumps({"method": "SUBSCRIBE", "params": wanted, "id": 1}))
                while not self._done.is_set():
                    socket.recv(1.0)

    def _rest(self, target: str) -> Any:
        """One REST call from an address of its own: the fleet's weight is the fleet's."""
        host, port = self.simulator.rest_url.removeprefix("http://").split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=20, source_address=(JUDGE_IP, 0))
        try:
            connection.request("GET", target)
            reply = connection.getresponse()
            body = json.loads(reply.read())
            return body if reply.status == 200 else None
        finally:
            connection.close()


def _most_weight(calls: dict[str, Any]) -> int:
    """The most that the fleet spent in one minute."""
    return max((row["weight"] for row in calls["weight_per_minute"] if row["ip"] != JUDGE_IP), default=0)


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    told = sum(loss.get("events") or 0 for loss in figures["lost"] if loss["class"] == "trade")
    checks = {
        f"{figures['trade_holes']} trades missing, {told} told": figures["trade_holes"] <= told,
        f"{figures['trades_wrong']} trades differ": not figures["trades_wrong"],
        f"{figures['candles_missing']} candles missing": not figures["candles_missing"],
        f"{figures['candles_repeated']} candles repeated": figures["kills"] or not figures["candles_repeated"],
        f"{figures['trades_repeated']} trades repeated": figures["kills"] or not figures["trades_repeated"],
        f"{figures['books_wrong']} books wrong": not figures["books_wrong"],
        "nothing compared": figures["books_compared"] and figures["trades_compared"],
        f"exit code {figures['exit_code']}": figures["exit_code"] == 0,
    }
    return [what for what, fine in checks.items() if not fine]


def campaign(
    seconds: float, rate: float, cut_every_s: float, kill_every_s: float, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="market-campaign-") as name:
        directory = Path(name)
        with Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services:
            create_topics(services.kafka.bootstrap)
            migrate(Postgres(services.postgres.dsn, application="campaign", statement_timeout_s=30))
            with Simulator(rate=rate, seed=seed) as simulator:
                running = Campaign(services, simulator, directory, seed)
                try:
                    figures = running.run(seconds, cut_every_s, kill_every_s)
                finally:
                    running.process.kill()
                    log = directory / "marketdata.log"
                    if log.exists():
                        say("\n".join(x for x in log.read_text().splitlines() if '"error"' in x or "bug" in x)[-3000:])
                return figures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=2000.0, help="frames a second of the simulator")
    parser.add_argument("--cut-every", type=float, default=5.0, help="seconds between two faults, about")
    parser.add_argument("--kill-every", type=float, default=0.0, help="seconds between two kill -9, 0 = none")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args(argv)
    figures = campaign(
        given.minutes * 60,
        given.rate,
        given.cut_every,
        given.kill_every,
        given.seed,
        lambda text: print(text, file=sys.stderr),
    )
    wrong = verdict(figures)
    print(json.dumps({**figures, "wrong": wrong}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
