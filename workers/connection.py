"""One WebSocket connection to an exchange: URL in, whole messages out. Runs in every worker and market-data process.

The one door to websocket-client, which does the opening handshake over a socket of ours; after that our own reader
(`fleet.core.frames`) cuts frames out of large reads. All methods but `abort` belong to the thread that reads.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select
import socket
import ssl
import sys
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import websocket
import websocket._handshake as library_handshake

from fleet.core.errors import ConnectionFailed, DialRefused, SettingsError
from fleet.core.frames import (
    BINARY,
    CLOSE,
    CLOSE_NO_STATUS,
    CLOSE_NORMAL,
    PING,
    PONG,
    TEXT,
    Control,
    FrameReader,
    close_payload,
    encode_frame,
)
from fleet.runtime.deadline import Names
from fleet.runtime.http import trust

USER_AGENT = "streamfleet"
RECV_BYTES = 65536
MAX_HANDSHAKE_BYTES = 65536
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
CONNECT_TIMEOUT_S = 4.0  # per address
SEND_TIMEOUT_S = 5.0
CLOSE_WAIT_S = 1.0
LONGEST_BAN_S = 3 * 86_400.0  # Binance's; a proxy may tell anything
SLICE_S = 0.2  # a dial looks this often whether it was cancelled

_names = Names()


class _Patience:
    """How long a dial may still take: until its deadline, or until its owner does not want it any more."""

    def __init__(self, timeout_s: float, cancelled: Callable[[], bool] | None) -> None:
        self.deadline_s = time.monotonic() + timeout_s
        self._cancelled = cancelled

    def left_s(self) -> float:
        """Seconds left, more than 0. Raises ConnectionFailed."""
        left_s = self.deadline_s - time.monotonic()
        if left_s <= 0:
            raise ConnectionFailed("dial timed out")
        if self._cancelled is not None and self._cancelled():
            raise ConnectionFailed("dial cancelled")
        return left_s

    def slice_s(self) -> float:
        """The longest single wait now."""
        return min(self.left_s(), SLICE_S)

    def wait(self, sock: socket.socket, event: int, until_s: float = math.inf) -> None:
        """Until poll `event` is there. Raises ConnectionFailed, and TimeoutError at `until_s` (time.monotonic())."""
        poll = select.poll()
        poll.register(sock, event)
        while not poll.poll(self.slice_s() * 1000):
            if time.monotonic() >= until_s:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


class _NoCookies:
    """Stands in for the library's process-global cookie jar, which would carry cookies from one account to another."""

    def add(self, set_cookie: str | None) -> None:
        """Forget it."""

    def get(self, host: str) -> str:
        return ""


library_handshake.CookieJar = _NoCookies()  # type: ignore[assignment]  # it asks for add and get only


def tls_context(ca_file: str) -> ssl.SSLContext:
    """The process's one TLS client context (75 KiB a connection when shared, 830 KiB when not). Raises SettingsError."""
    if sys.version_info[:3] == (3, 13, 6):
        raise SettingsError("CPython 3.13.6 deadlocks between TLS send and receive: use another version")
    os.environ.pop("SSLKEYLOGFILE", None)  # would write the session keys of signed traffic to a file
    try:
        return trust(ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"FLEET_TLS_CA_FILE={ca_file}: {error}") from error


class _HandshakeSocket:
    """What the library sees of our socket during the handshake: bounded in bytes and in total time, and read in large
    pieces (the library asks for single bytes). `unread` is what came after the handshake."""

    def __init__(self, sock: socket.socket, patience: _Patience) -> None:
        self._sock = sock
        self._patience = patience
        self.received = bytearray()
        self._taken = 0

    def gettimeout(self) -> float:
        return self._patience.left_s()

    def fileno(self) -> int:
        return self._sock.fileno()

    def send(self, data: bytes) -> int:
        self._sock.settimeout(self._patience.left_s())
        self._sock.sendall(data)
        return len(data)

    def recv(self, size: int) -> bytes:
        if self._taken == len(self.received):
            if len(self.received) >= MAX_HANDSHAKE_BYTES:
                raise ConnectionFailed(f"handshake reply is over {MAX_HANDSHAKE_BYTES} bytes")
            data = self._more()
            if not data:
                raise ConnectionFailed("closed during the handshake")
            self.received += data
        part = bytes(self.received[self._taken : self._taken + size])
        self._taken += len(part)
        return part

    def _more(self) -> bytes:
        while True:
            self._sock.settimeout(self._patience.slice_s())
            try:
                return self._sock.recv(4096)
            except TimeoutError:
                continue

    def unread(self) -> bytes:
        return bytes(self.received[self._taken :])

    def close(self) -> None:
        """Ours to close, not the library's."""


