"""Desired × observed → actions: each case of the table, convergence, movement bounds."""

from __future__ import annotations

import time
from collections import Counter

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fleet.core.model import AccountSpec, Ownership
from fleet.core.observe import Standing
from fleet.core.plan import Limits, Plan, Worker, plan

UP, LEAVING, DRAIN = Standing.UP, Standing.LEAVING, Standing.DRAIN
SILENT, RESTING, DEAD = Standing.SILENT, Standing.RESTING, Standing.DEAD


def account(name: str, revision: int = 1) -> AccountSpec:
    return AccountSpec(name, "u", "binance", "usdm", name, False, revision, 0)


def accounts(*names: str) -> dict[str, AccountSpec]:
    return {name: account(name) for name in names}


def worker(
    slot: str, standing: Standing = UP, inc: str = "i1", capacity: int = 100, addresses: tuple[str, ...] = ()
) -> Worker:
    return Worker(slot, inc, standing, slot.partition(":")[0], capacity, addresses)


def fleet(**standings: Standing) -> dict[str, Worker]:
    return {f"{name}:0": worker(f"{name}:0", standing) for name, standing in standings.items()}


def owned(slot: str = "a:0", token: int = 1, inc: str = "i1", state: str = "run", revision: int = 1) -> Ownership:
    return Ownership(slot, inc, token, state, 1000, revision)


def done(own: dict[str, Ownership], result: Plan, token: int) -> tuple[dict[str, Ownership], int]:
    """Ownership after the plan was carried out."""
    after = dict(own)
    for release in result.releases:
        assert after[release.account_id] == release.expected
        if release.revoke:
            after[release.account_id] = msgspec.structs.replace(release.expected, state="revoke")
        else:
            del after[release.account_id]
    for assign in result.assigns:
        assert after.get(assign.account_id) == assign.expected
        token += 1
        after[assign.account_id] = Ownership(
            assign.slot, assign.incarnation, token, "run", 1000, assign.revision, assign.egress_ip
        )
    return after, token


def reasons(result: Plan) -> dict[str, str]:
    return {a.account_id: f"{a.reason} {a.slot}" for a in result.assigns} | {
        r.account_id: f"{r.reason} {'revoke' if r.revoke else 'drop'}" for r in result.releases
    }


@pytest.mark.parametrize(
    ("desired", "record", "standing", "expected"),
    [
        ("x", owned(), UP, {}),
        ("x", owned(), LEAVING, {}),
        ("x", owned(), SILENT, {}),
        ("x", owned(), RESTING, {}),
        ("x", owned(), DEAD, {"x": "dead b:0"}),
        ("x", owned(inc="i0"), UP, {"x": "restart a:0"}),
        ("x", owned(inc="i0"), LEAVING, {}),
        ("x", owned(inc="i0"), SILENT, {}),
        ("x", owned(inc="i0"), DEAD, {"x": "dead b:0"}),
        ("x", owned(revision=0), UP, {"x": "credentials a:0"}),
        ("x", owned(revision=-1), UP, {}),
        ("x", owned(), DRAIN, {"x": "drain revoke"}),
        ("x", owned(state="revoke"), UP, {}),
        ("x", owned(state="revoke"), DEAD, {"x": "dead b:0"}),
        ("x", None, UP, None),
        ("", owned(), UP, {"x": "inactive revoke"}),
        ("", owned(), SILENT, {"x": "inactive revoke"}),
        ("", owned(), DRAIN, {"x": "inactive revoke"}),
        ("", owned(state="revoke"), UP, {}),
        ("", owned(), DEAD, {"x": "inactive drop"}),
        ("", owned(inc="i0"), UP, {"x": "inactive drop"}),
    ],
)
def test_each_case(desired: str, record: Ownership | None, standing: Standing, expected: dict[str, str] | None) -> None:
    own = {"x": record} if record else {}
    result = plan(accounts(*desired), own, fleet(a=standing, b=UP))
    if expected is None:
        assert [a.reason for a in result.assigns] == ["new"]
    else:
        assert reasons(result) == expected


