"""Who is sure of a place elsewhere: drains and rebalances take only those, so nobody stops for a place that is not there."""

from __future__ import annotations

import random
from collections import Counter

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core.model import AccountSpec, Ownership
from fleet.core.observe import Standing
from fleet.core.placement import Room, Target
from fleet.core.plan import BOUND, Limits, Plan, Worker, plan
from fleet.core.prospects import RESERVED, Prospects
from tests.unit.test_plan import done, owned, reasons, worker

UP, DRAIN, DEAD = Standing.UP, Standing.DRAIN, Standing.DEAD
VENUES = {"okx": ("okx", "unified"), "bybit": ("bybit", "unified"), "binance_usdm": ("binance", "usdm")}
FULL = "no room on another worker"


def specs(*names: str, venue: str = "okx", revision: int = 1) -> dict[str, AccountSpec]:
    exchange, market = VENUES[venue]
    return {name: AccountSpec(name, "u", exchange, market, name, False, revision, 0) for name in names}


def names(n: int, prefix: str = "x") -> list[str]:
    return [f"{prefix}{i:03d}" for i in range(n)]


def shared(n: int, *slots: str) -> dict[str, Ownership]:
    return {name: owned(slots[i % len(slots)], token=i + 1) for i, name in enumerate(names(n))}


def fleet(*workers: Worker) -> dict[str, Worker]:
    return {w.slot: w for w in workers}


def acked(own: dict[str, Ownership]) -> dict[str, Ownership]:
    """Who was revoked is released."""
    return {account: record for account, record in own.items() if record.state == "run"}


def settled(
    desired: dict[str, AccountSpec], own: dict[str, Ownership], workers: dict[str, Worker], limits: Limits
) -> tuple[dict[str, Ownership], Plan, int]:
    """(owners, last plan, accounts revoked) once nothing moves any more."""
    token, revoked = 1000, 0
    for _ in range(300):
        result = plan(desired, own, workers, limits)
        if result.empty and not result.in_flight:
            return own, result, revoked
        revoked += len(result.releases)
        own, token = done(own, result, token)
        own = acked(own)
        assert not plan(desired, own, workers, limits).unplaced
    raise AssertionError("it does not come to rest")


def where(own: dict[str, Ownership]) -> Counter[str]:
    return Counter(record.slot for record in own.values())


# ── drains ───────────────────────────────────────────────────────────────────────────────────────────────────────
def test_a_drain_into_a_full_fleet_stops_nobody_and_says_why() -> None:
    own = shared(100, "a:0", "b:0")
    result = plan(specs(*own), own, fleet(worker("a:0", DRAIN), worker("b:0", capacity=50)))
    assert result.empty and not result.unplaced
    assert result.staying == {"a:0": FULL}


def test_a_drain_past_a_venues_limit_stops_nobody_and_says_why() -> None:
    own, workers = shared(100, "a:0", "b:0"), fleet(worker("a:0", DRAIN, capacity=500), worker("b:0", capacity=500))
    after, last, revoked = settled(specs(*own), own, workers, Limits(connections_per_ip={"okx": 60}))
    assert where(after) == {"a:0": 40, "b:0": 60} and revoked == 10
    assert last.staying == {"a:0": "no address of another worker may hold another okx connection (limit 60 each)"}


def test_a_drain_moves_who_has_a_place_and_leaves_the_others() -> None:
    own = shared(40, "a:0")
    desired = specs(*names(20)) | specs(*names(40)[20:], venue="bybit")
    workers = fleet(worker("a:0", DRAIN), worker("b:0", capacity=500))
    after, last, _ = settled(desired, own, workers, Limits(connections_per_ip={"okx": 0}))
    assert where(after) == {"a:0": 20, "b:0": 20} and {desired[a].venue for a in acked(after)} == {"okx", "bybit"}
    assert all(after[a].slot == "a:0" for a in names(20)) and "okx" in last.staying["a:0"]


def test_nobody_else_is_up() -> None:
    result = plan(specs("x"), {"x": owned()}, fleet(worker("a:0", DRAIN), worker("b:0", DRAIN)))
    assert result.empty and result.staying == {"a:0": "no other worker is up"}


def test_places_that_this_plan_gives_away_are_not_counted_again() -> None:
    own = {"x": owned(), "y": owned("c:0"), "z": owned("b:0", inc="i0")}
    workers = fleet(worker("a:0", DRAIN), worker("b:0", capacity=2), worker("c:0", DEAD))
    result = plan(specs(*own), own, workers)
    assert reasons(result) == {"y": "dead b:0", "z": "restart b:0"}
    assert result.staying == {}  # not before nobody is on the way


