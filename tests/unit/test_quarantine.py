"""R13 as the leader carries it out: a verdict is a row, and so is its end, whoever has not read that yet."""

from __future__ import annotations

from typing import Any

from coordinator.desired import Quarantined, Snapshot
from coordinator.quarantine import Incident, Quarantine
from fleet.core.model import AccountSpec, Ownership
from fleet.core.poison import CONTROL_S, RETRY_S
from fleet.runtime.metrics import Metrics

SPEC = AccountSpec("a", "u", "binance", "usdm", "", False, 1, 0)


class Surroundings:
    """Stands for what the leader reads and writes beside; `rows` is the table, which readers see when `stored` says so."""

    def __init__(self) -> None:
        self.deaths: list[tuple[str, str]] = []
        self.rows: dict[str, Quarantined] = {}
        self.events: list[tuple[str, str]] = []
        self.now = 0.0
        self.quarantine_ = Quarantine(self, self, self, self, Metrics(), lambda: int(self.now * 1000))  # type: ignore[arg-type]

    def take_deaths(self) -> list[tuple[str, str]]:
        deaths, self.deaths = self.deaths, []
        return deaths

    def reports(self, slot: str) -> dict[str, Any]:
        return {}

    def quarantine(self, incident: Incident) -> None:
        self.rows[incident.incident] = Quarantined(incident.incident, incident.revision, incident.reason, False)

    def lift_quarantine(self, incident: str, why: str) -> None:
        self.events.append(("lifted", why))

    def told(self, account: str, event: str, reason: str, *_: object) -> None:
        self.events.append((event, reason))

    def look(self) -> None:
        last = {"a": [*self.rows.values()][-1]} if self.rows else {}
        self.quarantine_.look({}, Snapshot({"a": SPEC}, {}, 1, last), self.now)

    def dies_starting_it(self) -> None:
        self.quarantine_.assigned({"a": Ownership("h:0", f"i{self.now}", 1, "run", 0, 1)}, self.now)
        self.deaths = [("h:0", f"i{self.now}")]
        self.now += 1.0
        self.look()


def test_who_is_in_quarantine_is_tried_again_though_the_row_is_not_cleared_yet() -> None:
    case = Surroundings()
    for _ in range(3):
        case.dies_starting_it()
    assert case.quarantine_.quarantined() == {"a"}
    assert case.events[-1] == ("quarantined", "3 workers died starting it; tried again after 5 min")
    case.now += RETRY_S - 1.0
    case.look()
    assert case.quarantine_.quarantined() == {"a"}
    case.now += 2.0
    case.look()
    case.look()  # Postgres was slow: the row still says so
    assert case.quarantine_.quarantined() == frozenset() and "a" not in case.quarantine_.waiting(case.now)
    assert case.events[-2:] == [("lifted", "tried again"), ("quarantine_ended", "tried again")]
    case.now += CONTROL_S
    case.dies_starting_it()
    assert case.quarantine_.quarantined() == {"a"}, "one death more is enough"
    assert case.events[-1] == ("quarantined", "3 workers died starting it; tried again after 10 min")


def test_a_new_leader_keeps_who_is_in_quarantine_there_and_tries_it_again() -> None:
    before, after = Surroundings(), Surroundings()
    for _ in range(3):
        before.dies_starting_it()
    after.rows, after.now = before.rows, before.now
    after.look()
    assert after.quarantine_.quarantined() == {"a"}
    after.now += RETRY_S + 1.0
    after.look()
    assert after.quarantine_.quarantined() == frozenset()
