"""Marks of public series in a real Postgres: which of them a later life resumes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import pytest

from fleet.runtime.postgres import Postgres, migrate
from workers import market_watermarks
from workers.market_backfill import Backfill
from workers.market_publish import MarketPublisher
from workers.market_tracks import Mark, Name
from workers.market_watermarks import Source, Venue, Watermarks

pytestmark = pytest.mark.integration
USDM = ("binance", "usdm")
WEEKLY, QUIET, REMOVED = Name("kline", "BTCUSDT", "1w"), Name("trade", "QUIETUSDT"), Name("trade", "OLDUSDT")
MARKS = {name: Mark(str(number), 0) for number, name in enumerate((WEEKLY, QUIET, REMOVED))}


class Process:
    """What of a market-data process the watermarks see: its publisher, and one lane."""

    def __init__(self, database: str, *owned: Name) -> None:
        self.told: dict[Venue, dict[Name, Mark]] = {}
        self.resumed: dict[Name, Mark] = {}
        self._owned = owned
        source = Source(USDM, cast(Backfill, self))
        self.watermarks = Watermarks(Postgres(database, application="tests"), cast(MarketPublisher, self), [source])

    def acked(self) -> dict[Venue, dict[Name, Mark]]:
        return {venue: dict(marks) for venue, marks in self.told.items()}

    def floors(self, now_s: float) -> dict[Name, Mark]:
        return {}

    def owns(self, name: Name) -> bool:
        return name in self._owned

    def resume(self, marks: Mapping[Name, Mark]) -> None:
        self.resumed = {name: mark for name, mark in marks.items() if self.owns(name)}

    def live(self) -> None:
        assert self.watermarks.start(30.0)
        self.watermarks.close(30.0)


@pytest.fixture
def pg(database: str) -> Iterator[Postgres]:
    store = Postgres(database, application="tests")
    migrate(store)
    yield store
    store.close()


def pass_days(pg: Postgres, days: int) -> None:
    with pg.transaction() as tx:
        tx.execute("UPDATE market_watermarks SET updated_at = updated_at - %(days)s * interval '1 day'", {"days": days})


def saved(pg: Postgres) -> dict[str, Any]:
    return {row["symbol"]: row["last_id"] for row in pg.fetch("SELECT symbol, last_id FROM market_watermarks")}


def test_a_mark_that_did_not_move_for_long_is_resumed_from(
    pg: Postgres, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Process(database, *MARKS)
    first.told = {USDM: dict(MARKS)}
    first.live()
    assert saved(pg) == {"BTCUSDT": "0", "QUIETUSDT": "1", "OLDUSDT": "2"}
    pass_days(pg, 6)

    second = Process(database, WEEKLY, QUIET)  # hears nothing of either
    second.live()
    assert second.resumed == {WEEKLY: MARKS[WEEKLY], QUIET: MARKS[QUIET]}
    pass_days(pg, 6)

    third = Process(database, *MARKS)
    third.live()
    assert third.resumed == {WEEKLY: MARKS[WEEKLY], QUIET: MARKS[QUIET]}, "nobody had the third for twelve days"

    monkeypatch.setattr(market_watermarks, "TOUCH_S", 0.0)
    fourth = Process(database, WEEKLY)
    assert fourth.watermarks.start(30.0)
    pass_days(pg, 8)
    fourth.watermarks.close(30.0)
    fresh = pg.fetch("SELECT symbol FROM market_watermarks WHERE updated_at > now() - interval '1 day'")
    assert [row["symbol"] for row in fresh] == ["BTCUSDT"], "again in the course of a life"
