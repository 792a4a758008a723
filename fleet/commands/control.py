"""`fleet drain`, `rebalance`, `rotate`: an operator's wishes, carried out by the leader and the workers. In: what is wanted; out: a
mark in Redis, and how far it got, line by line, until it is done, the leader says that it can do no more, or nothing has moved
for STALLED_S.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click

from fleet.commands.session import Session, Stopped, env_file_option, session
from fleet.commands.views import NO_LEADER, fleet_view, open_redis
from fleet.core import wire
from fleet.core.errors import StoreUnavailable
from fleet.core.placement import OVER
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.redis_store import RedisStore

LOOK_S = 0.5
STALLED_S = 15.0
STAYS_S = 3.0  # who has nowhere to go now may have in a moment: a worker that restarts, a leader that has yet to look
wait_option = click.option("--wait/--no-wait", default=True, help="Show progress until it is done.  [default: wait]")


@click.command()
@click.argument("slot")
@click.option("--undo", is_flag=True, help="Let the worker have accounts again.")
@wait_option
@env_file_option
def drain(slot: str, undo: bool, wait: bool) -> None:
    """Move a worker's accounts to the others, a few at a time. It keeps running, empty; who has nowhere to go stays on it."""
    here = session()
    store = open_redis(here, "a drain")
    if not store.set_drain(slot, not undo):
        raise Stopped(f"no shard {slot}; `fleet shards` lists them", 1)
    if not undo and wait:
        _follow(
            lambda: _owned(store, slot),
            f"accounts left on {slot}",
            lambda: _why_they_stay(here, store, slot),
            lambda count: _told_to_stay(store, slot, count),
        )


@click.command()
@wait_option
@env_file_option
def rebalance(wait: bool) -> None:
    """Even out the load now, where a worker has over 20 % more than the mean; by itself the fleet does this slowly."""
    here = session()
    store = open_redis(here, "a rebalance")
    if not store.leader():
        raise Stopped(NO_LEADER, 1)
    store.ask_rebalance()
    if not wait:
        return
    view = fleet_view(here)
    _follow(
        lambda: (int(store.observe().rebalance), _spread(view)), "accounts", lambda: _why_they_stay(here, store, "")
    )
    uneven = store.answer(wire.EVENED)
    if uneven is None:
        raise Stopped("the wish was forgotten before the load was even; ask again", 1)
    if uneven:
        raise Stopped(f"load stays uneven: {uneven}", 1)
    click.echo(f"no worker has over {OVER - 1:.0%} more than the mean")


@click.command()
@click.argument("slots", nargs=-1, metavar="[SLOT]...")
@wait_option
@env_file_option
def rotate(slots: tuple[str, ...], wait: bool) -> None:
    """Replace every private socket by a new one, make before break, a few at a time. All workers if none is named."""
    here = session()
    store = open_redis(here, "a rotation")
    up = [row["slot"] for row in fleet_view(here).shards() if row["state"] in (wire.UP, wire.DRAINING)]
    unknown = sorted(set(slots) - set(up))
    if unknown or not up:
        raise Stopped(f"no running shard {unknown[0]}" if unknown else "no worker is running", 1)
    wish = f"{time.time_ns() // 1_000_000:x}"
    wanted = slots or tuple(up)
    for slot in wanted:
        store.ask_rotation(slot, wish)
    if wait:
        _follow(lambda: _to_rotate(store, wanted, wish), "sockets left", lambda: "a worker does not act on it")


def _told_to_stay(store: RedisStore, slot: str, count: int) -> str:
    """The leader's word that nobody moves any more; "" while it has not said so. Raises StoreUnavailable."""
    why = store.answer(wire.drained(slot))
    return f"{count} account{'s' if count > 1 else ''} stay{'' if count > 1 else 's'} on {slot}: {why}" if why else ""


def _why_they_stay(here: Session, store: RedisStore, slot: str) -> str:
    """What keeps the leader from moving accounts, as far as it can be seen from here. Raises StoreUnavailable."""
    if not store.leader():
        return f"{NO_LEADER}; the wish is kept"
    others = [r for s, r in store.observe().workers.items() if s != slot and not r.drain and r.view.state == wire.UP]
    if not others:
        return "no other worker is up; the wish is kept"
    try:
        here.postgres().fetch("SELECT 1")
    except StoreUnavailable as error:
        return f"{error}: nobody moves who need not while it is away; the wish is kept"
    reasons = ", ".join(f"{n} unplaced: {why}" for why, n in sorted(store.unplaced()[1].items()))
    return reasons or "see the coordinator's log"


def _owned(store: RedisStore, slot: str) -> int:
    return sum(1 for owner in store.owners()[0].values() if owner.slot == slot)


def _spread(view: FleetView) -> str:
    return ", ".join(f"{row['slot']} {row['accounts']}" for row in view.shards())


def _to_rotate(store: RedisStore, slots: tuple[str, ...], wish: str) -> int:
    """Sockets left; a worker that has not heard of the wish yet counts with all its accounts. One that is gone has none left."""
    workers, left = store.observe().workers, 0
    for slot in slots:
        record = workers.get(slot)
        if record is None or record.view.state == wire.GONE:
            continue
        heard, _, count = record.view.rotation.partition("|")
        left += int(count) if heard == wish else max(1, int(record.view.load))
    return left


def _follow(
    left: Callable[[], int | tuple[int, str]],
    what: str,
    stalled: Callable[[], str],
    no_further: Callable[[int], str] = lambda count: "",
) -> None:
    """One line per change, until nothing is left. Raises Stopped once nothing has changed for STALLED_S, Redis away included,
    or for STAYS_S while the leader says that it goes `no_further`."""
    before: object = None
    changed_s = time.monotonic()
    while True:
        try:
            now = left()
            rest = no_further(now) if isinstance(now, int) else ""
        except StoreUnavailable as error:
            if time.monotonic() - changed_s > STALLED_S:
                raise Stopped(f"{error}; the wish is kept, how far it got is not known", 1) from error
            time.sleep(LOOK_S)
            continue
        count, shown = now if isinstance(now, tuple) else (now, str(now))
        if now != before:
            before, changed_s = now, time.monotonic()
            click.echo(f"{shown} {what}" if not isinstance(now, tuple) else f"{what}: {shown}")
        if count == 0:
            return
        if rest and time.monotonic() - changed_s > STAYS_S:
            raise Stopped(f"{rest}; the wish is kept", 1)
        if time.monotonic() - changed_s > STALLED_S:
            raise Stopped(f"nothing has moved for {STALLED_S:.0f} s; {stalled()}", 1)
        time.sleep(LOOK_S)
