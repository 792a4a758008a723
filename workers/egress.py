"""Which source address each account of this worker dials and calls from.

In: the leader's choice for an account as it starts (workers/shard.py). Out: the address for its sockets and REST calls, which
is also the name of the budgets they draw from. Runs in each `workers userdata` process.
"""

from __future__ import annotations

from collections.abc import Sequence

from fleet.core.placement import fallback_address


class Egress:
    """`note` is called by the inbox thread, `of` by the accounts' threads; one assignment to a dict each, so no lock."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._addresses = tuple(addresses)
        self._chosen: dict[str, str] = {}

    def note(self, account_id: str, address: str) -> None:
        """ "" = the leader names none (an older release, or a stream that was found running)."""
        self._chosen[account_id] = address

    def of(self, account_id: str) -> str | None:
        """None = the system's choice. An address that this process was not given is not used: it could not be bound."""
        chosen = self._chosen.get(account_id, "")
        if chosen not in self._addresses:
            chosen = fallback_address(account_id, self._addresses)
        return chosen or None
