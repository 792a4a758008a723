"""Small pieces of the core that other tests meet only through whole processes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import wire
from fleet.core.budget import Bucket, spend
from fleet.core.errors import DialRefused, WireError
from fleet.core.frames import TEXT, FrameReader, close_payload, encode_frame
from fleet.core.lease import Lease, Times, pause_s
from fleet.core.lifecycle import check
from fleet.core.model import AccountSpec, Ownership, StreamState, incarnation_of, process_of
from fleet.core.names import Keys
from fleet.core.observe import Standing
from fleet.core.placement import Allowance, Orphan, Room, Target, place, surplus
from fleet.core.plan import PROBATION, Limits, Worker, plan
from fleet.core.poison import Suspicion
from fleet.core.recovery import Snapshot, Watermark
from fleet.core.series import Series


def test_what_somebody_else_granted_counts_and_never_makes_debts() -> None:
    assert spend(Bucket(5.0, 1.0, 0.0), 2.0) == Bucket(3.0, 1.0, 0.0)
    assert spend(Bucket(1.0, 1.0, 9.0), 2.0) == Bucket(0.0, 1.0, 9.0)


def test_a_refused_handshake_says_what_the_server_said() -> None:
    refused = DialRefused(429, 3.0, b"slow down")
    assert (refused.status, refused.retry_after_s, refused.body, refused.retryable) == (429, 3.0, b"slow down", True)
    assert str(refused) == "handshake refused (code 429)"


@pytest.mark.parametrize("size", [0, 125, 126, 65_535, 65_536])
def test_a_client_frame_is_masked_and_has_the_shortest_length(size: int) -> None:
    payload, mask = bytes(i % 251 for i in range(size)), b"\x01\x02\x03\x04"
    frame = encode_frame(TEXT, payload, mask)
    head = 2 if size < 126 else 4 if size < 65_536 else 10
    assert frame[0] == 0x80 | TEXT and frame[1] & 0x80 and len(frame) == head + 4 + size
    body = frame[head + 4 :]
    assert frame[head : head + 4] == mask and bytes(b ^ mask[i % 4] for i, b in enumerate(body)) == payload


def test_a_close_without_a_status_has_no_body() -> None:
    assert close_payload(1005) == b"" and close_payload(1000, "bye") == b"\x03\xe8bye"


def test_a_long_length_may_come_in_pieces() -> None:
    reader = FrameReader(1 << 20)
    frame = bytes([0x80 | TEXT, 127]) + (70_000).to_bytes(8, "big") + b"x" * 70_000
    assert reader.feed(frame[:5]) == [] and reader.feed(frame[5:9]) == []
    assert reader.feed(frame[9:]) == [b"x" * 70_000]


def test_beats_come_faster_near_the_deadline() -> None:
    times = Times(heartbeat_s=2.0, lease_s=10.0, isolation_max_s=20.0)
    lease = Lease(deadline=110.0)
    assert pause_s(lease, 100.0, times) == 2.0
    assert pause_s(lease, 106.0, times) == 1.0
    assert pause_s(Lease(deadline=0.0), 106.0, times) == 2.0


def test_a_transition_that_does_not_exist_is_a_bug() -> None:
    check(StreamState.LIVE, StreamState.DRAINING)
    with pytest.raises(ValueError, match="cannot go"):
        check(StreamState.STOPPED, StreamState.LIVE)


def test_lives_of_a_process() -> None:
    assert process_of(incarnation_of("abc", 3)) == "abc" and incarnation_of("abc", 3) == "abc-3"


def test_redis_keys_share_one_hash_tag() -> None:
    keys = Keys("f")
    named = [keys.worker("h:0"), keys.desired("h:0"), keys.report("h:0"), keys.channel("h:0"), keys.gen, keys.own]
    named += [keys.budget("dial", "okx", "1.2.3.4"), keys.budget("weight", "okx", "1.2.3.4")]
    assert len(set(named)) == len(named) and all(name.startswith("{fleet:f}:") for name in named)
    assert named[-2:] == ["{fleet:f}:budget:okx:1.2.3.4", "{fleet:f}:budget:okx:1.2.3.4:weight"]


def test_rebalancing_is_paced() -> None:
    allowance = Allowance()
    allowance.refill(100.0, 6000)  # 60 a minute
    assert allowance.allowed == 0
    allowance.refill(105.0, 6000)
    assert allowance.allowed == 5
    allowance.spend(2)
    assert allowance.allowed == 3
    allowance.refill(1000.0, 6000)
    assert allowance.allowed == 20


def test_a_full_host_takes_no_more_of_that_venue() -> None:
    targets = [Target("a:0", "i", ("a",), 10), Target("b:0", "i", ("b",), 10)]
    room = Room({"okx": 2}, {("a", "okx"): 2, ("b", "okx"): 1})
    placed, unplaced = place([Orphan("x", "okx"), Orphan("y", "okx"), Orphan("z", "bybit")], targets, room)
    assert len(placed) == 2 and placed["z"] and len(unplaced) == 1
    assert {spot.slot for account, spot in placed.items() if account != "z"} == {"b:0"}


def test_who_is_starting_where() -> None:
    suspicion = Suspicion()
    for name, slot in (("x", "h:1"), ("y", "h:0"), ("z", "h:1")):
        suspicion.assigned(name, Ownership(slot, "i", 1, "run", 0, 1), 0.0)
    assert list(suspicion.slots()) == ["h:0", "h:1"]
    suspicion.live("x", 2)  # another life of it
    suspicion.live("nobody", 1)
    assert list(suspicion.slots()) == ["h:0", "h:1"]


def test_a_position_that_the_fills_do_not_explain_is_suspicious() -> None:
    mark = Watermark(proven_ms=0)
    assert not mark.suspicious(lambda symbol: True)
    mark.base, mark.positions = Snapshot(1, {"B|net": "2"}, {}), {"B|net": "2.0"}
    assert not mark.suspicious(lambda symbol: True)
    mark.moved = {"B|net": "-2"}
    assert mark.suspicious(lambda symbol: True)
    assert not mark.suspicious(lambda symbol: symbol != "B")
    mark.positions = {}
    assert not mark.suspicious(lambda symbol: True)


def test_a_position_is_compared_with_fills_that_do_not_name_its_side() -> None:
    mark = Watermark(0, Snapshot(1, {"B|long": "2", "B|short": "-1"}, {}), positions={"B|long": "2", "B|short": "-3"})
    assert mark.suspicious(lambda symbol: True)
    mark.moved = {"B|": "-2", "SPOT|": "7"}
    assert not mark.suspicious(lambda symbol: True)


def test_numbers_dropped_on_the_way_are_missing_again() -> None:
    series = Series()
    series.reopen(1, 2)
    assert series.missing == []
    series.take(1, 10)
    series.reopen(4, 5)
    series.reopen(11, 12)  # not taken yet
    assert series.missing == [(4, 5)]
    assert series.remove(7, 9) == 0


@pytest.mark.parametrize(
    "text", ["", "a|b", "h:0|i|1|run|0|1", f"h:0|i|{'0' * 20}|odd|0|1", f"h:0|i|{'0' * 20}|run|x|1"]
)
def test_what_is_no_ownership_record(text: str) -> None:
    with pytest.raises(WireError):
        wire.parse_own(text)


@pytest.mark.parametrize("text", ["", "x", "1|run", f"{'x' * 20}|run", f"{'0' * 20}|odd"])
def test_what_is_no_desired_entry(text: str) -> None:
    with pytest.raises(WireError):
        wire.parse_desired(text)


@given(st.sampled_from(["", "a|b", "a\nb"]))
def test_names_that_cannot_be_part_of_a_value(name: str) -> None:
    with pytest.raises(WireError):
        wire.check_name(name)
    with pytest.raises(WireError):
        wire.pack_leader(name, 1)


def test_a_leader_and_a_record_of_former_days() -> None:
    assert wire.pack_leader("h", 7).startswith("h|") and wire.pack_leader("h", 7).endswith("7")
    assert wire.parse_own(f"h:0|i|{7:020d}|run|5").revision == -1


def test_nothing_missing_is_nothing_to_give_up() -> None:
    series = Series(last=5)
    assert series.cap(10) is None
    series.take(100, 100)
    assert series.cap(10) == (6, 89) and series.missing == [(90, 99)]


def test_a_lonely_or_idle_fleet_gives_nothing_up() -> None:
    assert surplus([Target("a:0", "i", ("a",), 10, 9)]) == {}
    assert surplus([Target("a:0", "i", ("a",), 10), Target("b:0", "i", ("b",), 10)]) == {}


def test_an_unblocked_host_that_is_full_is_no_place_either() -> None:
    targets = [Target("a:0", "i", ("a",), 10), Target("b:0", "i", ("b",), 1, used=1)]
    placed, unplaced = place([Orphan("x", "okx")], targets, Room({"okx": 1}, {("a", "okx"): 1}))
    assert placed == {} and set(unplaced) == {"x"}


def spec(name: str) -> AccountSpec:
    return AccountSpec(name, "u", "binance", "usdm", name, False, 1, 0)


def test_a_probationer_of_a_dead_incarnation_waits() -> None:
    workers = {"a:0": Worker("a:0", "i2", Standing.UP, "a", 100)}
    result = plan({"x": spec("x")}, {"x": Ownership("a:0", "i1", 1, "run", 0, 1)}, workers, waiting=frozenset({"x"}))
    assert result.unplaced == {"x": PROBATION} and not result.assigns


def test_connections_a_host_holds_already_count_against_its_limit() -> None:
    workers = {f"{name}:0": Worker(f"{name}:0", "i1", Standing.UP, name, 100) for name in "ab"}
    own = {f"o{n}": Ownership("a:0", "i1", n, "run", 0, 1) for n in range(3)}
    own["o0"] = Ownership("a:0", "i0", 0, "run", 0, 1)  # of the slot's former life
    desired = {name: spec(name) for name in (*own, "x", "y")}
    result = plan(desired, own, workers, Limits(connections_per_ip={"binance_usdm": 4}))
    assert {a.account_id: a.slot for a in result.assigns} == {"o0": "a:0", "x": "b:0", "y": "b:0"}


def test_a_generation_that_cannot_be_read_is_none() -> None:
    assert wire.parse_generation(wire.pack_generation(wire.Generation("g", True))) == wire.Generation("g", True)
    assert [wire.parse_generation(text) for text in (None, "", "g", "|ready", "g|odd")] == [None] * 5
