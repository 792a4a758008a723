"""Faults of the random campaign: what each does, how it is undone, and whose streams it may stop. In: a rig; out: harm.

A harm of the control plane may stop nobody (I5). `undo` is called exactly once, whatever else happened meanwhile.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterable

from fleet.core.errors import StoreUnavailable
from fleet.demo.children import send
from tests.campaigns.ownership.hosts import Host
from tests.campaigns.ownership.judge import Nap
from tests.campaigns.ownership.rig import Rig, alive, now_ms, wait_for

Undo = Callable[[], object]


class Known:
    """Who owned what when the stores last answered."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._slots: dict[str, str] = {}

    def look(self) -> None:
        try:
            self._slots = {account: owner.slot for account, owner in self._rig.owners().items()} or self._slots
        except StoreUnavailable:
            return

    def of(self, *slots: str) -> set[str]:
        self.look()
        return {account for account, slot in self._slots.items() if slot in slots}


class Harm:
    """One fault under way. `victims`: accounts that may stop. `asleep`: the slot of a worker that is stopped until `undo`."""

    def __init__(
        self, kind: str, victims: set[str], undo: Undo = lambda: None, *, window: bool = False, asleep: str = ""
    ) -> None:
        self.kind, self.victims, self.window = kind, victims, window
        self.nap: Nap | None = None  # once it is over
        self._undo, self._asleep, self._began_ms = undo, asleep, now_ms()

    def undo(self) -> None:
        woke_ms = now_ms()
        self._undo()
        if self._asleep:
            self.nap = Nap(self._asleep, self._began_ms, woke_ms)


Begin = Callable[[Rig, Known, random.Random], Harm]
KINDS: dict[str, Begin] = {}
ON_SUPERVISOR = {"worker_lost", "supervisord_killed", "host_gone", "coordinators_down"}


def kind(function: Begin) -> Begin:
    KINDS[function.__name__] = function
    return function


def clash(one: str, other: str) -> bool:
    """May these not act together? Two that stop and start the same process would undo each other."""
    if one == other:
        return True
    return any({one, other} <= group for group in (_on("redis_"), _on("postgres_"), ON_SUPERVISOR, _on("leader_")))


def _on(prefix: str) -> set[str]:
    return {name for name in KINDS if name.startswith(prefix)}


# ── control plane: nobody stops ──────────────────────────────────────────────────────────────────────────────────────
@kind
def leader_killed(rig: Rig, known: Known, rng: random.Random) -> Harm:
    send(_leader(rig), signal.SIGKILL)
    return Harm("leader_killed", set())


@kind
def leader_paused(rig: Rig, known: Known, rng: random.Random) -> Harm:
    pid = _leader(rig)
    send(pid, signal.SIGSTOP)
    return Harm("leader_paused", set(), lambda: send(pid, signal.SIGCONT))


@kind
def coordinators_down(rig: Rig, known: Known, rng: random.Random) -> Harm:
    for host in rig.hosts.values():
        host.suspend()
        if pid := host.coordinator():
            send(pid, signal.SIGKILL)
    return Harm("coordinators_down", set(), lambda: _each(host.resume for host in rig.hosts.values()))


@kind
def redis_down(rig: Rig, known: Known, rng: random.Random) -> Harm:
    rig.services.redis.kill()
    return Harm("redis_down", set(), rig.services.redis.start)


@kind
def redis_frozen(rig: Rig, known: Known, rng: random.Random) -> Harm:
    rig.services.redis.pause()
    return Harm("redis_frozen", set(), rig.services.redis.resume)


@kind
def redis_emptied(rig: Rig, known: Known, rng: random.Random) -> Harm:
    rig.services.redis.kill()
    rig.empty_redis()
    return Harm("redis_emptied", set(), rig.services.redis.start)


@kind
def redis_flushed(rig: Rig, known: Known, rng: random.Random) -> Harm:
    rig.redis_command("FLUSHALL")
    return Harm("redis_flushed", set())


