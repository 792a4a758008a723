"""One seed = one history, many seeds = a campaign.

In: a seed. Out: `Result`: violations, what was reached, the longest silences, how long the fleet took to settle. A third of
the seeds do one thing to a settled fleet and are held to the failure table's figures; the others draw several faults that
overlap. Every seed ends with everything healed, and must then settle and stay settled.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.proof.faults import KINDS, Faults
from tests.proof.fleet import Fleet
from tests.proof.programs import installed
from tests.proof.virtual import World

WARM_UP_S = 20.0
SETTLE_S = 75.0
AFTERMATH_S = 9.0  # a verdict that was in the making comes now
QUIET_S = 4.0


@dataclass
class Result:
    """What one history showed."""

    seed: int
    story: str
    violations: list[str]
    reached: Counter[str]
    settled_s: float = 0.0
    longest_gap_s: float = 0.0
    events: int = 0
    counts: Counter[str] = field(default_factory=Counter)


def run(seed: int, *, verbose: bool = False, only: str | None = None, isolation_max_s: float | None = None) -> Result:
    """Raises nothing for a violation; a crash of a thread under test is one."""
    world = World(seed)
    rng = world.rng
    single = only is not None or seed % 3 == 0
    fleet = Fleet(
        world,
        slots=rng.choice((2, 3, 3, 4)),
        coordinators=rng.choice((1, 2, 2, 3)),
        accounts=rng.randint(3, 10),
        isolation_max_s=isolation_max_s or (300.0 if single else rng.choice((25.0, 60.0, 300.0))),
        verbose=verbose,
    )
    gc.disable()
    try:
        with installed(fleet):
            history = History(fleet)
            return history.one(only) if single else history.many()
    finally:
        world.close()
        gc.enable()


class History:
    def __init__(self, fleet: Fleet) -> None:
        self.fleet, self.world, self.judge, self.rng = fleet, fleet.world, fleet.judge, fleet.world.rng
        self.faults = Faults(fleet)
        self.reached: Counter[str] = Counter()

    def one(self, only: str | None) -> Result:
        """One fault on a settled fleet, held to its figure."""
        name = only or self.rng.choice(list(KINDS))
        kind = KINDS[name]
        if not self._settle(WARM_UP_S, "the start"):
            return self._result(name, 0.0)
        self.world.run_until(self.world.now + self.rng.uniform(0.0, 4.0))
        before = self.judge.ends
        self.judge.measure()
        self.fleet.note(f"── {name}")
        self.faults.alone = True
        kind.do(self.faults)
        self.world.run_until(self.world.now + self.rng.uniform(15.0, 30.0) + (45.0 if self.faults.open else 0.0))
        self._heal()
        settled_s = self._end()
        ends = self.judge.ends - before
        self.reached[kind.row] += 1
        if not kind.stops and ends:
            self.judge.violate("I5", f"{name}: {ends} streams ended")
        gap, account = self.judge.longest_gap()
        if gap > kind.gap_s:
            self.judge.violate("FIGURE", f"{name}: {account} was silent for {gap:.2f} s, allowed {kind.gap_s:g} s")
        return self._result(name, settled_s)

    def many(self) -> Result:
        """Several faults that overlap, some before the fleet has even started."""
        names = list(KINDS)
        weights = [KINDS[name].weight for name in names]
        start = self.rng.choice((0.5, 12.0, 12.0))
        span = self.rng.uniform(5.0, 40.0)
        story = []
        for _ in range(self.rng.randint(2, 7)):
            name = self.rng.choices(names, weights)[0]
            at = start + self.rng.random() * span
            story.append(f"{name} at {at:.1f}")
            self.world.at(at, self._doing(name))
        self.world.run_until(start + span + self.rng.uniform(0.0, 20.0))
        self._heal()
        return self._result(", ".join(story), self._end())

    def _doing(self, name: str) -> Callable[[], None]:
        def do() -> None:
            self.fleet.note(f"── {name}")
            self.reached[KINDS[name].row] += 1
            KINDS[name].do(self.faults)

        return do

    def _heal(self) -> None:
        self.fleet.note("── everything heals")
        self.faults.heal()

    def _end(self) -> float:
        """After the last fault: settle, then stay settled."""
        healed = self.world.now
        self.world.run_until(max(healed, self.faults.arrived_s) + AFTERMATH_S)
        if not self._settle(SETTLE_S, "the last fault"):
            return SETTLE_S
        settled_s = self.world.now - healed
        changes = self.judge.changes
        self.world.run_until(self.world.now + QUIET_S)
        if why := self.judge.settled():
            if self.judge.changes - changes and self.judge.rebalanced and self.judge.rebalanced[-1] > healed:
                self._settle(SETTLE_S, "rebalancing")
            else:
                self.judge.violate("I4", f"it did not stay settled: {why}")
        self._moves()
        return settled_s

    def _settle(self, within_s: float, after: str) -> bool:
        end = self.world.now + within_s
        while why := self.judge.settled():
            if self.world.now >= end or self.world.crashes or len(self.judge.violations) > 20:
                self.judge.violate("I4", f"not settled {within_s:g} s after {after}: {why}")
                return False
            self.world.run_until(self.world.now + 0.25)
        return True

    def _moves(self) -> None:
        """I6: the pace of rebalancing."""
        minutes = self.world.now / 60.0
        if len(self.judge.rebalanced) > minutes + 2 + len(self.fleet.coordinators) * self.fleet.counts["leading"]:
            self.judge.violate("I6", f"{len(self.judge.rebalanced)} accounts rebalanced in {minutes:.1f} min")

    def _result(self, story: str, settled_s: float) -> Result:
        judge = self.judge
        violations = [*judge.violations, *(f"CRASH {text}" for text in self.world.crashes)]
        counts = Counter(self.fleet.counts)
        counts.update(judge.counts)
        return Result(
            self.world.seed,
            story,
            violations,
            self.reached,
            settled_s,
            judge.longest_gap()[0],
            self.world.events,
            counts,
        )
