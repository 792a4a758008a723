"""The two runs: our Connection as the client of the fuzzing server, the simulator's server under the fuzzing client."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path

from fleet.core.errors import ConnectionFailed
from fleet.core.frames import BinaryMessage
from tests.conformance import autobahn
from workers.connection import Connection

AGENT = "streamfleet"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024  # group 9 sends 16 MiB
CASE_TIMEOUT_S = 120.0
ROOT = Path(__file__).resolve().parents[2]


def against_connection(wstest: Path, cases: list[str]) -> tuple[int, list[str], dict[str, int]]:
    """(cases run, failures, counts by behaviour) of our connection and reader."""
    with tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), autobahn.free_port()
        url = f"ws://127.0.0.1:{port}"
        spec = {"url": url, "outdir": "reports", "cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
        server = autobahn.start(wstest, "fuzzingserver", spec, directory)
        try:
            autobahn.wait_for_port(port, server)
            for case in range(1, _case_count(url) + 1):
                _echo(f"{url}/runCase?case={case}&agent={AGENT}")
            _echo(f"{url}/updateReports?agent={AGENT}")
            report = directory / "reports" / "index.json"
            return *autobahn.failures(report), autobahn.by_behaviour(report)
        finally:
            server.kill()
            server.wait()


def against_simulator(wstest: Path, cases: list[str]) -> tuple[int, list[str], dict[str, int]]:
    """(cases run, failures, counts by behaviour) of the simulator's server in its echo mode."""
    with tempfile.TemporaryDirectory() as name:
        directory, port = Path(name), autobahn.free_port()
        server = subprocess.Popen(  # noqa: S603
            [
                sys.executable,
                "-m",
                "simulator",
                "--plain",
                "--rate",
                "0.1",
                "--echo-port",
                str(port),
                "--endpoints",
                name + "/endpoints",
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        try:
            autobahn.wait_for_port(port, server)
            servers = [{"agent": "simulator", "url": f"ws://127.0.0.1:{port}/", "options": {"version": 18}}]
            spec = {
                "outdir": "reports",
                "servers": servers,
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
            client = autobahn.start(wstest, "fuzzingclient", spec, directory)
            try:
                client.wait(timeout=900)
            finally:
                client.kill()
            report = directory / "reports" / "index.json"
            return *autobahn.failures(report), autobahn.by_behaviour(report)
        finally:
            server.terminate()
            server.wait(10)


def _case_count(url: str) -> int:
    connection = Connection.open(f"{url}/getCaseCount", tls=None)
    messages: list[bytes] = []
    with contextlib.suppress(ConnectionFailed):
        while True:
            messages += connection.read(CASE_TIMEOUT_S)
    connection.close()
    return int(messages[0])


def _echo(url: str) -> None:
    """Send back every message in its own kind until the connection ends."""
    connection = Connection.open(url, tls=None, max_message_bytes=MAX_MESSAGE_BYTES)
    with contextlib.suppress(ConnectionFailed):
        while True:
            for message in connection.read(CASE_TIMEOUT_S):
                connection.send(message, binary=isinstance(message, BinaryMessage))
    connection.close()
