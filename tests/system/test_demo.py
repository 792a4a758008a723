"""`fleet demo` itself, short: plain and with chaos. The report says that nothing went missing, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from fleet.demo.place import REPOSITORY

pytestmark = pytest.mark.system

USER_TYPES = {"order", "fill", "position", "balance"}


def demo(*args: str, tmp: Path) -> subprocess.Popen[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")} | {"TMPDIR": str(tmp)}
    return subprocess.Popen(
        [sys.executable, "-m", "fleet.cli", "demo", "--exchanges", "binance_usdm", *args],
        cwd=REPOSITORY, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run_demo(*args: str, tmp: Path) -> dict[str, Any]:
    """Run to the end; the report. Fails with the demo's output."""
    report = tmp / "report.json"
    process = demo(*args, "--report", str(report), tmp=tmp)
    output = said(process, 170)
    assert process.returncode == 0, output
    assert_nothing_left(tmp)
    answer: dict[str, Any] = json.loads(report.read_text())
    assert answer["clean_shutdown"] is True, output
    return answer


def said(process: subprocess.Popen[str], within_s: float) -> str:
    """Its output once it has ended; one that does not end is killed, and takes all it started along."""
    try:
        return process.communicate(timeout=within_s)[0]
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def assert_nothing_left(tmp: Path) -> None:
    assert not list(tmp.glob("streamfleet-demo-*")), "its directory is gone"
    mine = [p for p in psutil.process_iter() if str(tmp) in " ".join(arguments(p))]
    assert mine == []


def arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def tmp() -> Any:
    """Short, because supervisord's socket path must be."""
    with tempfile.TemporaryDirectory(prefix="sf-") as directory:
        yield Path(directory)


def assert_complete(report: dict[str, Any]) -> None:
    fills = report["fills"]
    assert fills["ledger"] > 0
    assert fills["ledger"] == fills["kafka_unique"] == fills["postgres"]
    assert (fills["missing"], report["double_streamed"]) == (0, 0)
    assert {name: topic["missing"] for name, topic in report["market"].items() if topic["missing"]} == {}
    assert report["gaps"]["opened"] == report["gaps"]["closed"]


def test_plain(tmp: Path) -> None:
    report = run_demo("--accounts", "12", "--workers", "2", "--for", "15", "--rate", "40", tmp=tmp)
    assert_complete(report)
    assert (report["accounts"], report["workers"], report["exchanges"]) == (12, 2, ["binance_usdm"])
    assert report["seconds"] >= 15
    assert report["events"].keys() >= USER_TYPES | {"trade", "kline", "ticker", "depth", "mark_price"}
    assert all(topic["sent"] > 0 for name, topic in report["market"].items() if name != "market.liquidations")
    assert report["reconnects"] == 0
    assert {p["program"] for p in report["processes"]} == {
        "coordinator", "worker_00", "worker_01", "marketdata", "sink_postgres", "sink_clickhouse", "console",
        "restarter",
    }  # fmt: skip
    assert 0 < report["latency_ms"]["event_to_kafka"]["p50"] < 1000
    assert report["dials"]["total"] >= 12


def test_every_venue(tmp: Path) -> None:
    venues = "binance_spot,binance_usdm,bybit,okx"
    report = run_demo(
        "--exchanges", venues, "--accounts", "8", "--workers", "1", "--for", "10", "--rate", "40", tmp=tmp
    )
    assert_complete(report)
    assert report["exchanges"] == venues.split(",")


def test_chaos(tmp: Path) -> None:
    report = run_demo("--accounts", "12", "--workers", "2", "--for", "25", "--rate", "40", "--chaos", "7", tmp=tmp)
    assert_complete(report)
    assert sum(report["faults"].values()) >= 4


@pytest.mark.parametrize("after_s", [1.0, 9.0])
def test_ctrl_c_ends_it_at_any_moment(tmp: Path, after_s: float) -> None:
    process = demo("--accounts", "3", "--workers", "1", tmp=tmp)
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    output = said(process, 60)
    assert process.returncode in (0, 130, -signal.SIGINT), output  # the last: before Python had read the command
    assert "Traceback" not in output
    assert_nothing_left(tmp)
