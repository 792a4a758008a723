"""WebSocket frames (RFC 6455), client side and pure: bytes from the socket in, whole messages and control frames out.

Used by `workers/connection.py` in every process that holds an exchange socket. The reader never blocks and never writes:
its owner feeds it what `recv` gave, answers pings, and closes with the code a violation names. The hot path is a whole
unfragmented text frame: one slice and one ASCII test.
"""

from __future__ import annotations

import codecs
import struct

from fleet.core.errors import ProtocolViolation

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
FIN = 0x80
FIN_TEXT = FIN | TEXT
MAX_CONTROL_BYTES = 125

CLOSE_NORMAL, CLOSE_GOING_AWAY, CLOSE_PROTOCOL_ERROR = 1000, 1001, 1002
CLOSE_NO_STATUS, CLOSE_BAD_DATA, CLOSE_TOO_BIG = 1005, 1007, 1009
_SENDABLE_CODES = frozenset((1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014))


class BinaryMessage(bytes):
    """A message that came in binary frames; text messages are plain `bytes`."""

    __slots__ = ()


class Control:
    """A close, ping or pong frame. `code` is set for a close: 1005 where the peer gave none."""

    __slots__ = ("code", "opcode", "payload")

    def __init__(self, opcode: int, payload: bytes, code: int = 0) -> None:
        self.opcode = opcode
        self.payload = payload
        self.code = code


