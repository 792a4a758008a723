"""Ownership records read by pages, and brought up to date by name: coordinator/own_reading.py and observed.py over a Redis of
our own, which gives pages as it is told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from coordinator import own_reading
from coordinator.observed import Observed
from coordinator.own_reading import OwnReading
from fleet.core.errors import StoreUnavailable
from fleet.core.model import Ownership
from fleet.core.observe import Timing
from fleet.core.wire import REVOKE, RUN, Generation
from fleet.runtime.redis_store import Change, Observation, OwnPart

READY = Generation("g", True)
STEP = 2  # records of a page


def record(token: int, state: str = RUN) -> Ownership:
    return Ownership("h:0", "i1", token, state, 0, 1)


class Store:
    """Pages in the order of names; `between` is called before each but the first."""

    def __init__(self, *accounts: str) -> None:
        self.generation, self.version = READY, 1
        self.own = {account: record(n) for n, account in enumerate(accounts, 1)}
        self.between: Callable[[], object] = lambda: None
        self.pages = self.by_name = 0

    def write(self, account: str, new: Ownership | None) -> None:
        self.version += 1
        self.own.pop(account, None)
        if new is not None:
            self.own[account] = new

    def observe(self) -> Observation:
        return Observation(self.generation, self.version, {}, [])

    def own_page(self, cursor: int) -> OwnPart:
        self.pages += 1
        if cursor:
            self.between()
        names = sorted(self.own)
        page = names[max(0, cursor - 1) : cursor + STEP]  # the last one of the page before once more
        following = cursor + STEP if cursor + STEP < len(names) else 0
        return self._part({name: self.own[name] for name in page}, following)

    def own_of(self, accounts: Sequence[str]) -> OwnPart:
        self.by_name += 1
        return self._part({name: self.own[name] for name in accounts if name in self.own}, 0)

    def _part(self, records: dict[str, Ownership], cursor: int) -> OwnPart:
        return OwnPart(self.generation, self.version, len(self.own), records, [], cursor)


def observed(store: Any) -> Observed:
    return Observed(store, Timing())


def whole(store: Any) -> own_reading.OwnRecords:
    reading, found = OwnReading(store), None
    while found is None:
        found = reading.go_on()
    return found


def test_pages_make_a_whole_over_several_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_reading, "READ_S", 0.0)
    store: Any = Store("a", "b", "c", "d", "e")
    reading = OwnReading(store)
    assert reading.go_on() is None and reading.go_on() is None
    found = reading.go_on()
    assert found is not None and found.records == store.own and not found.changed and found.version == 1


def test_a_write_meanwhile_is_told() -> None:
    store = Store("a", "b", "c")
    store.between = lambda: store.write("a", None)
    found = whole(store)
    assert found.changed and found.version == 1 and set(found.records) == {"a", "b", "c"}


def test_pages_of_other_data_are_refused() -> None:
    store = Store("a", "b", "c")
    store.between = lambda: setattr(store, "generation", Generation("other", True))
    with pytest.raises(StoreUnavailable, match="lost"):
        whole(store)
    store = Store("a", "b", "c")
    store.between = lambda: setattr(store, "version", 0)
    with pytest.raises(StoreUnavailable, match="lost"):
        whole(store)


def test_a_record_left_out_by_another_server_is_noticed() -> None:
    store = Store("a", "b", "c", "d")
    store.between = lambda: store.own.update({"0": store.own.pop("d")})  # it has them in another order
    with pytest.raises(StoreUnavailable, match="another server"):
        whole(store)


def test_the_leader_reads_by_name_what_workers_released() -> None:
    store = Store("a", "b", "c")
    seen = observed(store)
    seen.read(1.0, True)
    store.write("b", record(2, REVOKE))
    seen.applied([Change("b", seen.own["b"], store.own["b"])], [True])
    seen.take_changes()
    pages = store.pages
    store.write("b", None)
    seen.read(1.5, True)
    assert store.pages == pages and seen.own == store.own and seen.own_known
    assert seen.take_changes() == ({}, {"b": 2})


def test_what_was_given_back_unasked_is_found_by_reading_all() -> None:
    store = Store("a", "b", "c")
    seen = observed(store)
    seen.read(1.0, True)
    store.write("a", record(1, REVOKE))
    seen.applied([Change("a", seen.own["a"], store.own["a"])], [True])
    store.write("c", None)
    seen.read(1.5, True)
    assert store.by_name == 1 and seen.own == store.own and seen.take_changes()[1] == {"c": 3}


def test_a_refused_change_is_read_by_name() -> None:
    store = Store("a", "b", "c")
    seen = observed(store)
    seen.read(1.0, True)
    pages = store.pages
    seen.applied([Change("a", record(9), None)], [False])
    seen.read(1.5, True)
    assert (store.pages, store.by_name) == (pages, 1) and seen.own == store.own
    seen.read(2.0, True)
    assert (store.pages, store.by_name) == (pages, 1)


def test_a_release_amid_the_pages_is_found_before_the_leader_goes_on() -> None:
    store = Store("a", "b", "c")
    store.own["a"] = record(1, REVOKE)
    store.between = lambda: store.write("a", None)
    seen = observed(store)
    seen.read(1.0, True)
    assert seen.own == store.own and set(seen.own) == {"b", "c"} and seen.own_version == store.version


def test_without_knowing_the_records_the_leader_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_reading, "READ_S", 0.0)
    store = Store("a", "b", "c")
    seen = observed(store)
    seen.read(1.0, True)
    assert not seen.own_known and seen.own == {}
    seen.read(1.5, True)
    assert seen.own_known and seen.own == store.own
    store.write("c", None)  # nothing is revoked: it cannot be asked for by name
    seen.read(2.0, True)
    assert seen.own_known and seen.own == store.own  # one page is enough for two


def test_a_standby_rests_after_a_long_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_reading, "READ_S", 0.0)
    store = Store("a", "b", "c")
    seen = observed(store)
    seen.read(1.0, False)
    seen.read(1.5, False)
    assert seen.own == store.own
    pages = store.pages
    store.write("b", None)
    seen.read(2.0, False)
    seen.read(11.0, False)
    assert store.pages == pages
    seen.read(11.6, False)
    assert seen.own == store.own


def test_the_records_are_passed_over_once_for_all_lost_workers() -> None:
    """A hundred passes over a million records took longer than a tick; of two lives the one that was given accounts last counts."""

    class Counted(dict[str, Ownership]):
        passes = 0

        def values(self) -> Any:
            self.passes += 1
            return super().values()

    store: Any = Store()
    passes = []
    for lost in (1, 50):
        store.own = {
            f"a{slot}{life}": Ownership(f"h:{slot}", f"i{life}", 10 * slot + life, RUN, 0, 1)
            for slot in range(lost)
            for life in (2, 1)
        }
        seen = observed(store)
        seen.read(1.0, False)
        seen.own = own = Counted(seen.own)
        seen.read(1.5, False)
        assert {w.slot: w.incarnation for w in seen.workers.values()} == {f"h:{slot}": "i2" for slot in range(lost)}
        passes.append(own.passes)
    assert passes[0] == passes[1]
