"""Redis values ⇄ model: round trips, and garbage raises WireError only."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.core import wire
from fleet.core.errors import WireError
from fleet.core.model import Desired, Ownership, StreamState, StreamStatus, WorkerView, format_token, token_of

names = st.text(st.characters(blacklist_characters="|\n", blacklist_categories=("Cs",)), min_size=1, max_size=20)
tokens = st.integers(0, (1 << 64) - 1)
clock_ms = st.integers(0, 1 << 45)

addresses = st.sampled_from(["", "127.0.0.2", "::1"])
ownerships = st.builds(
    Ownership, names, names, tokens, st.sampled_from(wire.OWN_STATES), clock_ms, st.integers(-1, 1 << 40), addresses
)
statuses = st.builds(
    StreamStatus,
    st.just("a"),
    tokens,
    st.sampled_from(list(StreamState)),
    clock_ms,
    st.integers(0, 10**6),
    st.booleans(),
)
views = st.builds(
    WorkerView,
    names,
    names,
    st.integers(0, 1 << 40),
    st.sampled_from([wire.UP, wire.DRAINING, wire.GONE]),
    names,
    st.integers(0, 1 << 22),
    st.integers(0, 10**6),
    st.integers(0, 999_999).map(float),
    st.integers(0, 1 << 40),
)


@given(ownerships)
def test_ownership(record: Ownership) -> None:
    assert wire.parse_own(wire.pack_own(record)) == record


def test_an_ownership_of_the_five_documented_fields_is_read() -> None:
    record = wire.parse_own(f"h:0|i1|{format_token(token_of(3, 7))}|run|1700000000000")
    assert record == Ownership("h:0", "i1", token_of(3, 7), "run", 1700000000000, -1)


@given(tokens, st.sampled_from(wire.OWN_STATES))
def test_desired(token: int, state: str) -> None:
    assert wire.parse_desired(wire.pack_desired(Desired(token, state))) == Desired(token, state)


def test_a_desired_entry_with_an_address() -> None:
    assert wire.parse_desired(f"{format_token(7)}|run|127.0.0.2") == Desired(7, "run", "127.0.0.2")


@given(
    st.dictionaries(st.text(st.characters(blacklist_characters="*"), min_size=1), st.text()),
    st.dictionaries(st.sampled_from([wire.EVENED, wire.drained("h:0"), wire.drained("h:1")]), st.text()),
)
def test_unplaced(reasons: dict[str, str], answers: dict[str, str]) -> None:
    fields = wire.pack_unplaced(reasons, answers)
    named, numbers = wire.parse_unplaced(fields)
    assert named == reasons and sum(numbers.values()) == len(reasons)
    assert {wish: fields[wire.answer_field(wish)] for wish in answers} == answers


@given(statuses)
def test_report(status: StreamStatus) -> None:
    assert wire.parse_report("a", wire.pack_report(status)) == status


@given(views, clock_ms, st.lists(st.sampled_from(["10.0.0.1", "::1", "127.0.0.2"]), unique=True))
def test_worker(view: WorkerView, beat_ms: int, ips: list[str]) -> None:
    scripts = {"inc": view.incarnation, "seq": str(view.seq), "beat_ms": str(beat_ms)}
    fields = scripts | wire.pack_worker(view, egress_ips=tuple(ips))
    record = wire.parse_worker(view.slot, fields)
    assert (record.view, record.beat_ms, record.egress_ips) == (view, beat_ms, tuple(ips))


def test_a_hash_without_incarnation_is_a_worker_nobody_has_seen() -> None:
    record = wire.parse_worker("h:0", {"fenced_inc": "i1", "state": "fenced", "version": "3"})
    assert (record.view.incarnation, record.view.state, record.fenced, record.version) == ("", wire.GONE, "i1", 3)


@pytest.mark.parametrize("ready", [True, False])
def test_generation(ready: bool) -> None:
    generation = wire.Generation("g1", ready)
    assert wire.parse_generation(wire.pack_generation(generation)) == generation


@pytest.mark.parametrize("text", [None, "", "g1", "|ready", "g1|", "g1|other"])
def test_no_generation(text: str | None) -> None:
    assert wire.parse_generation(text) is None


@given(st.text())
def test_garbage_is_a_wire_error_and_nothing_else(text: str) -> None:
    for parse in (wire.parse_own, wire.parse_desired, lambda t: wire.parse_report("a", t)):
        try:
            parse(text)
        except WireError:
            continue


@pytest.mark.parametrize("fields", [{"a": "no capacity"}, {wire.ALL: "["}, {wire.ALL: '{"why":"many"}'}])
def test_garbage_in_a_list_of_unplaced_accounts(fields: dict[str, str]) -> None:
    with pytest.raises(WireError):
        wire.parse_unplaced(fields)


@given(st.dictionaries(st.sampled_from(["inc", "seq", "pid", "load", "capacity", "beat_ms", "version"]), st.text()))
def test_garbage_in_a_worker_hash(fields: dict[str, str]) -> None:
    try:
        wire.parse_worker("h:0", fields)
    except WireError:
        return


@pytest.mark.parametrize("name", ["", "a|b", "a\nb"])
def test_names_that_would_break_a_value(name: str) -> None:
    with pytest.raises(WireError):
        wire.check_name(name)


@given(tokens, tokens)
def test_tokens_compare_as_strings(one: int, other: int) -> None:
    assert (format_token(one) < format_token(other)) == (one < other)
