"""What an operator asks for, with a healthy fleet: drain, rebalance, rotate. In: a rig; out: a Finding.

Moves are two-phase (R7): an account's gap is the time from its release to its next socket. A rotation has no gap at all (R14).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

from fleet.core.placement import DOWN_TO, IN_FLIGHT
from tests.campaigns.ownership.logbook import Line, lines, most_in_flight, releases
from tests.campaigns.ownership.rig import Rig, now_ms, wait_for
from tests.campaigns.ownership.table import open_since, row
from tests.campaigns.ownership.trial import Finding, Trial

MOVE_S = 2.0
COMMAND_S = 600.0  # hundreds of accounts, 20 at a time
ARRIVED_S = 5.0  # a new worker would take accounts by now, if it took any
MOST_BY_ITSELF = 4  # 1 % of 300 accounts in a minute, if the calm before was long enough


def fleet(rig: Rig, *words: str) -> tuple[int, str]:
    """`fleet …` as an operator types it: exit code, and everything it said."""
    done = subprocess.run(
        [sys.executable, "-m", "fleet.cli", *words],
        env=rig.env,
        capture_output=True,
        text=True,
        check=False,
        timeout=COMMAND_S,
    )
    return done.returncode, done.stdout + done.stderr


@row
def drained(rig: Rig, hold_s: float) -> Finding:
    """`fleet drain SLOT` empties the busiest worker; nobody else's stream is touched."""
    trial = Trial(rig, "drained")
    host = trial.victim()
    trial.begin(trial.of_host(host))
    code, said = fleet(rig, "drain", host.slots()[0])
    left = sum(1 for owner in rig.owners().values() if owner.slot == host.slots()[0])
    finding = trial.end(MOVE_S, lines=len(said.splitlines()))
    if code or left or not said.splitlines()[-1].startswith("0 "):
        finding.blame(f"exit code {code}, {left} accounts left, said: {said[-200:]!r}")
    fleet(rig, "drain", host.slots()[0], "--undo")
    return finding


@row
def rebalanced(rig: Rig, hold_s: float) -> Finding:
    """`fleet rebalance` after a drain: accounts return, each with a short gap; the others stay."""
    trial = Trial(rig, "rebalanced")
    host = trial.victim()
    trial.begin(trial.of_host(host))
    code, said = fleet(rig, "rebalance")
    finding = trial.end(MOVE_S, said=said.splitlines()[-2:])
    counts = [sum(1 for o in rig.owners().values() if o.slot in each.slots()) for each in rig.hosts.values()]
    if code or max(counts) > 1.2 * sum(counts) / len(counts):
        finding.blame(f"exit code {code}, accounts {counts}, said: {said[-200:]!r}")
    return finding


@row
def rotated(rig: Rig, hold_s: float) -> Finding:
    """`fleet rotate`: a new socket for everybody, and not one moment without."""
    trial = Trial(rig, "rotated")
    began_ms = trial.begin(rig.credentials)
    code, said = fleet(rig, "rotate")
    settled = wait_for(lambda: not rig.unhealthy(began_ms), 20.0)
    finding = trial.end(0.0, took_s=(now_ms() - began_ms) / 1000)
    if code or not settled or finding.stopped != len(rig.credentials) or finding.gap_s > 0:
        finding.blame(f"exit code {code}, {finding.stopped} rotated, gap {finding.gap_s:.2f} s, said: {said[-200:]!r}")
    return finding


