"""Placement: balanced, sticky, deterministic, never past a hard limit."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.core.placement import Orphan, Room, Target, fallback_address, place, surplus


def targets(n: int, capacity: int = 100, used: int = 0) -> list[Target]:
    return [Target(f"h{i // 4}:{i}", "i", (f"h{i // 4}",), capacity, used, float(used)) for i in range(n)]


def orphans(n: int) -> list[Orphan]:
    return [Orphan(f"account-{i}", "binance_usdm") for i in range(n)]


def test_an_empty_fleet_is_filled_evenly() -> None:
    placed, unplaced = place(orphans(402), targets(8))
    assert not unplaced
    counts = Counter(spot.slot for spot in placed.values())
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_newcomer_is_filled_first() -> None:
    placed, _ = place(orphans(10), [*targets(3, used=50), Target("new:0", "i", ("new",), 100)])
    assert {spot.slot for spot in placed.values()} == {"new:0"}


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(0, 60), st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter(workers: int, accounts: int, shuffle: random.Random) -> None:
    many, rows = orphans(accounts), targets(workers, capacity=10)
    expected = place(many, rows)
    shuffle.shuffle(many)
    shuffle.shuffle(rows)
    assert place(many, rows) == expected


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 8)), min_size=1, max_size=30), st.integers(0, 120))
def test_capacity_is_never_broken(rows: list[tuple[int, int]], n: int) -> None:
    workers = [
        Target(f"h:{i}", "i", ("h",), capacity, min(used, capacity), float(min(used, capacity)))
        for i, (capacity, used) in enumerate(rows)
    ]
    placed, unplaced = place(orphans(n), workers)
    room = sum(w.capacity - w.used for w in workers)
    assert len(placed) == min(n, room)
    assert len(placed) + len(unplaced) == n
    counts = Counter(spot.slot for spot in placed.values())
    assert all(w.used + counts[w.slot] <= w.capacity for w in workers)
    assert all(unplaced.values())


def test_the_connections_of_an_address_are_never_broken() -> None:
    room = Room({"binance_usdm": 5}, {("h0", "binance_usdm"): 2})
    placed, unplaced = place(orphans(20), targets(8), room)
    hosts = Counter(spot.address for spot in placed.values())
    assert hosts == {"h0": 3, "h1": 5}
    assert set(unplaced.values()) == {"no address may hold another binance_usdm connection (limit 5 each)"}


def test_a_limit_of_one_venue_does_not_hold_back_another() -> None:
    room = Room({"okx": 0})
    placed, _ = place(orphans(4), targets(4), room)
    assert len(placed) == 4


def test_an_account_goes_to_the_address_with_the_fewest_connections_to_its_venue() -> None:
    target = Target("h:0", "i", ("127.0.0.2", "127.0.0.3"), 100)
    room = Room({}, {("127.0.0.2", "okx"): 3})
    placed, _ = place([Orphan(f"o{n}", "okx") for n in range(5)], [target], room)
    assert Counter(spot.address for spot in placed.values()) == {"127.0.0.2": 1, "127.0.0.3": 4}
    placed, _ = place([Orphan(f"b{n}", "bybit") for n in range(6)], [target], room)
    assert Counter(spot.address for spot in placed.values()) == {"127.0.0.2": 3, "127.0.0.3": 3}


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.sets(st.integers(2, 5), min_size=1), st.integers(0, 6)), min_size=1, max_size=6),
    st.dictionaries(st.sampled_from(["okx", "bybit"]), st.integers(0, 5)),
    st.dictionaries(st.tuples(st.integers(2, 5), st.sampled_from(["okx", "bybit"])), st.integers(0, 5)),
    st.lists(st.sampled_from(["okx", "bybit"]), max_size=40),
)
def test_no_limit_is_broken_and_who_is_unplaced_fits_nowhere(
    rows: list[tuple[set[int], int]], limits: dict[str, int], there: dict[tuple[int, str], int], venues: list[str]
) -> None:
    """Addresses may be shared by workers, also of several hosts: an exchange counts what it sees."""
    workers = [
        Target(f"h:{n}", "i", tuple(f"10.0.0.{a}" for a in sorted(addresses)), capacity)
        for n, (addresses, capacity) in enumerate(rows)
    ]
    held = Counter({(f"10.0.0.{a}", venue): n for (a, venue), n in there.items()})
    many = [Orphan(f"x{n}", venue) for n, venue in enumerate(venues)]
    placed, unplaced = place(many, workers, Room(limits, held))
    after = held + Counter((placed[o.account_id].address, o.venue) for o in many if o.account_id in placed)
    used = Counter(spot.slot for spot in placed.values())
    assert len(placed) + len(unplaced) == len(many)
    for worker in workers:
        assert used[worker.slot] <= worker.capacity
        assert all(spot.address in worker.addresses for spot in placed.values() if spot.slot == worker.slot)
    for (address, venue), n in after.items():
        assert n <= max(limits.get(venue, n), held[address, venue])
    for orphan in (o for o in many if o.account_id in unplaced):
        limit = limits.get(orphan.venue, len(many) + 99)
        for worker in workers:
            room = any(after[address, orphan.venue] < limit for address in worker.addresses)
            assert used[worker.slot] == worker.capacity or not room


def test_an_account_without_an_address_has_one_all_the_same() -> None:
    addresses = ("127.0.0.2", "127.0.0.3")
    assert {fallback_address(f"x{n}", addresses) for n in range(20)} == set(addresses)
    assert fallback_address("x", ()) == ""


def test_so_many_at_a_time() -> None:
    """Those that fit nowhere do not count: they come first by name here, and would keep the others from being placed for ever."""
    nowhere = [Orphan(f"a{n}", "closed") for n in range(5)]
    rest, room = {o.account_id: o for o in orphans(7)}, Room({"closed": 0})
    sizes = []
    while rest:
        placed, unplaced = place([*nowhere, *rest.values()], targets(3), room, 3)
        sizes.append(len(placed))
        assert unplaced.keys() == {o.account_id for o in nowhere}
        rest = {a: o for a, o in rest.items() if a not in placed}
    assert sizes == [3, 3, 1]


def test_nobody_is_up() -> None:
    assert place(orphans(1), [])[1] == {"account-0": "no worker is up"}


def test_one_death_moves_its_orphans_only_and_spreads_them() -> None:
    placed, _ = place(orphans(10_000), targets(40, capacity=1000))
    lost = [a for a, spot in placed.items() if spot.slot == "h0:0"]
    counts = Counter(spot.slot for spot in placed.values() if spot.slot != "h0:0")
    survivors = [Target(s, "i", (s.partition(":")[0],), 1000, n, float(n)) for s, n in counts.items()]
    moved, unplaced = place([Orphan(a, "binance_usdm") for a in lost], survivors)
    assert len(moved) == len(lost) == 250
    assert not unplaced
    assert max(Counter(spot.slot for spot in moved.values()).values()) <= 8


def test_surplus_leaves_a_balanced_fleet_alone() -> None:
    assert surplus(targets(4, used=50)) == {}
    assert surplus([*targets(3, used=50), Target("n:0", "i", ("n",), 100, 42, 42.0)]) == {}


def test_surplus_is_what_the_overloaded_have_too_many() -> None:
    rows = [Target("a:0", "i", ("a",), 100, 60, 60.0), Target("b:0", "i", ("b",), 100, 0, 0.0)]
    assert surplus(rows) == {"a:0": 27}  # down to 10 % over the mean of 30
    more = [*rows, Target("c:0", "i", ("c",), 100, 70, 70.0), Target("n:0", "i", ("n",), 0)]
    assert list(surplus(more).items()) == [("c:0", 22), ("a:0", 12)]  # the most loaded first


def test_surplus_does_not_push_one_account_to_and_fro() -> None:
    rows = [Target("a:0", "i", ("a",), 100, 1, 1.0), Target("b:0", "i", ("b",), 100, 0, 0.0)]
    assert surplus(rows) == {}
