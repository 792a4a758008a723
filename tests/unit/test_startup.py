"""The order of start: wait for the port that was named, never longer than told, never outside a start of the whole fleet."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from fleet.runtime.startup import ENV_PORT, wait_turn


def test_nothing_is_waited_for_unless_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_PORT, raising=False)
    assert wait_turn(threading.Event())


def test_waits_until_the_port_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ENV_PORT, str(server.getsockname()[1]))
        opened: list[float] = []

        def open_later() -> None:
            opened.append(time.monotonic())
            server.listen()

        timer = threading.Timer(0.3, open_later)
        timer.start()
        assert wait_turn(threading.Event(), timeout_s=10)
        assert opened and time.monotonic() > opened[0]
        timer.join(5)


def test_gives_up_at_the_deadline_and_on_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv(ENV_PORT, str(closed.getsockname()[1]))
        assert not wait_turn(threading.Event(), timeout_s=0.2)
        stop = threading.Event()
        stop.set()
        assert not wait_turn(stop, timeout_s=60)