@row
def rescaled(rig: Rig, hold_s: float) -> Finding:
    """Two hosts more, evened out; then one is drained and stopped in order. Each move: 2 s; whoever does not move does not stop.
    With `--rate`, under real fills. I6: who arrives takes nobody, evening out takes what is over and gives it to the new ones, who
    leaves gives up its own; 20 under way at most."""
    trial = Trial(rig, "rescaled")
    old = {slot for host in rig.hosts.values() for slot in host.slots()}
    trial.begin(trial.accounts)
    more = [rig.add_host() for _ in range(2)]
    slots = {slot for host in more for slot in host.slots()}
    up = wait_for(lambda: slots <= set(rig.incarnations()), 60.0)
    time.sleep(ARRIVED_S)
    two = owned(rig)
    code, said = fleet(rig, "rebalance")
    four = owned(rig)
    left = more[-1]
    codes = [fleet(rig, "drain", slot)[0] for slot in left.slots()]
    three = owned(rig)
    rig.drop_host(left)
    last = owned(rig)
    told = coordinators(rig, trial.began_ms)
    finding = trial.end(MOVE_S, accounts=[spread(at) for at in (two, four, three)], released=dict(releases(told)))
    before = {account: owner.slot for account, owner in trial.before.items()}
    over = sum(max(0, n - int(DOWN_TO * len(two) / (len(old) + len(slots)))) for n in spread(two).values())
    orphans = {account for account, slot in four.items() if slot in left.slots()}
    grown, shrunk, gone = changed(two, four), changed(four, three), changed(three, last)
    finding.more |= {"in_flight": most_in_flight(told), "moved_up": len(grown), "moved_down": len(shrunk)}
    rules = {
        f"exit codes {code} {codes}: {said[-200:]!r}": up and not code and not any(codes),
        f"{len(changed(before, two))} moved when hosts arrived": len(changed(before, two)) <= MOST_BY_ITSELF,
        f"{len(grown)} moved to even out {over} too many": len(grown) <= over,
        "evening out moved accounts among the old workers": all(four[account] in slots for account in grown),
        f"the drain of {len(orphans)} moved {len(shrunk)}, the stop {len(gone)}": shrunk == orphans and not gone,
        f"{finding.more['in_flight']} under way at once": finding.more["in_flight"] <= IN_FLIGHT,
        f"{finding.reconnects} dials": finding.reconnects <= len(grown) + len(shrunk) + len(changed(before, two)),
    }
    for problem in [problem for problem, kept in rules.items() if not kept]:
        finding.blame(f"I6 {problem}")
    rig.drop_host(more[0])
    return finding


def owned(rig: Rig) -> dict[str, str]:
    """Account → slot, once nobody is between two owners: a drain is over when its slot is empty."""
    wait_for(lambda: rig.credentials.keys() <= rig.owners().keys(), 30.0)
    return {account: owner.slot for account, owner in rig.owners().items()}


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {account for account, slot in after.items() if before.get(account) != slot}


def spread(at: dict[str, str]) -> dict[str, int]:
    return dict(sorted(Counter(at.values()).items()))


def coordinators(rig: Rig, since_ms: int) -> list[Line]:
    """What all coordinators said of moves."""
    return lines("\n".join(host.log_text("coordinator") for host in rig.all_hosts), since_ms, ("release", "move"))


@row
def drained_without_postgres(rig: Rig, hold_s: float) -> Finding:
    """A drain is asked for while Postgres is frozen: who stopped could not be started elsewhere, so it waits for Postgres."""
    trial = Trial(rig, "drained_without_postgres")
    host = trial.victim()
    slot, former = host.slots()[0], rig.incarnations()
    trial.begin(trial.of_host(host))
    rig.services.postgres.pause()
    try:
        time.sleep(8.0)  # until the leader has noticed
        rig.store.set_drain(slot, True)
        moved = wait_for(lambda: open_since(rig, trial.victims, trial.began_ms), 5.0)
    finally:
        rig.services.postgres.resume()
    trial.healed()
    gone = wait_for(lambda: not any(o.slot == slot for o in rig.owners().values()), 40.0)
    rig.store.set_drain(slot, False)
    finding = trial.end(MOVE_S)
    if moved or not gone or rig.incarnations() != former:
        finding.blame(f"moved while Postgres was away: {moved}; drained afterwards: {gone}; lives {rig.incarnations()}")
    return finding
