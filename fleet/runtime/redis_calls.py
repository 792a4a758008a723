"""How a call to Redis is made: the scripts of `lua/`, one connection, one budget, errors translated.

In: a script's name, keys, arguments. Out: its reply; every redis error becomes StoreUnavailable ("no usable answer": down,
timeout, LOADING, READONLY, OOM, NOREPLICAS, MOVED, CLUSTERDOWN). What the parts of `redis_store` have in common; runs in every
process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fleet.core.errors import StoreUnavailable
from fleet.core.names import Keys
from fleet.runtime.deadline import Deadline
from fleet.runtime.redis_connection import FAILURES, NoScriptError, connect

BATCH = 500  # operations in one script call: keeps each below a few milliseconds of Redis' single thread
LUA = Path(__file__).with_name("lua")
SCRIPTS = {path.stem: path.read_text(encoding="utf-8") for path in sorted(LUA.glob("*.lua"))}
SHAS = {name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()}

Standing = Literal["OK", "FENCED", "UNKNOWN"]


class RedisCalls:
    """One connection to one fleet's keys. Belongs to one thread."""

    def __init__(self, url: str, keys: Keys, timeout_s: float = 0.5) -> None:
        self.keys = keys
        self._deadline = Deadline(timeout_s)
        self._client = connect(url, timeout_s, keys.gen, self._deadline)

    def close(self) -> None:
        self._client.close()

    def _run(self, name: str, keys: Sequence[str], args: Sequence[Any]) -> list[Any]:
        def call() -> Any:
            try:
                return self._client.evalsha(SHAS[name], len(keys), *keys, *args)
            except NoScriptError:  # a restart, a failover or SCRIPT FLUSH: EVAL loads it again
                return self._client.eval(SCRIPTS[name], len(keys), *keys, *args)

        reply: list[Any] = self._call(call)
        return reply

    def _call(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            with self._deadline:
                return call(*args)
        except FAILURES as error:
            self._client.connection_pool.disconnect()
            raise StoreUnavailable(f"redis: {type(error).__name__}: {str(error)[:200]}") from error


def standing_of(reply: Sequence[Any]) -> Standing:
    standing: Standing = reply[0]
    return standing


def count_of(text: str | None) -> int:
    """A counter, 0 where there is none. Raises StoreUnavailable where somebody else has written there: no usable answer."""
    try:
        return int(text or 0)
    except ValueError:
        raise StoreUnavailable(f"redis: not a number: {text!r:.40}") from None


def flat(fields: Mapping[str, str]) -> list[str]:
    return [value for pair in fields.items() for value in pair]


def chunks(items: Sequence[Any]) -> Iterable[Sequence[Any]]:
    return (items[i : i + BATCH] for i in range(0, len(items), BATCH))
