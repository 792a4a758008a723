"""The fleet itself: supervisord with the repository's supervisord.conf. In: an environment; out: processes, a clean stop.

supervisord tells every child its program's name in SUPERVISOR_PROCESS_NAME; that is how processes are found here.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from fleet.core.errors import FleetError
from fleet.demo.children import Child, session_of, wait_until
from fleet.demo.place import REPOSITORY
from fleet.demo.report import Process

STOP_S = 120.0  # more than the sum of the programs' own deadlines; supervisord kills a program that misses its own
VANISH_S = 2.0
MIB = 1024 * 1024


class SupervisorFailed(FleetError):
    """supervisord did not start."""


class Supervised:
    """supervisord and its programs."""

    def __init__(
        self, env: Mapping[str, str], logs: Path, configuration: Path = REPOSITORY / "supervisord.conf"
    ) -> None:
        executable = shutil.which("supervisord", path=str(Path(sys.executable).parent)) or shutil.which("supervisord")
        if executable is None:
            raise SupervisorFailed("supervisord is not installed: pip install supervisor")
        command = [executable, "--nodaemon", "--configuration", str(configuration)]
        self._log = logs / "supervisord.log"
        self._child = Child(command, env=env, cwd=REPOSITORY, log=logs / "supervisord.out")
        self.pid = self._child.pid
        self.env = env
        self._known: dict[int, psutil.Process] = {}

    def running(self) -> bool:
        return self._child.running()

    def tail(self) -> str:
        """The end of what supervisord said, for error messages."""
        said = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return " | ".join([self._child.tail(), *said[-5:]])

    def processes(self) -> dict[int, tuple[str, psutil.Process]]:
        """pid → (program, process) of every live child."""
        found: dict[int, tuple[str, psutil.Process]] = {}
        try:
            children = psutil.Process(self.pid).children(recursive=False)
        except psutil.NoSuchProcess:
            return found
        for process in children:
            try:
                program = process.environ().get("SUPERVISOR_PROCESS_NAME", "")
                if program and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = (program, process)
                    self._known[process.pid] = process
            except psutil.Error:
                continue
        return found

    def pids(self, program: str) -> list[int]:
        """Pids of the programs whose name starts with `program`, in order of name."""
        live = [(name, pid) for pid, (name, _) in self.processes().items() if name.startswith(program)]
        return [pid for _, pid in sorted(live)]

    def usage(self) -> list[Process]:
        """Memory and processor time of every process now."""
        rows: list[Process] = []
        for pid, (program, process) in self.processes().items():
            try:
                cpu = process.cpu_times()
                rss_mb = process.memory_info().rss / MIB
            except psutil.Error:
                continue
            rows.append(Process(program, pid, round(rss_mb, 1), round(cpu.user + cpu.system, 2)))
        return sorted(rows, key=lambda row: row.program)

    def stop(self) -> list[str]:
        """SIGTERM to supervisord; everything that was not clean about what followed, [] if all was."""
        self.processes()
        before = self._log.stat().st_size if self._log.exists() else 0
        problems = [] if self._child.stop(STOP_S) else [f"supervisord was still there after {STOP_S:g} s"]
        said = self._log.read_bytes()[before:].decode(errors="replace")
        problems += [
            f"{name} missed its deadline and was killed"
            for name in re.findall(r"killing '(\S+)' \(\d+\) with SIGKILL", said)
        ]
        for name, status in re.findall(r"stopped: (\S+) \(exit status (\d+)\)", said):
            if status != "0":
                problems.append(f"{name} exited with {status}")
        if not wait_until(lambda: not self.left(), VANISH_S):
            problems += [f"left running: {process.pid} {' '.join(process.cmdline()[:6])}" for process in self.left()]
        return problems

    def left(self) -> list[psutil.Process]:
        """Processes of this fleet that still exist."""
        known = [p for p in self._known.values() if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        return list({p.pid: p for p in [*known, *session_of(self.pid)]}.values())

    def kill_supervisord(self) -> None:
        """SIGKILL to supervisord alone; what its children do then is the question."""
        self.processes()
        psutil.Process(self.pid).kill()

    def kill(self) -> None:
        """Everything, now."""
        self._child.kill()
        for process in self.left():
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
