"""kill −9 of a worker: restarted, it takes its accounts up again; kept from restarting, the other worker gets them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from fleet.demo.place import REPOSITORY
from tests.support.fleet import Fleet, eventually

pytestmark = pytest.mark.system

ACCOUNTS = 6
RESTARTED_S = 15.0  # the aims are 5 s and 12 s, which benchmarks.figures measures; here two busy cores get slack
MOVED_S = 25.0


def shard_pids(fleet: Fleet) -> dict[int, dict[str, object]]:
    return {int(row["pid"]): row for row in fleet.view.shards() if row["state"] == "up"}


def test_a_killed_worker_comes_back_and_a_lost_one_is_replaced(fleet_env: dict[str, str], tmp_path: Path) -> None:
    with Fleet(fleet_env, tmp_path, workers=2, accounts=ACCOUNTS) as fleet:
        fleet.wait_live(ACCOUNTS)
        victim = fleet.processes.pids("worker")[0]
        before = shard_pids(fleet)
        assert victim in before and before[victim]["accounts"]

        psutil.Process(victim).send_signal(signal.SIGKILL)
        eventually(lambda: victim not in shard_pids(fleet) and len(shard_pids(fleet)) == 2, RESTARTED_S, "a new life")
        eventually(lambda: all(fleet.streaming(a) for a in fleet.credentials), RESTARTED_S, "every account's socket")
        fleet.wait_live(ACCOUNTS, within_s=RESTARTED_S)

        # `supervisorctl stop` would drain it; a paused supervisord cannot restart what dies
        supervisord = psutil.Process(fleet.processes.pid)
        supervisord.suspend()
        try:
            psutil.Process(fleet.processes.pids("worker")[0]).kill()
            eventually(
                lambda: len(fleet.view.live()) == ACCOUNTS and one_shard_has_all(fleet), MOVED_S, "all on one worker"
            )
            eventually(lambda: all(fleet.streaming(a) for a in fleet.credentials), 2.0, "every account's socket")
        finally:
            supervisord.resume()


def one_shard_has_all(fleet: Fleet) -> bool:
    return [row["accounts"] for row in fleet.view.shards() if row["state"] == "up"] == [ACCOUNTS]


def supervisorctl(fleet: Fleet, *words: str) -> str:
    command = [str(Path(sys.executable).with_name("supervisorctl")), "-c", str(REPOSITORY / "supervisord.conf"), *words]
    return subprocess.run(command, env=fleet.env, capture_output=True, text=True, timeout=60, check=False).stdout
