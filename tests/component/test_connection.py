"""Connection against a raw socket server that misbehaves on purpose."""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from fleet.core.errors import ConnectionFailed, DialRefused, ProtocolViolation, SettingsError
from workers.connection import Connection, tls_context

Script = Callable[[socket.socket], None]
ACCEPT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class RawServer:
    """Runs `script` on each accepted socket, one thread each; the script sees raw bytes."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._script, self._tls = script, tls
        self.requests: list[bytes] = []
        self._threads: list[threading.Thread] = []
        self.over = threading.Event()
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            sock.settimeout(10)
            try:
                if self._tls:
                    sock = self._tls.wrap_socket(sock, server_side=True)
                self._script(sock)
            except OSError:
                return  # the client went away, which most of these tests are about

    def close(self) -> None:
        if self.over.is_set():
            return
        self.over.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._accepting.join(5)
        for thread in self._threads:
            thread.join(5)


def upgrade(sock: socket.socket, after: bytes = b"", extra: bytes = b"") -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += sock.recv(4096)
    key = next(line.split(b": ")[1] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
    accept = base64.b64encode(hashlib.sha1(key + ACCEPT).digest())  # noqa: S324 - what the protocol asks for
    sock.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + extra + b"\r\n" + after
    )
    return request


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def start(script: Script, tls: ssl.SSLContext | None = None) -> RawServer:
        servers.append(RawServer(script, tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def dial(server: RawServer, *, timeout_s: float = 5.0, **options: object) -> Connection:
    return Connection.open(f"ws://127.0.0.1:{server.port}/x", tls=None, timeout_s=timeout_s, **options)  # type: ignore[arg-type]


def read_until_dead(connection: Connection, timeout_s: float = 5.0) -> tuple[list[bytes], ConnectionFailed]:
    messages: list[bytes] = []
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            messages += connection.read(0.5)
        except ConnectionFailed as error:
            return messages, error
    raise AssertionError("still alive")


def test_frames_that_came_with_the_handshake_are_not_lost(serve: Callable[..., RawServer]) -> None:
    server = serve(lambda sock: (upgrade(sock, b"\x81\x01a\x81\x01b"), sock.recv(1)))
    with closing(dial(server)) as connection:
        assert connection.read(1) == [b"a", b"b"]


def test_the_handshake_says_who_we_are_and_no_origin(serve: Callable[..., RawServer]) -> None:
    requests: list[bytes] = []

    def script(sock: socket.socket) -> None:
        requests.append(upgrade(sock, extra=b"Set-Cookie: a=b; Domain=127.0.0.1\r\n"))
        sock.recv(1)

    server = serve(script)
    for _ in range(2):
        dial(server).close()
    assert all(b"User-Agent: streamfleet" in r for r in requests)
    assert not any(b"Origin" in r or b"Cookie" in r or b"Extensions" in r for r in requests)


@pytest.mark.parametrize(
    ("reply", "status", "retry_after_s", "body"),
    [
        (b"HTTP/1.1 429 Too Many\r\nRetry-After: 30\r\nContent-Length: 2\r\n\r\n{}", 429, 30.0, b"{}"),
        (b"HTTP/1.1 418 Teapot\r\n\r\n", 418, 0.0, b""),
        (b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/\r\n\r\n", 302, 0.0, b""),
        (
            b"HTTP/1.1 503 Away\r\nRetry-After: Wed, 21 Oct 2015 07:28:00 GMT\r\nContent-Length: 99999\r\n\r\nx",
            503,
            0.0,
            b"x",
        ),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, 0.0, b"hello"),
    ],
)
def test_another_status_is_a_refusal(
    serve: Callable[..., RawServer], reply: bytes, status: int, retry_after_s: float, body: bytes
) -> None:
    server = serve(lambda sock: (sock.recv(4096), sock.sendall(reply)))
    with pytest.raises(DialRefused) as refused:
        dial(server)
    assert (refused.value.status, refused.value.retry_after_s, refused.value.body) == (status, retry_after_s, body)


def test_retry_after_as_a_date_counts_from_now(serve: Callable[..., RawServer]) -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60)).encode()
    server = serve(
        lambda sock: (sock.recv(4096), sock.sendall(b"HTTP/1.1 429 x\r\nRetry-After: " + date + b"\r\n\r\n"))
    )
    with pytest.raises(DialRefused) as refused:
        dial(server)
    assert 50 < refused.value.retry_after_s <= 60


def endless_header(sock: socket.socket) -> None:
    sock.recv(4096)
    sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nX: ")
    while True:
        sock.sendall(b"y" * 65536)


def slow_header(sock: socket.socket) -> None:
    sock.recv(4096)
    for byte in b"HTTP/1.1 101 Switching Protocols\r\n" * 100:
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


@pytest.mark.parametrize(
    "script",
    [
        endless_header,
        slow_header,
        lambda sock: (sock.recv(4096), sock.recv(4096)),  # says nothing
        lambda sock: (sock.recv(4096), sock.sendall(b"\x00\xff garbage \r\n\r\n")),
        lambda sock: (sock.recv(4096), sock.sendall(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n")),  # no accept
        lambda sock: sock.recv(1),  # closes
    ],
)
def test_a_bad_handshake_fails_within_its_time(serve: Callable[..., RawServer], script: Script) -> None:
    started = time.monotonic()
    with pytest.raises(ConnectionFailed) as failure:
        dial(serve(script), timeout_s=1.0)
    assert not isinstance(failure.value, DialRefused)
    assert time.monotonic() - started < 6.0


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_dial_that_nobody_wants_any_more_ends_at_once(
    serve: Callable[..., RawServer], ca_file: str, scheme: str
) -> None:
    server = serve(lambda sock: sock.recv(4096) and sock.recv(4096))  # accepts, and never answers
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    started = time.monotonic()
    with pytest.raises(ConnectionFailed, match="cancelled"):
        Connection.open(f"{scheme}://localhost:{server.port}/", tls=tls_context(ca_file), cancelled=stop.is_set)
    assert time.monotonic() - started < 1.0


def test_half_a_frame_then_silence_is_a_timeout_not_a_hang(serve: Callable[..., RawServer]) -> None:
    server = serve(lambda sock: (upgrade(sock, b"\x81\x7e\x01\x00half"), sock.recv(1)))
    with closing(dial(server)) as connection:
        assert connection.read(0.2) == []
        last = connection.last_rx
        started = time.monotonic()
        assert connection.read(0.2) == []
        assert 0.1 < time.monotonic() - started < 1.0
        assert connection.last_rx == last


def test_pings_are_answered_and_prove_life(serve: Callable[..., RawServer]) -> None:
    got: list[bytes] = []

    def script(sock: socket.socket) -> None:
        upgrade(sock)
        sock.sendall(b"\x89\x03abc")
        got.append(sock.recv(4096))
        sock.sendall(b"\x81\x02ok")
        sock.recv(1)

    with closing(dial(serve(script))) as connection:
        messages: list[bytes] = []
        while not messages:
            messages = connection.read(2)
        assert messages == [b"ok"]
    frame = got[0]
    assert frame[:2] == b"\x8a\x83"
    assert bytes(b ^ frame[2 + n % 4] for n, b in enumerate(frame[6:9])) == b"abc"


@pytest.mark.parametrize(("tail", "code"), [(struct.pack("!H", 1008) + b"Too many requests", 1008), (b"", 1005)])
def test_the_close_code_is_kept_and_echoed(serve: Callable[..., RawServer], tail: bytes, code: int) -> None:
    echoed: list[bytes] = []

    def script(sock: socket.socket) -> None:
        upgrade(sock, b"\x81\x01z\x88" + bytes([len(tail)]) + tail)
        echoed.append(sock.recv(4096))

    server = serve(script)
    with closing(dial(server)) as connection:
        messages, error = read_until_dead(connection)
    assert messages == [b"z"]
    assert (error.code, connection.close_code) == (code, code)
    server.close()
    assert echoed[0][0] == 0x88


@pytest.mark.parametrize(
    ("junk", "code"),
    [(os.urandom(64) + b"\xff" * 64, None), (b"\x81\x7f" + b"\x00\xff" * 4, 1009), (b"\xc1\x01x", 1002)],
)
def test_garbage_and_huge_lengths_kill_the_connection(
    serve: Callable[..., RawServer], junk: bytes, code: int | None
) -> None:
    junk = b"\xf0" + junk[1:] if code is None else junk
    server = serve(lambda sock: (upgrade(sock, b"\x81\x01a" + junk), sock.recv(4096)))
    with closing(dial(server)) as connection:
        messages, error = read_until_dead(connection)
    assert messages == [b"a"]
    assert isinstance(error, ProtocolViolation)
    if code:
        assert error.code == code


def test_abort_wakes_a_blocked_reader(serve: Callable[..., RawServer]) -> None:
    connection = dial(serve(lambda sock: (upgrade(sock), sock.recv(1))))
    waker = threading.Timer(0.2, connection.abort)
    waker.start()
    started = time.monotonic()
    with pytest.raises(ConnectionFailed, match="aborted"):
        connection.read(10)
    assert time.monotonic() - started < 1.0
    connection.abort()  # twice does no harm
    connection.close()
    with pytest.raises(ConnectionFailed):
        connection.send(b"x")


def test_a_peer_that_stops_reading_kills_the_connection_not_the_thread(
    serve: Callable[..., RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.connection.SEND_TIMEOUT_S", 0.3)
    gate = threading.Event()
    connection = dial(serve(lambda sock: (upgrade(sock), gate.wait(10))))
    with pytest.raises(ConnectionFailed, match="send failed"):
        while True:
            connection.send(b"x" * 1_000_000)
    with pytest.raises(ConnectionFailed):
        connection.read(0.1)
    gate.set()
    connection.close()


def test_refused_and_unknown_hosts(serve: Callable[..., RawServer]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionFailed, match="refused"):
            Connection.open(f"ws://127.0.0.1:{unused.getsockname()[1]}/?listenKey=canary", tls=None)


def test_the_source_address_is_used(serve: Callable[..., RawServer]) -> None:
    peers: list[str] = []

    def script(sock: socket.socket) -> None:
        peers.append(sock.getpeername()[0])
        upgrade(sock)
        sock.recv(1)

    server = serve(script)
    dial(server, source_ip="127.0.0.2").close()
    assert peers == ["127.0.0.2"]


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_context(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def test_tls_messages_of_many_records_and_an_abort(
    serve: Callable[..., RawServer], authority: trustme.CA, ca_file: str
) -> None:
    def script(sock: socket.socket) -> None:
        upgrade(sock, b"\x81\x7f" + struct.pack("!Q", 100_000) + b"x" * 100_000 + b"\x81\x01y")
        sock.recv(1)

    server = serve(script, server_context(authority, "localhost"))
    connection = Connection.open(f"wss://localhost:{server.port}/", tls=tls_context(ca_file))
    messages: list[bytes] = []
    while len(messages) < 2:
        messages += connection.read(1)
    assert [len(m) for m in messages] == [100_000, 1]
    threading.Timer(0.1, connection.abort).start()
    with pytest.raises(ConnectionFailed, match="aborted"):
        connection.read(10)
    connection.close()


@pytest.mark.parametrize(("name", "trusted"), [("localhost", False), ("other.example", True)])
def test_tls_wrong_authority_or_name_is_refused(
    serve: Callable[..., RawServer], authority: trustme.CA, ca_file: str, name: str, trusted: bool
) -> None:
    server = serve(lambda sock: upgrade(sock), server_context(authority, name))
    with pytest.raises(ConnectionFailed, match="certificate"):
        Connection.open(f"wss://localhost:{server.port}/", tls=tls_context(ca_file if trusted else ""))


def test_a_plain_server_behind_wss_fails_in_time(serve: Callable[..., RawServer], ca_file: str) -> None:
    server = serve(lambda sock: sock.recv(4096) and sock.recv(4096))  # never answers the TLS hello
    started = time.monotonic()
    with pytest.raises(ConnectionFailed):
        Connection.open(f"wss://localhost:{server.port}/", tls=tls_context(ca_file), timeout_s=0.5)
    assert time.monotonic() - started < 2.0


def test_session_keys_are_never_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert tls_context("").keylog_filename is None
    assert "SSLKEYLOGFILE" not in os.environ


def test_a_broken_interpreter_and_a_broken_ca_file_are_settings_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    with pytest.raises(SettingsError, match="FLEET_TLS_CA_FILE"):
        tls_context(str(tmp_path / "ca.pem"))
    monkeypatch.setattr("workers.connection.sys.version_info", (3, 13, 6, "final", 0))
    with pytest.raises(SettingsError, match=r"3\.13\.6"):
        tls_context("")


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
def test_a_resolver_that_does_not_answer_keeps_no_dial(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream that is told to stop is to be released within 30 s; three silent name servers take that long, or longer."""
    answered = threading.Event()

    def silent(*_: object, **__: object) -> list[object]:
        answered.wait(10.0)
        raise socket.gaierror(socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", silent)
    began_s = time.monotonic()
    try:
        with pytest.raises(ConnectionFailed, match=how):
            cancelled = how == "cancelled"
            Connection.open("ws://exchange.test/", timeout_s=0.5, cancelled=lambda: cancelled)
        assert time.monotonic() - began_s < 1.5
    finally:
        answered.set()


def test_a_name_that_does_not_exist_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConnectionFailed, match=r"cannot resolve nowhere.test: Name or service not known"):
        Connection.open("ws://nowhere.test/")


@pytest.mark.parametrize("told", ["9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_retry_after_without_sense_does_not_stop_dials_for_ever(serve: Callable[..., RawServer], told: str) -> None:
    reply = f"HTTP/1.1 429 x\r\nRetry-After: {told}\r\n\r\n".encode()
    server = serve(lambda sock: (sock.recv(4096), sock.sendall(reply)))
    with pytest.raises(DialRefused) as refused:
        Connection.open(f"ws://127.0.0.1:{server.port}/")
    assert refused.value.retry_after_s == 3 * 86_400
