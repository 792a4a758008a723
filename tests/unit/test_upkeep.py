"""When a living stream is compared with REST: an audit in each period, whatever probes come between, and one in four a full one."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fleet.core.recovery import Scope
from fleet.runtime.metrics import Metrics
from fleet.runtime.settings import Settings
from workers.upkeep import FULL_AUDIT_EACH, Upkeep

PERIOD_S = Settings().audit_interval_s
STEP_S = 2.5


class Quiet:
    """A stream on which nothing happens, its REST, its progress and its exchange."""

    account_id, books_positions, heard_s = "a", None, 0.0

    def __init__(self, probes: float) -> None:
        self.rest = self.progress = self.exchange = self
        self.now_s, self.proofs, self.fulls = 0.0, list[float](), list[float]()
        self._probes, self._random = probes, random.Random(7)

    def may_prove(self, *, due: bool) -> bool:
        return due or self._random.random() < self._probes

    def short(self, quiet_ms: int) -> bool:
        return False

    def suspicious(self, quiet_ms: int, books: object) -> bool:
        return False

    def read_back(self, *, audit: Scope | None = None) -> None:
        self.proofs.append(self.now_s)
        if audit == "full":
            self.fulls.append(self.now_s)


@pytest.mark.parametrize("probes", [0.0, 0.003, 0.03, 1.0])
@pytest.mark.parametrize("jitter", [0.0, 0.3, 0.6, 0.99])
def test_no_two_proofs_are_further_apart_than_a_period_and_a_fifth(
    monkeypatch: pytest.MonkeyPatch, probes: float, jitter: float
) -> None:
    """A fill that is dropped just after one is found by the next: within two periods, its own reads included."""
    stream: Any = Quiet(probes)
    upkeep = Upkeep(stream, Settings(), Any, Metrics(), jitter)  # type: ignore[arg-type]
    monkeypatch.setattr("workers.upkeep.time.monotonic", lambda: stream.now_s)
    upkeep.begin()
    while stream.now_s < 20 * PERIOD_S:
        upkeep._audit(stream.now_s)
        stream.now_s += STEP_S
    pauses = [after - before for before, after in zip([0.0, *stream.proofs], stream.proofs, strict=False)]
    assert max(pauses) <= 1.2 * PERIOD_S + STEP_S
    between = [after - before for before, after in zip(stream.fulls, stream.fulls[1:], strict=False)]
    assert stream.fulls[0] <= FULL_AUDIT_EACH * PERIOD_S
    assert all(
        0.8 * FULL_AUDIT_EACH * PERIOD_S <= pause <= 1.2 * FULL_AUDIT_EACH * PERIOD_S + STEP_S for pause in between
    )
