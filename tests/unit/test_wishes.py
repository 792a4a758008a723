"""What `fleet drain` and `fleet rebalance` say in the end, and what the leader does with a wish that it cannot fulfil."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from coordinator.reconciler import Reconciler
from fleet.commands import control
from fleet.core import wire
from fleet.core.plan import Plan


class Store:
    """A fleet of one worker with three accounts, and the leader's answers."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers, self.owned, self.wished = answers, 3, False
        self.said: list[Any] = []

    def set_drain(self, slot: str, drain: bool) -> bool:
        return True

    def owners(self) -> dict[str, Any]:
        return {f"x{i}": SimpleNamespace(slot="a:0") for i in range(self.owned)}

    def leader(self) -> str:
        return "h|1"

    def ask_rebalance(self) -> None:
        pass

    def observe(self) -> Any:
        workers = {"a:0": SimpleNamespace(drain=True)}
        return SimpleNamespace(rebalance=False, workers=workers, generation=wire.Generation("g", ready=True))

    def answer(self, wish: str) -> str | None:
        return self.answers.get(wish)

    def set_unplaced(self, leader: str, reasons: dict[str, str], answers: dict[str, str]) -> None:
        self.said.append(answers)

    def withdraw_rebalance(self) -> None:
        self.said.append("withdrawn")


def typed(monkeypatch: pytest.MonkeyPatch, store: Store, command: Any, *words: str) -> tuple[int, str]:
    monkeypatch.setattr(control, "session", SimpleNamespace)
    monkeypatch.setattr(control, "open_redis", lambda here, what: store)
    monkeypatch.setattr(control, "fleet_view", lambda here: SimpleNamespace(shards=list, owners=store.owners))
    monkeypatch.setattr(control, "STAYS_S", 0.0)
    monkeypatch.setattr(control, "LOOK_S", 0.01)
    done = CliRunner().invoke(command, words)
    return done.exit_code, done.output


def test_a_drain_that_goes_no_further_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store({wire.drained("a:0"): "no room on another worker"})
    code, said = typed(monkeypatch, store, control.drain, "a:0")
    assert code == 1 and "3 accounts stay on a:0: no room on another worker; the wish is kept" in said
    store.owned = 1
    assert "1 account stays on a:0: no room" in typed(monkeypatch, store, control.drain, "a:0")[1]
    store.owned = 0
    assert typed(monkeypatch, store, control.drain, "a:0") == (0, "0 accounts left on a:0\n")


@pytest.mark.parametrize(
    ("answers", "code", "said"),
    [
        ({wire.EVENED: ""}, 0, "no worker has over 20% more than the mean"),
        ({wire.EVENED: "full"}, 1, "load stays uneven: full"),
        ({}, 1, "the wish was forgotten"),
    ],
)
def test_a_rebalance_says_how_it_ended(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, str], code: int, said: str
) -> None:
    found = typed(monkeypatch, Store(answers), control.rebalance)
    assert found[0] == code and said in found[1]


@pytest.mark.parametrize("why", ["", "no room on a worker below the mean"])
def test_the_leader_answers_before_it_withdraws_the_wish(why: str) -> None:
    store = Store({})
    leader = object.__new__(Reconciler)  # of its many parts, those that a wish needs
    log: list[tuple[str, str]] = []
    parts = {
        "_observed": SimpleNamespace(latest=SimpleNamespace(rebalance=True), own={"x": 1}),
        "_assignments": SimpleNamespace(up_since=1.0),
        "_settings": SimpleNamespace(workers=0),
        "_leadership": SimpleNamespace(leader="h|1"),
        "_log": SimpleNamespace(info=lambda text, **_: log.append(("info", text)),
                                warning=lambda text, **more: log.append(("warning", f"{text}: {more['reason']}"))),
        "_store": store, "_generation": None, "_unplaced": {}, "_shown": (), "_up": set(), "_joined_at": 0.0,
        "_since": 0.0, "_first_up": 0.0, "_staying": {"a:0": "full"}, "_evened": None,
    }  # fmt: skip
    for name, part in parts.items():
        setattr(leader, name, part)
    leader._note_rebalance(Plan(in_flight=1, uneven=""), 100.0)
    assert leader._evened is None and not store.said
    leader._note_rebalance(Plan(uneven=why), 100.0)
    assert store.said == [{wire.drained("a:0"): "full", wire.EVENED: why}, "withdrawn"]
    assert log == [("warning", f"load stays uneven: {why}") if why else ("info", "load is even")]
