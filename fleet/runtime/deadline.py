"""The budget of one call: when it must be over, whatever it consists of. And names looked up within it.

In: a budget, host names. Out: how long the next step may wait; addresses. Used by `redis_connection`, in every process.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from concurrent.futures import Future
from typing import Self


class Deadline:
    """`with deadline:` is one call. Belongs to one thread."""

    def __init__(self, budget_s: float) -> None:
        self.budget_s = budget_s
        self._until: float | None = None

    def __enter__(self) -> Self:
        self._until = time.monotonic() + self.budget_s
        return self

    def __exit__(self, *_: object) -> None:
        self._until = None

    def left_s(self) -> float:
        """Of the call that runs, possibly below 0; all of it where none does."""
        return self.budget_s if self._until is None else self._until - time.monotonic()


class Names:
    """Host names to addresses, by the system's resolver, which no timeout can be given: a thread waits for it instead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _asked
        self._asked: dict[
            str, Future[list[str]]
        ] = {}  # at most one question for a name, however many calls give up on it

    def addresses(self, host: str, timeout_s: float) -> list[str]:
        """Raises OSError (TimeoutError is one) where there is no answer in time."""
        if _literal(host):
            return [host]
        with self._lock:
            answer = self._asked.get(host)
            if answer is None:
                answer = Future()
                threading.Thread(target=self._ask, args=(host, answer), name=f"resolve {host}", daemon=True).start()
                self._asked[host] = (
                    answer  # once somebody asks: a thread that could not start would be waited for, for ever
                )
        try:
            return answer.result(max(timeout_s, 0.0))
        except TimeoutError:
            raise TimeoutError(f"no address for {host} in time") from None

    def _ask(self, host: str, answer: Future[list[str]]) -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, ValueError) as error:  # ValueError: no host name at all
            failed = error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: not a host name")
            self._forget(host)
            answer.set_exception(failed)
            return
        self._forget(host)
        answer.set_result(list(dict.fromkeys(str(each[4][0]) for each in found)))

    def _forget(self, host: str) -> None:
        with self._lock:
            del self._asked[host]


def _literal(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
