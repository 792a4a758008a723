"""supervisord.conf and deploy/run under a real supervisord: environment, order of start and stop, restarts, no orphan.

The first half runs stand-in programs, so that order and timing belong to the configuration alone; the last tests run the
real programs on real services.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
SUPERVISORD = Path(sys.executable).with_name("supervisord")
PROGRAMS = {"coordinator", "marketdata", "sink_postgres", "sink_clickhouse", "console"}

STAND_IN = """
import json, os, sys, time
from fleet.runtime.shutdown import die_with_parent, install_stop
from fleet.runtime.startup import wait_turn
die_with_parent()
stop = install_stop()
wait_turn(stop)
slot = os.environ.get("FLEET_SLOT", "")
name = NAME(sys.argv[1:], slot)
def say(what):
    line = json.dumps({"at": time.time(), "name": name, "what": what, "pid": os.getpid(), "slot": slot,
                       "python": sys.prefix, "cwd": os.getcwd()})
    with open(os.environ["FLEET_LOG_DIR"] + "/diary", "a") as diary:
        diary.write(line + "\\n")
if name == "marketdata":
    time.sleep(1)  # slow to start: the workers must wait for it
say("start")
if name == "marketdata":
    from http.server import HTTPServer, BaseHTTPRequestHandler
    server = HTTPServer(("127.0.0.1", int(os.environ["FLEET_METRICS_BASE_PORT"]) + 1), BaseHTTPRequestHandler)
