"""A TLS WebSocket server that sends as fast as it is read: its frames are encoded before the clock starts.

A process of its own, so that it costs the measured one nothing: `python -m benchmarks.sender CERT_AND_KEY`. Prints its
port. The path a client asks for says what it gets: `/flood/N` N frames and a close, anything else silence.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
import struct
import sys
import threading

from benchmarks import traffic

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BLOB_FRAMES = 3000
WRITE_BYTES = 16384


def server_frame(payload: bytes) -> bytes:
    """One whole, unmasked text frame."""
    if len(payload) < 126:
        return b"\x81" + bytes([len(payload)]) + payload
    return b"\x81\x7e" + struct.pack("!H", len(payload)) + payload


def main(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    blob = b"".join(server_frame(f) for f in traffic.frames(BLOB_FRAMES))
    threading.stack_size(256 * 1024)
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=_serve, args=(sock, context, blob), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext, blob: bytes) -> None:
    try:
        with context.wrap_socket(plain, server_side=True) as sock:
            request = b""
            while b"\r\n\r\n" not in request:
                request += sock.recv(4096)
            sock.sendall(_accepted(request))
            path = request.split(b" ")[1].split(b"/")
            if path[1] == b"flood":
                for _ in range(int(path[2]) // BLOB_FRAMES):
                    for start in range(0, len(blob), WRITE_BYTES):
                        sock.sendall(blob[start : start + WRITE_BYTES])
                sock.sendall(b"\x88\x02\x03\xe8")
            while sock.recv(4096):
                pass
    except OSError:
        return  # the client is done


def _accepted(request: bytes) -> bytes:
    key = next(
        v for k, _, v in (line.partition(b": ") for line in request.split(b"\r\n")) if k.lower() == b"sec-websocket-key"
    )
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())  # noqa: S324 - RFC 6455 asks for it
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


if __name__ == "__main__":
    main(sys.argv[1])
