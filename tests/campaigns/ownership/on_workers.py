"""Rows of the failure table: workers that die, sleep, restart, and their supervisord. In: a healthy rig; out: a Finding."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import psutil

from fleet.demo.children import send
from tests.campaigns.ownership import judge
from tests.campaigns.ownership.logbook import lines, steps
from tests.campaigns.ownership.rig import Rig, alive, now_ms, wait_for
from tests.campaigns.ownership.table import open_since, row
from tests.campaigns.ownership.trial import Finding, Trial

PAST_LEASE_S = 9.0  # lease 4, dead after 7, a tick


@row
def worker_killed(rig: Rig, hold_s: float) -> Finding:
    """kill −9 of a worker, restarted by supervisord: its own accounts, 3 s. With `--hosts 1 --accounts 1000` one worker's 1,000."""
    trial = Trial(rig, "worker_killed")
    host = trial.victim()
    victims, former = trial.of_host(host), host.worker()
    killed_ms, spent_s = trial.begin(victims, dead=True), cpu_s(rig.exchange)
    send(former, signal.SIGKILL)
    wait_for(lambda: host.worker() not in (0, former), 60.0)
    worker, process_s = psutil.Process(host.worker()), (now_ms() - killed_ms) / 1000
    wait_for(lambda: open_since(rig, victims, killed_ms) == len(victims), 30.0 + trial.pacing_s, every_s=0.25)
    spent = {"worker_cpu_s": round(cpu_s(worker), 2), "exchange_cpu_s": round(cpu_s(rig.exchange) - spent_s, 2)}
    finding = trial.end(3.0)
    finding.more |= {"process_s": process_s, **spent}
    said = "\n".join(each.log_text("worker") for each in rig.hosts.values())  # a slow restart hands its accounts over
    finding.more |= steps(lines(said, killed_ms, ("register", "dial", "connected")), killed_ms)
    return finding


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


@row
def worker_lost(rig: Rig, hold_s: float) -> Finding:
    """The same with restart prevented: no proof of death, 10 s. Comes back empty."""
    trial = Trial(rig, "worker_lost")
    host = trial.victim()
    host.suspend()
    try:
        trial.begin(trial.of_host(host), dead=True)
        send(host.worker(), signal.SIGKILL)
        finding = trial.end(10.0)
    finally:
        host.resume()
    wait_for(lambda: host.worker() != 0, 20.0)
    return finding


@row
def host_gone(rig: Rig, hold_s: float) -> Finding:
    """A whole host at once: workers, supervisord, perhaps the leader with them; 10 s, and 6 s more if a leader is wanted first."""
    trial = Trial(rig, "host_gone")
    host = trial.victim()
    led = rig.leading_host() == host.name
    trial.begin(trial.of_host(host), dead=True)
    host.vanish()
    finding = trial.end(16.0 if led else 10.0, led=led)
    host.start_again()
    wait_for(lambda: host.worker() != 0, 20.0)
    return finding


@row
def worker_paused(rig: Rig, hold_s: float) -> Finding:
    """SIGSTOP past the lease, then SIGCONT: moved within 10 s; wakes fenced and publishes nothing under its former life."""
    trial = Trial(rig, "worker_paused")
    host = trial.victim()
    pid, slot = host.worker(), host.slots()[0]
    former = rig.incarnations()[slot]
    victims = trial.of_host(host)
    began_ms = trial.begin(victims, dead=True)
    os.kill(pid, signal.SIGSTOP)
    moved = wait_for(lambda: open_since(rig, victims, began_ms) == len(victims), PAST_LEASE_S + 15)
    woken_ms = now_ms()
    os.kill(pid, signal.SIGCONT)
    trial.healed()
    finding = trial.end(10.0, woken_after_s=(woken_ms - began_ms) / 1000)
    if not moved:
        finding.blame("not every account was taken over while its worker slept")
    _silent(rig, finding, former, began_ms, woken_ms)
    if not wait_for(lambda: rig.incarnations().get(slot) not in (None, former), 10.0):
        finding.blame("it did not begin a new life after it woke")
    return finding


@row
def worker_napped(rig: Rig, hold_s: float) -> Finding:
    """SIGSTOP longer than the lease and shorter than T_dead: it wakes past its deadline and must begin anew (R4)."""
    trial = Trial(rig, "worker_napped")
    host = trial.victim()
    pid, slot = host.worker(), host.slots()[0]
    former = rig.incarnations()[slot]
    began_ms = trial.begin(trial.of_host(host), dead=True)
    os.kill(pid, signal.SIGSTOP)
    time.sleep(5.0)
    woken_ms = now_ms()
    os.kill(pid, signal.SIGCONT)
    trial.healed()
    finding = trial.end(10.0, woken_after_s=(woken_ms - began_ms) / 1000)
    _silent(rig, finding, former, began_ms, woken_ms)
    return finding


def _silent(rig: Rig, finding: Finding, former: str, began_ms: int, woken_ms: int) -> None:
    """I3: a life that overslept its lease publishes nothing when it wakes, but for what was past the gate."""
    held, new = judge.woken_words(rig.journal.lines, former, began_ms, woken_ms)
    finding.more |= {"in_flight": len(held), "late": [f"{x.topic} {x.made_ms - woken_ms} ms" for x in new]}
    if len(new) > 1:
        finding.blame(f"I3 {len(new)} records of {former} after it woke")


@row
def supervisord_killed(rig: Rig, hold_s: float) -> Finding:
    """kill −9 of supervisord and a new one: no second set of workers (parent-death signal, slot lock); 3 s."""
    trial = Trial(rig, "supervisord_killed")
    host = trial.victim()
    slot = host.slots()[0]
    former = rig.incarnations()[slot]
    trial.begin(trial.of_host(host))
    old = host.worker()
    host.supervised.kill_supervisord()
    host.start_again()
    ended = wait_for(lambda: not alive(old), 35.0)
    ended_s = (now_ms() - trial.began_ms) / 1000
    renewed = wait_for(lambda: rig.incarnations().get(slot) not in (None, former), 20.0)
    finding = trial.end(3.0, former_ended_after_s=ended_s)
    if not ended:
        finding.blame("the former worker still runs")
    if not renewed:
        finding.blame("no new worker registered")
    return finding


@row
def rolling_restart(rig: Rig, hold_s: float) -> Finding:
    """SIGTERM to one worker after the other; each returns to its slot before the next one goes. Each account: 2 s."""
    trial = Trial(rig, "rolling_restart")
    trial.begin(trial.accounts)
    for host in rig.hosts.values():
        for number, slot in enumerate(host.slots()):
            former = rig.incarnations()[slot]
            send(host.worker(number), signal.SIGTERM)
            wait_for(partial(_renewed, rig, slot, former), 40.0)
            rig.settle(now_ms(), 30.0)
    trial.healed()
    return trial.end(2.0)


def _renewed(rig: Rig, slot: str, former: str) -> bool:
    return rig.incarnations().get(slot) not in (None, former)