@kind
def redis_scripts_flushed(rig: Rig, known: Known, rng: random.Random) -> Harm:
    rig.redis_command("SCRIPT", "FLUSH")
    return Harm("redis_scripts_flushed", set())


@kind
def postgres_down(rig: Rig, known: Known, rng: random.Random) -> Harm:
    rig.services.postgres.kill()
    return Harm("postgres_down", set(), rig.services.postgres.start)


@kind
def postgres_frozen(rig: Rig, known: Known, rng: random.Random) -> Harm:
    rig.services.postgres.pause()
    return Harm("postgres_frozen", set(), rig.services.postgres.resume)


@kind
def cut_from_redis(rig: Rig, known: Known, rng: random.Random) -> Harm:
    name = rng.choice(sorted(rig.redis_proxies))
    proxy = rig.redis_proxies[name]
    rng.choice((proxy.cut, proxy.freeze))()
    return Harm("cut_from_redis", set(), proxy.heal)


# ── the data path: its own accounts stop ─────────────────────────────────────────────────────────────────────────────
@kind
def worker_killed(rig: Rig, known: Known, rng: random.Random) -> Harm:
    host, number = _some(rig, rng)
    victims = known.of(f"{host.name}:{number}")
    send(host.worker(number), signal.SIGKILL)
    return Harm("worker_killed", victims)


@kind
def worker_paused(rig: Rig, known: Known, rng: random.Random) -> Harm:
    host, number = _some(rig, rng)
    slot, pid = f"{host.name}:{number}", host.worker(number)
    victims = known.of(slot)
    asleep = slot if send(pid, signal.SIGSTOP) else ""
    return Harm("worker_paused", victims, lambda: send(pid, signal.SIGCONT), asleep=asleep)


@kind
def worker_lost(rig: Rig, known: Known, rng: random.Random) -> Harm:
    host, number = _some(rig, rng)
    victims = known.of(f"{host.name}:{number}")
    host.suspend()
    send(host.worker(number), signal.SIGKILL)
    return Harm("worker_lost", victims, host.resume)


@kind
def supervisord_killed(rig: Rig, known: Known, rng: random.Random) -> Harm:
    host, _ = _some(rig, rng)
    victims, old = known.of(*host.slots()), [host.worker(n) for n in range(host.workers)]
    host.supervised.kill_supervisord()
    host.start_again()
    return Harm("supervisord_killed", victims, lambda: wait_for(lambda: not any(map(alive, old)), 35.0))


@kind
def host_gone(rig: Rig, known: Known, rng: random.Random) -> Harm:
    host, _ = _some(rig, rng)
    victims = known.of(*host.slots())
    host.vanish()
    return Harm("host_gone", victims, host.start_again)


@kind
def cut_from_both(rig: Rig, known: Known, rng: random.Random) -> Harm:
    name = rng.choice(sorted(rig.redis_proxies))
    proxies = (rig.redis_proxies[name], rig.postgres_proxies[name])
    victims = known.of(*rig.hosts[name].slots())
    for proxy in proxies:
        proxy.cut()
    return Harm("cut_from_both", victims, lambda: _each(proxy.heal for proxy in proxies), window=True)


@kind
def accounts_changed(rig: Rig, known: Known, rng: random.Random) -> Harm:
    try:
        rig.end_account(rng.choice(sorted(rig.credentials)), remove=rng.random() < 0.5)
        rig.add_account()
    except StoreUnavailable:
        return Harm("accounts_changed", set())  # Postgres is away: nobody can change anything
    return Harm("accounts_changed", set())


def _some(rig: Rig, rng: random.Random) -> tuple[Host, int]:
    host = rig.hosts[rng.choice(sorted(rig.hosts))]
    return host, rng.randrange(host.workers)


def _leader(rig: Rig) -> int:
    """The leader's pid, or any coordinator's while nobody can tell."""
    try:
        name = rig.leading_host()
    except StoreUnavailable:
        name = ""
    return rig.hosts[name or "a"].coordinator()


def _each(calls: Iterable[Callable[[], object]]) -> None:
    for call in calls:
        call()
