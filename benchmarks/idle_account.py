"""Memory of one idle private stream: a thread blocked in a TLS connection's read, over the process without any."""

from __future__ import annotations

import gc
import threading
import time
from contextlib import suppress
from typing import Any

import psutil
import websocket

from benchmarks.peer import Peer, sender
from fleet.core.errors import ConnectionFailed
from fleet.runtime.http import trust
from workers.connection import Connection, tls_context

ACCOUNTS = 300
BASELINE_ACCOUNTS = 60
TARGET_KB = 120
STACK_BYTES = 512 * 1024


def measure() -> dict[str, Any]:
    """KB of RSS per account."""
    threading.stack_size(STACK_BYTES)
    with sender() as peer:
        baseline = _contexts_of_their_own(peer)
        ours = _shared_context(peer)
    threading.stack_size(0)
    return {
        "what": "RSS of an idle TLS account thread, KB",
        "value": round(ours, 1),
        "baseline": round(baseline, 1),
        "baseline_is": "websocket-client with a TLS context for each connection, no thread",
        "target": TARGET_KB,
        "met": ours <= TARGET_KB,
    }


def _shared_context(peer: Peer) -> float:
    tls = tls_context(peer.ca_file)
    first = [Connection.open(f"{peer.url}/idle", tls=tls) for _ in range(5)]  # what is paid once
    connections: list[Connection] = []
    threads: list[threading.Thread] = []
    stop = threading.Event()
    before = _rss_kb()
    for _ in range(ACCOUNTS):
        connection = Connection.open(f"{peer.url}/idle", tls=tls)
        connections.append(connection)
        threads.append(threading.Thread(target=_read, args=(connection, stop)))
        threads[-1].start()
    time.sleep(2.0)  # every thread has been through its loop a few times
    after = _rss_kb()
    stop.set()
    for connection in connections + first:
        connection.abort()
    for thread in threads:
        thread.join()
    return (after - before) / ACCOUNTS


def _read(connection: Connection, stop: threading.Event) -> None:
    with suppress(ConnectionFailed):  # the abort at the end
        while not stop.is_set():
            connection.read(0.5)
    connection.close()


def _contexts_of_their_own(peer: Peer) -> float:
    before = _rss_kb()
    clients = [
        websocket.create_connection(f"{peer.url}/idle", sslopt={"context": trust(peer.ca_file)})
        for _ in range(BASELINE_ACCOUNTS)
    ]
    after = _rss_kb()
    for client in clients:
        client.shutdown()  # type: ignore[no-untyped-call]
    return (after - before) / BASELINE_ACCOUNTS


def _rss_kb() -> float:
    gc.collect()
    return psutil.Process().memory_info().rss / 1024