def test_an_owner_whose_slot_nobody_knows_is_an_orphan() -> None:
    assert reasons(plan(accounts("x"), {"x": owned("gone:0")}, fleet(b=UP))) == {"x": "dead b:0"}


def test_without_postgres_what_is_owned_counts_as_active() -> None:
    own = {"x": owned(), "y": owned("b:0")}
    result = plan(None, own, fleet(a=DEAD, b=UP))
    assert reasons(result) == {"x": "dead b:0"}
    assert result.assigns[0].revision == 1


def test_nobody_up_leaves_accounts_unplaced_with_a_reason() -> None:
    result = plan(accounts("x", "y"), {"y": owned()}, fleet(a=DEAD))
    assert result.unplaced == {"x": "no worker is up", "y": "no worker is up"}
    assert result.empty


def test_hold_keeps_orphans_where_they_are_but_not_restarts() -> None:
    own = {"x": owned(), "y": owned("b:0", inc="i0")}
    result = plan(accounts("x", "y"), own, fleet(a=DEAD, b=UP), Limits(hold="settling"))
    assert reasons(result) == {"y": "restart b:0"}
    assert result.unplaced == {"x": "settling"}


def test_quarantine_stops_an_account_and_does_not_start_it_again() -> None:
    bad = frozenset({"x"})
    result = plan(accounts("x", "y"), {"x": owned(), "y": owned()}, fleet(a=UP), quarantined=bad)
    assert reasons(result) == {"x": "quarantine revoke"}
    assert plan(accounts("x"), {}, fleet(a=UP), quarantined=bad).empty


def test_a_drain_goes_a_few_at_a_time_and_only_if_somebody_else_is_up() -> None:
    own = {f"x{i}": owned() for i in range(100)}
    assert len(plan(accounts(*own), own, fleet(a=DRAIN, b=UP)).releases) == 20
    assert plan(accounts(*own), own, fleet(a=DRAIN, b=SILENT)).empty
    half = {k: (msgspec.structs.replace(v, state="revoke") if i < 15 else v) for i, (k, v) in enumerate(own.items())}
    assert len(plan(accounts(*own), half, fleet(a=DRAIN, b=UP)).releases) == 5


def test_a_move_that_is_not_released_in_time_is_overdue() -> None:
    own = {"x": owned(state="revoke")}
    assert plan(accounts("x"), own, fleet(a=DRAIN, b=UP), Limits()).overdue == {}
    late = Limits(overdue=frozenset({"x"}))
    assert plan(accounts("x"), own, fleet(a=DRAIN, b=UP), late).revoking == {"x"}
    assert plan(accounts("x"), own, fleet(a=DRAIN, b=UP), late).overdue == {"a:0": "i1"}
    assert plan({}, own, fleet(a=UP, b=UP), late).overdue == {}  # nobody waits for it


def test_connections_of_a_host_count_what_is_there() -> None:
    own = {f"x{i}": owned() for i in range(5)}
    limits = Limits(connections_per_ip={"binance_usdm": 7})
    result = plan(accounts(*own, "y1", "y2", "y3"), own, {"a:0": worker("a:0")}, limits)
    assert len(result.assigns) == 2
    assert list(result.unplaced.values()) == ["no address may hold another binance_usdm connection (limit 7 each)"]


IPS = ("127.0.0.2", "127.0.0.3")


def dealt(names: list[str], workers: dict[str, Worker], limits: Limits = Limits()) -> dict[str, Ownership]:  # noqa: B008
    return done({}, plan(accounts(*names), {}, workers, limits), 0)[0]


