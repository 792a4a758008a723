"""One life of a publishing process, to be killed at any line: `python -m tests.campaigns.kafka.life FILE`.

In: a JSON file that names simulator, broker, accounts and where the watermarks are kept. Out: user events in Kafka by the worker's
own stream, read-back and publisher. The watermarks are all that outlives it, as rows of Postgres would.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import msgspec

from fleet.core.model import AccountSpec, Credentials
from fleet.runtime.shutdown import die_with_parent
from tests.support.bench import Rows, WorkerBench
from workers.progress import Progress


class Config(msgspec.Struct):
    """`accounts`: (account id, API key, secret); all of them of Binance USDⓈ-M."""

    env: dict[str, str]
    bootstrap: str
    accounts: list[tuple[str, str, str]]
    created_ms: int
    marks: str
    settled: str  # this file is there while nothing is under way


class Simulated:
    """What of tests.support.simulator.Simulator a bench needs."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env


class FileRows(Rows):
    """Rows whose watermarks are in a file, replaced as a whole."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._path = Path(config.marks)
        if self._path.exists():
            self.marks = msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        for account_id, key, secret in config.accounts:
            spec = AccountSpec(account_id, "user", "binance", "usdm", "bench", False, 1, config.created_ms)
            self.accounts[account_id] = (spec, Credentials(key, secret))

    def save(self, progresses: list[tuple[int, Progress]]) -> None:
        super().save(progresses)
        fresh = self._path.with_suffix(".new")
        fresh.write_bytes(msgspec.json.encode(self.marks))
        fresh.replace(self._path)


def main(path: str) -> None:
    die_with_parent()
    config = msgspec.json.decode(Path(path).read_bytes(), type=Config)
    settled = Path(config.settled)
    settled.unlink(missing_ok=True)
    bench = WorkerBench(Simulated(config.env), config.bootstrap, FileRows(config), f"life{os.getpid()}")  # type: ignore[arg-type]
    never = threading.Event()
    while not never.wait(0.1):
        if bench.settled():
            settled.touch()
        else:
            settled.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1])
