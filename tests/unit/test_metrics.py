"""Metric names are what dashboards hold on to; children are cached; a busy port stops nobody."""

from __future__ import annotations

import socket
import time
import urllib.request

import pytest

from fleet.runtime.metrics import MAX_CHILDREN, Metrics, port_of


def test_the_six_original_metrics_have_their_names_and_labels() -> None:
    metrics = Metrics()
    metrics.marketdata_reconnects("success").inc()
    metrics.userdata_connections("binance").set(3)
    metrics.userdata_reconnects("binance", "cut").inc()
    metrics.hotreload_operations("add", "binance").inc()
    metrics.listenkey_renewals("binance", "error").inc()
    metrics.reconciliations("success").inc(2)
    lines = metrics.render().decode().splitlines()
    for line in (
        'prometheus_marketdata_reconnects_total{status="success"} 1.0',
        'prometheus_userdata_connections{exchange="binance"} 3.0',
        'prometheus_userdata_reconnects_total{exchange="binance",reason="cut"} 1.0',
        'prometheus_userdata_hotreload_operations_total{exchange="binance",operation="add"} 1.0',
        'prometheus_userdata_listenkey_renewals_total{exchange="binance",status="error"} 1.0',
        'prometheus_userdata_reconciliations_total{status="success"} 2.0',
    ):
        assert line in lines
    assert not any("_created" in line for line in lines)


def test_the_namespace_of_the_originals_is_a_setting_and_the_rest_is_fleet() -> None:
    metrics = Metrics("acme")
    metrics.reconciliations("success").inc()
    metrics.events("fill").inc()
    text = metrics.render().decode()
    assert "acme_userdata_reconciliations_total{" in text and 'fleet_events_total{type="fill"} 1.0' in text
    assert "prometheus_" not in text


def test_children_are_resolved_once() -> None:
    metrics = Metrics()
    assert metrics.userdata_connections("okx") is metrics.userdata_connections("okx")
    assert metrics.userdata_connections("okx") is not metrics.userdata_connections("bybit")


def test_invented_label_values_end_in_other() -> None:
    metrics = Metrics()
    for n in range(MAX_CHILDREN + 50):
        metrics.frames_unknown("binance", f"type-{n}").inc()
    text = metrics.render().decode()
    assert text.count("fleet_frames_unknown_total{") == MAX_CHILDREN + 1
    assert 'fleet_frames_unknown_total{exchange="other",type="other"} 50.0' in text


@pytest.mark.parametrize(
    ("program", "port"),
    [("coordinator", 9100), ("marketdata", 9101), ("sink_postgres", 9102), ("sink_clickhouse", 9103)]
    + [("console", 9104), ("worker_0", 9110), ("worker_07", 9117)],
)
def test_every_program_has_its_port(program: str, port: int) -> None:
    assert port_of(9100, program) == port


def test_serves_on_loopback_and_waits_for_a_busy_port() -> None:
    metrics = Metrics()
    metrics.events("fill").inc()
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        stop = metrics.serve(port)
    try:
        body = b""
        deadline = time.monotonic() + 10
        while not body and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=2) as reply:
                    body = reply.read()
            except OSError:
                time.sleep(0.05)
        assert b'fleet_events_total{type="fill"} 1.0' in body
    finally:
        stop()
    with socket.socket() as again:
        assert again.connect_ex(("127.0.0.1", port)) != 0


def test_closing_does_not_wait_for_the_servers_poll() -> None:
    """A restarted worker's accounts wait for the end of the process; the server looks only every 0.5 s whether to stop."""
    took_s = []
    for _ in range(5):
        stop = Metrics().serve(0)
        began = time.monotonic()
        stop()
        took_s.append(time.monotonic() - began)
    assert sorted(took_s)[2] < 0.3, took_s