def test_places_of_those_under_way_are_not_counted_again() -> None:
    own = shared(10, "a:0") | {"w": owned(token=99, state="revoke"), "v": owned("c:0", token=98, state="revoke")}
    workers = fleet(worker("a:0", DRAIN), worker("b:0", capacity=3), worker("c:0", Standing.SILENT))
    result = plan(specs(*own), own, workers)
    assert len(result.releases) == 1 and result.in_flight == 3 and not result.staying


def test_a_place_that_a_probationer_awaits_is_kept() -> None:
    own, workers = {"x": owned()}, fleet(worker("a:0", DRAIN), worker("b:0", capacity=1))
    result = plan(specs("x", "y"), own, workers, waiting=frozenset({"y"}))
    assert result.empty and result.staying == {"a:0": RESERVED}


def test_workers_of_one_address_hand_over_what_it_may_hold() -> None:
    """The connection that is given up is the one that is needed."""
    workers = fleet(worker("h:0", DRAIN), worker("h:1"))
    own = shared(40, "h:0", "h:1")
    after, last, _ = settled(specs(*own), own, workers, Limits(connections_per_ip={"okx": 40}))
    assert where(after) == {"h:1": 40} and not last.staying


def test_a_connection_that_is_given_up_goes_to_who_has_none() -> None:
    workers = fleet(worker("h:0", DRAIN), worker("h:1"))
    own = shared(40, "h:0", "h:1")
    result = plan(specs(*own, "a"), own, workers, Limits(connections_per_ip={"okx": 40}))
    assert set(result.unplaced) == {"a"} and result.empty and result.staying


def test_who_stays_on_a_drained_worker_gets_its_new_credentials() -> None:
    own, workers = {"x": owned(revision=1)}, fleet(worker("a:0", DRAIN), worker("b:0", capacity=0))
    result = plan(specs("x", revision=2), own, workers)
    assert reasons(result) == {"x": "credentials a:0"}
    assert plan(specs("x", revision=2), done(own, result, 5)[0], workers).staying == {"a:0": FULL}


def test_a_drain_waits_while_nobody_is_dealt_out() -> None:
    workers = fleet(worker("a:0", DRAIN), worker("b:0"))
    assert plan(specs("x"), {"x": owned()}, workers, Limits(hold="settling", rebalance=20)).empty


def test_a_worker_that_is_stopped_keeps_its_accounts_to_the_end() -> None:
    """SIGTERM does not wait for places: what it has is read by the next owner, or unplaced until there is room."""
    own = shared(4, "a:0")
    assert plan(specs(*own), own, fleet(worker("a:0", Standing.LEAVING), worker("b:0", capacity=2))).empty
    result = plan(specs(*own), own, fleet(worker("a:0", DEAD), worker("b:0", capacity=2)))
    assert len(result.assigns) == 2 and len(result.unplaced) == 2


rigs = st.lists(st.tuples(st.sets(st.integers(2, 4), max_size=2), st.integers(0, 12)), min_size=2, max_size=5)


@settings(max_examples=150, deadline=None)
@given(
    rigs,
    st.dictionaries(st.sampled_from(sorted(VENUES)), st.integers(1, 8)),
    st.lists(st.sampled_from(sorted(VENUES)), max_size=30),
    st.sets(st.integers(0, 4), max_size=2),
    st.randoms(use_true_random=False),
)
def test_whatever_is_drained_and_evened_out_nobody_stops_for_good(
    rows: list[tuple[set[int], int]], limits: dict[str, int], venues: list[str], drained: set[int], order: random.Random
) -> None:
    """Whoever ran runs again, in whatever order accounts are released; and it comes to rest."""
    workers = {
        f"w{i}:0": worker(f"w{i}:0", capacity=n, addresses=tuple(f"10.0.0.{a}" for a in sorted(addresses)))
        for i, (addresses, n) in enumerate(rows)
    }
    desired = {f"x{i:02d}": specs(f"x{i:02d}", venue=venue)[f"x{i:02d}"] for i, venue in enumerate(venues)}
    bounds = Limits(connections_per_ip=limits, rebalance=20)
    first = plan(desired, {}, workers, bounds)
    own, token = done({}, first, 0)
    for i in drained & set(range(len(rows))):
        workers[f"w{i}:0"] = msgspec.structs.replace(workers[f"w{i}:0"], standing=DRAIN)
    ran = set(own)
    for _ in range(200):
        result = plan(desired, own, workers, bounds)
        assert not ran & result.unplaced.keys()
        own, token = done(own, result, token)
        revoked = sorted(a for a, record in own.items() if record.state == "revoke")
        if not revoked and result.empty:
            break
        for account in order.sample(revoked, order.randint(min(1, len(revoked)), len(revoked))):
            del own[account]
    else:
        raise AssertionError("it does not come to rest")


