"""Accounts whose start kills their worker (R13). Pure; the leader feeds it deaths and lets it hold accounts back.

In: which accounts were given to whom and when, which of them went live, which incarnations died. Out: accounts that must wait
(probation), accounts that are not started any more (quarantine).

A worker that dies takes all its starting accounts with it, the guilty one and the innocent. So two deaths only put an account
on probation: of those that were there most often, a quarter is started at a time, the last one alone. Who dies alone a second
time, and a third time in all within ten minutes, is guilty; in between the worker runs for CONTROL_S without a probationer: if
it dies all the same, it was none of them. Innocents pass as soon as they are live, or have not killed anybody for PATIENCE_S.

Workers also die of something else (memory, an operator, a machine), and whoever starts slowly then may be blamed. So nobody is
given up: who was found guilty is tried again after RETRY_S, on probation, where one more death alone is enough, and then ever
more seldom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from fleet.core.model import AccountSpec, Ownership

STRIKES = 3
PROBATION = 2
WINDOW_S = 600.0
PATIENCE_S = 30.0
LONE = 2
CONTROL_S = 5.0
RETRY_S, RETRY_MOST_S = 300.0, 3600.0  # the first pause before who was found guilty is tried again, and the longest


class Start(msgspec.Struct, frozen=True):
    """An account that was given to a worker and is not known to be live."""

    slot: str
    incarnation: str
    token: int
    at: float


class Suspicion:
    """What the leader knows. One instance per leadership; times are the leader's monotonic seconds."""

    def __init__(self) -> None:
        self.starting: dict[str, Start] = {}
        self.strikes: dict[str, tuple[float, ...]] = {}
        self.lone: dict[str, int] = {}  # deaths with nobody else to blame
        self.free: dict[str, float] = {}  # probationers that may start, since when
        self.control: tuple[str, float] = ("", 0.0)  # a slot that is to run without probationers, and until when
        self.quarantined: dict[str, int] = {}  # account -> revision of the row it was quarantined for
        self.again: dict[str, tuple[float, float]] = {}  # who was found guilty -> when it is tried again, and the pause

    def assigned(self, account_id: str, record: Ownership, now: float) -> None:
        self.starting[account_id] = Start(record.slot, record.incarnation, record.token, now)

    def live(self, account_id: str, token: int) -> None:
        """It streams: innocent, whatever happened before."""
        start = self.starting.get(account_id)
        if start is not None and start.token == token:
            del self.starting[account_id]
            self._pass(account_id)
            self.again.pop(account_id, None)

    def died(self, slot: str, incarnation: str, now: float) -> list[str]:
        """The accounts that are guilty now."""
        with_it = [a for a, s in self.starting.items() if (s.slot, s.incarnation) == (slot, incarnation)]
        suspects = [a for a in with_it if now - self.starting[a].at < PATIENCE_S]
        for account in with_it:
            del self.starting[account]
        if not suspects and slot == self.control[0] and now < self.control[1]:
            for account in list(self.strikes):  # it dies without them as well
                self._pass(account)
        for account in suspects:
            self.strikes[account] = (*self._recent(account, now), now)
        if len(suspects) != 1:
            return []
        alone = suspects[0]
        self.lone[alone] = self.lone.get(alone, 0) + 1
        if self.deaths(alone, now) < STRIKES:
            return []
        self.control = (slot, now + CONTROL_S)
        return [alone] if self.lone[alone] >= LONE else []

    def quarantine(self, account_id: str, revision: int, now: float) -> float:
        """→ after how many seconds it is tried again."""
        self.quarantined[account_id] = revision
        pause = min(RETRY_MOST_S, 2 * self.again[account_id][1]) if account_id in self.again else RETRY_S
        self.again[account_id] = (now + pause, pause)
        self.control = ("", 0.0)
        self._pass(account_id)
        return pause

    def acquit(self, account_id: str) -> None:
        """An operator says so."""
        del self.quarantined[account_id], self.again[account_id]

    def retry(self, now: float) -> list[str]:
        """Who has been in quarantine for long enough: on probation again."""
        due = [account for account in self.quarantined if self.again[account][0] <= now]
        for account in due:
            del self.quarantined[account]
            self.strikes[account], self.lone[account] = (now,) * PROBATION, LONE - 1
        return due

    def forgive(self, accounts: Mapping[str, AccountSpec]) -> list[str]:
        """A row that was changed, or taken away, may be tried again; who is not to be started keeps nobody waiting."""
        for account in self.strikes.keys() - accounts.keys():
            self._pass(account)
        freed = [a for a, r in self.quarantined.items() if a not in accounts or accounts[a].revision != r]
        for account in freed:
            self.acquit(account)
        return freed

    def waiting(self, now: float) -> frozenset[str]:
        """The probationers that may not start yet: all while some are starting, or a worker is watched without them; else all
        but a quarter of those with the most strikes."""
        for account, start in list(self.starting.items()):
            if now - start.at >= PATIENCE_S:
                del self.starting[account]
                self._pass(account)
        trial = {a: n for a in sorted(self.strikes) if (n := self.deaths(a, now)) >= PROBATION}
        held = [a for a in trial if a not in self.starting]
        if len(held) < len(trial) or now < self.control[1]:
            return frozenset(held)
        group = [a for a in held if trial[a] == max(trial.values())]
        chosen = group[: -(-len(group) // 4)]
        self.free = {a: self.free.get(a, now) for a in chosen}
        for account in chosen:  # it runs, though we did not see it start, or finds no room
            if now - self.free[account] >= PATIENCE_S:
                self._pass(account)
        return frozenset(held) - set(chosen)

    def _pass(self, account_id: str) -> None:
        self.strikes.pop(account_id, None)
        self.lone.pop(account_id, None)

    def slots(self) -> Iterable[str]:
        """Workers whose reports tell whether what they start went live."""
        return sorted({start.slot for start in self.starting.values()})

    def _recent(self, account_id: str, now: float) -> tuple[float, ...]:
        return tuple(at for at in self.strikes.get(account_id, ()) if now - at < WINDOW_S)

    def deaths(self, account_id: str, now: float) -> int:
        """How many workers died starting it lately; 0 again once it is quarantined."""
        return len(self._recent(account_id, now))
