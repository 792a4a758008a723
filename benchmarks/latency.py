"""From an account's event to Kafka's acknowledgement, at 1,000 events/s over 500 accounts, through the worker's own publisher."""

from __future__ import annotations

import threading
import time
import uuid
from functools import partial
from typing import Any

import msgspec

from fleet.core.events import Fill
from fleet.core.names import HEADER_INCARNATION, HEADER_SHARD, HEADER_TOKEN, TOPIC_FILLS
from fleet.runtime.kafka_io import Producer
from fleet.runtime.metrics import Metrics
from workers.publish import Publisher

ACCOUNTS = 500
EVENTS_PER_S = 1000
SECONDS = 15
WARM_UP = 2000
TARGET_P50_MS, TARGET_P99_MS = 10.0, 50.0


class _Always:
    def valid(self) -> bool:
        return True


def measure(bootstrap: str) -> dict[str, Any]:
    """Percentiles in ms; the baseline is a record at a time, sent and waited for."""
    publisher = Publisher(lambda: Producer(bootstrap, "bench-latency"), _Always(), 64 * 1024 * 1024, Metrics()).start()
    accounts = [str(uuid.UUID(int=n)).encode() for n in range(ACCOUNTS)]
    headers = [(HEADER_TOKEN, b"0" * 20), (HEADER_SHARD, b"bench:0"), (HEADER_INCARNATION, b"bench")]
    encode = msgspec.json.Encoder().encode
    took_ms: list[float] = []

    def acked(sent_s: float) -> None:
        took_ms.append((time.monotonic() - sent_s) * 1000)

    began_s = time.monotonic()
    total = EVENTS_PER_S * SECONDS + WARM_UP
    for n in range(total):
        due_s = began_s + n / EVENTS_PER_S
        if (wait_s := due_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        value = encode(_fill(n, accounts[n % ACCOUNTS].decode()))
        if not publisher.offer(TOPIC_FILLS, accounts[n % ACCOUNTS], value, headers, partial(acked, time.monotonic())):
            raise RuntimeError("the buffer filled up")
    publisher.flush(30.0)
    publisher.close(5.0)
    if len(took_ms) != total:
        raise RuntimeError(f"{len(took_ms)} of {total} acknowledged")
    ordered = sorted(took_ms[WARM_UP:])
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    return {
        "what": f"event to Kafka acknowledged, ms p99 at {EVENTS_PER_S} events/s over {ACCOUNTS} accounts",
        "value": round(p99, 1),
        "p50": round(p50, 1),
        "max": round(ordered[-1], 1),
        "baseline": round(_waiting(bootstrap, accounts, headers), 1),
        "baseline_is": "p99 of one record sent, waited for, then the next",
        "target": TARGET_P99_MS,
        "target_p50": TARGET_P50_MS,
        "met": p50 <= TARGET_P50_MS and p99 <= TARGET_P99_MS,
    }


def _waiting(bootstrap: str, accounts: list[bytes], headers: list[tuple[str, bytes]]) -> float:
    producer = Producer(bootstrap, "bench-wait")
    encode = msgspec.json.Encoder().encode
    took_ms = []
    for n in range(600):
        acked = threading.Event()
        sent_s = time.monotonic()
        value = encode(_fill(n, accounts[n % ACCOUNTS].decode()))
        producer.send(TOPIC_FILLS, accounts[n % ACCOUNTS], value, headers, lambda _error, acked=acked: acked.set())  # type: ignore[misc]
        if not acked.wait(30.0):
            raise RuntimeError("Kafka did not answer")
        took_ms.append((time.monotonic() - sent_s) * 1000)
    producer.close(5.0)
    ordered = sorted(took_ms[100:])
    return ordered[int(len(ordered) * 0.99)]


def _fill(n: int, account_id: str) -> Fill:
    now_ms = int(time.time() * 1000)
    return Fill(
        id=f"binance_usdm:fill:{account_id}:BTCUSDT:{n}:{n}", exchange="binance", market="usdm", symbol="BTCUSDT", ts_event=now_ms,
        ts_recv=now_ms, account_id=account_id, trade_id=str(n), order_id=str(n), client_order_id="bench", side="buy",
        position_side="both", price="83091.60", qty="0.020", fee="0.6", fee_asset="USDT", liquidity="taker", realized_pnl="0",
    )  # fmt: skip