# ── rebalancing ──────────────────────────────────────────────────────────────────────────────────────────────────
FOUR = ("1.0.0.1", "1.0.0.2", "1.0.0.3", "1.0.0.4")


def test_load_that_only_one_worker_may_hold_stays_there() -> None:
    """Four addresses against one: each of those that were revoked came back, for ever."""
    workers = fleet(worker("a:0", capacity=1000, addresses=FOUR), worker("b:0", capacity=1000, addresses=("2.0.0.1",)))
    limits = Limits(connections_per_ip={"okx": 100}, rebalance=20)
    own, _ = done({}, plan(specs(*names(500)), {}, workers, limits), 0)
    result = plan(specs(*own), own, workers, limits)
    assert where(own) == {"a:0": 400, "b:0": 100} and result.empty
    assert result.uneven == "no address of a worker below the mean may hold another okx connection (limit 100 each)"


def test_what_may_move_moves_past_what_may_not() -> None:
    own = shared(400, "a:0")
    desired = specs(*names(300)) | specs(*names(400)[300:], venue="bybit")
    workers = fleet(worker("a:0", capacity=1000), worker("b:0", capacity=1000))
    after, last, revoked = settled(
        desired, own, workers, Limits(connections_per_ip={"okx": 320, "bybit": 90}, rebalance=20)
    )
    assert revoked == 160 and where(after) == {"a:0": 240, "b:0": 160} and not last.uneven
    after, last, revoked = settled(desired, own, workers, Limits(connections_per_ip={"okx": 0}, rebalance=20))
    assert revoked == 100 and where(after) == {"a:0": 300, "b:0": 100} and "okx" in last.uneven


def test_the_allowance_goes_to_whoever_may_use_it() -> None:
    own = shared(100, "a:0") | {f"y{i}": owned("b:0") for i in range(80)}
    desired = specs(*names(100)) | specs(*(a for a in own if a[0] == "y"), venue="bybit")
    workers = fleet(*(worker(slot, capacity=200) for slot in ("a:0", "b:0", "c:0", "d:0")))
    result = plan(desired, own, workers, Limits(connections_per_ip={"okx": 0}, rebalance=5))
    assert Counter(r.expected.slot for r in result.releases) == {"b:0": 5} and not result.uneven


def test_who_fits_nowhere_does_not_keep_load_from_being_evened_out() -> None:
    own = shared(100, "a:0")
    desired = specs(*own, venue="binance_usdm") | specs("o")
    workers = fleet(worker("a:0", capacity=1000), worker("b:0", capacity=1000))
    result = plan(desired, own, workers, Limits(connections_per_ip={"okx": 0}, rebalance=20))
    assert set(result.unplaced) == {"o"} and len(result.releases) == 20


def test_what_is_on_its_way_out_is_told_apart() -> None:
    own, workers = shared(30, "a:0"), fleet(worker("a:0"), worker("b:0"))
    result = plan({}, own, workers, Limits(rebalance=20))
    assert {r.reason for r in result.releases} == {"inactive"} and result.uneven == BOUND


# ── the question itself ──────────────────────────────────────────────────────────────────────────────────────────
def target(slot: str, seats: int, *addresses: str) -> Target:
    return Target(slot, "i", addresses, seats)


@pytest.mark.parametrize(
    ("rows", "held", "sure"),
    [
        ([target("a:0", 3, "a"), target("b:0", 2, "b")], {}, 4),  # limit 2 each
        ([target("a:0", 1, "a"), target("a:1", 1, "a")], {}, 2),
        ([target("a:0", 9, "x", "y")], {("x", "okx"): 1}, 3),
        ([target("a:0", 1, "x", "y"), target("b:0", 1, "y")], {("x", "okx"): 1, ("y", "okx"): 1}, 1),
        ([target("a:0", 9, "a")], {("a", "okx"): 5}, 0),  # more than it may
        ([], {}, 0),
    ],
)
def test_how_many_are_sure_of_a_place(rows: list[Target], held: dict[tuple[str, str], int], sure: int) -> None:
    prospects = Prospects(rows, Room({"okx": 2}, held), (), "another worker")
    n = 0
    while n < 20 and prospects.fit("okx", ""):
        prospects.promise("okx", "")
        n += 1
    assert n == sure
