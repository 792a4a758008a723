"""WebSocket frames, server side. In: payload bytes; out: unmasked frames (RFC 6455, 5.2). Runs in the simulator
process.

Market data is encoded here once and the same bytes object is written to every subscriber; the receiving direction and
the control frames are left to `websockets`' sans-I/O protocol.
"""

from __future__ import annotations

import struct

TEXT, BINARY, PING = 0x1, 0x2, 0x9


def encode(payload: bytes, opcode: int = TEXT, fin: bool = True) -> bytes:
    """One frame around `payload`."""
    first = (0x80 if fin else 0) | opcode
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def payload_of(frame: bytes) -> bytes:
    """The payload of a frame made by `encode`."""
    size = frame[1]
    return frame[2:] if size < 126 else frame[4:] if size == 126 else frame[10:]


def fragmented(frame: bytes, pieces: int = 3) -> list[bytes]:
    """The same message as up to `pieces` fragments with a ping between the first two, as a proxy or a stressed
    server may send it.
    """
    payload = payload_of(frame)
    opcode = frame[0] & 0x0F
    step = max(1, len(payload) // pieces)
    cuts = [payload[i : i + step] for i in range(0, len(payload), step)] or [b""]
    out = [encode(part, opcode if i == 0 else 0, i == len(cuts) - 1) for i, part in enumerate(cuts)]
    out.insert(1, encode(b"between fragments", PING))
    return out
