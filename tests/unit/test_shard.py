"""A shard whose lease is lost: nothing more is published at once, the sockets go by and by, and no account is on two of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fleet.core.model import Desired
from workers import shard as module
from workers.shard import Shard


class Stream:
    """What a shard uses of a stream; it ends when the test says so."""

    made: list[Stream] = []

    def __init__(self, account_id: str, token: int, worker: Any) -> None:
        self.account_id, self.token = account_id, token
        self.ended = self.revoked = False
        self.stopped = threading.Event()
        Stream.made.append(self)

    def start(self) -> None: ...

    def stop(self) -> None:
        self.stopped.set()

    def revoke(self) -> None:
        self.revoked = True


class Publisher:
    cleared = 0

    def clear(self) -> None:
        self.cleared += 1


class Worker:
    publisher = Publisher()


@pytest.fixture
def shard(monkeypatch: pytest.MonkeyPatch) -> Shard:
    Stream.made = []
    monkeypatch.setattr(module, "AccountStream", Stream)
    monkeypatch.setattr(threading, "stack_size", lambda size: 0)
    return Shard(Worker())  # type: ignore[arg-type]


def wish(token: int) -> Desired:
    return Desired(token=token, state="run")


def test_a_lost_lease_revokes_all_at_once_and_no_account_starts_before_its_former_socket_is_closed(
    shard: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_TOGETHER", 2)
    shard.apply({f"a{n}": wish(1) for n in range(5)})
    former = list(Stream.made)
    shard.abort_all("fenced")
    assert all(stream.revoked for stream in former) and shard.count() == 0
    assert all(stream.stopped.wait(5.0) for stream in former)
    former[0].ended = True
    shard.apply({f"a{n}": wish(2) for n in range(5)})
    assert [stream.account_id for stream in Stream.made[5:]] == ["a0"]
    for stream in former:
        stream.ended = True
    shard.apply({f"a{n}": wish(2) for n in range(5)})
    assert sorted(stream.account_id for stream in Stream.made[5:]) == [f"a{n}" for n in range(5)]
