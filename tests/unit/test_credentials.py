"""Two strikes deactivate an account; most accounts of one venue struck together point at our address, and deactivate nobody."""

from __future__ import annotations

import pytest

from fleet.core.errors import ExchangeRefused
from fleet.core.exchange import HttpCall, Outcome, Verdict
from fleet.core.model import AccountSpec, Credentials
from fleet.exchanges import exchanges
from workers.credentials import CredentialDesk

DEAD = Verdict(Outcome.INVALID, "-2015")


class Rest:
    """An exchange that refuses every key."""

    exchange = exchanges()["binance_usdm"]

    def call(self, call: HttpCall, credentials: Credentials, cancelled: object) -> None:
        raise ExchangeRefused("probe", DEAD)


class Rows:
    def __init__(self) -> None:
        self.deactivated: list[str] = []

    def deactivate(self, spec: AccountSpec, reason: str, text: str) -> bool:
        self.deactivated.append(spec.id)
        return True


def spec(market: str, number: int) -> AccountSpec:
    return AccountSpec(f"{market}-{number}", "u", "binance", market, "l", False, 1, 0)


@pytest.mark.parametrize(
    ("usdm", "spot", "streams", "deactivated"),
    [
        (1, 0, 1, 1),  # one, the only one
        (5, 0, 9, 0),  # over half of the venue's
        (5, 0, 10, 5),  # half
        (3, 2, 3, 3),  # five together, but at two venues
        (5, 0, 5, 0),  # all of the venue's, however many run at others
    ],
)
def test_a_crowd_is_counted_by_venue(usdm: int, spot: int, streams: int, deactivated: int) -> None:
    rows, asked = Rows(), []

    def running(of: AccountSpec) -> int:
        asked.append(of.market)
        return streams if of.market == "usdm" else 200

    desk = CredentialDesk(rows, running)  # type: ignore[arg-type]
    struck = [spec("usdm", n) for n in range(usdm)]
    for account in [*struck, *(spec("spot", n) for n in range(spot))]:
        desk.strike(account, DEAD)
    ended = [desk.confirm(account, Credentials("k", "s"), Rest(), lambda: False) for account in struck]  # type: ignore[arg-type]
    assert ended.count(True) == len(rows.deactivated) == deactivated
    assert set(asked) <= {"usdm"}
