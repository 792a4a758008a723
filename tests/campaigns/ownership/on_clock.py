"""The row of a wall clock that is set. In: a rig, left alone; out: a Finding from a rig of its own, in which each host's processes
run with a preloaded wall clock (wall_clock.c) that the row can set; needs a C compiler."""

from __future__ import annotations

import signal
import struct
import subprocess
import time
from pathlib import Path

from fleet.demo.children import send
from fleet.services import Services
from tests.campaigns.ownership.rig import Rig
from tests.campaigns.ownership.table import row
from tests.campaigns.ownership.trial import Finding, Trial

ACCOUNTS = 12
JUMP_S = 600.0  # far beyond every lease, window and recvWindow
SOURCE = Path(__file__).with_name("wall_clock.c")


class WallClocks:
    """The wall clocks of the hosts a and b."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True)
        library = directory / "wall_clock.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True, timeout=60)
        self.settings = {"LD_PRELOAD": str(library), "WALL_CLOCK_DIR": str(directory)}
        for host in "ab":
            self.set(host, 0.0)

    def set(self, host: str, ahead_s: float) -> None:
        """At once, for every process of the host: they have mapped this very file."""
        path = self.directory / host
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(struct.pack("d", ahead_s))


@row
def clock_jumped(rig: Rig, hold_s: float) -> Finding:
    """The leader's host is set ten minutes ahead, then ten minutes behind: nobody dials, nobody moves (R3, R4 look at no wall
    clock). Then its worker is killed while the clock is ahead: it must sign what the exchange takes, and be back in 3 s."""
    directory = rig.directory / "clock"
    clocks = WallClocks(directory / "clocks")
    with (
        Services.start(directory / "services", only=("postgres", "redis", "kafka")) as services,
        Rig(directory, services, accounts=ACCOUNTS, settings=clocks.settings) as own,
    ):
        host = own.hosts[own.leading_host() or "a"]
        trial = Trial(own, "clock_jumped")
        trial.begin()
        for ahead_s in (JUMP_S, -JUMP_S, 0.0):
            clocks.set(host.name, ahead_s)
            time.sleep(hold_s / 3)
        trial.healed()
        finding = trial.end()
        seen_s = [
            (line.made_ms - line.seen_ms) / 1000 for line in own.journal.lines[trial.first :]
        ]  # as Kafka stamped them
        if max(seen_s) < JUMP_S / 2 or min(seen_s) > -JUMP_S / 2:
            finding.blame(
                f"the clock did not jump: records made from {min(seen_s):.0f} to {max(seen_s):.0f} s from now"
            )
        again = Trial(own, "clock_jumped")
        clocks.set(host.name, JUMP_S)
        again.begin(again.of_host(host), dead=True)
        send(host.worker(), signal.SIGKILL)
        after = again.end(3.0)
        clocks.set(host.name, 0.0)
        finding.more |= {"killed_meanwhile_gap_s": after.gap_s}
        for problem in after.problems:
            finding.blame(f"killed meanwhile: {problem}")
        return finding
