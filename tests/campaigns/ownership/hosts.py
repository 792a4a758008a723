"""One "host" of the campaign: a supervisord of its own with a coordinator and workers. In: an environment; out: processes by name.

The programs are those of deploy/supervisord-workers.conf, without the console. Several hosts on one machine differ in FLEET_HOST,
directories, ports, and in the way they reach the stores.
"""

from __future__ import annotations

import configparser
import signal
from collections.abc import Mapping
from pathlib import Path

import psutil

from fleet.demo.children import send
from fleet.demo.place import REPOSITORY
from fleet.demo.supervised import MIB, Supervised
from tests.campaigns.ownership.judge import Usage

DEPLOY = REPOSITORY / "deploy"
DROPPED = ("program:console",)


class Host:
    """Starts at once. `name` is its FLEET_HOST; its slots are `name:0`, `name:1`, …"""

    def __init__(self, name: str, directory: Path, env: Mapping[str, str], workers: int, ports: int) -> None:
        self.name, self.workers = name, workers
        self.logs = directory / f"logs-{name}"
        run = directory / f"run-{name}"
        for path in (self.logs, run):
            path.mkdir(parents=True, exist_ok=True)
        self.env = {
            **env,
            "FLEET_HOST": name,
            "FLEET_WORKERS": str(workers),
            "FLEET_LOG_DIR": str(self.logs),
            "FLEET_RUN_DIR": str(run),
            "FLEET_METRICS_BASE_PORT": str(ports),
        }
        self.configuration = directory / f"supervisord-{name}.conf"
        self._write_configuration()
        self.supervised = Supervised(self.env, self.logs, self.configuration)
        self._former: list[Supervised] = []

    def _write_configuration(self) -> None:
        known = configparser.RawConfigParser(inline_comment_prefixes=(";",))
        known.read_string((DEPLOY / "supervisord-workers.conf").read_text().replace("%(here)s", str(DEPLOY)))
        for section in DROPPED:
            known.remove_section(section)
        with self.configuration.open("w") as out:
            known.write(out)

    def slots(self) -> list[str]:
        return [f"{self.name}:{number}" for number in range(self.workers)]

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────
    def worker(self, number: int = 0) -> int:
        """The pid of a live worker; 0 if it does not run now."""
        return self._pid(f"worker_{number:02d}")

    def coordinator(self) -> int:
        return self._pid("coordinator")

    def _pid(self, program: str) -> int:
        return next(iter(self.supervised.pids(program)), 0)

    def pids(self) -> list[int]:
        return [*self.supervised.processes()]

    def usage(self) -> list[tuple[str, Usage]]:
        """What each of its processes holds now, by kind of program. Raises psutil.Error if one of them ends meanwhile."""
        return [
            (
                program.partition("_")[0],
                Usage(1, process.num_threads(), process.num_fds(), process.memory_info().rss / MIB),
            )
            for program, process in self.supervised.processes().values()
        ]

    def suspend(self) -> None:
        """supervisord restarts nothing until `resume`."""
        psutil.Process(self.supervised.pid).suspend()

    def resume(self) -> None:
        psutil.Process(self.supervised.pid).resume()

    def vanish(self) -> None:
        """The host is gone: supervisord first, so that nothing is restarted or told to stop in order, then everything."""
        self.suspend()
        for pid in self.pids():
            send(pid, signal.SIGKILL)
        self.supervised.kill()

    def start_again(self) -> None:
        """A new supervisord on the same configuration; what the former one left behind is its children's business."""
        self._former.append(self.supervised)
        self.supervised = Supervised(self.env, self.logs, self.configuration)

    def kill(self) -> None:
        for each in [self.supervised, *self._former]:
            each.kill()

    def log_text(self, program: str = "") -> str:
        """Of the programs whose name begins so."""
        return "\n".join(p.read_text(errors="replace") for p in sorted(self.logs.glob(f"{program}*.log*")))
