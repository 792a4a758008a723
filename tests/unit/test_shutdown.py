"""Stop signals, the parent's death, slot locks and the checklist, with real processes where the kernel is the point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fleet.runtime import logs
from fleet.runtime.shutdown import Checklist, SlotTaken, lock_slot

LOG = logs.get("test")


def run(code: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_sets_the_event_even_while_the_main_thread_waits_on_it(number: int) -> None:
    code = (
        "from fleet.runtime.shutdown import install_stop\n"
        "stop = install_stop(); assert install_stop() is stop\n"
        "print('ready', flush=True)\n"
        "print('stopped' if stop.wait(20) else 'late', flush=True)"
    )
    with run(code) as process:
        assert process.stdout and process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "stopped\n"
        assert process.wait(5) == 0


PARENT = """
import os, subprocess, sys
os.environ["SUPERVISOR_ENABLED"] = "1"
child = subprocess.Popen([sys.executable, "-c", '''
from fleet.runtime.shutdown import die_with_parent
import time
die_with_parent()
print("armed", flush=True)
time.sleep(60)
'''])
print(child.pid, flush=True)
child.wait()
"""


def gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_a_child_dies_with_its_killed_parent() -> None:
    with run(PARENT) as parent:
        assert parent.stdout
        said = {parent.stdout.readline().strip(), parent.stdout.readline().strip()}
        child = int((said - {"armed"}).pop())
        assert "armed" in said
        parent.kill()
        assert gone(child, 5)


def test_a_parent_that_died_before_the_call_is_noticed() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait(10)
    code = "from fleet.runtime.shutdown import die_with_parent; die_with_parent(); print('alive')"
    env = {**os.environ, "SUPERVISOR_ENABLED": "1", "FLEET_PARENT_PID": str(dead.pid)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=20, check=False
    )
    assert done.returncode == 1 and done.stdout == ""


def test_outside_supervisord_nothing_is_tied_to_the_parent() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("SUPERVISOR_")}
    code = "from fleet.runtime.shutdown import die_with_parent; die_with_parent(); print('alive')"
    env["FLEET_PARENT_PID"] = "1"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "alive\n"


def test_a_slot_is_held_once_and_names_its_holder(tmp_path: Path) -> None:
    with lock_slot(str(tmp_path / "run"), "f", "host:0") as held:
        assert held.path.read_text().startswith(f"{os.getpid()}\n")
        with pytest.raises(SlotTaken) as taken:
            lock_slot(str(tmp_path / "run"), "f", "host:0")
        assert taken.value.pid == os.getpid() and taken.value.retryable
        lock_slot(str(tmp_path / "run"), "f", "host:1").release()
        lock_slot(str(tmp_path / "run"), "other", "host:0").release()
    lock_slot(str(tmp_path / "run"), "f", "host:0").release()


def test_locks_of_one_file_have_one_name(tmp_path: Path) -> None:
    """Of two processes that held locks by the same name, the former is dead (R8); another directory proves nothing."""
    names = []
    for directory in ("here", "here", "elsewhere"):
        with lock_slot(str(tmp_path / directory), "f", "host:0") as held:
            names.append(held.name)
    assert names[0] == names[1] != names[2]


def test_a_killed_holder_frees_the_slot_at_once(tmp_path: Path) -> None:
    code = (
        "import sys, time; from fleet.runtime.shutdown import lock_slot\n"
        f"lock = lock_slot({str(tmp_path)!r}, 'f', 'host:0'); print('held', flush=True); time.sleep(60)"
    )
    with run(code) as holder:
        assert holder.stdout and holder.stdout.readline() == "held\n"
        with pytest.raises(SlotTaken) as taken:
            lock_slot(str(tmp_path), "f", "host:0")
        assert taken.value.pid == holder.pid
        threading.Timer(0.2, holder.kill).start()
        lock_slot(str(tmp_path), "f", "host:0", wait_s=5).release()


def test_the_checklist_runs_in_order_and_goes_on_after_a_failure() -> None:
    ran: list[str] = []
    steps = Checklist()
    steps.add("market data", lambda _left_s: ran.append("market data"))
    steps.add("broken", lambda _left_s: 1 / 0)
    steps.add("kafka", lambda _left_s: ran.append("kafka"))
    assert steps.run(5, LOG) == ["broken"]
    assert ran == ["market data", "kafka"]


def test_a_hung_step_is_left_behind_at_the_deadline() -> None:
    hang = threading.Event()
    left: list[float] = []
    steps = Checklist()
    steps.add("first", lambda left_s: left.append(left_s))
    steps.add("hung", lambda _left_s: hang.wait(30))
    steps.add("last", lambda left_s: left.append(left_s))
    started = time.monotonic()
    assert steps.run(0.5, LOG) == ["hung"]
    assert time.monotonic() - started < 2
    hang.set()
    assert 0.4 < left[0] <= 0.5 and left[1] == 0.0
