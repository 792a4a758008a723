"""Listen keys. In: accounts and time; out: keys, and the sockets attached to each. One key per account, valid 60 min
from create or extend.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from simulator.account import Account

if TYPE_CHECKING:
    from simulator.stream_socket import StreamSocket

ALPHABET = string.ascii_letters + string.digits
Filter = frozenset[str] | None  # event names asked for; None = all


@dataclass(slots=True, eq=False)
class ListenKey:
    """One key; an expired or deleted one keeps its sockets but feeds them no more."""

    value: str
    account: Account
    expires_ms: int
    alive: bool = True
    sockets: dict[StreamSocket, Filter] = field(default_factory=dict)


class ListenKeys:
    """All keys that live."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._by_value: dict[str, ListenKey] = {}
        self._by_uid: dict[int, ListenKey] = {}

    def create(self, account: Account, now_ms: int, ttl_ms: int) -> ListenKey:
        """The account's active key, extended; a new one when there is none."""
        key = self._by_uid.get(account.uid)
        if key is None:
            value = "".join(self._random.choices(ALPHABET, k=64))
            key = ListenKey(value, account, 0)
            self._by_value[value] = self._by_uid[account.uid] = key
        key.expires_ms = now_ms + ttl_ms
        return key

    def of(self, account: Account) -> ListenKey | None:
        return self._by_uid.get(account.uid)

    def find(self, value: str) -> ListenKey | None:
        return self._by_value.get(value)

    def remove(self, key: ListenKey) -> None:
        """The key is gone (deleted or expired)."""
        key.alive = False
        self._by_value.pop(key.value, None)
        if self._by_uid.get(key.account.uid) is key:
            del self._by_uid[key.account.uid]

    def overdue(self, now_ms: int) -> list[ListenKey]:
        return [key for key in self._by_value.values() if key.expires_ms <= now_ms]

    def all(self) -> list[ListenKey]:
        return list(self._by_value.values())
