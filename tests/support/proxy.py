"""A loopback TCP proxy in front of one service, to cut or freeze the way of one client alone. In: a target port; out: a port.

Three states: `heal()` passes bytes on, `cut()` resets what is open and refuses what comes, `freeze()` holds connections open and
passes nothing on (a network that swallows packets). One thread, used by tests that give one host its own FLEET_REDIS_URL.
"""

from __future__ import annotations

import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self

RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends RST
CHUNK_BYTES = 65536
LOOK_S = 0.1


class Proxy:
    """Use it as a context manager. `cut`, `freeze` and `heal` may be called from any thread."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}  # the proxy's thread alone
        self._state = "open"  # one word, written by callers, read by the thread
        self._wake, self._woken = socket.socketpair()
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._stop.set()
        self._wake.send(b"x")
        self._thread.join(5)
        for each in (self._listener, self._wake, self._woken):
            each.close()
        self._selector.close()

    def cut(self) -> None:
        self._become("cut")

    def freeze(self) -> None:
        self._become("frozen")

    def heal(self) -> None:
        """Connections that lived through a freeze deliver what was held; those that were cut stay cut."""
        self._become("open")

    def _become(self, state: str) -> None:
        self._state = state
        self._wake.send(b"x")

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────
    def _run(self) -> None:
        while not self._stop.is_set():
            ready = [key.fileobj for key, _ in self._selector.select(LOOK_S)]
            if self._woken in ready:
                self._woken.recv(64)
            if self._state == "cut":
                for each in list(self._peers):
                    self._end(each)
            for source in ready:
                if source is self._listener:
                    self._accept()
                elif isinstance(source, socket.socket) and source in self._peers and self._state == "open":
                    self._pass(source)
            if self._state == "frozen":
                self._stop.wait(LOOK_S / 2)  # what is readable stays unread, so select does not wait
        for each in list(self._peers):
            self._end(each)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return
        if self._state == "cut":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        try:
            server = socket.create_connection(self._target, timeout=1.0)
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            one.settimeout(5.0)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass(self, source: socket.socket) -> None:
        try:
            data = source.recv(CHUNK_BYTES)
            if data:
                self._peers[source].sendall(data)
                return
        except OSError:
            pass  # either side is gone: both end
        self._end(source)

    def _end(self, source: socket.socket) -> None:
        if source not in self._peers:
            return
        for each in (source, self._peers[source]):
            del self._peers[each]
            self._selector.unregister(each)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            each.close()
