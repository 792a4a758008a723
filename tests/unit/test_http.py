"""One REST call is bounded in time and size, whatever the server does, and a connection is used again."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from fleet.core.errors import ConnectionFailed
from fleet.core.exchange import HttpRequest
from fleet.runtime import http
from fleet.runtime.http import Http

CALL = HttpRequest("GET", "/x?signature=s", ())
Answer = Callable[[socket.socket], None]


class Server:
    """Answers each request on a connection in turn; `connections` were accepted."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self.connections.append(self._listener.accept()[0])
                threading.Thread(target=self._serve, args=(self.connections[-1],), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while sock.recv(4096):
                self._answer(sock)

    def close(self) -> None:
        for sock in (self._listener, *self.connections):
            sock.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Server]]:
    servers: list[Server] = []

    def start(answer: Answer) -> Server:
        servers.append(Server(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def drip(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    for _ in range(100):
        sock.sendall(b"x")
        time.sleep(0.05)


def pour(sock: socket.socket) -> None:
    sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(2_000):
        sock.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")
        time.sleep(0.001)


@pytest.mark.parametrize(("answer", "said"), [(drip, "Time"), (pour, "over 10000 bytes")])
def test_a_body_that_does_not_end_is_given_up(
    serve: Callable[[Answer], Server], answer: Answer, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each byte comes in time: a read timeout alone would hold a REST thread, of which there are six, for as long as it drips."""
    monkeypatch.setattr(http, "CONNECT_S", 0.2)
    monkeypatch.setattr(http, "MAX_BODY_BYTES", 10_000)
    began_s = time.monotonic()
    with pytest.raises(ConnectionFailed, match=said) as failed:
        Http(serve(answer).url, timeout_s=0.5).send(CALL)
    assert time.monotonic() - began_s < 1.5 and "signature" not in str(failed.value)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_connection_is_used_again(serve: Callable[[Answer], Server], chunked: bool) -> None:
    def answer(sock: socket.socket) -> None:
        if chunked:
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n")
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    server = serve(answer)
    client = Http(server.url)
    assert [client.send(CALL).body for _ in range(3)] == [b"{}"] * 3
    assert len(server.connections) == 1


def test_half_a_body_is_no_reply(serve: Callable[[Answer], Server]) -> None:
    def answer(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n[]")
        sock.shutdown(socket.SHUT_RDWR)

    with pytest.raises(ConnectionFailed):
        Http(serve(answer).url).send(CALL)
