"""The aggregated /metrics and the page: against processes that are up, dead, hung and slow, and against real stores."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fleet.console.overview import Overview
from fleet.console.scrape import merge, scrape, targets
from fleet.console.server import Console
from fleet.core.model import Ownership, StreamState, StreamStatus, WorkerView
from fleet.core.names import Keys
from fleet.core.wire import Generation
from fleet.runtime.metrics import Metrics
from fleet.runtime.postgres import Postgres, migrate
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.settings import Settings

ACCOUNT = "6f7a3c1e-8f7f-4a0c-9d59-1c7d1f5c2d11"


def free_base_port() -> int:
    """A base port below the ephemeral range whose first twelve ports are free now."""
    for base in range(20_000 + os.getpid() % 10_000, 32_000, 16):
        with suppress(OSError):
            for port in range(base, base + 12):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return base
    raise AssertionError("no free ports")


@contextmanager
def listening(port: int = 0, *, drip: bytes = b"") -> Iterator[int]:
    """A process that accepts and then hangs, or sends a byte now and then without ever ending."""
    with socket.create_server(("127.0.0.1", port)) as server:
        stop = threading.Event()

        def feed() -> None:
            peer, _ = server.accept()
            with peer:
                while not stop.wait(0.1):
                    try:
                        peer.sendall(drip)
                    except OSError:
                        return

        if drip:
            threading.Thread(target=feed, daemon=True).start()
        yield server.getsockname()[1]
        stop.set()


def get(url: str, timeout_s: float = 5.0) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# ── merging ──────────────────────────────────────────────────────────────────────────────────────────────────────
def test_every_series_gets_a_shard_and_every_family_its_help_once() -> None:
    a, b = Metrics(), Metrics()
    a.userdata_connections("binance").set(2)
    b.userdata_connections("binance").set(3)
    a.gap_seconds("binance").observe(0.7)
    text = merge({"host:0": a.render().decode(), "host:1": b.render().decode(), "marketdata": None})
    lines = text.splitlines()
    assert 'prometheus_userdata_connections{exchange="binance",shard="host:0"} 2.0' in lines
    assert 'prometheus_userdata_connections{exchange="binance",shard="host:1"} 3.0' in lines
    assert 'fleet_gap_seconds_bucket{exchange="binance",le="1.0",shard="host:0"} 1.0' in lines
    assert 'fleet_leader{shard="host:0"} 0.0' in lines
    assert 'fleet_scrape_up{shard="host:0"} 1' in lines and 'fleet_scrape_up{shard="marketdata"} 0' in lines
    heads = [line for line in lines if line.startswith("#")]
    assert len(heads) == len(set(heads))
    for name in ("marketdata_reconnects_total", "userdata_connections", "userdata_reconciliations_total"):
        assert sum(line.startswith(f"# TYPE prometheus_{name} ") for line in heads) == 1


def test_the_merged_text_is_valid_for_prometheus() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    metrics = Metrics()
    odd = "a b\nc\u2028d\x85e\rf\x0bg"  # an exchange's own word: what str.splitlines takes for the end of a line
    metrics.frames_unknown('we"ird}\\', odd).inc()
    metrics.publish_latency().observe(0.01)
    families = list(
        text_string_to_metric_families(merge({'sl"ot': metrics.render().decode(), "b": metrics.render().decode()}))
    )
    unknown = next(family for family in families if family.name == "fleet_frames_unknown")
    assert [sample.labels["shard"] for sample in unknown.samples] == ['sl"ot', "b"]
    assert unknown.samples[0].labels["exchange"] == 'we"ird}\\' and unknown.samples[0].labels["type"] == odd


# ── scraping ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_dead_hung_slow_and_broken_processes_cost_only_their_own_series() -> None:
    base = free_base_port()
    metrics = Metrics()
    metrics.events("fill").inc()
    stop = metrics.serve(base)
    try:
        with listening() as hung, listening(drip=b"x") as slow, listening(drip=b"HTTP/1.0 500 no\r\n\r\n") as broken:
            started = time.monotonic()
            texts = scrape({"up": base, "dead": base + 1, "hung": hung, "slow": slow, "broken": broken})
            took_s = time.monotonic() - started
    finally:
        stop()
    assert took_s < 1.5
    assert texts["up"] is not None and 'fleet_events_total{type="fill"} 1.0' in texts["up"]
    assert [shard for shard, text in texts.items() if text is None] == ["dead", "hung", "slow", "broken"]


def test_targets_are_the_programs_and_this_hosts_workers() -> None:
    ports = targets(Settings(workers=2, slot="host-a:0", metrics_base_port=9100))
    assert ports == {
        "coordinator": 9100, "marketdata": 9101, "sink_postgres": 9102, "sink_clickhouse": 9103, "console": 9104,
        "host-a:0": 9110, "host-a:1": 9111,
    }  # fmt: skip


# ── the process ──────────────────────────────────────────────────────────────────────────────────────────────────
@contextmanager
def console(env: dict[str, str], directory: Path) -> Iterator[str]:
    """A console process; yields its URL. On leaving it must end on SIGTERM with 0."""
    base = free_base_port()
    own = {
        "FLEET_METRICS_BASE_PORT": str(base),
        "FLEET_CONSOLE_PORT": str(base + 11),
        "FLEET_WORKERS": "1",
        "FLEET_SLOT": "host-a:0",
        "FLEET_LOG_DIR": str(directory),
    }
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FLEET_")}
    process = subprocess.Popen([sys.executable, "-m", "fleet.console"], env={**clean, **env, **own})
    url = f"http://localhost:{base + 11}"
    try:
        deadline = time.monotonic() + 15
        while True:
            try:
                get(f"{url}/healthz")
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, "the console did not start"
                time.sleep(0.05)
        yield url
        process.terminate()
        assert process.wait(8) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def test_without_any_store_it_still_answers_and_says_what_is_missing(tmp_path: Path) -> None:
    with console({"FLEET_REDIS_URL": "redis://127.0.0.1:1/0"}, tmp_path) as url:
        base = int(url.rpartition(":")[2]) - 11
        with listening(base + 10):  # the worker hangs
            started = time.monotonic()
            status, text = get(f"{url}/metrics")
            assert status == 200 and time.monotonic() - started < 5
        assert 'fleet_scrape_up{shard="host-a:0"} 0' in text and 'fleet_scrape_up{shard="console"} 1' in text
        status, text = get(f"{url}/healthz")
        assert status == 200 and json.loads(text)["ok"] is False and "host-a:0" in json.loads(text)["down"]
        assert get(f"{url}/api/shards")[0] == 503
        status, text = get(f"{url}/")
        assert status == 200 and "Redis" in text and "FLEET_POSTGRES_DSN is not set" in text
        assert get(f"{url}/nothing")[0] == 404
    assert "console stopped" in (tmp_path / "console.log").read_text()


@pytest.mark.integration
def test_shards_accounts_gaps_and_moves_come_from_the_stores(fleet_env: dict[str, str], tmp_path: Path) -> None:
    postgres = Postgres(fleet_env["FLEET_POSTGRES_DSN"], application="test")
    migrate(postgres)
    postgres.execute(
        "INSERT INTO exchange_accounts (id, user_id, exchange, market, label, is_active)"
        " VALUES (%s, 'u', 'binance', 'usdm', '<main>', true)",
        (ACCOUNT,),
    )
    postgres.execute(
        "INSERT INTO fleet_assignment (account_id, slot, incarnation, token) VALUES (%s, 'host-a:0', 'inc-1', 7)",
        (ACCOUNT,),
    )
    postgres.execute(
        "INSERT INTO stream_gaps (id, account_id, stream, exchange, market, opened_at, reason)"
        " VALUES ('g', %s, %s, 'binance', 'usdm', now(), 'cut')",
        (ACCOUNT, ACCOUNT),
    )
    postgres.close()
    store = RedisStore(fleet_env["FLEET_REDIS_URL"], Keys(fleet_env["FLEET_NAME"]))
    view = WorkerView("host-a:0", "inc-1", 1, "up", "host-a", 4711, 100, 1.0, 0)
    now_ms = int(time.time() * 1000)
    assert store.register(view).standing == "OK"
    assert store.lead("leader-1", 1, 30.0) == "OK"
    own = Ownership("host-a:0", "inc-1", 7, "run", now_ms)
    store.rebuild(store.leader(), Generation("g1", True), {ACCOUNT: own})
    live = StreamStatus(ACCOUNT, 7, StreamState.LIVE, now_ms, 2, False)
    assert store.report("host-a:0", "inc-1", [live], full=True) == "OK"
    with console(fleet_env, tmp_path) as url:
        status, text = get(f"{url}/api/shards")
        (shard,) = json.loads(text)
        assert status == 200 and list(shard) == [
            "slot", "host", "pid", "state", "incarnation", "accounts", "live", "load", "heartbeat_age_s",
        ]  # fmt: skip
        assert (shard["slot"], shard["state"], shard["accounts"], shard["live"]) == ("host-a:0", "up", 1, 1)
        view_now = json.loads(get(f"{url}/api/overview")[1])
        assert view_now["states"] == {"live": 1} and view_now["problems"] == []
        assert view_now["leader"] == "leader-1"
        assert view_now["accounts"] == {"total": 1, "active": 1} and view_now["gaps"]["open"] == 1
        assert view_now["moves"][0]["slot"] == "host-a:0"
        page = get(f"{url}/")[1]
        assert ACCOUNT in page and "host-a:0" in page and "cut" in page
    store.close()


def test_a_client_that_hangs_up_leaves_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    settings = Settings.from_env(
        {"FLEET_CONSOLE_PORT": str(free_base_port()), "FLEET_REDIS_URL": "redis://127.0.0.1:1/0"}
    )
    overview = Overview(settings)
    with Console(settings, overview, {}) as console:
        threading.Thread(target=console.serve_forever, args=(0.05,), daemon=True).start()
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", settings.console_port))
            client.sendall(b"GET /api/overview HTTP/1.1\r\nHost: x\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        time.sleep(1.0)
        console.shutdown()
    overview.close()
    assert "Traceback" not in capfd.readouterr().err
