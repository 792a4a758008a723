"""One fault, from a healthy fleet back to a healthy fleet, and what it cost. In: a rig; out: a Finding.

with Trial(rig, "kill_worker") as trial:
    trial.begin(victims)          # just before the harm; victims = accounts whose streams may stop
    …harm, waiting, healing…
    finding = trial.end(within_s=3)
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from statistics import median
from typing import Any

import msgspec

from tests.campaigns.ownership import judge
from tests.campaigns.ownership.hosts import Host
from tests.campaigns.ownership.rig import Rig, now_ms, wait_for
from tests.campaigns.ownership.traffic import Traded

SETTLE_S = 60.0
FULL_S = 150.0  # the longest that a dial budget takes to be full again, and some
COMPLETE_S = 900.0  # read-backs of hundreds of accounts wait for REST weight, minute after minute
LOADED_SLACK_S = 3.0  # the machine does more than it has cores for
SLACK_S = 1.0


class Finding(msgspec.Struct):
    """A row's verdict. `gap_s`: the longest time an account had no socket that a live owner read. `silence_s`: the longest time
    without a record in Kafka (orders come twice a second)."""

    row: str
    ok: bool = True
    problems: list[str] = []
    figure_s: float | None = None  # the failure table's
    pacing_s: float = 0.0  # what the venue's dial limits may add to it
    gap_s: float = 0.0
    gap_median_s: float = 0.0  # of the accounts that had one
    silence_s: float = 0.0
    stopped: int = 0  # accounts that had to dial again
    expected: int = 0  # accounts that may have
    reconnects: int = 0
    moved: int = 0  # accounts with another slot than before
    healthy_after_s: float = 0.0  # from the end of the harm
    load: float = 0.0
    traded: Traded | None = None
    more: dict[str, Any] = {}

    def blame(self, problem: str) -> None:
        self.ok = False
        self.problems.append(problem)


class NotHealthy(AssertionError):
    """The fleet was not well when a trial began; an earlier fault left something behind."""


def slack_s() -> float:
    return LOADED_SLACK_S if os.getloadavg()[0] > (os.cpu_count() or 1) else SLACK_S


class Trial:
    """Times of one fault, and the books before it."""

    def __init__(self, rig: Rig, row: str) -> None:
        self.rig, self.row = rig, row
        wrong = rig.settle(now_ms(), SETTLE_S + rig.pacing_s(len(rig.credentials)))
        if wrong:
            raise NotHealthy(f"before {row}: {wrong}")
        # what others have dialled before is not this row's business: begin with as many permits as there are, or are wanted
        least_s = rig.pacing_s(len(rig.credentials), sockets=())
        wait_for(lambda: rig.pacing_s(len(rig.credentials)) <= least_s + 0.5, FULL_S, every_s=1.0)
        self.first = len(rig.journal.lines)
        self.accounts = dict(rig.credentials)
        self.before = rig.owners()
        self.victims: set[str] = set()
        self.dead = False
        self.pacing_s = 0.0
        self.began_ms = self.harm_over_ms = now_ms()

    def of_host(self, host: Host) -> set[str]:
        """Accounts that its workers own now."""
        return {account for account, owner in self.before.items() if owner.slot in host.slots()}

    def victim(self, *, led_elsewhere: bool = False) -> Host:
        """The host with the most accounts; its coordinator steps down first if it must not lead."""
        host = max(self.rig.hosts.values(), key=lambda each: len(self.of_host(each)))
        if led_elsewhere and self.rig.leading_host() == host.name:
            self.rig.lead_from(next(name for name in self.rig.hosts if name != host.name))
        return host

    def begin(self, victims: Iterable[str] = (), *, dead: bool = False) -> int:
        """The harm comes now. `victims` may stop; `dead`: their owners do not read any more from now on."""
        self.victims, self.dead = set(victims), dead
        self.pacing_s = self.rig.pacing_s(len(self.victims))
        self.began_ms = now_ms()
        return self.began_ms

    def healed(self) -> None:
        self.harm_over_ms = now_ms()

    def end(
        self, figure_s: float | None = None, settle_s: float = SETTLE_S, *, window: bool = False, **more: Any
    ) -> Finding:
        """Wait until all is well and judge. `window`: two owners for a while are documented for this fault, and only reported."""
        rig, figure = self.rig, figure_s
        self.harm_over_ms = max(self.harm_over_ms, self.began_ms)
        settle_s += self.pacing_s
        wrong = rig.settle(now_ms(), settle_s)
        over_ms = now_ms()
        finding = Finding(self.row, figure_s=figure, expected=len(self.victims), load=round(os.getloadavg()[0], 1))
        finding.pacing_s, finding.more = round(self.pacing_s, 1), more
        if wrong:
            finding.blame(f"I4 not healthy {settle_s:g} s later: {wrong}")
        finding.healthy_after_s = (over_ms - self.harm_over_ms) / 1000
        self._streams(finding, over_ms)
        lines = rig.journal.lines[self.first :]
        if window:
            finding.more["double_s"] = max(judge.overlaps_ms(lines).values(), default=0) / 1000
        for problem in [] if window else judge.invariants(lines):
            finding.blame(problem)
        after = rig.owners()
        finding.moved = sum(1 for a in self.accounts if a in after and after[a].slot != self.before[a].slot)
        if not self.victims and finding.moved:
            finding.blame(f"I6 {finding.moved} accounts moved")
        self._compare(finding)
        return finding

    def _compare(self, finding: Finding) -> None:
        """Was anything lost, if the accounts traded? Only those count that were there all the time."""
        if self.rig.trading is None:
            return
        there = {c.api_key: account for account, c in self.accounts.items() if account in self.rig.credentials}
        finding.traded = self.rig.trading.compare(there, self.began_ms, COMPLETE_S)
        spent = self.rig.control.calls()["weight_per_minute"]
        finding.more["weight_per_minute"] = [row["weight"] for row in spent if row["minute"] >= self.began_ms - 60_000]
        for problem in finding.traded.problems:
            finding.blame(problem)

    def _streams(self, finding: Finding, over_ms: int) -> None:
        sockets = self.rig.sockets()
        silence = judge.longest_silence_ms(list(self.rig.journal.lines), self.began_ms, over_ms)
        finding.silence_s = max((ms for a, ms in silence.items() if a in self.accounts), default=0) / 1000
        gaps: list[float] = []
        for account, credentials in self.accounts.items():
            if account not in self.rig.credentials:
                continue
            mine = [s for s in sockets if s["api_key"] == credentials.api_key]
            opened = judge.opened_after(mine, credentials.api_key, self.began_ms)
            finding.reconnects += len(opened)
            finding.stopped += bool(opened)
            if opened and account not in self.victims:
                finding.blame(f"I5 {account}: dialled again, {self.before[account].slot} should not have stopped it")
            dead_ms = self.began_ms if self.dead and account in self.victims else None
            gaps.append(judge.longest_gap_ms(mine, self.began_ms, over_ms, dead_ms) / 1000)
        finding.gap_s = max(gaps, default=0.0)
        finding.gap_median_s = median([gap for gap in gaps if gap > 0.0] or [0.0])
        if finding.figure_s is not None and finding.gap_s > finding.figure_s + self.pacing_s + slack_s():
            finding.blame(
                f"gap {finding.gap_s:.1f} s, the table says {finding.figure_s:g} s, and pacing {self.pacing_s:.1f} s"
            )
        finding.problems = finding.problems[:8]
