"""A gap longer than the exchange keeps history: what can be read is, and `fleet gaps` goes on showing that the rest is not."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet.core.recovery import Snapshot, Watermark
from fleet.demo.place import REPOSITORY
from tests.support.fleet import Fleet, eventually

pytestmark = pytest.mark.system
DAY_MS = 86_400_000
SAVED = "INSERT INTO stream_watermarks (account_id, token, watermark) VALUES (%(id)s, 0, %(mark)s::jsonb)"


def gaps(fleet: Fleet, *options: str) -> list[dict[str, Any]]:
    """What `fleet gaps` says of this fleet's accounts (the topics, and so the table, have other tests' too)."""
    command = [sys.executable, "-m", "fleet.cli", "gaps", "--json", *options]
    done = subprocess.run(
        command, env=fleet.env, cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True
    )
    return [gap for gap in json.loads(done.stdout) if gap["account_id"] in fleet.credentials]


def test_a_gap_beyond_the_exchanges_history_stays_visible(fleet_env: dict[str, str], tmp_path: Path) -> None:
    with Fleet(fleet_env, tmp_path, workers=1, accounts=1) as fleet:
        (account_id,) = fleet.credentials
        (credentials,) = fleet.credentials.values()
        long_ago_ms = int(time.time() * 1000) - 200 * DAY_MS
        base = Snapshot(long_ago_ms, {}, {"USDT": "1"})  # since then the account was funded and traded
        mark = Watermark(long_ago_ms, base, symbols={"BTCUSDT": long_ago_ms}, alive_ms=long_ago_ms)
        fleet.pg.execute(SAVED, {"id": account_id, "mark": msgspec.json.encode(mark).decode()})
        order = {"market": "usdm", "symbol": "BTCUSDT", "side": "buy", "qty": "0.1", "price": "50000", "fills": 2}
        fleet.control.call("POST", "/orders", {"api_key": credentials.api_key, **order})

        fleet.wait_live(1, within_s=90.0)
        told = eventually(lambda: [gap for gap in gaps(fleet) if gap["closed_at"]], 60.0, "the gap closes", every_s=0.5)
        assert len(told) == 1 and told[0]["recoverable"] is False
        assert "history before" in told[0]["reason"] and "is not kept by the exchange" in told[0]["reason"]
        stored = fleet.pg.fetch("SELECT count(*) AS n FROM fills WHERE account_id = %(id)s", {"id": account_id})
        assert stored[0]["n"] == 2, "what the exchange still has is read"

        fleet.control.call("POST", "/faults", {"kind": "cut", "api_key": credentials.api_key})
        eventually(lambda: sum(bool(g["closed_at"]) for g in gaps(fleet)) == 2, 60.0, "a later gap closes", every_s=0.5)
        assert sorted(gap["recoverable"] for gap in gaps(fleet)) == [False, True], "and changes nothing about the first"
        assert gaps(fleet, "--open") == []