class Connection:
    """An open WebSocket. `last_rx` is time.monotonic() of the last bytes of any kind; `close_code` the peer's, once it closed."""

    __slots__ = (
        "_aborted",
        "_dead",
        "_reader",
        "_sock",
        "_timeout_s",
        "_waiting",
        "close_code",
        "last_rx",
        "local_address",
    )

    def __init__(self, sock: socket.socket, unread: bytes, max_message_bytes: int) -> None:
        self._sock = sock
        self._reader = FrameReader(max_message_bytes)
        self._waiting = unread  # bytes that arrived together with the handshake
        self._timeout_s = -1.0
        self._dead: ConnectionFailed | None = None
        self._aborted = False
        self.close_code: int | None = None
        self.last_rx = time.monotonic()
        self.local_address: str = sock.getsockname()[0]

    @classmethod
    def open(
        cls,
        url: str,
        *,
        source_ip: str | None = None,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 10.0,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        cancelled: Callable[[], bool] | None = None,
    ) -> Connection:
        """Dial, TLS, handshake, all within `timeout_s`, and given up within SLICE_S once `cancelled()` is true. Raises
        DialRefused (an HTTP answer) or ConnectionFailed; neither text shows the URL, which may hold a listen key."""
        patience = _Patience(timeout_s, cancelled)
        parts = urlsplit(url)
        secure = parts.scheme == "wss"
        host = parts.hostname or ""
        sock = _dial(host, parts.port or (443 if secure else 80), source_ip, patience)
        try:
            if secure:
                sock = _wrap(sock, tls or tls_context(""), host, patience)
            return cls(sock, _handshake(sock, url, patience), max_message_bytes)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise ConnectionFailed(f"TLS certificate of {host} refused: {error.verify_message}") from None
        except (OSError, ValueError) as error:
            sock.close()
            raise ConnectionFailed(f"handshake failed: {_kind(error)}") from None
        except BaseException:
            sock.close()
            raise

    def read(self, timeout_s: float) -> list[bytes]:
        """Whole messages received, in order; [] when `timeout_s` passed or only control frames came. Answers pings. Raises
        ConnectionFailed(reason, code) when the connection is dead, after what came before it was handed out."""
        if self._dead is not None:
            raise self._dead
        if self._waiting:
            data, self._waiting = self._waiting, b""
        else:
            data = self._receive(timeout_s)
            if not data:
                return []
        messages = self._reader.feed(data)
        if self._reader.controls:
            self._answer_controls()
        if self._reader.failure is not None:
            self._give_up(self._reader.failure)
        if not messages and self._dead is not None:
            raise self._dead
        return messages

    def send(self, payload: bytes, *, binary: bool = False) -> None:
        """Send one message. Any error kills the connection: half a frame on the wire cannot be taken back."""
        self._write(BINARY if binary else TEXT, payload)

    def send_fresh(self, make: Callable[[], bytes]) -> None:
        """Send one message that holds the time: it is made when it goes out."""
        self.send(make())

    def ping(self, payload: bytes = b"") -> None:
        """Send a protocol ping; its pong shows in `last_rx`."""
        self._write(PING, payload)

    def abort(self) -> None:
        """Wake a blocked reader, from any thread, within a millisecond; the reader then raises ConnectionFailed. Does not
        touch the TLS object (SSLSocket.shutdown would drop to plaintext)."""
        self._aborted = True
        with contextlib.suppress(OSError):  # already gone: what we wanted
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def close(self, code: int = CLOSE_NORMAL) -> None:
        """Say goodbye with `code`, wait briefly for the peer's close, drop the socket. By the reader only; never raises."""
        if self._dead is None and not self._aborted:
            with contextlib.suppress(ConnectionFailed):
                self._write(CLOSE, close_payload(code))
                deadline = time.monotonic() + CLOSE_WAIT_S
                while (left_s := deadline - time.monotonic()) > 0:
                    self.read(left_s)
        self._dead = self._dead or ConnectionFailed("closed by us", code=code)
        self._sock.close()

    def _receive(self, timeout_s: float) -> bytes:
        """One recv. A TLS socket tries its own buffer first and waits only then, so no `pending` check is needed."""
        try:
            if timeout_s != self._timeout_s:
                self._sock.settimeout(timeout_s)
                self._timeout_s = timeout_s
            data = self._sock.recv(RECV_BYTES)
        except (TimeoutError, ssl.SSLWantReadError, BlockingIOError):
            return b""
        except (OSError, ValueError) as error:  # ValueError: the TLS object went away under an abort
            raise self._die(ConnectionFailed("aborted" if self._aborted else f"read failed: {_kind(error)}")) from error
        if not data:
            raise self._die(ConnectionFailed("aborted" if self._aborted else "closed without a close frame", code=1006))
        self.last_rx = time.monotonic()
        return data

    def _answer_controls(self) -> None:
        controls, self._reader.controls = self._reader.controls, []
        for control in controls:
            self._answer(control)

    def _answer(self, control: Control) -> None:
        if control.opcode == PING and self._dead is None:
            with contextlib.suppress(ConnectionFailed):  # remembered in _dead, raised by the next read
                self._write(PONG, control.payload)
        elif control.opcode == CLOSE:
            self.close_code = control.code
            if self._dead is None:
                with contextlib.suppress(ConnectionFailed):
                    self._write(CLOSE, b"" if control.code == CLOSE_NO_STATUS else control.payload[:2])
            reason = control.payload[2:].decode(errors="replace")
            self._dead = ConnectionFailed(f"closed by the peer {reason}".rstrip(), code=control.code)

    def _give_up(self, failure: ConnectionFailed) -> None:
        """Tell the peer why, as RFC 6455 asks, and drop the connection."""
        with contextlib.suppress(ConnectionFailed):
            self._write(CLOSE, close_payload(failure.code or CLOSE_NORMAL, failure.reason))
        self._dead = failure

    def _write(self, opcode: int, payload: bytes) -> None:
        if self._dead is not None:
            raise self._dead
        try:
            self._timeout_s = -1.0
            self._sock.settimeout(SEND_TIMEOUT_S)
            self._sock.sendall(encode_frame(opcode, payload, os.urandom(4)))
        except (OSError, ValueError) as error:
            raise self._die(ConnectionFailed("aborted" if self._aborted else f"send failed: {_kind(error)}")) from error

    def _die(self, failure: ConnectionFailed) -> ConnectionFailed:
        self._dead = failure
        return failure