stop.wait()
time.sleep(0.1)
say("stop")
"""
NAMES = {
    "coordinator": "lambda args, slot: 'coordinator'",
    "workers": "lambda args, slot: 'worker_' + slot[-1] if args[0] == 'userdata' else '_'.join(args)",
    "fleet/console": "lambda args, slot: 'console'",
}


def wait_for(what: str, condition: Callable[[], Any], within_s: float) -> Any:
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {within_s:g} s"
        time.sleep(0.02)
    return value


def family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def supervisord(conf: Path, env: dict[str, str], cwd: Path) -> Iterator[subprocess.Popen[bytes]]:
    """supervisord with FLEET_* settings and a bare PATH, as a service would start it. Nothing it started survives."""
    process = subprocess.Popen([str(SUPERVISORD), "-c", str(conf)], env={"PATH": "/usr/bin:/bin", **env}, cwd=cwd)
    seen: list[psutil.Process] = []
    try:
        yield process
    finally:
        seen += family(process.pid)
        if process.poll() is None:
            process.kill()
            process.wait(10)
        for child in alive(seen):
            child.kill()


class StandIns:
    """A checkout whose programs only keep a diary."""

    def __init__(self, directory: Path, port: int) -> None:
        self.root, self.log_dir, self.port = directory / "checkout", directory / "logs", port
        self.log_dir.mkdir()
        (self.root / "deploy").mkdir(parents=True)
        shutil.copy(ROOT / "supervisord.conf", self.root)
        shutil.copy(ROOT / "deploy" / "run", self.root / "deploy")
        for package, name in NAMES.items():
            (self.root / package).mkdir(parents=True)
            (self.root / package / "__init__.py").touch()
            (self.root / package / "__main__.py").write_text(STAND_IN.replace("NAME(", f"({name})("))
        (self.root / "fleet" / "__init__.py").write_text(f"__path__.append({str(ROOT / 'fleet')!r})\n")

    def env(self, **more: str) -> dict[str, str]:
        given = {"FLEET_WORKERS": "3", "FLEET_LOG_DIR": str(self.log_dir), "FLEET_METRICS_BASE_PORT": str(self.port)}
        return {**given, **more}

    def diary(self, what: str) -> list[dict[str, Any]]:
        try:
            text = (self.log_dir / "diary").read_text()
        except FileNotFoundError:
            return []
        return [entry for entry in map(json.loads, text.splitlines()) if entry["what"] == what]

    def said(self, pattern: str) -> list[float]:
        """When supervisord's log told something."""
        lines = (self.log_dir / "supervisord.log").read_text().splitlines()
        return [
            datetime.fromisoformat(line[:23].replace(",", ".")).timestamp()
            for line in lines
            if re.search(pattern, line)
        ]

    def started(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = wait_for(
            f"{count} starts", lambda: e if len(e := self.diary("start")) >= count else None, 20
        )
        return found


@pytest.fixture
def stand_ins(tmp_path: Path) -> StandIns:
    return StandIns(tmp_path, 21_000 + os.getpid() % 5_000)


def test_starts_and_stops_in_order_from_any_directory(stand_ins: StandIns, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with supervisord(stand_ins.root / "supervisord.conf", stand_ins.env(), elsewhere) as process:
        starts = {entry["name"]: entry for entry in stand_ins.started(8)}
        host = platform.node()
        assert set(starts) == PROGRAMS | {"worker_0", "worker_1", "worker_2"}
        assert {starts[f"worker_{n}"]["slot"] for n in range(3)} == {f"{host}:{n}" for n in range(3)}
        assert all(starts["marketdata"]["at"] < starts[f"worker_{n}"]["at"] for n in range(3))
        assert {entry["python"] for entry in starts.values()} == {sys.prefix}
        assert {entry["cwd"] for entry in starts.values()} == {str(elsewhere)}
        status = subprocess.run(
            [str(SUPERVISORD.with_name("supervisorctl")), "-c", str(stand_ins.root / "supervisord.conf"), "status"],
            env={"PATH": "/usr/bin:/bin", **stand_ins.env()}, capture_output=True, text=True, timeout=20, check=False,
        )  # fmt: skip
        assert {line.split()[0].rpartition(":")[2] for line in status.stdout.splitlines()} == PROGRAMS | {
            "restarter",
            *(f"worker_{n:02d}" for n in range(3)),
        }
        children = family(process.pid)
        process.terminate()
        assert process.wait(20) == 0
        stops = [entry["name"] for entry in stand_ins.diary("stop")]
        assert stops[:2] == ["marketdata", "coordinator"]
        assert set(stops[2:5]) == {"worker_0", "worker_1", "worker_2"}
        assert set(stops[5:7]) == {"sink_postgres", "sink_clickhouse"} and stops[7:] == ["console"]
        assert alive(children) == []
    assert {"worker_00.out", "worker_01.out", "worker_02.out", "supervisord.log"} <= {
        p.name for p in stand_ins.log_dir.iterdir()
    }


def test_a_killed_worker_comes_back_under_its_slot_and_a_killed_supervisord_takes_all_along(
    stand_ins: StandIns,
) -> None:
    env = stand_ins.env(FLEET_HOST="group-b", FLEET_WORKERS="1")
    with supervisord(stand_ins.root / "supervisord.conf", env, stand_ins.root) as process:
        (worker,) = [entry for entry in stand_ins.started(6) if entry["name"] == "worker_0"]
        assert worker["slot"] == "group-b:0"
        wait_for("a second of life", lambda: time.time() - worker["at"] > 1.2, 5)
        os.kill(worker["pid"], signal.SIGKILL)
        again = stand_ins.started(7)[-1]
        assert again["slot"] == "group-b:0" and again["pid"] != worker["pid"]
        exited, spawned = (stand_ins.said(f"{what}: '?worker_00")[-1] for what in ("exited", "spawned"))
        assert spawned - exited < 0.9, "without the restarter supervisord looks a second later"
        children = family(process.pid)
        assert len(children) == 7
        process.kill()
        wait_for("no orphan", lambda: not alive(children), 5)


@pytest.mark.parametrize("missing", ["FLEET_WORKERS", "FLEET_LOG_DIR"])
def test_a_missing_setting_is_named(stand_ins: StandIns, missing: str) -> None:
    env = {name: value for name, value in stand_ins.env().items() if name != missing}
    done = subprocess.run(
        [str(SUPERVISORD), "-c", str(stand_ins.root / "supervisord.conf")],
        env={"PATH": "/usr/bin:/bin", **env}, cwd=stand_ins.root, capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert done.returncode != 0 and f"ENV_{missing}" in done.stdout + done.stderr


def test_no_inet_server_and_no_secret_in_the_configuration() -> None:
    text = (ROOT / "supervisord.conf").read_text()
    assert "[inet_http_server]" not in text and "[unix_http_server]" in text
    assert not any(word in text.lower() for word in ("password", "api_key", "passphrase"))


# ── the real programs ────────────────────────────────────────────────────────────────────────────────────────────
NO_EXCHANGE = {  # nobody listens on port 1: the streams dial in vain, everything else runs as ever
    "FLEET_BINANCE_USDM_REST_URL": "http://127.0.0.1:1",
    "FLEET_BINANCE_USDM_WS_URL": "ws://127.0.0.1:1",
}


def scraped(url: str) -> str:
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=5) as reply:
            return str(reply.read().decode())
    except OSError:
        return ""


def all_up(text: str, count: int) -> bool:
    ups = [line for line in text.splitlines() if line.startswith("fleet_scrape_up{")]
    return len(ups) == count and all(line.endswith(" 1") for line in ups)


def first_line(log_dir: Path, message: str) -> dict[str, Any]:
    """The earliest log line with this message, once there is one."""
    found: list[str] = wait_for(
        message,
        lambda: [line for path in log_dir.glob("*.log") for line in path.read_text().splitlines() if message in line],
        20,
    )
    return min(map(json.loads, found), key=lambda line: str(line["time"]))


@pytest.mark.integration
def test_the_real_fleet_leaves_no_orphan_starts_again_and_stops_in_order(migrated_env: dict[str, str]) -> None:
    log_dir = Path(migrated_env["FLEET_LOG_DIR"])
    env = {**migrated_env, **NO_EXCHANGE, "FLEET_WORKERS": "2"}
    url = f"http://localhost:{env['FLEET_CONSOLE_PORT']}"
    conf = ROOT / "supervisord.conf"
    with supervisord(conf, env, log_dir) as process:
        wait_for("every program answers", lambda: all_up(scraped(url), 7), 40)
        started = (
            first_line(log_dir, "✓ Market Data Manager started"),
            first_line(log_dir, "✓ User Data Manager started"),
        )
        assert started[0]["time"] < started[1]["time"]
        children = family(process.pid)
        assert len(children) >= 7
        process.kill()
        wait_for("no orphan", lambda: not alive(children), 32)
    with supervisord(conf, env, log_dir) as process:
        text = wait_for("every program answers again", lambda: t if all_up(t := scraped(url), 7) else "", 40)
        heads = [line for line in text.splitlines() if line.startswith("# TYPE prometheus_")]
        assert len(heads) == len(set(heads)) == 6
        children = family(process.pid)
        process.terminate()
        assert process.wait(60) == 0
        assert alive(children) == []
    said = (log_dir / "supervisord.log").read_text()
    stops = re.findall(r"stopped: (\w+) \((.*)\)", said)
    assert [(name, how) for name, how in stops if how != "exit status 0"] == [] and "SIGKILL" not in said
    order = [name for name, _ in stops]
    assert order[:2] == ["marketdata", "coordinator"] and set(order[2:4]) == {"worker_00", "worker_01"}
    assert set(order[4:6]) == {"sink_postgres", "sink_clickhouse"} and order[6:] == ["console", "restarter"]
