"""Does a Kafka broker serve? One ApiVersions request over a plain socket; used by both brokers of this package."""

from __future__ import annotations

import socket
import struct

API_VERSIONS = 18
REQUEST = struct.pack(">hhih", API_VERSIONS, 0, 1, -1)  # key, version, correlation id, no client id


def broker_answers(port: int, timeout_s: float = 1.0) -> bool:
    """True once the broker on this loopback port answers a request. Raises OSError while nobody listens."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(struct.pack(">i", len(REQUEST)) + REQUEST)
        head = connection.recv(10)  # size, correlation id, error code
    return len(head) == 10 and head[8:10] == b"\0\0"