def _dial(host: str, port: int, source_ip: str | None, patience: _Patience) -> socket.socket:
    """TCP socket to the first address that answers. Raises ConnectionFailed with the last address's reason."""
    reason = "no address"
    for family, kind, protocol, _, address in _resolved(host, port, patience):
        sock = socket.socket(family, kind, protocol)
        try:
            _tune(sock)
            if source_ip:
                sock.bind((source_ip, 0))
            sock.setblocking(False)
            if sock.connect_ex(address) != 0:
                patience.wait(sock, select.POLLOUT, time.monotonic() + CONNECT_TIMEOUT_S)
                if failure := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(failure, os.strerror(failure))
            return sock
        except OSError as error:
            sock.close()
            reason = _kind(error)
        except ConnectionFailed:
            sock.close()
            raise
    raise ConnectionFailed(f"cannot connect to {host}:{port}: {reason}")


def _resolved(host: str, port: int, patience: _Patience) -> list[Any]:
    """What getaddrinfo says. That takes as long as it likes, and no signal ends it: a thread waits for it, not the dial, which
    may be a stream's that is to stop. Raises ConnectionFailed."""
    while True:
        try:
            addresses = _names.addresses(host, patience.slice_s())
        except TimeoutError:
            continue
        except OSError as error:
            raise ConnectionFailed(f"cannot resolve {host}: {_kind(error)}") from error
        numeric = socket.AI_NUMERICHOST
        return [
            one
            for address in addresses
            for one in socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=numeric)
        ]


def _wrap(sock: socket.socket, tls: ssl.SSLContext, host: str, patience: _Patience) -> ssl.SSLSocket:
    """TLS over a connected socket. Raises OSError, ConnectionFailed."""
    sock.setblocking(False)
    wrapped = tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    try:
        while True:
            try:
                wrapped.do_handshake()
                return wrapped
            except ssl.SSLWantReadError:
                patience.wait(wrapped, select.POLLIN)
            except ssl.SSLWantWriteError:
                patience.wait(wrapped, select.POLLOUT)
    except BaseException:
        wrapped.close()
        raise


def _tune(sock: socket.socket) -> None:
    """No Nagle; a vanished peer is noticed by the kernel within 30 s idle and 20 s with data in flight."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 20_000)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _handshake(sock: socket.socket, url: str, patience: _Patience) -> bytes:
    """Let the library open the WebSocket; returns the bytes that came after its reply. Raises DialRefused, ConnectionFailed."""
    bounded = _HandshakeSocket(sock, patience)
    library = websocket.WebSocket(skip_utf8_validation=True, enable_multithread=False)
    try:
        library.connect(  # type: ignore[no-untyped-call]
            url,
            socket=bounded,
            redirect_limit=0,
            suppress_origin=True,
            header=[f"User-Agent: {USER_AGENT}"],
            timeout=patience.left_s(),
        )
    except (websocket.WebSocketException, ConnectionFailed) as error:
        # `from None`: the library's texts carry headers and bodies
        refusal = _refusal(bytes(bounded.received))
        if refusal is not None:
            raise refusal from None
        if isinstance(error, ConnectionFailed):
            raise
        raise ConnectionFailed(f"handshake failed: {_kind(error)}") from None
    library.sock = None
    return bounded.unread()


def _refusal(reply: bytes) -> DialRefused | None:
    """The HTTP answer in `reply` as an error, if it is a whole header of another status than 101."""
    head, end, body = reply.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    status = lines[0].split(" ")[1:2]
    if not end or not status or not status[0].isdigit() or status[0] == "101":
        return None
    headers = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines[1:])}
    return DialRefused(int(status[0]), _retry_after_s(headers.get("retry-after", "")), body)


def _retry_after_s(text: str) -> float:
    """`Retry-After` as seconds from now: a number or an HTTP date; 0.0 for neither, and no more than exchanges ban for."""
    if text.replace(".", "", 1).isdigit():
        return min(float(text), LONGEST_BAN_S)
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - time.time()), LONGEST_BAN_S)
    except (TypeError, ValueError):
        return 0.0


def _kind(error: BaseException) -> str:
    """What went wrong, without an address or a URL."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
