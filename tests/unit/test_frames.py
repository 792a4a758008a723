"""The frame reader: any cut of the byte stream gives the same messages, and each rule of RFC 6455 has its close code."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core.frames import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    BinaryMessage,
    FrameReader,
    close_payload,
    encode_frame,
)

LIMIT = 200_000


def server_frame(opcode: int, payload: bytes, *, final: bool = True, rsv: int = 0) -> bytes:
    head = bytes([(0x80 if final else 0) | rsv << 4 | opcode])
    if len(payload) < 126:
        return head + bytes([len(payload)]) + payload
    if len(payload) < 1 << 16:
        return head + b"\x7e" + struct.pack("!H", len(payload)) + payload
    return head + b"\x7f" + struct.pack("!Q", len(payload)) + payload


def read(*pieces: bytes, limit: int = LIMIT) -> tuple[FrameReader, list[bytes]]:
    reader = FrameReader(limit)
    messages: list[bytes] = []
    for piece in pieces:
        messages += reader.feed(piece)
    return reader, messages


@settings(deadline=None)
@given(
    st.lists(
        st.text(max_size=300).map(str.encode) | st.sampled_from([b"x" * 125, b"x" * 126, b"x" * 65535, b"x" * 65536])
    ),
    st.lists(st.integers(min_value=1, max_value=400), min_size=1, max_size=50),
)
def test_any_cut_of_the_stream_gives_the_same_messages(payloads: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(server_frame(TEXT, p) for p in payloads)
    reader, messages = FrameReader(LIMIT), []
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)] * (1 if len(stream) < 5000 else 100)
        messages += reader.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert messages == payloads
    assert reader.failure is None


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536])
def test_a_frame_that_comes_byte_by_byte(size: int) -> None:
    stream, reader = server_frame(TEXT, b"x" * size), FrameReader(LIMIT)
    head = len(stream) - size
    messages = [m for n in range(head) for m in reader.feed(stream[n : n + 1])]
    assert [*messages, *reader.feed(stream[head:])] == [b"x" * size] and reader.failure is None


def test_fragments_with_controls_between_them_make_one_message() -> None:
    stream = (
        server_frame(TEXT, "prei\u00df".encode()[:5], final=False)  # the cut is inside a character
        + server_frame(PING, b"p")
        + server_frame(CONTINUATION, "prei\u00df".encode()[5:], final=False)
        + server_frame(PONG, b"")
        + server_frame(CONTINUATION, b"!")
    )
    reader, messages = read(*(stream[n : n + 1] for n in range(len(stream))))
    assert messages == ["prei\u00df!".encode()]
    assert [c.opcode for c in reader.controls] == [PING, PONG]


def test_binary_messages_are_told_apart() -> None:
    _, messages = read(server_frame(BINARY, b"\xff\xfe") + server_frame(TEXT, b"t"))
    assert [type(m) for m in messages] == [BinaryMessage, bytes]


def test_a_large_message_in_small_pieces_is_not_copied_again_and_again() -> None:
    frame = server_frame(TEXT, b"x" * 8_000_000)
    reader, messages = read(*(frame[n : n + 4096] for n in range(0, len(frame), 4096)), limit=10_000_000)
    assert [len(m) for m in messages] == [8_000_000]
    assert reader.failure is None


@pytest.mark.parametrize(
    ("code", "stream"),
    [
        (1002, server_frame(TEXT, b"x", rsv=4)),
        (1002, server_frame(3, b"")),
        (1002, server_frame(11, b"")),
        (1002, server_frame(PING, b"x" * 126)),
        (1002, server_frame(PING, b"x", final=False)),
        (1002, server_frame(CONTINUATION, b"x")),
        (1002, server_frame(TEXT, b"a", final=False) + server_frame(TEXT, b"b")),
        (1002, server_frame(TEXT, b"a", final=False) + server_frame(BINARY, b"b")),
        (1002, b"\x81\x85\x00\x00\x00\x00hello"),  # masked by a server
        (1002, server_frame(CLOSE, b"\x03")),
        (1002, server_frame(CLOSE, struct.pack("!H", 1005))),
        (1002, server_frame(CLOSE, struct.pack("!H", 2999))),
        (1007, server_frame(CLOSE, struct.pack("!H", 1000) + b"\xff")),
        (1007, server_frame(TEXT, b"\xed\xa0\x80")),
        (1007, server_frame(TEXT, b"\xce", final=False) + server_frame(CONTINUATION, b"x")),
        (1009, b"\x81\x7f" + struct.pack("!Q", 1 << 62)),  # refused from its header alone
        (1009, server_frame(TEXT, b"x" * 150_000, final=False) + server_frame(CONTINUATION, b"x" * 150_000)),
        (1002, b"\xc1\x7e\xff\xff"),  # reserved bit: refused before the body is there
    ],
)  # fmt: skip
def test_a_violation_ends_the_stream_with_its_close_code(code: int, stream: bytes) -> None:
    reader, messages = read(server_frame(TEXT, b"before") + stream, server_frame(TEXT, b"after"))
    assert messages == [b"before"]
    assert reader.failure is not None
    assert reader.failure.code == code


def test_a_close_frame_keeps_its_code_and_ends_the_stream() -> None:
    reader, messages = read(
        server_frame(TEXT, b"last") + server_frame(CLOSE, close_payload(4001, "bye")) + server_frame(PING, b"")
    )
    assert messages == [b"last"]
    assert [(c.opcode, c.code) for c in reader.controls] == [(CLOSE, 4001)]
    reader, _ = read(server_frame(CLOSE, b""))
    assert reader.controls[0].code == 1005


@given(st.binary(max_size=70_000), st.binary(min_size=4, max_size=4))
@settings(deadline=None)
def test_client_frames_are_masked_and_come_back_whole(payload: bytes, mask: bytes) -> None:
    frame = encode_frame(BINARY, payload, mask)
    assert frame[0] == 0x82
    assert frame[1] & 0x80
    body = frame[len(frame) - len(payload) :]
    assert bytes(b ^ mask[n % 4] for n, b in enumerate(body)) == payload


def test_close_reason_is_cut_to_a_control_frame_at_a_character() -> None:
    payload = close_payload(1002, "\u00df" * 100)
    assert len(payload) <= 125
    payload[2:].decode()


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_garbage_never_raises_and_never_grows(data: bytes) -> None:
    reader, _ = read(*(data[n : n + 7] for n in range(0, len(data), 7)), limit=1000)
    assert reader.failure is None or reader.failure.code in (1002, 1007, 1009)
