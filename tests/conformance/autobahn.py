"""Autobahn's `wstest`, which needs Python 2.7: found, installed once into a cache directory, run, and its report judged."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "streamfleet"
# https://github.com/crossbario/autobahn-testsuite: 12 and 13 are compression, which no exchange here needs
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
QUICK_CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "7.*", "10.*"]
PASSED = ("OK", "NON-STRICT", "INFORMATIONAL")
PORT_WAIT_S = 20.0


class Python2Missing(Exception):
    """No Python 2.7 on this machine: nothing to run the suite with."""


def find_python2() -> str:
    """Path of a Python 2.7. Raises Python2Missing."""
    candidates = [shutil.which("python2.7") or "", *map(str, Path.home().glob(".pyenv/versions/2.7.*/bin/python2.7"))]
    for candidate in candidates:
        if candidate and subprocess.run([candidate, "-V"], capture_output=True, check=False).returncode == 0:  # noqa: S603
            return os.path.realpath(candidate) if "shims" not in candidate else candidate
    raise Python2Missing("no python2.7 found")


def install() -> Path:
    """Path of `wstest`, installed into the cache directory where it is not there yet. Raises Python2Missing, CalledProcessError."""
    wstest = CACHE / "wstest" / "bin" / "wstest"
    if wstest.exists():
        return wstest
    python2 = find_python2()
    seed = CACHE / "wstest-seed"
    CACHE.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(seed)],
        [str(seed / "bin" / "pip"), "install", "-q", "virtualenv==20.15.1"],  # the last that can make a 2.7 environment
        [str(seed / "bin" / "virtualenv"), "-q", "-p", python2, str(CACHE / "wstest")],
        [str(CACHE / "wstest" / "bin" / "pip"), "install", "-q", "autobahntestsuite"],
    ):
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603
    return wstest


def start(wstest: Path, mode: str, spec: dict[str, Any], directory: Path) -> subprocess.Popen[bytes]:
    """Run `wstest -m mode` with `spec` in `directory`; its output goes to wstest.log there."""
    (directory / "spec.json").write_text(json.dumps(spec))
    with (directory / "wstest.log").open("wb") as log:
        return subprocess.Popen(  # noqa: S603
            [str(wstest), "-m", mode, "-s", "spec.json", "-u", "0"], cwd=directory, stdout=log, stderr=log
        )


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once something listens on loopback `port`. Raises RuntimeError if `process` ends or time runs out."""
    deadline = time.monotonic() + PORT_WAIT_S
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}: {process.args!r}")


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def failures(report: Path) -> tuple[int, list[str]]:
    """(cases run, one line per case that failed) from the suite's index.json."""
    total, failed = 0, []
    for agent, cases in json.loads(report.read_text()).items():
        for case, result in cases.items():
            total += 1
            if result["behavior"] not in PASSED or result["behaviorClose"] not in PASSED:
                failed.append(f"{agent} {case}: {result['behavior']}, close {result['behaviorClose']}")
    return total, failed


def by_behaviour(report: Path) -> dict[str, int]:
    """How many cases ended OK, NON-STRICT, …"""
    counts: dict[str, int] = {}
    for cases in json.loads(report.read_text()).values():
        for result in cases.values():
            counts[result["behavior"]] = counts.get(result["behavior"], 0) + 1
    return counts