def test_a_restarted_worker_keeps_its_accounts_and_their_addresses() -> None:
    names = [f"x{n}" for n in range(21)]
    own = dealt(names, {"a:0": worker("a:0", addresses=IPS)})
    assert Counter(r.egress_ip for r in own.values()).most_common()[0][1] == 11
    more = (*IPS, "127.0.0.4")  # and nobody moves because there is one more
    again = {"a:0": worker("a:0", inc="i2", addresses=more), "b:0": worker("b:0", addresses=("127.0.0.9",))}
    after, _ = done(own, plan(accounts(*names), own, again, Limits(connections_per_ip={"binance_usdm": 11})), 100)
    assert {a: (r.slot, r.egress_ip) for a, r in after.items()} == {a: (r.slot, r.egress_ip) for a, r in own.items()}


def test_an_address_that_is_gone_is_replaced_on_the_same_worker_where_there_is_room() -> None:
    names = [f"x{n}" for n in range(10)]
    own = dealt(names, {"a:0": worker("a:0", addresses=IPS)})
    again = {"a:0": worker("a:0", inc="i2", addresses=IPS[:1]), "b:0": worker("b:0", addresses=("127.0.0.9",))}
    result = plan(accounts(*names), own, again, Limits(connections_per_ip={"binance_usdm": 8}))
    kept = {n for n in names if own[n].egress_ip == IPS[0]}
    places = {a.account_id: (a.slot, a.egress_ip) for a in result.assigns}
    assert Counter(places.values()) == {("a:0", IPS[0]): 8, ("b:0", "127.0.0.9"): 2}
    assert all(places[name] == ("a:0", IPS[0]) for name in kept) and not result.unplaced


def test_who_runs_without_a_known_address_counts_at_the_one_it_must_have() -> None:
    own = {f"x{n}": owned() for n in range(4)}
    newcomers = [f"y{n}" for n in range(5)]
    workers = {"a:0": worker("a:0", addresses=IPS)}
    result = plan(accounts(*own, *newcomers), own, workers, Limits(connections_per_ip={"binance_usdm": 4}))
    assert len(result.assigns) == 4 and len(result.unplaced) == 1 and not result.releases


def test_what_will_come_back_keeps_its_place_at_its_address() -> None:
    own = {f"x{n}": msgspec.structs.replace(owned("a:0", inc="i0"), egress_ip=IPS[0]) for n in range(4)}
    workers = {"a:0": worker("a:0", RESTING, addresses=IPS[:1]), "b:0": worker("b:0", addresses=IPS[:1])}
    result = plan(accounts(*own, "y1", "y2"), own, workers, Limits(connections_per_ip={"binance_usdm": 5}))
    assert len(result.assigns) == 1 and len(result.unplaced) == 1


@settings(max_examples=200)
@example([({2, 3}, 3), (set(), 2)], 2, 5, [(0, "lose"), (1, "die"), (1, "restart")])
@given(
    st.lists(st.tuples(st.sets(st.integers(2, 5)), st.integers(0, 8)), min_size=1, max_size=5),
    st.integers(1, 4),
    st.integers(0, 30),
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["restart", "die", "come", "add", "lose"])), max_size=12),
)
def test_through_any_history_no_address_holds_more_than_it_may(
    rows: list[tuple[set[int], int]], limit: int, n: int, history: list[tuple[int, str]]
) -> None:
    limits = Limits(connections_per_ip={"binance_usdm": limit})
    workers = {
        f"w{i}:0": worker(f"w{i}:0", capacity=capacity, addresses=tuple(f"10.0.0.{a}" for a in sorted(addresses)))
        for i, (addresses, capacity) in enumerate(rows)
    }
    desired, own, token = accounts(*(f"x{i}" for i in range(n))), {}, 0
    for life, (which, what) in enumerate([(0, "start"), *history]):
        slot = f"w{which % len(rows)}:0"
        here, inc = workers[slot], f"i{life + 2}"
        if what == "die":
            workers[slot] = msgspec.structs.replace(here, standing=DEAD)
        elif what == "add":
            more = tuple(sorted({*here.addresses, f"10.0.0.{which + 2}"}))
            workers[slot] = msgspec.structs.replace(here, standing=UP, incarnation=inc, addresses=more)
        elif what == "lose":
            workers[slot] = msgspec.structs.replace(here, standing=UP, incarnation=inc, addresses=here.addresses[1:])
        elif what in ("restart", "come"):
            workers[slot] = msgspec.structs.replace(here, standing=UP, incarnation=inc)
        before = own
        result = plan(desired, own, workers, limits)
        shuffled = dict(reversed(list(own.items())))
        assert plan(desired, shuffled, dict(reversed(list(workers.items()))), limits).unplaced == result.unplaced
        own, token = done(own, result, token)
        own = {a: r for a, r in own.items() if workers[r.slot].standing is UP}
        runs = [r for r in own.values() if workers[r.slot].incarnation == r.incarnation]
        held = Counter(r.egress_ip or f"@{workers[r.slot].host}" for r in runs)
        assert all(count <= limit for count in held.values())
        if what == "restart":  # nobody else moves, and who comes back keeps worker and address
            for account, record in before.items():
                waits = record.slot != slot and record.incarnation != workers[record.slot].incarnation  # for a place
                if not waits and (record.slot != slot or record.egress_ip in here.addresses):
                    assert (own[account].slot, own[account].egress_ip) == (record.slot, record.egress_ip)


