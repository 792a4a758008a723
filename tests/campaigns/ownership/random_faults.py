"""The random campaign: one seed is one sequence of episodes. In: a rig, a seed, minutes; out: a report, and violations.

An episode is one to three faults that overlap, then everything is healed and the fleet must be well again (I4). Faults of the
control plane alone may stop no stream (I5). I1, I2, I3 and I6 are read from Kafka after each episode; at the end I7 from the
exchange's counts, I8 from the processes.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections import Counter

import msgspec

from fleet.core.model import process_of
from tests.campaigns.ownership import judge
from tests.campaigns.ownership.harms import KINDS, Harm, Known, clash
from tests.campaigns.ownership.journal import Line
from tests.campaigns.ownership.rig import Rig, now_ms, wait_for

HOLD_S = (0.5, 12.0)
LONG_HOLD_S = 20.0
SETTLE_S = 120.0
CALM_S = 60.0  # until read-backs are over and what they held is given back


class Report(msgspec.Struct):
    seed: int
    minutes: float
    episodes: int = 0
    faults: dict[str, int] = {}
    silence_s: dict[str, float] = {}  # kind → longest time without a record of an account that kept its stream
    gap_s: dict[str, float] = {}  # kind → longest time an account was without a live socket, faults of that kind alone
    recovery_s: dict[str, float] = {}  # kind → longest time from the end of the harm until all was well
    sometimes: dict[str, int] = {}
    usage: dict[str, tuple[judge.Usage, judge.Usage]] = {}  # kind of program → at the beginning, at the end
    violations: list[str] = []
    records: int = 0


class Campaign:
    def __init__(self, rig: Rig, seed: int, minutes: float) -> None:
        self.rig, self.minutes = rig, minutes
        self.rng = random.Random(seed)
        self.report = Report(seed, minutes)
        self.known = Known(rig)
        self._faults: Counter[str] = Counter()
        self._sometimes: Counter[str] = Counter(dict.fromkeys(SOMETIMES, 0))
        self._left: list[str] = []
        self._judged = 0  # lines of the journal before the present episode
        self._excused = (
            0  # lines up to the end of the last documented window (R5e): its two owners are no finding later
        )

    def run(self) -> Report:
        end = time.monotonic() + self.minutes * 60
        wrong = self.rig.settle(now_ms(), SETTLE_S)
        if wrong:
            self.report.violations.append(f"never healthy: {wrong}")
        wait_for(self.rig.usage, CALM_S)
        before = self.rig.usage()
        while time.monotonic() < end and not (wrong := self._episode()):
            self.report.episodes += 1
        report = self.report
        wait_for(lambda: not judge.not_returned(before, self.rig.usage()), CALM_S, every_s=1.0)
        after = self.rig.usage()
        report.usage = {name: (before[name], after[name]) for name in sorted(before.keys() & after.keys())}
        report.violations += judge.not_returned(before, after)
        report.violations += [f"I7 {each}" for each in self.rig.beyond_limits()]
        report.faults, report.sometimes = dict(sorted(self._faults.items())), dict(sorted(self._sometimes.items()))
        report.records = len(self.rig.journal.lines)
        return report

    def _choose(self) -> list[str]:
        """Every kind before any repeats."""
        chosen: list[str] = []
        for _ in range(self.rng.choice((1, 1, 1, 2, 2, 3))):
            if not self._left:
                self._left = sorted(KINDS)
                self.rng.shuffle(self._left)
            kind = self._left.pop()
            if any(clash(kind, other) for other in chosen):
                self._left.insert(0, kind)
                continue
            chosen.append(kind)
        return chosen

    def _episode(self) -> str:
        """One mix of faults; what was still wrong at its end, in words."""
        rig = self.rig
        self.known.look()
        before = {account: credentials.api_key for account, credentials in rig.credentials.items()}
        former = rig.incarnations()
        began_ms = now_ms()
        harms = self._harm(self._choose())
        healed_ms = now_ms()
        wrong = rig.settle(now_ms(), SETTLE_S)
        over_ms = now_ms()
        name = "+".join(harm.kind for harm in harms)
        lines = list(rig.journal.lines[max(self._excused, self._judged - 2000) :])
        self._judged = len(rig.journal.lines)
        found = [f"I4 {wrong}"] if wrong else []
        if any(harm.window for harm in harms):
            self._sometimes["double window"] += bool(judge.invariants(lines))
            self._excused = self._judged
        else:
            found += judge.invariants(lines)
        for harm in harms:
            found += judge.past_deadline(lines, harm.nap) if harm.nap else []
            self._sometimes["overslept"] += (
                harm.nap is not None and harm.nap.woke_ms - harm.nap.began_ms > judge.LEASE_MS
            )
        harmed = Counter(account for harm in harms for account in harm.victims)
        found += judge.needless_moves(lines, began_ms, harmed)
        found += self._streams(harms, before, began_ms, over_ms)
        self._count(harms, former, lines)
        self._longest(self.report.recovery_s, name, (over_ms - healed_ms) / 1000)
        self.report.violations += [f"episode {self.report.episodes} [{name}]: {each}" for each in found]
        print(
            f"{self.report.episodes:3} {name}: well after {(over_ms - healed_ms) / 1000:.1f} s, load "
            f"{os.getloadavg()[0]:.0f} {'; '.join(found)}",
            file=sys.stderr,
            flush=True,
        )
        return wrong

    def _harm(self, kinds: list[str]) -> list[Harm]:
        harms: list[Harm] = []
        undo: list[tuple[float, Harm]] = []
        for kind in kinds:
            harm = KINDS[kind](self.rig, self.known, self.rng)
            self._faults[kind] += 1
            harms.append(harm)
            longer = self.rng.random() < 0.2 and kind != "cut_from_redis"
            undo.append((time.monotonic() + (LONG_HOLD_S if longer else self.rng.uniform(*HOLD_S)), harm))
            time.sleep(self.rng.uniform(0.0, 3.0))
        for due, harm in sorted(undo, key=lambda pair: pair[0]):
            time.sleep(max(0.0, due - time.monotonic()))
            harm.undo()
        return harms

    def _streams(self, harms: list[Harm], before: dict[str, str], began_ms: int, over_ms: int) -> list[str]:
        victims = set().union(*(harm.victims for harm in harms))
        sockets, found = self.rig.sockets(), []
        silence = judge.longest_silence_ms(list(self.rig.journal.lines), began_ms, over_ms)
        name = "+".join(harm.kind for harm in harms) if len(harms) > 1 else harms[0].kind
        for account, key in before.items():
            if account not in self.rig.credentials:
                continue
            mine = [s for s in sockets if s["api_key"] == key]
            opened = judge.opened_after(mine, key, began_ms)
            if opened and account not in victims:
                found.append(f"I5 {account} dialled again")
            self._sometimes["a stream stopped"] += bool(opened)
            self._longest(self.report.gap_s, name, judge.longest_gap_ms(mine, began_ms, over_ms, None) / 1000)
            self._longest(self.report.silence_s, name, silence.get(account, 0) / 1000)
        return found[:3]

    def _count(self, harms: list[Harm], former: dict[str, str], lines: list[Line]) -> None:
        after = self.rig.incarnations()
        some = self._sometimes
        some["several at once"] += len(harms) > 1
        some["new incarnation"] += any(after.get(slot) != inc for slot, inc in former.items())
        some["fenced and began anew"] += any(
            slot in after and after[slot] != inc and process_of(after[slot]) == process_of(inc)
            for slot, inc in former.items()
        )
        some["an account moved"] += any(line.event == "moved" for line in lines)

    @staticmethod
    def _longest(table: dict[str, float], name: str, value_s: float) -> None:
        table[name] = max(table.get(name, 0.0), round(value_s, 2))


SOMETIMES = (
    "a stream stopped",
    "several at once",
    "new incarnation",
    "fenced and began anew",
    "an account moved",
    "overslept",
)


def missing(report: Report) -> list[str]:
    """What a long campaign should have reached and did not."""
    return [f"never: {name}" for name in SOMETIMES if not report.sometimes.get(name)] + [
        f"never: {kind}" for kind in KINDS if not report.faults.get(kind)
    ]
