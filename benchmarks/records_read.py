"""What reading all ownership records costs, at once and by pages: a part of `python -m benchmarks.scaling`.

In: a number of workers. Out: a row of figures for each number of accounts, from an own Redis. docs/scaling.md explains them.
"""

from __future__ import annotations

import gc
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator.own_reading import OwnReading
from fleet.core import wire
from fleet.core.model import Ownership, token_of
from fleet.core.names import Keys
from fleet.runtime.redis_store import OwnPart, RedisStore, connect
from fleet.services import Services


def name_of(n: int) -> str:
    return f"{n:08x}-0000-4000-8000-000000000000"


def records(accounts: int, workers: int) -> dict[str, Ownership]:
    return {
        name_of(n): Ownership(f"h{n % workers}:0", "i1", token_of(1, n), wire.RUN, 1_700_000_000_000, 1)
        for n in range(accounts)
    }


def reading(workers: int) -> list[dict[str, Any]]:
    """All records: in one HGETALL, while which Redis does nothing else, and by pages as the leader reads them after somebody
    else's write to `own` that names do not explain; and 20 of them by name."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="scaling-") as name:
        with Services.start(Path(name), only=("redis",)) as services:
            for accounts in (10_000, 100_000, 1_000_000):
                store = RedisStore(services.redis.url, Keys(f"t{uuid.uuid4().hex[:8]}"), 0.5)
                client: Any = connect(services.redis.url, 60.0, store.keys.gen)
                packed = [(account, wire.pack_own(record)) for account, record in records(accounts, workers).items()]
                for start in range(0, accounts, 10_000):
                    client.hset(store.keys.own, mapping=dict(packed[start : start + 10_000]))
                some = [account for account, _ in packed[::-1][:20]]
                del packed
                gc.collect()
                memory = client.memory_usage(store.keys.own, samples=0)
                rows.append({
                    "accounts": accounts, "own_bytes_per_account": round(memory / accounts),
                    "hgetall": _cost(client, "hgetall", lambda: _at_once(client, store)),  # noqa: B023
                    "pages": _cost(client, "hscan", lambda: _by_pages(store)),  # noqa: B023
                    "twenty_by_name": _cost(client, "hmget", lambda: {"records": len(store.own_of(some).records)}),  # noqa: B023
                })  # fmt: skip
                client.delete(store.keys.own)
                client.close()
                store.close()
    return rows


def _cost(client: Any, command: str, read: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Wall and processor time of `read`; what the command took of Redis' thread, and the bytes that Redis sent."""
    client.execute_command("CONFIG", "RESETSTAT")
    began, began_cpu = time.monotonic(), time.process_time()
    told = read()
    took_s, cpu_s = time.monotonic() - began, time.process_time() - began_cpu
    stats = client.info("commandstats")[f"cmdstat_{command}"]
    return {
        "read_s": round(took_s, 4), "cpu_s": round(cpu_s, 4), "redis_busy_s": round(stats["usec"] / 1e6, 5),
        "calls": stats["calls"], "bytes": client.info("stats")["total_net_output_bytes"], **told,
    }  # fmt: skip


def _at_once(client: Any, store: RedisStore) -> dict[str, Any]:
    own = {account: wire.parse_own(text) for account, text in client.hgetall(store.keys.own).items()}
    return {"records": len(own)}


def _by_pages(store: RedisStore) -> dict[str, Any]:
    """As in a leader's ticks, but for what a tick does beside it."""
    page_s: list[float] = []
    own_page = store.own_page

    def timed(cursor: int) -> OwnPart:
        began = time.monotonic()
        part = own_page(cursor)
        page_s.append(time.monotonic() - began)
        return part

    store.own_page = timed  # type: ignore[method-assign]
    whole_reading, whole, tick_s = OwnReading(store), None, list[float]()
    while whole is None:
        began = time.monotonic()
        whole = whole_reading.go_on()
        tick_s.append(time.monotonic() - began)
    page_s.sort()
    return {
        "records": len(whole.records), "ticks": len(tick_s), "longest_tick_s": round(max(tick_s), 3),
        "page_median_s": round(page_s[len(page_s) // 2], 4), "page_longest_s": round(page_s[-1], 4),
    }  # fmt: skip
