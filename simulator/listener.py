"""One listening port: TCP connections in, HTTP requests and WebSockets of one role of one venue out. Runs on the
simulator's event loop.

A second socket stays bound to the port without listening, so that `refuse` can close the listening one (the kernel
then refuses connections) without anybody else getting the port.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from typing import TYPE_CHECKING

from simulator.http1 import BadRequest, Request, Response, parse

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket
    from simulator.venue import Venue
    from simulator.world import World

LOOPBACK = "127.0.0.1"
BACKLOG = 1024
log = logging.getLogger("simulator")


def bound_socket(port: int) -> socket.socket:
    """A TCP socket bound to the port (0 = any), sharing it with others of ours."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((LOOPBACK, port))
    return sock


class Listener:
    """A port that serves `venue` in `role`."""

    def __init__(self, world: World, venue: Venue, role: str, tls: ssl.SSLContext | None, port: int = 0) -> None:
        self.world = world
        self.venue = venue
        self.role = role
        self._tls = tls
        self._holder = bound_socket(port)
        self.port: int = self._holder.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._refusing = False

    async def start(self) -> None:
        """Listen."""
        await self._accept(self._listening())

    def _listening(self) -> socket.socket:
        sock = bound_socket(self.port)
        sock.listen(BACKLOG)
        return sock

    async def _accept(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=sock, ssl=self._tls, backlog=BACKLOG)

    def set_refusing(self, refusing: bool) -> None:
        """Refuse or accept TCP connections from now on; open ones stay."""
        if refusing == self._refusing:
            return
        self._refusing = refusing
        if refusing and self._server is not None:
            self._server.close()
            self._server = None
        elif not refusing:
            self.world.spawn(self._resume(self._listening()))  # the kernel takes connections from here on

    async def _resume(self, sock: socket.socket) -> None:
        await self._accept(sock)
        if self._refusing and self._server is not None:
            self._server.close()  # refused again meanwhile
            self._server = None

    async def stop(self) -> None:
        """Stop listening and free the port."""
        if self._server is not None:
            self._server.close()
        self._holder.close()


class Connection(asyncio.Protocol):
    """One accepted TCP connection: HTTP until it upgrades."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._world = listener.world
        self._venue = listener.venue
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._ip = ""
        self._socket: StreamSocket | None = None
        self._held = False  # an answer is being held back: later requests wait

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=1 << 26)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ip = str((transport.get_extra_info("peername") or ("", 0))[0])

    def data_received(self, data: bytes) -> None:
        if self._socket is not None:
            self._socket.received(data)
            return
        self._buffer += data
        if not self._held:
            self._serve()

    def eof_received(self) -> bool:
        if self._socket is not None:
            self._socket.received_eof()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self._socket is not None:
            self._socket.lost()
            self._world.sockets.closed(self._socket)
            self._venue.closed(self._socket)

    def _serve(self) -> None:
        while not self._held and self._socket is None and not self._transport.is_closing():
            try:
                request = parse(self._buffer)
            except BadRequest as error:
                self._transport.write(Response(400, str(error).encode(), content_type="text/plain").encode(False))
                self._transport.close()
                return
            if request is None:
                return
            request.ip = self._ip
            if request.is_upgrade:
                self._upgrade(request)
            else:
                self._call(request)

    # ── REST ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _call(self, request: Request) -> None:
        venue, faults = self._venue, self._world.faults
        key = venue.key_of(request)
        group = venue.path_group(request.path)
        if faults.refuses(venue, request.path, key):
            self._world.calls.rest(venue.exchange, venue.market, request.method, group, 0)
            self._transport.abort()
            return
        response = faults.call(venue, request.path, key) or self._answer(request)
        self._world.calls.rest(venue.exchange, venue.market, request.method, group, response.status)
        delay_s = faults.call_delay_s(venue, request.path, key)
        if delay_s > 0:
            self._held = True
            asyncio.get_running_loop().call_later(delay_s, self._release, request, response)
        else:
            self._respond(request, response)

    def _answer(self, request: Request) -> Response:
        try:
            return self._venue.rest(request, self._listener.role)
        except BadRequest as error:
            return self._venue.error(400, -1100, str(error))
        except Exception:  # noqa: BLE001 - a bug here must show as a 500 and a traceback, not end the simulation
            log.exception("REST %s %s failed", request.method, request.path)
            return self._venue.error(500, -1000, "the simulator failed; see its log")

    def _release(self, request: Request, response: Response) -> None:
        self._held = False
        if not self._transport.is_closing():
            self._respond(request, response)
            self._serve()

    def _respond(self, request: Request, response: Response) -> None:
        keep = request.headers.get("connection", "").lower() != "close"
        data = response.encode(keep)
        self._transport.write(data[: data.find(b"\r\n\r\n") + 4] if request.method == "HEAD" else data)
        if not keep:
            self._transport.close()

    # ── WebSocket ────────────────────────────────────────────────────────────────────────────────────────────────
    def _upgrade(self, request: Request) -> None:
        venue, faults = self._venue, self._world.faults
        key = venue.key_of(request)
        if faults.refuses(venue, request.path, key):
            self._transport.abort()
            return
        refusal = faults.handshake(venue, request.path, key) or venue.handshake(request, self._listener.role)
        if refusal is not None:
            self._note_handshake(request, refusal.status)
            self._transport.write(refusal.encode(False))
            self._transport.close()
            return
        stream_socket = self._world.sockets.create(venue, self._listener.role, request, self._transport)
        status = stream_socket.accept(request.raw)
        self._note_handshake(request, status)
        if status != 101:
            return
        self._socket = stream_socket
        self._world.sockets.opened(stream_socket)
        venue.opened(stream_socket)
        faults.socket_opened(stream_socket)
        if self._buffer:
            early = bytes(self._buffer)
            self._buffer.clear()
            stream_socket.received(early)

    def _note_handshake(self, request: Request, status: int) -> None:
        venue = self._venue
        self._world.calls.handshake(
            venue.exchange, venue.market, venue.path_group(request.path), status, request.ip, venue.clock.now_ms()
        )
