"""`fleet rotate` in a worker: a few sockets at a time, and only those that are connected."""

from __future__ import annotations

from fleet.core.model import StreamState
from workers.rotation import AT_ONCE, Rotation


class Stream:
    def __init__(self, state: StreamState = StreamState.LIVE) -> None:
        self.state, self.rotating, self.turns = state, False, 0

    def rotate(self) -> None:
        self.rotating, self.turns = True, self.turns + 1


def test_a_few_at_a_time_until_all_have_turned() -> None:
    streams = [Stream() for _ in range(AT_ONCE + 2)]
    rotation = Rotation(lambda: streams)
    rotation.begin()
    rotation.tick()
    rotation.tick()
    assert sum(s.rotating for s in streams) == AT_ONCE and rotation.left() == len(streams)
    streams[0].rotating = False
    rotation.tick()
    assert sum(s.rotating for s in streams) == AT_ONCE and rotation.left() == len(streams) - 1
    for stream in streams:
        stream.rotating = False
        rotation.tick()
    for stream in streams:
        stream.rotating = False
    rotation.tick()
    assert rotation.left() == 0 and [s.turns for s in streams] == [1] * len(streams)


def test_a_stream_without_a_socket_holds_nobody_up() -> None:
    waiting, dropped, fine = Stream(StreamState.WAITING), Stream(), Stream()
    rotation = Rotation(lambda: [waiting, dropped, fine])
    rotation.begin()
    rotation.tick()
    assert (waiting.turns, dropped.turns, fine.turns) == (0, 1, 1)
    dropped.state, fine.rotating = StreamState.WAITING, False
    rotation.tick()
    assert rotation.left() == 0
