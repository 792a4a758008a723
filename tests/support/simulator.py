"""The simulated exchanges as a process, for tests. In: options; out: FLEET_* settings and the control calls. Runs in
the test process.

with Simulator(rate=50) as sim:
    sim.account("key-1", "secret-1")
    placed = sim.order("key-1", "BTCUSDT", "buy", "0.01", "84000", fills=2)
    rows = sim.ledger(type="fill")
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote, urlencode

START_TIMEOUT_S = 20.0
ROOT = Path(__file__).resolve().parents[2]


class ControlRefused(Exception):
    """A control call was answered with an error."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status = status


class Simulator:
    """Starts `python -m simulator` on free loopback ports and stops it at the end of the with-block."""

    def __init__(
        self,
        exchanges: Sequence[str] = ("binance_usdm",),
        *,
        plain: bool = True,
        seed: int = 1,
        rate: float = 50.0,
        replay: Sequence[Path | str] = (),
        extra: Sequence[str] = (),
    ) -> None:
        self._argv = [sys.executable, "-m", "simulator", "--seed", str(seed), "--rate", str(rate)]
        self._argv += ["--exchanges", ",".join(exchanges)] if exchanges else []
        self._argv += ["--plain"] if plain else []
        self._argv += ["--replay", *(str(path) for path in replay)] if replay else []
        self._argv += list(extra)
        self._directory: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoints: dict[str, str] = {}

    # ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def start(self) -> Simulator:
        """Start it and wait until every port listens."""
        self._directory = tempfile.TemporaryDirectory(prefix="simulator-")
        directory = Path(self._directory.name)
        path = directory / "endpoints.json"
        self.log = directory / "simulator.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen([*self._argv, "--endpoints", str(path)], cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not path.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text()
                self.stop()
                raise RuntimeError(f"the simulator did not start: {text[-2000:]}")
            time.sleep(0.02)
        self.endpoints = json.loads(path.read_text())
        return self

    def stop(self) -> None:
        """SIGTERM, then SIGKILL after 5 s."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
        self._process = None
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def env(self) -> dict[str, str]:
        """The FLEET_* settings that point a fleet here."""
        return {name: value for name, value in self.endpoints.items() if name.startswith("FLEET_")}

    @property
    def rest_url(self) -> str:
        return self.endpoints["FLEET_BINANCE_USDM_REST_URL"]

    @property
    def ws_url(self) -> str:
        return self.endpoints["FLEET_BINANCE_USDM_WS_URL"]

    # ── control ──────────────────────────────────────────────────────────────────────────────────────────────────
    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """One control call; raises ControlRefused."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.endpoints["admin"] + path, data=data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                reply: bytes = response.read()
                return reply
        except urllib.error.HTTPError as error:
            raise ControlRefused(error.code, error.read().decode()) from error

    def account(
        self, api_key: str, secret: str, *, exchange: str = "binance", market: str = "usdm", **more: Any
    ) -> dict[str, Any]:
        """POST /accounts."""
        return self._json(
            "POST", "/accounts", {"exchange": exchange, "market": market, "api_key": api_key, "secret": secret, **more}
        )

    def accounts(self, count: int, prefix: str = "key", **more: Any) -> list[tuple[str, str]]:
        """`count` accounts; returns their (api_key, secret)."""
        made = [(f"{prefix}{i:04d}".ljust(64, "k"), f"secret{i:04d}") for i in range(count)]
        for api_key, secret in made:
            self.account(api_key, secret, **more)
        return made

    def set_state(self, api_key: str, state: str) -> dict[str, Any]:
        """PATCH /accounts/KEY: active, invalid, no_permission, ip_banned."""
        return self._json("PATCH", f"/accounts/{quote(api_key)}", {"state": state})

    def order(
        self,
        api_key: str,
        symbol: str,
        side: str,
        qty: str,
        price: str,
        *,
        fills: int = 1,
        market: str = "usdm",
        **more: Any,
    ) -> dict[str, Any]:
        """POST /orders → {order_id, trade_ids}."""
        spec = {
            "api_key": api_key,
            "market": market,
            "symbol": symbol,
            "side": side,
            "qty": qty,
            "price": price,
            "fills": fills,
            **more,
        }
        return self._json("POST", "/orders", spec)

    def cancel(self, api_key: str, symbol: str, order_id: str) -> dict[str, Any]:
        """DELETE /orders/ID."""
        return self._json("DELETE", f"/orders/{order_id}?{urlencode({'api_key': api_key, 'symbol': symbol})}")

    def load(self, events_per_s: float, seconds: float | None = None) -> dict[str, Any]:
        """POST /load; 0 stops it."""
        return self._json("POST", "/load", {"events_per_s": events_per_s, "seconds": seconds})

    def fault(self, kind: str, **spec: Any) -> int:
        """POST /faults → the fault's id."""
        return int(self._json("POST", "/faults", {"kind": kind, **spec})["id"])

    def end_fault(self, ident: int) -> None:
        """DELETE /faults/ID; a fault that is over already is fine."""
        try:
            self.call("DELETE", f"/faults/{ident}")
        except ControlRefused as error:
            if error.status != 404:
                raise

    def settings(self, **values: float) -> dict[str, Any]:
        """PATCH /settings: timings and limits of the venues."""
        return self._json("PATCH", "/settings", values)

    def ledger(self, since: int = 0, **narrow: str) -> list[dict[str, Any]]:
        """GET /ledger; narrow by api_key, type (comma-separated) or market='0'."""
        lines = self.call("GET", "/ledger?" + urlencode({"since": since, **narrow})).splitlines()
        return [json.loads(line) for line in lines]

    def connections(self, *, only_open: bool = False, api_key: str | None = None) -> list[dict[str, Any]]:
        """GET /connections."""
        query = {**({"open": "1"} if only_open else {}), **({"api_key": api_key} if api_key else {})}
        found: list[dict[str, Any]] = json.loads(self.call("GET", "/connections?" + urlencode(query)))
        return found

    def calls(self) -> dict[str, Any]:
        """GET /calls."""
        return self._json("GET", "/calls")

    def replay(self) -> dict[str, Any]:
        """GET /replay → {frames, sent, done}."""
        return self._json("GET", "/replay")

    def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self.call(method, path, body))
        return reply


