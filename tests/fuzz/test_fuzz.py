"""The fuzzer runs at all, and a short run of each parser breaks nothing; `make fuzz` is the long one."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

from fleet.exchanges import exchanges
from tests.fuzz.__main__ import PARSERS, fuzz

INPUTS = 1500


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None and not os.environ.get("CI"),
    reason="atheris has no wheel for this machine",
)
@pytest.mark.parametrize("venue", list(exchanges()))
def test_a_short_run(venue: str, tmp_path: Path) -> None:
    for parser in PARSERS:
        tried, why = fuzz(venue, parser, INPUTS, 7, tmp_path, timeout_s=75)
        assert not why, why
        assert tried >= INPUTS
