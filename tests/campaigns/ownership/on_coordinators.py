"""Rows of the failure table: leaders that die or sleep, no coordinator at all, accounts that change. In: a rig; out: a Finding."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

from fleet.demo.children import send
from tests.campaigns.ownership.rig import Rig, now_ms, wait_for
from tests.campaigns.ownership.table import row
from tests.campaigns.ownership.trial import Finding, Trial


@row
def leader_killed(rig: Rig, hold_s: float) -> Finding:
    trial = Trial(rig, "leader_killed")
    led = rig.leading_host()
    term = rig.store.leader()
    trial.begin()
    send(rig.hosts[led].coordinator(), signal.SIGKILL)
    taken = wait_for(lambda: rig.store.leader() not in ("", term), 20.0)
    finding = trial.end(0.0, new_leader_after_s=(now_ms() - trial.began_ms) / 1000)
    if not taken:
        finding.blame("nobody took the lead over")
    return finding


@row
def leader_paused(rig: Rig, hold_s: float) -> Finding:
    """Past its lease; a standby leads meanwhile, and what the former leader does after it wakes is refused."""
    trial = Trial(rig, "leader_paused")
    pid, term = rig.hosts[rig.leading_host()].coordinator(), rig.store.leader()
    trial.begin()
    os.kill(pid, signal.SIGSTOP)
    taken = wait_for(lambda: rig.store.leader() not in ("", term), 20.0)
    new = rig.store.leader()
    os.kill(pid, signal.SIGCONT)
    trial.healed()
    time.sleep(2.0)
    finding = trial.end(0.0)
    if not taken:
        finding.blame("nobody took the lead over")
    elif rig.store.leader() != new:
        finding.blame("the lead changed again after the former leader woke")
    return finding


@row
def coordinators_down(rig: Rig, hold_s: float) -> Finding:
    trial = Trial(rig, "coordinators_down")
    trial.begin()
    for host in rig.hosts.values():
        host.suspend()
        send(host.coordinator(), signal.SIGKILL)
    time.sleep(hold_s)
    for host in rig.hosts.values():
        host.resume()
    trial.healed()
    wait_for(lambda: rig.leading_host() != "", 30.0)
    time.sleep(2.0)
    return trial.end(0.0)


@row
def leader_paused_again_and_again(rig: Rig, hold_s: float) -> Finding:
    """The leader is paused past its lease and woken, over and over: no stream is touched, no record changed."""
    trial = Trial(rig, "leader_paused_again_and_again")
    trial.begin()
    terms, pauses = set(), 0
    end = time.monotonic() + 3 * hold_s
    while time.monotonic() < end:
        term = rig.store.leader()
        pid = rig.hosts[rig.leading_host() or "a"].coordinator()
        terms.add(term)
        os.kill(pid, signal.SIGSTOP)
        pauses += 1
        wait_for(lambda term=term: rig.store.leader() not in ("", term), 15.0)  # type: ignore[misc]
        os.kill(pid, signal.SIGCONT)
        time.sleep(1.0)
    trial.healed()
    return trial.end(0.0, pauses=pauses, terms=len(terms))


@row
def accounts_changed(rig: Rig, hold_s: float) -> Finding:
    """Inserted, deactivated, removed: followed within 1 s by NOTIFY; nobody else stops."""
    trial = Trial(rig, "accounts_changed")
    gone, deleted = list(rig.credentials)[-2:]
    trial.begin()
    new = rig.add_account()
    key = rig.credentials[new].api_key
    wait_for(lambda: _is_open(rig, key), 15.0, every_s=0.1)
    inserted_s = (now_ms() - trial.began_ms) / 1000
    ended: dict[str, float] = {}
    for account, remove in ((gone, False), (deleted, True)):
        key, at_ms = rig.credentials[account].api_key, now_ms()
        rig.end_account(account, remove=remove)
        wait_for(partial(_is_closed, rig, key), 15.0, every_s=0.1)
        ended["removed_s" if remove else "deactivated_s"] = (now_ms() - at_ms) / 1000
    rig.add_account()
    finding = trial.end()
    finding.more |= {"inserted_s": inserted_s, **ended}
    for what, took_s in {"inserted_s": inserted_s, **ended}.items():
        if took_s > 1.0 + 3.0:
            finding.blame(f"{what}: {took_s:.1f}, the table says 1 s")
    return finding


def _is_closed(rig: Rig, api_key: str) -> bool:
    return not _is_open(rig, api_key)


def _is_open(rig: Rig, api_key: str) -> bool:
    return any(s["api_key"] == api_key and s["closed_at"] is None for s in rig.sockets())
