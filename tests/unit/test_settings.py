"""Settings: a bad value is one line that names its variable, whatever is wrong with it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.cli import main
from fleet.core.errors import SettingsError
from fleet.runtime.metrics import OFFSETS, Metrics
from fleet.runtime.postgres import Postgres
from fleet.runtime.settings import FIXED_PORTS, Settings, load_env_file
from workers.sinks import clickhouse_loop

REST, WS = "FLEET_BYBIT_REST_URL", "FLEET_BYBIT_WS_URL"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (REST, "http://127.evil.example"),  # only begins like an address of this machine
        (REST, "http://localhost.evil.example"),
        (REST, "http://127.0.0.1@evil.example"),
        (REST, "http://10.0.0.1"),
        (REST, "https://[bad"),
        (REST, "https://x:99999"),
        (REST, "https://x:abc"),
        (REST, "wss://x"),
        (REST, "https://x/?a=1"),  # what is added to a root must not end up in its query
        ("FLEET_TELEGRAM_API_URL", "https://[bad"),
        ("FLEET_TELEGRAM_API_URL", "https://x:99999"),
        ("FLEET_TELEGRAM_API_URL", "http://10.0.0.1"),
        (WS, "ws://evil.example"),
        (WS, "https://x"),
        ("FLEET_NAME", ""),
        ("FLEET_NAME", "a}b"),
        ("FLEET_SLOT", "host"),
        ("FLEET_SLOT", "a|b:0"),
        ("FLEET_METRICS_NAMESPACE", "a-b"),
        ("FLEET_METRICS_BASE_PORT", "65530"),
        ("FLEET_CONSOLE_PORT", "70000"),
        ("FLEET_KAFKA_BOOTSTRAP", "host:port"),
        ("FLEET_KAFKA_BOOTSTRAP", ""),
        ("FLEET_KAFKA_BOOTSTRAP", "host:99999"),
        ("FLEET_KAFKA_BOOTSTRAP", "host:9092,[::1]:0"),
        ("FLEET_WORKERS", "two"),
        ("FLEET_HEALTH_CHECK_INTERVAL_S", "nan"),
        ("FLEET_HEALTH_CHECK_INTERVAL_S", "inf"),
        ("FLEET_HEALTH_CHECK_INTERVAL_S", "1e12"),  # threading cannot wait that long
        ("FLEET_EGRESS_IPS", "eth0"),
        ("FLEET_EGRESS_IPS", "10.0.0.1 10.0.0.2"),
        ("FLEET_MARKET_TTL_DAYS", "36500"),  # ClickHouse wraps to 1990, and drops everything
        ("FLEET_BOOK_TTL_DAYS", "36500"),
    ],
)
def test_a_bad_value_is_one_line_that_names_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}[=:].*") as caught:
        Settings.from_env({name: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (REST, "http://127.0.0.1:8080"),
        (REST, "http://localhost"),
        (REST, "http://[::1]:8080"),
        (REST, "https://api.bybit.com"),
        (WS, "ws://127.9.9.9:1"),
        ("FLEET_NAME", "fleet-1_a.b"),
        ("FLEET_SLOT", "host-a.example:12"),
        ("FLEET_KAFKA_BOOTSTRAP", "a:9092, b.example:9093,[::1]:9092"),
    ],
)
def test_a_good_value_is_taken(name: str, value: str) -> None:
    Settings.from_env({name: value})


def test_a_slot_whose_metrics_have_no_port_is_named() -> None:
    """Binding it ended the worker with a traceback."""
    with pytest.raises(SettingsError, match="FLEET_METRICS_BASE_PORT=9100: needs 60011 ports .* for slot h:60000"):
        Settings.from_env({"FLEET_SLOT": "h:60000"})


def test_an_address_that_is_named_twice_is_one() -> None:
    assert Settings.from_env({"FLEET_EGRESS_IPS": "10.0.0.1, 10.0.0.2,10.0.0.1"}).egress_ips == ("10.0.0.1", "10.0.0.2")


def test_a_candle_of_a_month_is_not_one_of_a_minute() -> None:
    settings = Settings.from_env({"FLEET_MARKET_STREAMS": "kline_1M,Kline_1H,kline_1m,aggTrade"})
    assert settings.market_kinds() == ("kline_1M", "kline_1h", "kline_1m", "trade")
    shouted = Settings.from_env({"FLEET_MARKET_STREAMS": "KLINE_15M,TRADE"})
    assert shouted.market_kinds() == ("kline_15m", "trade"), "nobody means fifteen months"


def test_quotes_around_a_value_of_an_env_file_are_not_part_of_it_and_others_are(tmp_path: Path) -> None:
    path = tmp_path / "fleet.env"
    path.write_text("A=\"x y\"\nB='x'\nC=host=h password='a b'\nD=\"\nE=\n")
    assert load_env_file(str(path)) == {"A": "x y", "B": "x", "C": "host=h password='a b'", "D": '"', "E": ""}


def test_the_consoles_port_is_nobody_elses() -> None:
    """Who came second tried for ever, and Prometheus read one process for the whole host."""
    assert max(OFFSETS.values()) + 1 == FIXED_PORTS
    base = {"FLEET_METRICS_BASE_PORT": "9080", "FLEET_WORKERS": "1"}
    for port in (9080, 9084, 9090):
        with pytest.raises(SettingsError, match=f"FLEET_CONSOLE_PORT={port}: .*9080"):
            Settings.from_env(base | {"FLEET_CONSOLE_PORT": str(port)})
    for port in (9079, 9085, 9091):
        Settings.from_env(base | {"FLEET_CONSOLE_PORT": str(port)})


def test_an_env_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.env"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(SettingsError, match="not a text file"):
        load_env_file(str(path))


@pytest.mark.parametrize(
    "dsn",
    [
        "http://u:canary/x@127.0.0.1:8123/db",
        "http://u:canary#x@127.0.0.1:8123/db",
        "http://u:12#canary@127.0.0.1:8123/db",
        "http://u:canary@127.0.0.1:99999/db",
        "http://[::1",
        "htp://127.0.0.1",
    ],
)
def test_a_bad_url_of_clickhouse_ends_the_sink_at_once_and_is_not_quoted(dsn: str) -> None:
    settings = Settings.from_env({"FLEET_CLICKHOUSE_DSN": dsn})
    with pytest.raises(SettingsError, match="FLEET_CLICKHOUSE_DSN: a directory or") as caught:
        clickhouse_loop(settings, threading.Event(), Metrics())
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    ["postgresql://u:pa@canary@127.0.0.1:5432/db", "postgresql://u:canary/x@127.0.0.1:5432/db", "host=h port=99999"],
)
def test_no_part_of_a_password_is_taken_for_the_host_or_port_of_postgres(dsn: str) -> None:
    """libpq would quote it: could not translate host name "canary@127.0.0.1"."""
    with pytest.raises(SettingsError, match="FLEET_POSTGRES_DSN: .*%40") as caught:
        Postgres(dsn, application="tests")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "dsn",
    ["", "dbname=x", "host=a,b port=5432,5433", "postgresql://u:pa%40ss@[::1]:5432/db", "postgresql:///db?host=/run"],
)
def test_every_form_of_a_postgres_dsn_is_taken(dsn: str) -> None:
    Postgres(dsn, application="tests")


@pytest.mark.parametrize("text", [b'{"api_key":"\xff","secret":"s"}', b"\xff\xfe", b"[" * 100_000])
def test_credentials_that_are_no_text_are_one_line(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_bytes(text)
    words = ("--user", "u", "--exchange", "binance", "--market", "usdm", "--label", "l", "--credentials", str(path))
    done = CliRunner().invoke(main, ["accounts", "add", *words])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "credentials: a JSON object" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("gaps", "--since", "99999999999d"),
        ("top", "--every", "nan"),
        ("demo", "--for", "nan"),
        ("demo", "--for", "inf"),
        ("demo", "--rate", "nan"),
        ("demo", "--report", "/nowhere/at/all/r.json"),
    ],
)
def test_an_argument_that_cannot_be_is_wrong_use(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fleet.demo.run.run", lambda options: pytest.fail("the demo was started"))
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_a_month_is_not_a_minute() -> None:
    env = {"FLEET_MARKET_STREAMS": "kline_1m,kline_1M,kline_4H,markPrice"}
    assert Settings.from_env(env).market_kinds() == ("kline_1m", "kline_1M", "kline_4h", "mark_price")
