"""Wrong settings: every program ends with 2 and one clear line that names the variable; nothing is half started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAMS = (
    ("coordinator",),
    ("workers", "userdata"),
    ("workers", "marketdata"),
    ("workers", "sink", "postgres"),
    ("workers", "sink", "clickhouse"),
    ("fleet.console",),
)
WRONG = {
    "FLEET_WORKERS": "many",
    "FLEET_HEALTH_CHECK_INTERVAL_S": "-1",
    "FLEET_BINANCE_USDM_WS_URL": "ws://fstream.binance.com",
    "FLEET_MARKET_STREAMS": "candlesticks",
    "FLEET_WORKER_LEASE_S": "1",
    "FLEET_TLS_CA_FILE": "/no/such/file",
}


def run(args: tuple[str, ...], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    base = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-m", *args], env=base | env, capture_output=True, text=True, timeout=30, check=False
    )


def assert_one_line(result: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    assert result.returncode == code, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


@pytest.mark.parametrize(("variable", "value"), WRONG.items())
def test_each_wrong_setting_is_named_by_the_cli(variable: str, value: str) -> None:
    env = {"FLEET_POSTGRES_DSN": "postgresql://127.0.0.1:1/none", variable: value}
    result = subprocess.run(
        [str(Path(sys.executable).with_name("fleet")), "accounts", "list"],
        env={"PATH": os.environ["PATH"], **env},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert_one_line(result, 2, variable)


@pytest.mark.parametrize("program", PROGRAMS, ids=" ".join)
def test_every_program_refuses_a_wrong_setting(program: tuple[str, ...]) -> None:
    assert_one_line(run(program, {"FLEET_WORKERS": "many"}), 2, "FLEET_WORKERS", "many")


@pytest.mark.parametrize("program", PROGRAMS[:2], ids=" ".join)
def test_a_missing_dsn_is_named(program: tuple[str, ...]) -> None:
    assert_one_line(run(program, {}), 2, "FLEET_POSTGRES_DSN")


def test_an_unreadable_keyring_stops_a_worker(tmp_path: Path) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text("{}")
    keyring.chmod(0o644)
    env = {
        "FLEET_POSTGRES_DSN": "postgresql://127.0.0.1:1/none",
        "FLEET_KEYRING_FILE": str(keyring),
        "FLEET_RUN_DIR": str(tmp_path),
    }
    assert_one_line(run(("workers", "userdata"), env), 2, str(keyring))


def test_unknown_words_are_wrong_use() -> None:
    for args in (("workers",), ("workers", "nonsense"), ("workers", "sink", "nonsense")):
        assert run(args, {}).returncode == 2