class FrameReader:
    """Cuts a byte stream into messages. After a violation or a close frame it swallows everything: the stream is over.

    `controls` collects the control frames met, for the owner to answer and clear. `failure` is the violation found, if
    any: what was complete before it is returned all the same, and then the owner closes with `failure.code`.
    """

    __slots__ = (
        "_closed",
        "_decode",
        "_fragments",
        "_fragments_bytes",
        "_kind",
        "_need",
        "_partial",
        "controls",
        "failure",
        "max_message_bytes",
    )

    def __init__(self, max_message_bytes: int) -> None:
        self.max_message_bytes = max_message_bytes
        self.controls: list[Control] = []
        self.failure: ProtocolViolation | None = None
        self._partial: bytearray | None = None  # an incomplete frame, from its first byte
        self._need = 0  # bytes of it that must be there before looking again
        self._kind = 0  # opcode of the message being assembled from fragments, 0 = none
        self._fragments: list[bytes] = []
        self._fragments_bytes = 0
        self._decode: codecs.IncrementalDecoder | None = None
        self._closed = False

    def feed(self, data: bytes) -> list[bytes]:
        """The messages `data` completed, in order. Never raises: see `failure`."""
        if self._closed:
            return []
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._need:
                return []
            data, self._partial = bytes(self._partial), None
        messages: list[bytes] = []
        append = messages.append
        limit = self.max_message_bytes
        size = len(data)
        position = 0
        need = 2
        while size - position >= 2:
            first, length = data[position], data[position + 1]
            start = position + 2
            if length >= 126:
                if length == 126:
                    start, need = position + 4, 4
                    if start > size:
                        break
                    length = data[position + 2] << 8 | data[position + 3]
                elif length == 127:
                    start, need = position + 10, 10
                    if start > size:
                        break
                    length = int.from_bytes(data[position + 2 : start], "big")
                else:
                    self._fail(CLOSE_PROTOCOL_ERROR, "masked frame from the server")
                    return messages
            end = start + length
            if length > limit:
                self._fail(CLOSE_TOO_BIG, f"message of {length} bytes, the limit is {limit}")
                return messages
            if end > size:
                if not self._acceptable(first, length):
                    return messages
                need = end - position
                break
            payload = data[start:end]
            if first == FIN_TEXT and not self._kind:
                if not payload.isascii() and not self._is_utf8(payload):
                    return messages
                append(payload)
            else:
                if not self._take(first, payload, messages):
                    return messages
            position = end
            need = 2
        if position < size:
            self._partial, self._need = bytearray(data[position:]), need
        return messages

    def _take(self, first: int, payload: bytes, messages: list[bytes]) -> bool:
        """Any frame but a whole text message; False = the stream is over."""
        opcode = first & 0x0F
        if not self._acceptable(first, len(payload)):
            return False
        if opcode in (PING, PONG):
            self.controls.append(Control(opcode, payload))
        elif opcode == CLOSE:
            self._take_close(payload)
        elif first & FIN and opcode == BINARY:
            messages.append(BinaryMessage(payload))
        else:
            self._take_fragment(opcode, bool(first & FIN), payload, messages)
        return not self._closed

    def _take_fragment(self, opcode: int, final: bool, payload: bytes, messages: list[bytes]) -> None:
        if opcode:
            self._kind = opcode
            self._decode = codecs.getincrementaldecoder("utf-8")() if opcode == TEXT else None
        self._fragments_bytes += len(payload)
        if self._fragments_bytes > self.max_message_bytes:
            self._fail(CLOSE_TOO_BIG, f"fragmented message over {self.max_message_bytes} bytes")
            return
        if self._decode is not None:
            try:
                self._decode.decode(payload, final)
            except UnicodeDecodeError:
                self._fail(CLOSE_BAD_DATA, "text message is not UTF-8")
                return
        self._fragments.append(payload)
        if final:
            message = b"".join(self._fragments)
            messages.append(message if self._kind == TEXT else BinaryMessage(message))
            self._kind, self._fragments, self._fragments_bytes, self._decode = 0, [], 0, None

    def _take_close(self, payload: bytes) -> None:
        code = CLOSE_NO_STATUS
        if payload:
            code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 0
            if code not in _SENDABLE_CODES and not 3000 <= code < 5000:
                self._fail(CLOSE_PROTOCOL_ERROR, f"close code {code} is not allowed")
                return
            if not self._is_utf8(payload[2:]):
                return
        self.controls.append(Control(CLOSE, payload, code))
        self._closed = True

    def _acceptable(self, first: int, length: int) -> bool:
        """Check a frame's first byte and length against the rules and the fragment being assembled."""
        opcode, final = first & 0x0F, first & FIN
        if first & 0x70:
            return self._fail(CLOSE_PROTOCOL_ERROR, "reserved bits are set without an extension")
        if opcode >= CLOSE:
            if opcode > PONG:
                return self._fail(CLOSE_PROTOCOL_ERROR, f"unknown opcode {opcode}")
            if not final or length > MAX_CONTROL_BYTES:
                return self._fail(CLOSE_PROTOCOL_ERROR, "control frame is fragmented or too long")
            return True
        if opcode > BINARY:
            return self._fail(CLOSE_PROTOCOL_ERROR, f"unknown opcode {opcode}")
        if opcode == CONTINUATION and not self._kind:
            return self._fail(CLOSE_PROTOCOL_ERROR, "continuation without a message")
        if opcode != CONTINUATION and self._kind:
            return self._fail(CLOSE_PROTOCOL_ERROR, "new message inside a fragmented one")
        return True

    def _is_utf8(self, payload: bytes) -> bool:
        try:
            payload.decode()
        except UnicodeDecodeError:
            return self._fail(CLOSE_BAD_DATA, "text is not UTF-8")
        return True

    def _fail(self, code: int, reason: str) -> bool:
        self.failure = ProtocolViolation(reason, code=code)
        self._closed = True
        return False


def encode_frame(opcode: int, payload: bytes, mask: bytes) -> bytes:
    """One whole client frame, masked with the 4 bytes of `mask` (fresh randomness for each frame)."""
    length = len(payload)
    if length < 126:
        head = struct.pack("!BB", FIN | opcode, FIN | length)
    elif length < 1 << 16:
        head = struct.pack("!BBH", FIN | opcode, FIN | 126, length)
    else:
        head = struct.pack("!BBQ", FIN | opcode, FIN | 127, length)
    key = int.from_bytes((mask * (length // 4 + 1))[:length], "little")
    return head + mask + (int.from_bytes(payload, "little") ^ key).to_bytes(length, "little")


def close_payload(code: int, reason: str = "") -> bytes:
    """Body of a close frame, cut to what a control frame may carry; empty for 1005 (no status)."""
    if code == CLOSE_NO_STATUS:
        return b""
    return struct.pack("!H", code) + reason.encode()[: MAX_CONTROL_BYTES - 2].decode(errors="ignore").encode()
