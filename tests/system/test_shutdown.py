"""SIGTERM to supervisord: everything ends in order, within its deadlines, and nothing is left."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from tests.support.fleet import Fleet, eventually

pytestmark = pytest.mark.system

ORDER = ("marketdata", "coordinator", "worker_00", "sink_postgres", "console")
TOTAL_S = 40.0


def test_sigterm_ends_everything_in_order(fleet_env: dict[str, str], tmp_path: Path) -> None:
    with Fleet(fleet_env, tmp_path, workers=2, accounts=4) as fleet:
        fleet.wait_live(4)
        fleet.control.load(50.0, 3.0)
        eventually(lambda: len(fleet.control.ledger(0)) > 50, 10.0, "some events")
        began = time.monotonic()
        assert fleet.processes.stop() == []
        assert time.monotonic() - began < TOTAL_S
        assert fleet.processes.left() == []
        assert all(c.get("closed_at") for c in fleet.control.connections()), "every socket was closed"
        said = (fleet.logs / "supervisord.log").read_text()
        stopped = re.findall(r"stopped: (\w+)", said)
        assert [name for name in stopped if name in ORDER] == list(ORDER)


def test_a_dead_supervisord_leaves_nothing_behind(fleet_env: dict[str, str], tmp_path: Path) -> None:
    with Fleet(fleet_env, tmp_path, workers=1, accounts=1) as fleet:
        fleet.wait_live(1)
        pids = list(fleet.processes.processes())
        assert pids
        fleet.processes.kill_supervisord()
        eventually(lambda: not fleet.processes.left(), 35.0, "the children to follow supervisord")
