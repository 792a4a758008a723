"""Settings: a bad value is one line that names its variable, whatever is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fleet.cli import main
from fleet.core.errors import SettingsError
from fleet.runtime.settings import Settings, load_env_file

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
        ("FLEET_WORKERS", "two"),
        ("FLEET_HEALTH_CHECK_INTERVAL_S", "nan"),
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


def test_an_env_file_that_is_no_text_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "fleet.env"
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(SettingsError, match="not a text file"):
        load_env_file(str(path))


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
