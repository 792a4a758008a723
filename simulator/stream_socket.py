"""One WebSocket of a simulated exchange. In: received bytes, frames to send; out: bytes on the transport, calls into
the venue. Runs in the simulator process, on its one event loop.

`websockets`' sans-I/O ServerProtocol does the handshake, the receiving direction and control frames; data frames are
encoded by `frames` and written directly, so that a fault can reach each raw byte.
"""

from __future__ import annotations

import asyncio
import codecs
import logging
import socket as socket_module
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.http11 import Request as HandshakeRequest
from websockets.protocol import State
from websockets.server import ServerProtocol

from simulator.frames import TEXT, encode, fragmented
from simulator.http1 import Request

if TYPE_CHECKING:
    from simulator.fault import Fault
    from simulator.venue import Venue

MAX_BACKLOG = 64 * 1024 * 1024  # a client further behind than this is dropped, as exchanges do
CLOSE_WAIT_S = 5.0
log = logging.getLogger("simulator")


class FrameProtocol(ServerProtocol):
    """The sans-I/O protocol, handing on each frame the moment it is parsed: answers leave in the order of what they answer."""

    def __init__(self, on_frame: Callable[[Frame], None], max_size: int) -> None:
        super().__init__(max_size=max_size)
        self._on_frame = on_frame

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None  # a close may come between the fragments of a message (RFC 6455, 5.4)
        super().recv_frame(frame)
        self._on_frame(frame)