def test_rebalance_waits_until_nothing_else_is_to_do() -> None:
    own = {f"x{i}": owned() for i in range(50)}
    limits = Limits(rebalance=5)
    assert len(plan(accounts(*own), own, fleet(a=UP, b=UP), limits).releases) == 5
    assert plan(accounts(*own, "new"), own, fleet(a=UP, b=UP), limits).releases == []
    moving = {**own, "x0": owned(state="revoke")}
    assert plan(accounts(*own), moving, fleet(a=UP, b=UP), limits).releases == []


def test_rebalance_comes_to_rest() -> None:
    own = {f"x{i}": owned(token=i) for i in range(60)}
    desired, token = accounts(*own), 1000
    workers = fleet(a=UP, b=UP, c=UP)
    for _ in range(200):
        result = plan(desired, own, workers, Limits(rebalance=20))
        if result.empty:
            break
        own, token = done(own, result, token)
        own = {a: r for a, r in own.items() if r.state == "run"}  # the worker released what was revoked
    counts = Counter(r.slot for r in own.values())
    assert plan(desired, own, workers, Limits(rebalance=20)).empty
    assert max(counts.values()) <= 24
    assert len(own) == 60


standings = st.sampled_from(list(Standing))
worlds = st.fixed_dictionaries(
    {
        "active": st.sets(st.integers(0, 30)),
        "workers": st.lists(st.tuples(standings, st.integers(0, 20)), min_size=1, max_size=6),
        "records": st.dictionaries(
            st.integers(0, 30),
            st.tuples(
                st.integers(0, 7), st.sampled_from(["i0", "i1"]), st.sampled_from(["run", "revoke"]), st.integers(-1, 2)
            ),
        ),
    }
)


def built(world: dict[str, object]) -> tuple[dict[str, AccountSpec], dict[str, Ownership], dict[str, Worker]]:
    active: set[int] = world["active"]  # type: ignore[assignment]
    rows: list[tuple[Standing, int]] = world["workers"]  # type: ignore[assignment]
    records: dict[int, tuple[int, str, str, int]] = world["records"]  # type: ignore[assignment]
    workers = {f"w{i}:0": worker(f"w{i}:0", standing, capacity=n) for i, (standing, n) in enumerate(rows)}
    own = {
        f"x{a}": Ownership(f"w{slot}:0", inc, a + 1, state, 1000, revision)
        for a, (slot, inc, state, revision) in records.items()
    }
    return accounts(*(f"x{a}" for a in sorted(active))), own, workers


