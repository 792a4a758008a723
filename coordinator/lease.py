"""Who leads (R12): a lease in Redis under a term from Postgres.

In: answers of the `lead` script, terms of `fleet_term`. Out: `leader` ("holder|term", "" while standing by) and tokens.
Runs in the coordinator's loop. A leader that cannot reach Redis changes nothing and stays what it was until Redis says
otherwise; without Postgres a leader goes on and a new one cannot start.
"""

from __future__ import annotations

import os
import socket
import uuid

from fleet.core.errors import FleetError, StoreUnavailable
from fleet.core.model import token_of
from fleet.core.wire import pack_leader
from fleet.runtime.logs import get
from fleet.runtime.postgres import Postgres, queries
from fleet.runtime.redis_store import RedisStore


class Leadership:
    """The lease of this coordinator."""

    def __init__(self, store: RedisStore, postgres: Postgres, lease_s: float) -> None:
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.leader = ""
        self._store, self._postgres, self._lease_s = store, postgres, lease_s
        self._sql = queries("control", "coordinator.sql")
        self._term = 0
        self._n = 0
        self._log = get("lease")
        self._complained = False

    def hold(self) -> bool:
        """Renew, or take over where nobody leads. True while this coordinator leads. Raises StoreUnavailable (Redis)."""
        if self.leader:
            return self._renew()
        return self._store.vacant(self._lease_s) and self.new_term()

    def new_term(self) -> bool:
        """Lead under a term that nobody has led under: at each gain, and after each loss of Redis' data (R2, R10)."""
        try:
            term = int(self._postgres.fetch(self._sql["next_term"])[0]["term"])
        except (FleetError, IndexError) as error:
            if not self._complained:
                self._log.error("no term: cannot lead without Postgres", action="lead", error=str(error))
            self._complained = True
            return False
        self._complained = False
        answer = self._store.lead(self.holder, term, self._lease_s)
        if answer != "OK":
            self.lose(answer)
            return False
        self._term, self._n, self.leader = term, 0, pack_leader(self.holder, term)
        self._log.info("leading", action="lead", term=term, holder=self.holder)
        return True

    @property
    def first(self) -> bool:
        """Nobody has led this fleet before (its first leader takes a second term to build the first generation)."""
        return self._term <= 2

    def next_token(self) -> int:
        """R2: never twice inside a term."""
        self._n += 1
        return token_of(self._term, self._n)

    def lose(self, why: str) -> None:
        if self.leader:
            self._log.warning("no longer leading", action="lead", term=self._term, reason=why)
        self.leader = ""

    def resign(self) -> None:
        """On a clean exit: a standby takes over at once instead of after the lease."""
        leader, self.leader = self.leader, ""
        if leader:
            try:
                self._store.resign(leader)
            except StoreUnavailable as error:
                self._log.warning("lease left to expire", action="lead", error=str(error))

    def _renew(self) -> bool:
        answer = self._store.lead(self.holder, self._term, self._lease_s)
        if answer != "OK":
            self.lose(answer)
        return answer == "OK"
