"""Many spot accounts on ONE WebSocket API socket: all live, cut once under trade, one key revoked. In: `--accounts N` (200).
Out: figures, exit code 1 if a fill is missing or a neighbour was disturbed. About 5 minutes; its tiny version, with the same
steps and 8 accounts, is tests/component/test_shared_socket.py.
"""

from __future__ import annotations

import argparse
import sys
import time

from fleet.runtime.logs import configure
from fleet.runtime.settings import Settings
from tests.component.test_shared_socket import Shard
from tests.component.test_stream import until
from tests.support.simulator import Simulator

SEND_INTERVAL_S = 0.4  # the twin takes three messages a second, and our pings count


def run(shard: Shard, accounts: int) -> None:
    wait_s = 60.0 + accounts * SEND_INTERVAL_S * 1.5
    at_s = time.monotonic()
    until(shard.live, wait_s, "all accounts live")
    assert len(shard.sockets()) == 1, "one socket"
    print(f"{accounts} accounts live on one socket after {time.monotonic() - at_s:.0f} s", flush=True)
    shard.trade()
    until(lambda: not shard.missing(), 20.0, "fills")
    shard.simulator.fault("cut", path="/ws-api", count=1)
    until(lambda: not shard.sockets(), 10.0, "the cut")
    at_s = time.monotonic()
    shard.trade()
    until(lambda: shard.live() and not shard.missing(), wait_s, "what the cut swallowed, and all live again")
    ids = [r["id"] for r in shard.kafka.records if r["type"] == "fill"]
    print(f"cut: all live, {len(set(ids))} fills, missing 0, after {time.monotonic() - at_s:.0f} s", flush=True)
    victim = "acc-0"
    before = {a: s.reconnects for a, s in shard.streams.items()}
    shard.simulator.set_state(shard.keys[victim].api_key, "invalid")
    shard.streams[victim].read_back()
    until(lambda: shard.desk.struck == [victim], 30.0, "a strike against the revoked key")
    shard.trade(victim)
    until(lambda: not shard.missing(), 20.0, "the neighbours' fills")
    assert shard.live(victim) and shard.desk.struck == [victim]
    assert all(s.reconnects == before[a] for a, s in shard.streams.items() if a != victim)
    print("one key revoked: its stream stops, no neighbour reconnects, missing 0", flush=True)


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.campaigns.sharing", description=__doc__)
    options.add_argument("--accounts", type=int, default=200)
    accounts: int = options.parse_args().accounts
    configure(Settings(log_level="error"), "sharing")
    with Simulator(("binance_spot",), plain=True) as simulator:
        simulator.settings(
            weight_limit=1_000_000
        )  # a shard of the tests has no weight budget, and this is about the socket
        shard = Shard(simulator, most=1000, send_interval_s=SEND_INTERVAL_S, accounts=accounts)
        try:
            run(shard, accounts)
        except AssertionError as error:
            print(f"FAILED: {error}; missing {len(shard.missing())}, struck {shard.desk.struck}", flush=True)
            return 1
        finally:
            shard.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