@settings(max_examples=300)
@given(worlds)
def test_it_converges_and_never_gives_an_account_away_while_its_owner_may_live(world: dict[str, object]) -> None:
    desired, own, workers = built(world)
    token = 100
    for _ in range(60):
        result = plan(desired, own, workers)
        for assign in result.assigns:
            former = own.get(assign.account_id)
            stays = former is not None and (former.slot, former.incarnation) == (assign.slot, assign.incarnation)
            assert workers[assign.slot].standing is UP or (stays and assign.reason == "credentials")
            if former is not None and former.slot != assign.slot:
                owner = workers.get(former.slot)
                assert owner is None or owner.standing is DEAD or owner.incarnation != former.incarnation
                assert owner is None or owner.standing not in (SILENT, RESTING)
        before, (own, token) = own, done(own, result, token)
        acked = {  # workers that live release what was revoked
            a
            for a, r in own.items()
            if r.state == "revoke" and r.slot in workers
            if workers[r.slot].standing in (UP, LEAVING, DRAIN) and workers[r.slot].incarnation == r.incarnation
        }
        own = {a: r for a, r in own.items() if a not in acked}
        if result.empty and own == before:
            break
    else:
        raise AssertionError("did not come to rest")
    for name in desired:
        assert name in own or name in result.unplaced
    for name, record in own.items():
        standing = workers[record.slot].standing if record.slot in workers else DEAD
        if name not in desired:
            assert standing in (SILENT, RESTING)  # a dead owner's record is dropped, a living owner releases


def test_one_death_among_many_moves_its_orphans_only() -> None:
    workers = {f"h{i}:0": worker(f"h{i}:0", capacity=1000) for i in range(40)}
    names = [f"x{i}" for i in range(10_000)]
    own, token = done({}, plan(accounts(*names), {}, workers), 0)
    workers["h7:0"] = worker("h7:0", DEAD)
    lost = {a for a, r in own.items() if r.slot == "h7:0"}
    result = plan(accounts(*names), own, workers, Limits(rebalance=20))
    assert {a.account_id for a in result.assigns} == lost
    assert result.releases == []


def test_a_hundred_thousand_accounts_are_planned_in_a_blink() -> None:
    workers = {f"h{i}:0": worker(f"h{i}:0", capacity=1000) for i in range(200)}
    desired = accounts(*(f"x{i}" for i in range(100_000)))
    own, _ = done({}, plan(desired, {}, workers), 0)
    workers["h7:0"] = worker("h7:0", DEAD)
    started_s = time.process_time()  # processor time: the machine may be busy with other tests
    result = plan(desired, own, workers, Limits(connections_per_ip={"binance_usdm": 900}))
    assert time.process_time() - started_s < 5.0
    assert len(result.assigns) == 500


def test_nobody_moves_for_convenience_while_postgres_is_away() -> None:
    """What stopped could not be loaded by its next owner; orphans are placed all the same."""
    names = [f"x{n}" for n in range(10)]
    workers = fleet(a=DRAIN, b=UP)
    own = {name: owned() for name in names}
    assert plan(accounts(*names), own, workers, Limits(stay=True)).empty
    assert plan(accounts(*names), own, fleet(a=UP, b=UP), Limits(stay=True, rebalance=20)).empty
    assert reasons(plan(accounts(*names, "new"), own, workers, Limits(stay=True))) == {"new": "new b:0"}


def test_so_many_accounts_are_placed_at_a_time() -> None:
    """The leader renews its lease between plans only. Those that are left are neither given an owner nor called unplaced, and
    load is not evened out before they are in."""
    own: dict[str, Ownership] = {}
    token, sizes = 1, []
    limits = Limits(place=4, rebalance=5)
    for _ in range(3):
        result = plan(accounts(*"abcdefghij"), own, fleet(a=UP, b=UP), limits)
        assert not result.unplaced and not result.releases
        sizes.append(len(result.assigns))
        own, token = done(own, result, token)
    assert sizes == [4, 4, 2] and len(own) == 10
