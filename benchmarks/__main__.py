"""`python -m benchmarks [--json] [NAME…]`: socket, kafka, memory, latency, row, scaling. Exit 1 if a figure misses its target.

`row` starts a whole fleet for two minutes, `scaling` takes five; they are measured only where they are named.

`FLEET_KAFKA_BOOTSTRAP`, if set, is the broker to use; otherwise one is started for the run.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import idle_account, into_kafka, latency, row, scaling, socket_to_event
from fleet.runtime.kafka_io import create_topics
from fleet.services import Services

USUAL = ("memory", "socket", "kafka", "latency")  # memory first: nothing is warm yet
NAMES = (*USUAL, "row", "scaling")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=str(__doc__).partition("\n")[2])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; default: {', '.join(USUAL)}")
    parser.add_argument("--json", action="store_true", help="JSON alone")
    given = parser.parse_args(arguments)
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    chosen = given.names or list(USUAL)
    with ExitStack() as stack:
        kafka = _broker(stack) if {"kafka", "latency"} & set(chosen) else ""
        runs: dict[str, Callable[[], dict[str, Any]]] = {
            "memory": idle_account.measure,
            "socket": socket_to_event.measure,
            "kafka": lambda: into_kafka.measure(kafka),
            "latency": lambda: latency.measure(kafka),
            "row": row.measure,
            "scaling": scaling.measure,
        }
        results = {name: runs[name]() for name in NAMES if name in chosen}
    print(json.dumps(results, indent=1))
    if not given.json:
        _show(results)
    return 0 if all(r["met"] for r in results.values()) else 1


def _broker(stack: ExitStack) -> str:
    bootstrap = os.environ.get("FLEET_KAFKA_BOOTSTRAP", "")
    if not bootstrap:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        bootstrap = stack.enter_context(Services.start(directory, only=("kafka",))).kafka.bootstrap
    create_topics(bootstrap)
    return bootstrap


def _show(results: dict[str, dict[str, Any]]) -> None:
    table = Table("what", "measured", "baseline", "ratio", "target", "")
    for result in results.values():
        value, baseline = result["value"], result["baseline"]
        shown = f"{value:,} (p50 {result['p50']})" if "p50" in result else f"{value:,}"
        ratio = f"{value / baseline:.2f}×" if baseline else ""
        verdict = "met" if result["met"] else "MISSED"
        beside = f"{baseline:,}: {result['baseline_is']}"
        table.add_row(result["what"], shown, beside, ratio, f"{result['target']:,}", verdict)
    Console(stderr=True, width=160).print(table)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