class StreamSocket:
    """One accepted WebSocket. `form` is the envelope the venue chose (0 raw, 1 combined), `session` the venue's own state."""

    __slots__ = (
        "api_keys", "close_code", "closed_at", "form", "frames_sent", "id", "impaired", "ip", "last_pong", "next_ping", "opened_at",
        "opened_mono", "out", "path", "query", "role", "session", "subscriptions", "venue", "_decoder", "_dirty",
        "_loop", "_message",
        "_message_opcode", "_paced", "_proto", "_pumping", "_transport",
    )  # fmt: skip

    def __init__(
        self, ident: int, venue: Venue, role: str, request: Request, transport: asyncio.Transport, dirty: Dirty
    ) -> None:
        self.id = ident
        self.venue = venue
        self.role = role
        self.path = request.path
        self.query = request.query
        self.ip = request.ip
        self.api_keys: list[str] = []
        self.subscriptions: dict[str, None] = {}
        self.form = 0
        self.session: Any = None
        self.opened_at = venue.clock.now_ms()
        self.opened_mono = time.monotonic()
        self.closed_at: int | None = None
        self.close_code: int | None = None
        self.frames_sent = 0
        self.impaired: list[Fault] = []
        self.out: list[bytes] = []
        self.last_pong = self.opened_mono
        self.next_ping = self.opened_mono + venue.settings.first_ping_s
        self._transport = transport
        self._dirty = dirty
        self._loop = asyncio.get_running_loop()
        self._paced: deque[bytes] = deque()
        self._pumping = False
        self._message: list[bytes] = []
        self._message_opcode = Opcode.TEXT
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._proto = FrameProtocol(self._frame, venue.settings.max_message_bytes)

    # ── handshake ────────────────────────────────────────────────────────────────────────────────────────────────
    def accept(self, raw_head: bytes) -> int:
        """Answer the handshake; returns the HTTP status (101, or what `websockets` found wrong with it)."""
        self._proto.receive_data(raw_head)
        for event in self._proto.events_received():
            if isinstance(event, HandshakeRequest):
                response = self._proto.accept(event)
                self._proto.send_response(response)
                self._write_protocol()
                return int(response.status_code)
        self._transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self._transport.close()
        return 400

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────────
    @property
    def is_open(self) -> bool:
        return self.closed_at is None and self._proto.state is State.OPEN

    def send(self, frame: bytes, stream: str = "") -> bool:
        """Queue one encoded frame; False when a fault or a closed socket swallowed it."""
        if self._proto.state is not State.OPEN:
            return False
        if self.impaired:
            return self._send_impaired(frame, stream)
        if not self.out:
            self._dirty.note(self)
        self.out.append(frame)
        self.frames_sent += 1
        return True

    def send_text(self, payload: bytes, stream: str = "") -> bool:
        """Encode and queue one text message."""
        return self.send(encode(payload, TEXT), stream)

    def _send_impaired(self, frame: bytes, stream: str) -> bool:
        pieces = [frame]
        for fault in tuple(self.impaired):
            if fault.kind == "half_open" or (fault.kind == "stall" and fault.names_stream(stream)):
                fault.hits += 1
                return False
            if fault.kind == "fragment" and fault.names_stream(stream) and fault.take():
                pieces = fragmented(frame)
        if not self.out:
            self._dirty.note(self)
        self.out.extend(pieces)
        self.frames_sent += 1
        return True

    def send_control(self, payload: bytes) -> bool:
        """A text message that answers a ping of the application's own: a stalled socket sends it, a half-open one does not."""
        if self._proto.state is not State.OPEN or any(fault.kind == "half_open" for fault in self.impaired):
            return False
        self.send_raw(encode(payload, TEXT))
        self.frames_sent += 1
        return True

    def send_raw(self, data: bytes) -> None:
        """Put bytes that need not be a valid frame on the wire (the fault `garbage`)."""
        if not self.out:
            self._dirty.note(self)
        self.out.append(data)

    def flush(self) -> None:
        """Write what was queued. Called by Dirty once per turn of the loop."""
        data = b"".join(self.out)
        self.out.clear()
        self._write(data)

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing() or any(fault.kind == "half_open" for fault in self.impaired):
            return
        size = self._chunk_size(len(data))
        if size or self._paced:
            step = size or len(data)
            self._paced.extend(data[i : i + step] for i in range(0, len(data), step))
            if not self._pumping:
                self._pump()
            return
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_BACKLOG:
            self.abort()

    def _chunk_size(self, total: int) -> int:
        for fault in self.impaired:
            if fault.kind == "slow":
                return max(1, int(float(fault.params.get("bytes_per_s", 2000)) * 0.05))
            if fault.kind == "fragment" and fault.left != 0:
                return max(1, total // 3)
        return 0

    def _pump(self) -> None:
        self._pumping = False
        if self._transport.is_closing():
            self._paced.clear()
            return
        kinds = {fault.kind for fault in self.impaired}
        if not kinds & {"slow", "fragment"}:
            self._transport.write(b"".join(self._paced))
            self._paced.clear()
            return
        self._transport.write(self._paced.popleft())
        if self._paced:
            self._pumping = True
            self._loop.call_later(0.05 if "slow" in kinds else 0.002, self._pump)

    def ping(self, payload: bytes) -> None:
        """A protocol ping."""
        if self._proto.state is State.OPEN and not self._holds_back_control():
            self._proto.send_ping(payload)
            self._write_protocol()

    def _holds_back_control(self) -> bool:
        return any(fault.kind in ("half_open", "stall") for fault in self.impaired)

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake; a client that does not answer is dropped after CLOSE_WAIT_S."""
        if self._proto.state is State.OPEN:
            if self.out:
                self.flush()
            self.close_code = code
            self._proto.send_close(code, reason)
            self._write_protocol()
            self._loop.call_later(CLOSE_WAIT_S, self.abort)

    def abort(self) -> None:
        """Reset the TCP connection at once."""
        if self.closed_at is not None:
            return
        raw = self._transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # ── receiving ────────────────────────────────────────────────────────────────────────────────────────────────
    def received(self, data: bytes) -> None:
        """Bytes from the client."""
        self._proto.receive_data(data)  # calls _frame
        self._proto.events_received()
        self._write_protocol()

    def received_eof(self) -> None:
        self._proto.receive_eof()
        self._write_protocol()

    def lost(self) -> None:
        """The transport is gone."""
        self.closed_at = self.venue.clock.now_ms()
        if self._proto.close_rcvd is not None and self.close_code is None:
            self.close_code = self._proto.close_rcvd.code
        self.out.clear()
        self._paced.clear()

    def _frame(self, frame: Frame) -> None:
        """One frame. Raises UnicodeDecodeError, which the protocol turns into a close with 1007."""
        if any(fault.kind == "half_open" for fault in self.impaired):
            return
        if frame.opcode in (Opcode.PING, Opcode.CLOSE):
            self._write_protocol()  # the protocol has queued the answer
        if frame.opcode is Opcode.CLOSE or not self.venue.inbound(self):
            return
        if frame.opcode is Opcode.PONG:
            self.last_pong = time.monotonic()
        elif frame.opcode is not Opcode.PING:
            self._data_frame(frame)

    def _data_frame(self, frame: Frame) -> None:
        if frame.opcode is not Opcode.CONT:
            self._message_opcode = frame.opcode
            self._message.clear()
            self._decoder.reset()
        data = bytes(frame.data)
        self._message.append(data)
        if self._message_opcode is Opcode.TEXT:
            self._decoder.decode(data, frame.fin)
        if not frame.fin or self._proto.state is not State.OPEN:
            return
        message = b"".join(self._message)
        self._message.clear()
        try:
            self.venue.received(self, message, self._message_opcode is Opcode.TEXT)
        except Exception:  # noqa: BLE001 - a bug here must show as a traceback and a close, not end the simulation
            log.exception("message on %s failed", self.path)
            self.close(1011, "the simulator failed")

    def _write_protocol(self) -> None:
        if self.out:
            self.flush()  # data queued earlier goes first: after a close frame nothing may follow
        for data in self._proto.data_to_send():
            if data:
                self._write(data)
            elif not any(fault.kind == "half_open" for fault in self.impaired):
                self._transport.close()

    def close_error(self) -> ConnectionClosed | None:
        """How the protocol ended, for tests."""
        return self._proto.close_exc if self._proto.state is State.CLOSED else None

    def as_json(self) -> dict[str, Any]:
        """One entry of `/connections`."""
        return {
            "id": self.id,
            "exchange": self.venue.exchange,
            "market": self.venue.market,
            "path": self.path,
            "api_key": self.api_keys[0] if self.api_keys else None,
            "opened_at": self.opened_at,
            "closed_at": self.closed_at,
            "frames_sent": self.frames_sent,
            "subscriptions": list(self.subscriptions),
            "ip": self.ip,
            "close_code": self.close_code,
        }


class Dirty:
    """Sockets with queued frames; flushes them all once per turn of the event loop."""

    def __init__(self) -> None:
        self._sockets: list[StreamSocket] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def note(self, socket: StreamSocket) -> None:
        if not self._sockets:
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._flush)
        self._sockets.append(socket)

    def _flush(self) -> None:
        sockets, self._sockets = self._sockets, []
        for socket in sockets:
            if socket.out:
                socket.flush()
