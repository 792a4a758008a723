"""`fleet drain`, `rebalance`, `rotate`: an operator's wishes, carried out by the leader and the workers. In: what is wanted; out: a
mark in Redis, and how far it got, line by line, until it is done, the leader says that it can do no more, or nothing has moved
for STALLED_S.

A wish lives in Redis alone, so a Redis that loses its data loses it; each look makes sure that it still stands. What an emptied
Redis shows (no owners, no workers, no wish) is never taken for a wish that is done.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import click

from fleet.commands.session import Session, Stopped, env_file_option, session
from fleet.commands.views import NO_LEADER, fleet_view, open_redis
from fleet.core import wire
from fleet.core.errors import StoreUnavailable
from fleet.core.placement import OVER
from fleet.runtime.fleet_view import FleetView
from fleet.runtime.redis_store import Observation, RedisStore, check_rebuilt

LOOK_S = 0.5
STALLED_S = 15.0
STAYS_S = 3.0  # who has nowhere to go now may have in a moment: a worker that restarts, a leader that has yet to look
LOST = "the wish was lost (Redis lost its data); give it again"
ENDED = "the wish no longer stands: it was withdrawn or replaced, Redis went back to older data, or the worker's process is new"
wait_option = click.option("--wait/--no-wait", default=True, help="Show progress until it is done.  [default: wait]")


class Wish(NamedTuple):
    """What is followed. `under`: the data that it was written into. `stands`: is it still there? `left`: how much is left of it.
    `no_further`: of so much left the leader says, in these words, that it stays."""

    under: wire.Generation | None
    stands: Callable[[Observation], bool]
    left: Callable[[Observation], int | tuple[int, str]]
    no_further: Callable[[int], str] = lambda count: ""


@click.command()
@click.argument("slot")
@click.option("--undo", is_flag=True, help="Let the worker have accounts again.")
@wait_option
@env_file_option
def drain(slot: str, undo: bool, wait: bool) -> None:
    """Move a worker's accounts to the others, a few at a time. It keeps running, empty; who has nowhere to go stays on it."""
    here = session()
    store, view = open_redis(here, "a drain"), fleet_view(here)
    under = store.observe().generation
    if not store.set_drain(slot, not undo):
        check_rebuilt(under)  # a worker that Redis has not heard of again yet
        raise Stopped(f"no shard {slot}; `fleet shards` lists them", 1)
    if undo or not wait:
        return
    wish = Wish(
        under,
        lambda seen: slot in seen.workers and seen.workers[slot].drain,
        lambda _: _owned(view, slot),
        lambda count: _told_to_stay(store, slot, count),
    )
    _follow(store, wish, f"accounts left on {slot}", lambda: _why_they_stay(here, store, slot))


@click.command()
@wait_option
@env_file_option
def rebalance(wait: bool) -> None:
    """Even out the load now, where a worker has over 20 % more than the mean; by itself the fleet does this slowly."""
    here = session()
    store = open_redis(here, "a rebalance")
    if not store.leader():
        raise Stopped(NO_LEADER, 1)
    under = store.observe().generation
    store.ask_rebalance()
    if not wait:
        return
    view = fleet_view(here)
    wish = Wish(under, lambda seen: seen.rebalance, lambda seen: (int(seen.rebalance), _spread(view)))
    _follow(store, wish, "accounts", lambda: _why_they_stay(here, store, ""))
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
    under = store.observe().generation
    up = [row["slot"] for row in fleet_view(here).shards() if row["state"] in (wire.UP, wire.DRAINING)]
    unknown = sorted(set(slots) - set(up))
    if unknown or not up:
        raise Stopped(f"no running shard {unknown[0]}" if unknown else "no worker is running", 1)
    name = f"{time.time_ns() // 1_000_000:x}"
    wanted = slots or tuple(up)
    for slot in wanted:
        store.ask_rotation(slot, name)
    if wait:
        wish = Wish(under, lambda seen: _all_know(seen, wanted, name), lambda seen: _to_rotate(seen, wanted, name))
        _follow(store, wish, "sockets left", lambda: "a worker does not act on it")


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


def _owned(view: FleetView, slot: str) -> int:
    return sum(1 for owner in view.owners().values() if owner.slot == slot)


def _spread(view: FleetView) -> str:
    return ", ".join(f"{row['slot']} {row['accounts']}" for row in view.shards())


def _all_know(seen: Observation, slots: tuple[str, ...], wish: str) -> bool:
    """Does every worker that there still is have the wish? Where none is left that is not known."""
    known = [seen.workers[slot].rotate for slot in slots if slot in seen.workers]
    return bool(known) and set(known) == {wish}


def _to_rotate(seen: Observation, slots: tuple[str, ...], wish: str) -> int:
    """Sockets left; a worker that has not heard of the wish yet counts with all its accounts. One that is gone has none left."""
    left = 0
    for slot in slots:
        record = seen.workers.get(slot)
        if record is None or record.view.state == wire.GONE:
            continue
        heard, _, count = record.view.rotation.partition("|")
        left += int(count) if heard == wish else max(1, int(record.view.load))
    return left


def _follow(store: RedisStore, wish: Wish, what: str, stalled: Callable[[], str]) -> None:
    """One line per change, until nothing is left. Raises Stopped once the wish is gone, or nothing has changed for STALLED_S, Redis
    away or being rebuilt included, or for STAYS_S while the leader says that it goes `no_further`."""
    before: object = None
    changed_s, under = time.monotonic(), wish.under
    while True:
        try:
            seen = store.observe()
            stands = wish.stands(seen)
            if stands:
                under = seen.generation  # a rebuild of data that were only doubted keeps it
            elif not _same_data(seen.generation, under):
                raise Stopped(LOST, 1)
            check_rebuilt(seen.generation)
            now = wish.left(seen)
            rest = wish.no_further(now) if isinstance(now, int) else ""
        except StoreUnavailable as error:
            if time.monotonic() - changed_s > STALLED_S:
                kept = "the wish is kept unless Redis loses its data"
                raise Stopped(f"{error}; {kept}, how far it got is not known", 1) from error
            time.sleep(LOOK_S)
            continue
        count, shown = now if isinstance(now, tuple) else (now, str(now))
        if now != before:
            before, changed_s = now, time.monotonic()
            click.echo(f"{shown} {what}" if not isinstance(now, tuple) else f"{what}: {shown}")
        if count == 0:
            return
        if not stands:
            raise Stopped(ENDED, 1)
        if rest and time.monotonic() - changed_s > STAYS_S:
            raise Stopped(f"{rest}; the wish is kept", 1)
        if time.monotonic() - changed_s > STALLED_S:
            raise Stopped(f"nothing has moved for {STALLED_S:.0f} s; {stalled()}", 1)
        time.sleep(LOOK_S)


def _same_data(now: wire.Generation | None, before: wire.Generation | None) -> bool:
    return now is not None and before is not None and now.id == before.id