def signed_query(secret: str, params: dict[str, str], now_ms: int | None = None) -> str:
    """A Binance query with timestamp and HMAC signature, for tests that speak to the simulator directly."""
    stamped = {**params, "timestamp": str(int(time.time() * 1000) if now_ms is None else now_ms)}
    query = urlencode(stamped)
    return query + "&signature=" + hmac.new(secret.encode(), query.encode(), hashlib.sha256).hexdigest()


def eventually(check: Callable[[], Any], timeout_s: float = 10.0, what: str = "") -> Any:
    """Wait until `check()` is truthy and return it; fails after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what or check}")
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Is there such a process?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def rest(
    sim: Simulator,
    method: str,
    path: str,
    api_key: str = "",
    secret: str = "",
    *,
    now_ms: int | str | None = None,
    **params: str,
) -> tuple[int, Any, dict[str, str]]:
    """One Binance REST call straight to the simulator: (status, decoded body or text, headers in lower case). Signed
    when there is a secret.
    """
    query = signed_query(secret, params, None if now_ms is None else int(now_ms)) if secret else urlencode(params)
    headers = {"X-MBX-APIKEY": api_key} if api_key else {}
    request = urllib.request.Request(
        sim.rest_url + path + ("?" + query if query else ""), method=method, headers=headers
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read()), {k.lower(): v for k, v in response.headers.items()}
    except urllib.error.HTTPError as error:
        body = error.read().decode()
        return (
            error.code,
            json.loads(body) if body[:1] in "{[" else body,
            {k.lower(): v for k, v in error.headers.items()},
        )
