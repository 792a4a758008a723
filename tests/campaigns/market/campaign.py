"""One run of the market campaign: `python -m workers marketdata` against the simulated exchanges under cuts, drops and kills.

In: how long, how fast, how often. Out: figures. Ends early at the first thing that is wrong. Judged as it goes, in bounded memory.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import psutil

from fleet.core import names
from fleet.runtime.kafka_io import Consumer
from fleet.services import Services
from tests.campaigns.market.judge import PATIENCE_S, Judge
from tests.campaigns.market.venues import KINDS, VENUES, Campaigner, Lane
from tests.campaigns.market.watching import JUDGE_IP, Exchange, key_of
from tests.support.services import free_ports
from tests.support.simulator import ROOT, Simulator

CONTIGUOUS = {
    "binance:usdm": True,
    "binance:spot": True,
    "okx:unified": True,
    "bybit:linear": False,
    "bybit:spot": False,
}
LIVE_S, DRAIN_S, SETTLE_S = 60.0, 300.0, 12.0
MEND_S = 10.0  # what waited for a snapshot goes out with it, so a book's numbers break for an instant only
LOOK_EVERY_S, SAY_EVERY_S = 2.0, 10.0
MIB = 1024 * 1024
Say = Callable[[str], None]


class Campaign:
    """One run."""

    def __init__(
        self, services: Services, simulator: Simulator, directory: Path, seed: int, venues: tuple[str, ...], say: Say
    ) -> None:
        self.services, self.simulator, self.directory, self.say = services, simulator, directory, say
        self.venues = [VENUES[name] for name in venues]
        self.judge, self.random = Judge(CONTIGUOUS), random.Random(seed)
        self.faults: Counter[str] = Counter()
        self.kills = 0
        self.silences = (
            False  # half-open and stalled sockets too: found after a quarter of a minute, so not for short runs
        )
        self.rss_mb = 0.0  # of the market process, the most
        self._port = free_ports(40)
        self._done = threading.Event()
        self._lock = threading.Lock()  # guards judge
        self.exchange = Exchange(simulator, self.venues, self.judge, self._lock)
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        symbols = ",".join(f"{venue.name}:{symbol}" for venue in self.venues for symbol in venue.symbols)
        settings = {
            "FLEET_NAME": f"campaign{os.getpid()}", "FLEET_LOG_DIR": str(self.directory), "FLEET_MARKET_STREAMS": KINDS,
            "FLEET_MARKET_SYMBOLS": symbols, "FLEET_METRICS_BASE_PORT": str(self._port),
        }  # fmt: skip
        return subprocess.Popen(
            [sys.executable, "-m", "workers", "marketdata"],
            cwd=ROOT,
            env={**os.environ, **self.services.env, **self.simulator.env, **settings},
        )

    def run(self, seconds: float, cut_every_s: float, kill_every_s: float) -> dict[str, Any]:
        consumer = threading.Thread(target=self._consume)
        consumer.start()
        started_s = time.monotonic()
        try:
            self._wait_live()
            self.exchange.start()
            time.sleep(3.0)
            judged_s = time.monotonic()
            self._harm(judged_s, seconds, cut_every_s, kill_every_s)
            drain_s = self._drain() if not self.violations() else 0.0
            with self._lock:
                broken = self.judge.broken_books()
                left = self.judge.outstanding(time.monotonic(), 3.0)[:5]
            violations = self.violations()
            self.process.terminate()
            code = self.process.wait(15)
            time.sleep(1.5)  # what Kafka took last
        finally:
            self.process.kill()  # also after a failure above: while it publishes, the consumer finds no end
            self.exchange.stop()
            self._done.set()
            consumer.join()
        calls = self.simulator.calls()
        return {
            "seconds": round(time.monotonic() - started_s), "drain_s": drain_s, "exit_code": code, "faults": dict(self.faults),
            "kills": self.kills, "frames_per_s": round(self.judge.events / (time.monotonic() - judged_s)),
            **self.judge.figures(), "books_broken": broken, "outstanding": left, "violations": violations,
            "weight_per_min_max": max((r["weight"] for r in calls["weight_per_minute"] if r["ip"] != JUDGE_IP), default=0),
            "refused": [row for row in calls["rest"] if row["status"] in (403, 418, 429)],
            "rss_mb": {"marketdata": self.rss_mb, "judge": round(psutil.Process().memory_info().rss / MIB, 1)},
        }  # fmt: skip

    def violations(self) -> list[str]:
        """What cannot become right any more."""
        with self._lock:
            late = self.judge.outstanding(time.monotonic(), PATIENCE_S)
            found = self.judge.wrong + [f"not in Kafka: {x}" for x in late[:5]]
            found += [f"broken, not mended: {x}" for x in self.judge.broken_books(MEND_S)]
            found += [f"needlessly lost: {x}" for x in self.judge.needless_losses()[:5]]
            if not self.kills and (repeats := self.judge.repeated_candles()):
                found.append(f"{repeats} candles repeated")
        return found + ([self.exchange.failed] if self.exchange.failed else [])

    def _wait_live(self) -> None:
        """Until every symbol has told a trade."""
        wanted = {key_of(venue, symbol) for venue in self.venues for symbol in venue.symbols}
        end = time.monotonic() + LIVE_S
        while True:
            with self._lock:
                quiet = wanted - self.judge.series.keys()
            if not quiet:
                return
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"no trades of {sorted(quiet)[:5]} within {LIVE_S:g} s")
            time.sleep(0.2)

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _harm(self, began_s: float, seconds: float, cut_every_s: float, kill_every_s: float) -> None:
        boundary_s = 0.0
        cut_s, kill_s = began_s + 1, began_s + kill_every_s if kill_every_s else float("inf")
        looked_s = said_s = began_s
        while (now_s := time.monotonic()) < began_s + seconds:
            if now_s >= cut_s:
                cut_s = now_s + cut_every_s * self.random.uniform(0.7, 1.3)
                self._fault()
            if time.time() % 60 > 59 and now_s > boundary_s:
                boundary_s = now_s + 30
                self._miss_a_boundary()
            if now_s >= kill_s:
                kill_s = now_s + kill_every_s
                self._kill()
            if now_s >= looked_s:
                looked_s = now_s + LOOK_EVERY_S
                if found := self.violations():
                    self.say(f"{now_s - began_s:6.0f} s  VIOLATION, the run ends: {found[0]}")
                    return
            if now_s >= said_s:
                said_s = now_s + SAY_EVERY_S
                self._say(now_s - began_s)
            time.sleep(0.2)
        time.sleep(SETTLE_S)

    def _fault(self) -> None:
        venue = self.random.choice(self.venues)
        drops = [("drop_event", stream, most) for stream, most in venue.drops]
        again = [("duplicate_event", venue.drops[0][0], 20), ("reorder", venue.drops[0][0], 3)]
        silent = [("half_open", "", 0), ("stall", "", 0)] if self.silences else []
        kind, stream, most = self.random.choice([*[("cut", "", 0)] * 4, ("garbage", "", 2), *silent, *drops, *again])
        self.faults[f"{kind} {venue.name}"] += 1
        lane = self.random.choice(venue.lanes)
        if kind == "cut":
            self._cut(venue, lane)
        elif kind in ("half_open", "stall"):
            self.simulator.fault(kind, exchange=venue.name, path=lane.path, stream=lane.only, seconds=60)
        elif kind == "garbage":
            self.simulator.fault(kind, exchange=venue.name, path=lane.path, count=most)
        else:
            symbol = venue.bare(self.random.choice(venue.symbols))[1]
            name = stream.format(symbol=symbol, lower=symbol.lower())
            self.simulator.fault(kind, exchange=venue.name, stream=name, count=self.random.randint(1, most), seconds=20)

    def _cut(self, venue: Campaigner, lane: Lane) -> None:
        self.simulator.fault("cut", exchange=venue.name, path=lane.path, stream=lane.only)

    def _miss_a_boundary(self) -> None:
        """No socket of one venue while a minute ends."""
        venue = self.random.choice(self.venues)
        self.faults[f"boundary {venue.name}"] += 1
        path, seconds = venue.candle_lane.path, self.random.uniform(2, 6)
        self.simulator.fault("reject", exchange=venue.name, path=path, status=503, seconds=seconds)
        self._cut(venue, venue.candle_lane)

    def _kill(self) -> None:
        """kill -9, and a supervisor that starts it again."""
        self.kills += 1
        self.process.kill()
        self.process.wait()
        time.sleep(self.random.uniform(0.2, 2.0))
        self.process = self._spawn()

    def _drain(self) -> float:
        """Seconds until nothing is missing any more: the exchange's weight limit sets the pace of reading back."""
        began_s = time.monotonic()
        while (took_s := time.monotonic() - began_s) < DRAIN_S:
            with self._lock:
                missing = self.judge.holes() + self.judge.missing_candles() + len(self.judge.broken_books())
                missing += len(self.judge.outstanding(time.monotonic(), 3.0))
            if not missing or self.violations():
                break
            self._say(took_s, "draining")
            time.sleep(1.0)
        return round(took_s, 1)

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _say(self, elapsed_s: float, what: str = "") -> None:
        with self._lock:
            judge, late = self.judge, len(self.judge.outstanding(time.monotonic(), 3.0))
            compared = sum(book.compared for book in judge.books.values())
            text = (
                f"{judge.events} events ({judge.events / max(1.0, elapsed_s):.0f}/s), {late} outstanding, {judge.holes()} holes, "
                f"{judge.read_back} read back, {compared} books compared, {len(judge.lost)} losses told, "
                f"{sum(self.faults.values())} faults"
            )
            lag_s = time.time() - judge.newest_ms / 1000
        if self.process.poll() is None:
            self.rss_mb = max(self.rss_mb, round(psutil.Process(self.process.pid).memory_info().rss / MIB, 1))
        mine = psutil.Process().memory_info().rss / MIB
        self.say(
            f"{elapsed_s:6.0f} s  {what} {text}; lag {lag_s:.1f} s, RSS market {self.rss_mb:.0f} judge {mine:.0f} MiB"
        )

    def _consume(self) -> None:
        topics = [names.TOPIC_TRADES, names.TOPIC_KLINES, names.TOPIC_DEPTH, names.TOPIC_STREAMS]
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        consumer = Consumer(self.services.kafka.bootstrap, None, topics)
        try:
            while True:
                batch = consumer.poll(0.5, 2_000)
                events = [decode(line) for record in batch for line in (record.value or b"").split(b"\n")]
                with self._lock:
                    for event in events:
                        self.judge.record(event)
                if not batch and self._done.is_set():
                    return
        finally:
            consumer.close()


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    checks = {
        f"{figures['trade_holes']} trades missing": not figures["trade_holes"],
        f"{figures['trades_told_otherwise']} trades told under another id": not figures["trades_told_otherwise"],
        f"{figures['candles_missing']} candles missing": not figures["candles_missing"],
        f"{figures['candles_repeated']} candles repeated": figures["kills"] or not figures["candles_repeated"],
        f"{figures['trades_repeated']} trades repeated": figures["kills"] or not figures["trades_repeated"],
        "nothing compared": figures["books_compared"] and figures["trades_compared"],
        f"books never compared: {figures['books_never_compared']}": not figures["books_never_compared"],
        f"not in Kafka: {figures['outstanding']}": not figures["outstanding"],
        f"books broken and not mended: {figures['books_broken']}": not figures["books_broken"],
        f"exit code {figures['exit_code']}": figures["exit_code"] == 0,
        f"calls beyond the limit: {figures['refused']}": not figures["refused"],
    }
    return [*figures["violations"], *(what for what, fine in checks.items() if not fine)]
