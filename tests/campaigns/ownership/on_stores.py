"""Rows of the failure table: Redis and Postgres stopped, frozen, emptied, replaced by older data, or out of one host's reach.
In: a healthy rig; out: a Finding."""

from __future__ import annotations

import time

from fleet.core.errors import StoreUnavailable
from fleet.services import Daemon
from tests.campaigns.ownership.rig import Rig, now_ms, wait_for
from tests.campaigns.ownership.table import open_since, row
from tests.campaigns.ownership.trial import Finding, Trial


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


PAST_GRACE_S = 50.0  # T_dead, the grace for a partitioned worker, its witness lease


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
    return rebuilt(rig, trial)


@row
def redis_flushed(rig: Rig, hold_s: float) -> Finding:
    trial = Trial(rig, "redis_flushed")
    trial.begin()
    rig.redis_command("FLUSHALL")
    return rebuilt(rig, trial)


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
    return rebuilt(rig, trial)


def rebuilt(rig: Rig, trial: Trial) -> Finding:
    """The harm is over: wait until ownership stands again under a ready generation, and judge."""
    trial.healed()
    ready = wait_for(lambda: _stands(rig), 40.0, every_s=0.2)
    took_s = (now_ms() - trial.harm_over_ms) / 1000
    time.sleep(3.0)
    finding = trial.end(0.0, rebuilt_after_s=took_s)
    if not ready:
        finding.blame("ownership was not rebuilt")
    return finding


def _stands(rig: Rig) -> bool:
    try:
        owners, _ = rig.store.owners()
        generation = rig.store.observe().generation  # read last: data lost in between have another one, or none
    except StoreUnavailable:
        return False
    return generation is not None and generation.ready and len(owners) == len(rig.credentials)


@row
def postgres_down(rig: Rig, hold_s: float) -> Finding:
    return _outage(rig, "postgres_down", hold_s, rig.services.postgres)


@row
def both_stores_down(rig: Rig, hold_s: float) -> Finding:
    return _outage(rig, "both_stores_down", hold_s, rig.services.redis, rig.services.postgres)


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
    moved = wait_for(lambda: open_since(rig, victims, began_ms) == len(victims), PAST_GRACE_S + 20, every_s=0.2)
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
    moved = wait_for(lambda: open_since(rig, victims, began_ms) == len(victims), 40.0, every_s=0.2)
    rig.redis_proxies[host.name].heal()
    rig.postgres_proxies[host.name].heal()
    trial.healed()
    finding = trial.end(10.0, window=True)
    finding.more["moved_while_cut"] = moved
    return finding
