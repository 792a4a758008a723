"""Streams that end save their watermark without queueing up before a Postgres that does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fleet.core.errors import StoreUnavailable
from fleet.runtime.postgres import StatementFailed
from fleet.runtime.secrets import Keyring
from workers import accounts as module
from workers.accounts import Accounts


class FrozenPostgres:
    """Answers nothing, each time for `wait_s`."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s, self.asked = wait_s, 0

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        self.asked += 1
        time.sleep(self.wait_s)
        raise StoreUnavailable("no answer before the deadline")
        yield


def progress() -> Any:
    return SimpleNamespace(dirty=True, spec=SimpleNamespace(id="a"), watermark_json=lambda: "{}")


def test_a_crowd_that_ends_asks_a_silent_postgres_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAREWELL_S", 0.1)
    frozen: Any = FrozenPostgres(0.4)
    accounts = Accounts(frozen, Keyring.create(str(tmp_path / "keyring")), threading.Event())
    streams, refused = [progress() for _ in range(20)], []

    def end(stream: Any) -> None:
        try:
            accounts.save_last(1, stream)
        except StoreUnavailable as error:
            refused.append(str(error))

    began_s = time.monotonic()
    threads = [threading.Thread(target=end, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    end(streams[0])
    assert time.monotonic() - began_s < 5 * frozen.wait_s and frozen.asked == 1
    assert len(refused) == 21 and refused[-1].endswith("silent a moment ago")
    assert all(stream.dirty for stream in streams)  # whoever saves next takes them along


def test_saving_goes_on_after_a_statement_was_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """42501: somebody took the right to write away, and gave it back."""
    monkeypatch.setattr(module, "SAVE_INTERVAL_S", 0.01)
    saved, stop = threading.Event(), threading.Event()
    answers = iter([StatementFailed("42501", "permission denied")])

    class Refusing:
        @contextmanager
        def transaction(self) -> Iterator[Any]:
            if (refusal := next(answers, None)) is not None:
                raise refusal
            yield SimpleNamespace(execute_values=lambda *_: saved.set())

    refusing: Any = Refusing()
    accounts = Accounts(refusing, Keyring.create(str(tmp_path / "keyring")), stop)
    accounts.start(lambda: [(1, progress())])
    try:
        assert saved.wait(5)
    finally:
        stop.set()
        accounts.join(5)
