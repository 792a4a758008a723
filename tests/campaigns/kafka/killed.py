"""A publishing process killed (kill -9) at random instants, again and again: nothing missing, repeats only under the same id.

In: a broker, a simulator, how often. Out: figures. Each life begins with the watermarks that the last one saved.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from fleet.core.names import USER_TOPICS
from fleet.runtime.kafka_io import Consumer
from tests.campaigns.kafka.life import Config
from tests.campaigns.loss.judge import compare, of_events, of_ledger
from tests.support.records import wait_until
from tests.support.simulator import ROOT, Simulator

ACCOUNTS = 6
LIFE_S = (0.2, 4.0)
LIVE_S, SETTLE_S = 90.0, 120.0  # a loaded machine takes long to start a process


class Killed:
    """The lives of one publishing process."""

    def __init__(self, simulator: Simulator, bootstrap: str, directory: Path, seed: int) -> None:
        self.simulator, self.bootstrap, self.directory = simulator, bootstrap, directory
        simulator.settings(
            weight_limit=1_000_000
        )  # a bench takes no permits, and its lives follow one another within a minute
        self.random = random.Random(seed)
        self.accounts: dict[str, str] = {}  # API key → account id
        for n in range(ACCOUNTS):
            key = f"killed{seed}x{n}".ljust(64, "k")
            simulator.account(key, "s" * 64)
            self.accounts[key] = uuid.uuid4().hex
        self.settled = directory / "settled"
        config = Config(
            simulator.env, bootstrap, [(ident, key, "s" * 64) for key, ident in self.accounts.items()], int(time.time() * 1000),
            str(directory / "marks.json"), str(self.settled),
        )  # fmt: skip
        (directory / "life.json").write_bytes(msgspec.json.encode(config))
        self.process = self._spawn()

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.settled.unlink(missing_ok=True)
        with (self.directory / "life.log").open("ab") as log:
            command = [sys.executable, "-m", "tests.campaigns.kafka.life", str(self.directory / "life.json")]
            return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)

    def run(self, times: int, rate: float) -> dict[str, Any]:
        wait_until(self._is_settled, LIVE_S, "the first life is live")
        self.simulator.load(rate)
        for _ in range(times):
            time.sleep(self.random.uniform(*LIFE_S))
            self.kill()
            self.process = self._spawn()
        time.sleep(1.0)
        self.simulator.load(0)
        self.kill()  # and once when all is quiet: the last word is the read-back's
        self.process = self._spawn()
        wait_until(self._is_settled, SETTLE_S, "the last life is live and has no gap")
        return self._figures(times + 1)

    def _is_settled(self) -> bool:
        assert self.process.poll() is None, f"a life ended by itself, with {self.process.returncode}"
        return self.settled.exists()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _figures(self, kills: int) -> dict[str, Any]:
        records = self._records()
        verdict = compare(of_ledger(self.simulator.ledger(market="0"), self.accounts), of_events(records))
        names: dict[tuple[str, ...], set[str]] = {}
        for r in records:
            if r["type"] == "fill":
                names.setdefault((r["account_id"], r["symbol"], r["trade_id"], r["order_id"]), set()).add(r["id"])
        told = Counter(r["id"] for r in records)
        return {
            "kills": kills, "fills": verdict.fills.ledger, "records": len(records), "repeats": told.total() - len(told),
            "outstanding": verdict.outstanding(), "examples": verdict.fills.examples,
            "fills_under_two_ids": sum(len(ids) > 1 for ids in names.values()),
        }  # fmt: skip

    def _records(self) -> list[dict[str, Any]]:
        mine, found = set(self.accounts.values()), []
        consumer = Consumer(self.bootstrap, None, USER_TOPICS)
        while page := consumer.poll(2.0, 20_000):
            found += [msgspec.json.decode(r.value) for r in page if r.value and r.key and r.key.decode() in mine]
        consumer.close()
        return found


def verdict(figures: dict[str, Any]) -> list[str]:
    """What is wrong, in words."""
    wrong = [
        figures["outstanding"],
        figures["fills_under_two_ids"] and f"{figures['fills_under_two_ids']} fills under two ids",
    ]
    return [str(what) for what in [*wrong, "" if figures["fills"] else "nothing happened"] if what]
