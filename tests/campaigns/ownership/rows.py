"""The failure table (design: ownership.md), one function per row. In: a healthy rig; out: a Finding. Each leaves the rig healthy.

`hold_s` is how long an outage lasts: 60 s in the table, less in the suite.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial

from fleet.demo.children import send
from fleet.services import Daemon
from tests.campaigns.ownership import judge
from tests.campaigns.ownership.rig import Rig, alive, now_ms, wait_for
from tests.campaigns.ownership.trial import Finding, Trial

Row = Callable[[Rig, float], Finding]
PAST_LEASE_S = 9.0  # lease 4, dead after 7, a tick
PAST_GRACE_S = 50.0  # T_dead, the grace for a partitioned worker, its witness lease
ROWS: dict[str, Row] = {}


def row(function: Row) -> Row:
    ROWS[function.__name__] = function
    return function


# ── workers ──────────────────────────────────────────────────────────────────────────────────────────────────────────
@row
def worker_killed(rig: Rig, hold_s: float) -> Finding:
    """kill −9 of a worker, restarted by supervisord: its own accounts, 3 s."""
    trial = Trial(rig, "worker_killed")
    host = trial.victim()
    trial.begin(trial.of_host(host), dead=True)
    send(host.worker(), signal.SIGKILL)
    return trial.end(3.0)


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
    moved = wait_for(lambda: _open_since(rig, victims, began_ms) == len(victims), PAST_LEASE_S + 15)
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
    """I3: a life that overslept its lease publishes nothing when it wakes. What Kafka's client held at the moment of the pause is
    counted apart: nobody can call it back; and one message may have been between the gate and the client."""
    said = judge.late_words(rig.journal.lines, {former}, woken_ms)
    new = [line for line in said if line.made_ms > began_ms + judge.WINDOW_MS]
    finding.more |= {"in_flight": len(said) - len(new), "late": [f"{x.topic} {x.made_ms - woken_ms} ms" for x in new]}
    if len(new) > 1:
        finding.blame(f"I3 {len(new)} records of {former} after it woke")


def _open_since(rig: Rig, accounts: set[str], since_ms: int) -> int:
    keys = {rig.credentials[a].api_key for a in accounts}
    return len({s["api_key"] for s in rig.sockets() if s["api_key"] in keys and s["opened_at"] > since_ms})


# ── coordinators ─────────────────────────────────────────────────────────────────────────────────────────────────────
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


# ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────────────
def _outage(rig: Rig, name: str, hold_s: float, *stores: Daemon, frozen: bool = False) -> Finding:
    trial = Trial(rig, name)
    trial.begin()
    for store in stores:
        store.pause() if frozen else store.kill()
    time.sleep(hold_s)
    for store in stores:
        store.resume() if frozen else store.start()
    trial.healed()
    wait_for(lambda: rig.leading_host() != "", 30.0)
    time.sleep(4.0)  # a rebuild, if it comes, would show
    return trial.end(0.0)


@row
def redis_down(rig: Rig, hold_s: float) -> Finding:
    """Killed and started again with its data."""
    return _outage(rig, "redis_down", hold_s, rig.services.redis)


@row
def redis_frozen(rig: Rig, hold_s: float) -> Finding:
    return _outage(rig, "redis_frozen", hold_s, rig.services.redis, frozen=True)


@row
def redis_emptied(rig: Rig, hold_s: float) -> Finding:
    """Restarted without its data."""
    trial = Trial(rig, "redis_emptied")
    redis = rig.services.redis
    trial.begin()
    redis.kill()
    rig.empty_redis()
    time.sleep(3.0)
    redis.start()
    return _rebuilt(rig, trial)


@row
def redis_flushed(rig: Rig, hold_s: float) -> Finding:
    trial = Trial(rig, "redis_flushed")
    trial.begin()
    rig.redis_command("FLUSHALL")
    return _rebuilt(rig, trial)


@row
def scripts_flushed(rig: Rig, hold_s: float) -> Finding:
    trial = Trial(rig, "scripts_flushed")
    trial.begin()
    rig.redis_command("SCRIPT", "FLUSH")
    trial.healed()
    time.sleep(5.0)
    return trial.end(0.0)


@row
def redis_stale(rig: Rig, hold_s: float) -> Finding:
    """A failover to a replica that lags: Redis comes back as it was before every account of a worker had moved away. No move."""
    copy = rig.copy_redis("stale-redis")
    host = Trial(rig, "redis_stale").victim()
    rig.store.set_drain(host.slots()[0], True)
    wait_for(lambda: not any(o.slot == host.slots()[0] for o in rig.owners().values()), 30.0)
    rig.store.set_drain(host.slots()[0], False)
    trial = Trial(rig, "redis_stale")
    trial.begin()
    rig.services.redis.kill()
    rig.restore_redis(copy)
    rig.services.redis.start()
    return _rebuilt(rig, trial)


def _rebuilt(rig: Rig, trial: Trial) -> Finding:
    trial.healed()
    ready = wait_for(lambda: len(rig.owners()) == len(rig.credentials) and _generation_ready(rig), 40.0, every_s=0.2)
    took_s = (now_ms() - trial.harm_over_ms) / 1000
    time.sleep(3.0)
    finding = trial.end(0.0, rebuilt_after_s=took_s)
    if not ready:
        finding.blame("ownership was not rebuilt")
    return finding


def _generation_ready(rig: Rig) -> bool:
    generation = rig.store.observe().generation
    return generation is not None and generation.ready


@row
def postgres_down(rig: Rig, hold_s: float) -> Finding:
    return _outage(rig, "postgres_down", hold_s, rig.services.postgres)


@row
def both_stores_down(rig: Rig, hold_s: float) -> Finding:
    return _outage(rig, "both_stores_down", hold_s, rig.services.redis, rig.services.postgres)


# ── partitions ───────────────────────────────────────────────────────────────────────────────────────────────────────
@row
def cut_from_redis(rig: Rig, hold_s: float) -> Finding:
    """One host's way to Redis is cut, for less than the grace: none stops, because the witness in Postgres vouches for it."""
    trial = Trial(rig, "cut_from_redis")
    host = trial.victim(led_elsewhere=True)
    trial.begin()
    rig.redis_proxies[host.name].cut()
    time.sleep(min(hold_s, 25.0))
    rig.redis_proxies[host.name].heal()
    trial.healed()
    time.sleep(3.0)
    return trial.end(0.0)


