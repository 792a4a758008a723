"""The simulated exchanges: starts `python -m simulator` and speaks its control interface (contracts.md, Simulator).

In: what to simulate; out: the endpoint settings for the fleet, accounts, load, faults, ledger, sockets and calls.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed, FleetError
from fleet.core.exchange import HttpRequest
from fleet.core.model import Credentials
from fleet.demo.children import Child, wait_until
from fleet.runtime.http import Http

READY_S = 20.0
STOP_S = 5.0
LEDGER_PAGE = 20_000  # rows, some 200 to 600 bytes each


class SimulatorFailed(FleetError):
    """The simulator did not start, or refused a control call."""


class Control:
    """The control interface at `admin`."""

    def __init__(self, admin: str) -> None:
        self._http = Http(admin, timeout_s=30.0)

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One control call; its JSON answer, None where there is none. Raises SimulatorFailed."""
        payload = b"" if body is None else msgspec.json.encode(body)
        headers = (("Content-Type", "application/json"),) if payload else ()
        try:
            reply = self._http.send(HttpRequest(method, path, headers, payload))
        except ConnectionFailed as error:
            raise SimulatorFailed(f"simulator: {error}") from error
        if reply.status >= 300:
            raise SimulatorFailed(f"simulator: {method} {path}: {reply.status} {reply.body[:200]!r}")
        return msgspec.json.decode(reply.body) if reply.body.strip() else None

    def add_account(self, exchange: str, market: str, credentials: Credentials) -> None:
        body = {"exchange": exchange, "market": market, **msgspec.structs.asdict(credentials)}
        if credentials.passphrase is None:
            del body["passphrase"]
        self.call("POST", "/accounts", body)

    def load(self, events_per_s: float, seconds: float) -> None:
        self.call("POST", "/load", {"events_per_s": events_per_s, "seconds": seconds})

    def fault(self, fault: dict[str, Any]) -> str:
        return str(self.call("POST", "/faults", fault)["id"])

    def heal(self, fault_id: str) -> None:
        """Delete a fault; one that has run out already is no error."""
        try:
            self.call("DELETE", f"/faults/{fault_id}")
        except SimulatorFailed as error:
            if ": 404 " not in str(error):
                raise

    def ledger(self, since: int, *, market: bool = True) -> list[dict[str, Any]]:
        """Rows after `since`, asked for in pages (a long run's ledger is larger than one reply may be); without `market` those of
        accounts only."""
        rows: list[dict[str, Any]] = []
        while True:
            page = self._ledger_page(int(rows[-1]["seq"]) if rows else since, market)
            rows += page
            if len(page) < LEDGER_PAGE:  # a simulator without pages sends all at once, and nothing after it
                return rows

    def _ledger_page(self, since: int, market: bool) -> list[dict[str, Any]]:
        path = f"/ledger?since={since}&limit={LEDGER_PAGE}" + ("" if market else "&market=0")
        reply = self._http.send(HttpRequest("GET", path, ()))
        if reply.status != 200:
            raise SimulatorFailed(f"simulator: GET /ledger: {reply.status}")
        return [msgspec.json.decode(line) for line in reply.body.splitlines() if line]

    def connections(self) -> list[dict[str, Any]]:
        answer = self.call("GET", "/connections")
        return list(answer if isinstance(answer, list) else answer["connections"])

    def calls(self) -> dict[str, Any]:
        return dict(self.call("GET", "/calls"))

    def close(self) -> None:
        self._http.close()


class Simulated:
    """The simulator as a child process. `endpoints`: FLEET_* settings that point the fleet at it."""

    def __init__(
        self, directory: Path, cwd: Path, exchanges: Sequence[str], *, seed: int, replay: Sequence[str] = ()
    ) -> None:
        self._file = directory / "endpoints.json"
        command = [sys.executable, "-m", "simulator", "--endpoints", str(self._file), "--seed", str(seed)]
        if exchanges:
            command += ["--exchanges", ",".join(exchanges)]
        if replay:
            command += ["--replay", *replay]
        self._child = Child(command, env=os.environ, cwd=cwd, log=directory / "simulator.log")
        self.pid = self._child.pid
        self.endpoints: dict[str, str] = {}

    def ready(self) -> Control:
        """Wait for every port. Raises SimulatorFailed with the end of its output."""
        wait_until(lambda: self._file.exists() or not self._child.running(), READY_S)
        if not self._file.exists():
            raise SimulatorFailed(f"simulator did not start: {self._child.tail()}")
        answer = decoding.decode(self._file.read_bytes(), dict[str, str])
        self.endpoints = {name: value for name, value in answer.items() if name.startswith("FLEET_")}
        return Control(answer["admin"])

    def stop(self) -> None:
        self._child.stop(STOP_S)
