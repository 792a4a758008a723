"""What an operator types while a fleet runs: migrate, doctor, shards, shard, account, budget, drain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fleet.demo.place import REPOSITORY
from tests.support.fleet import Fleet, eventually, fresh_env
from tests.support.services import SharedServices

pytestmark = pytest.mark.system

ACCOUNTS = 4
ADDRESSES = ("127.0.0.2", "127.0.0.3")
EGRESS = {"FLEET_EGRESS_IPS": ",".join(ADDRESSES), "FLEET_CONNECTIONS_PER_IP": "binance_usdm=2"}


@pytest.fixture(scope="module")
def fleet(services: SharedServices, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    directory = tmp_path_factory.mktemp("operator")
    with fresh_env(services, directory) as env, Fleet(env | EGRESS, directory, workers=2, accounts=ACCOUNTS) as fleet:
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
        "placement",
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


def private(fleet: Fleet) -> Counter[str]:
    """Open private sockets by the address that the exchange sees."""
    return Counter(c["ip"] for c in fleet.control.connections() if c["closed_at"] is None and c["api_key"])


def test_accounts_dial_from_both_addresses_and_no_limit_is_broken(fleet: Fleet) -> None:
    assert private(fleet) == dict.fromkeys(ADDRESSES, 2)
    addresses = {account: fleet.view.account(account)["egress_ip"] for account in fleet.credentials}
    assert Counter(addresses.values()) == dict.fromkeys(ADDRESSES, 2)
    buckets = {row["egress_ip"] for row in answer(fleet, "budget") if row["kind"] == "dial"}
    assert buckets >= set(ADDRESSES)
    more = fleet.add_account()
    why = "no address may hold another binance_usdm connection (limit 2 each)"
    eventually(lambda: fleet.view.account(more)["reason"] == why, 10, "the reason")
    shown = answer(fleet, "account", more)
    assert (shown["state"], shown["reason"], shown["egress_ip"]) == ("unplaced", why, None)
    assert f"1 account unplaced: {why}" in typed(fleet, "shards").stderr
    assert any(
        f["check"] == "placement" and why in f["what"] for f in json.loads(typed(fleet, "doctor", "--json").stdout)
    )
    slot, pid = next((row["slot"], row["pid"]) for row in fleet.view.shards() if row["accounts"])
    mine = {row["id"]: row["token"] for row in fleet.view.shard(slot) or []}
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        rows = {row["id"]: row for row in fleet.view.shard(slot) or []}
        return rows.keys() == mine.keys() and all(
            r["state"] == "live" and r["token"] > mine[a] for a, r in rows.items()
        )

    eventually(back, 20, "the worker's accounts on the same worker")
    assert {a: fleet.view.account(a)["egress_ip"] for a in addresses} == addresses
    assert private(fleet) == dict.fromkeys(ADDRESSES, 2)
    fleet.rows.remove(more)
    del fleet.credentials[more]
    eventually(lambda: not fleet.view.unplaced(), 10, "nobody unplaced")


def test_a_drained_worker_gives_its_accounts_away(fleet: Fleet) -> None:
    slot = answer(fleet, "shards")[0]["slot"]
    assert typed(fleet, "drain", slot).returncode == 0

    def accounts() -> list[int]:
        return [row["accounts"] for row in fleet.view.shards() if row["slot"] == slot]

    eventually(lambda: accounts() == [0], 15.0, "the drained worker to be empty")
    fleet.wait_live(ACCOUNTS, within_s=10.0)
    eventually(lambda: all(fleet.streaming(account) for account in fleet.credentials), 5.0, "one socket each")
    assert typed(fleet, "drain", slot, "--undo").returncode == 0