@row
def cut_from_redis_for_long(rig: Rig, hold_s: float) -> Finding:
    """Past the grace: its accounts move, without overlap; it stops them before anybody else starts them."""
    trial = Trial(rig, "cut_from_redis_for_long")
    host = trial.victim(led_elsewhere=True)
    victims = trial.of_host(host)
    began_ms = trial.begin(victims)
    rig.redis_proxies[host.name].cut()
    moved = wait_for(lambda: _open_since(rig, victims, began_ms) == len(victims), PAST_GRACE_S + 20, every_s=0.2)
    rig.redis_proxies[host.name].heal()
    trial.healed()
    finding = trial.end(10.0)
    if not moved:
        finding.blame("its accounts did not move")
    for account in victims:
        mine = [s for s in rig.sockets() if s["api_key"] == rig.credentials[account].api_key]
        old = max((s["closed_at"] or now_ms() for s in mine if s["opened_at"] <= began_ms), default=0)
        new = min((s["opened_at"] for s in mine if s["opened_at"] > began_ms), default=now_ms())
        if old > new:
            finding.blame(f"I1 {account}: two sockets for {old - new} ms")
    return finding


@row
def cut_from_both(rig: Rig, hold_s: float) -> Finding:
    """One host sees neither store, and the leader sees both: it cannot know whether the host lives. Moved after T_dead and the last
    lease; the host itself goes on in isolation (R5e), which is the documented window: only the tokens tell the owners apart."""
    trial = Trial(rig, "cut_from_both")
    host = trial.victim(led_elsewhere=True)
    victims = trial.of_host(host)
    began_ms = trial.begin(victims)
    rig.redis_proxies[host.name].cut()
    rig.postgres_proxies[host.name].cut()
    moved = wait_for(lambda: _open_since(rig, victims, began_ms) == len(victims), 40.0, every_s=0.2)
    rig.redis_proxies[host.name].heal()
    rig.postgres_proxies[host.name].heal()
    trial.healed()
    finding = trial.end(10.0, window=True)
    finding.more["moved_while_cut"] = moved
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


# ── supervisord and accounts ─────────────────────────────────────────────────────────────────────────────────────────
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
    for what, took_s in finding.more.items():
        if took_s > 1.0 + 3.0:
            finding.blame(f"{what}: {took_s:.1f}, the table says 1 s")
    return finding


def _is_closed(rig: Rig, api_key: str) -> bool:
    return not _is_open(rig, api_key)


def _is_open(rig: Rig, api_key: str) -> bool:
    return any(s["api_key"] == api_key and s["closed_at"] is None for s in rig.sockets())
