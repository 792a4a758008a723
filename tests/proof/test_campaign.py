"""Layer 1 in the suite: a short campaign, replay, and every mutation of a rule caught. `make proof` runs it at length."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SEEDS = 150


def proof(*args: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: histories depend on the order of sets of strings."""
    env = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "tests.proof", *args], cwd=ROOT, env=env, capture_output=True, text=True, timeout=150
    )


def test_no_history_violates_the_rules() -> None:
    done = proof("--seeds", str(SEEDS), "--from", "0", "--partial")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert f"{SEEDS} seeds" in done.stdout


def test_a_seed_is_a_history() -> None:
    """The same seed, twice: the same events at the same instants."""
    first, second = (re.sub(r"(pid=|vm:|:)\d+", "", proof("--seed", "7", "--verbose").stdout) for _ in range(2))
    assert first == second and len(first.splitlines()) > 50


@pytest.mark.parametrize("part", range(4))
def test_every_rule_is_needed(part: int) -> None:
    done = proof("--mutations", f"{part}/4")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
