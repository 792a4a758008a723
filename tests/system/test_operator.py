"""What an operator types while a fleet runs: migrate, doctor, shards, shard, account, budget, drain."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.demo.place import REPOSITORY
from tests.support.fleet import Fleet, eventually, fresh_env
from tests.support.services import SharedServices

pytestmark = pytest.mark.system

ACCOUNTS = 4


@pytest.fixture(scope="module")
def fleet(services: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("operator")
    with fresh_env(services, directory) as env, Fleet(env, directory, workers=2, accounts=ACCOUNTS) as fleet:
        fleet.wait_live(ACCOUNTS)
        yield fleet


def typed(fleet: Fleet, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fleet.cli", *words],
        cwd=REPOSITORY, env=fleet.env, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def answer(fleet: Fleet, *words: str) -> Any:
    done = typed(fleet, *words, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_migrate_may_be_repeated_while_the_fleet_runs(fleet: Fleet) -> None:
    done = typed(fleet, "migrate")
    assert done.returncode == 0, done.stderr
    assert "in use by the sink" in done.stdout


def test_doctor_finds_nothing_wrong(fleet: Fleet) -> None:
    findings = answer(fleet, "doctor")
    assert {f["level"] for f in findings} == {"ok"}
    assert {f["check"] for f in findings} == {
        "settings",
        "postgres",
        "redis",
        "kafka",
        "clickhouse",
        "keyring",
        "clock",
    }


def test_views_agree_with_each_other(fleet: Fleet) -> None:
    shards = answer(fleet, "shards")
    assert sum(shard["accounts"] for shard in shards) == sum(shard["live"] for shard in shards) == ACCOUNTS
    assert all(shard["state"] == "up" and shard["heartbeat_age_s"] < 3 for shard in shards)
    assert {shard["pid"] for shard in shards} == set(fleet.processes.pids("worker"))
    for shard in shards:
        for row in answer(fleet, "shard", shard["slot"]):
            account = answer(fleet, "account", row["id"])
            assert (account["slot"], account["token"], account["state"]) == (shard["slot"], row["token"], "live")
            assert account["gap"] is False
    gaps = answer(fleet, "gaps", "--open")  # the topics are shared with other tests' fleets
    assert [gap for gap in gaps if gap["account_id"] in fleet.credentials] == []
    assert {row["kind"] for row in answer(fleet, "budget")} >= {"dial"}


def test_a_drained_worker_gives_its_accounts_away(fleet: Fleet) -> None:
    slot = answer(fleet, "shards")[0]["slot"]
    assert typed(fleet, "drain", slot).returncode == 0

    def accounts() -> list[int]:
        return [row["accounts"] for row in fleet.view.shards() if row["slot"] == slot]

    eventually(lambda: accounts() == [0], 15.0, "the drained worker to be empty")
    fleet.wait_live(ACCOUNTS, within_s=10.0)
    eventually(lambda: all(fleet.streaming(account) for account in fleet.credentials), 5.0, "one socket each")
    assert typed(fleet, "drain", slot, "--undo").returncode == 0
