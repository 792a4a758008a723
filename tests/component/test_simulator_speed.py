"""The simulator is never the bottleneck. In: subscriptions and calls; out: frames and replies per second of its own CPU time.

CPU time and not wall time, so that neighbours on the machine do not decide; `pytest -s` prints the figures.
"""

from __future__ import annotations

import base64
import http.client
import os
import socket
import ssl
import threading
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from tests.support.simulator import Simulator, eventually, signed_query

FRAMES_PER_CORE_S = 20_000
CALLS_PER_CORE_S = 1_000
SYMBOLS = "btc eth sol bnb xrp doge ada link avax ltc dot trx bch near apt sui atom fil arb op".split()  # noqa: SIM905 - reads better


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def swallow(sim: Simulator) -> socket.socket:
    """A subscriber of twenty trade streams over TLS that reads and forgets."""
    host = urlsplit(sim.ws_url)
    context = ssl.create_default_context(cafile=sim.env["FLEET_TLS_CA_FILE"])
    raw = socket.create_connection((host.hostname, host.port), timeout=10)
    sock = context.wrap_socket(raw, server_hostname="127.0.0.1")
    streams = "/".join(f"{symbol}usdt@aggTrade" for symbol in SYMBOLS)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET /market/stream?streams={streams} HTTP/1.1\r\nHost: {host.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )

    def run() -> None:
        try:
            while sock.recv(1 << 20):
                pass
        except OSError:
            return

    threading.Thread(target=run, daemon=True).start()
    return sock


def test_frames_per_core_second_over_tls() -> None:
    with Simulator(rate=40_000, plain=False) as sim:
        sock = swallow(sim)

        def sent() -> int:
            return sum(entry["frames_sent"] for entry in sim.connections())

        eventually(lambda: sent() > 1000, 20)
        frames, before = sent(), cpu_s(sim.pid)
        eventually(lambda: cpu_s(sim.pid) - before > 1.5, 60)
        rate = (sent() - frames) / (cpu_s(sim.pid) - before)
        rows = Path(f"/proc/{sim.pid}/status").read_text()
        sock.close()
    print(
        f"simulator: {rate:,.0f} frames per core-second over TLS; {rows.split('VmRSS:')[1].split('kB')[0].strip()} kB"
    )
    assert rate >= FRAMES_PER_CORE_S


def test_signed_calls_per_core_second() -> None:
    with Simulator(rate=0) as sim:
        sim.settings(weight_limit=10**9)
        ((key, secret),) = sim.accounts(1)
        connection = http.client.HTTPConnection(urlsplit(sim.rest_url).netloc, timeout=10)
        before, calls = cpu_s(sim.pid), 0
        while cpu_s(sim.pid) - before < 0.5:
            for _ in range(100):
                connection.request("GET", "/fapi/v3/balance?" + signed_query(secret, {}), headers={"X-MBX-APIKEY": key})
                assert connection.getresponse().read().startswith(b"[")
                calls += 1
        rate = calls / (cpu_s(sim.pid) - before)
        connection.close()
    print(f"simulator: {rate:,.0f} signed calls per core-second")
    assert rate >= CALLS_PER_CORE_S
