"""Host names looked up by a thread of their own."""

from __future__ import annotations

import threading

import pytest

from fleet.runtime.deadline import Names


def test_a_lookup_whose_thread_could_not_start_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waited for, it would never answer: no stream of the process could dial that host any more."""
    names = Names()

    def none_left(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(RuntimeError):
            names.addresses("localhost", 1.0)
    assert names.addresses("localhost", 10.0)
