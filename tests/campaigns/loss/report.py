"""What a campaign has to say, as JSON. In: rows of stream_gaps and when which fault began. Out: counts and the longest silences."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from tests.campaigns.loss.judge import Verdict

BEFORE_MS, AFTER_MS = (
    45_000,
    1_500,
)  # a gap is a fault's if it opened this long after it, or (its clock is the last frame's) before


class Gaps(msgspec.Struct):
    """Rows of stream_gaps."""

    opened: int
    closed: int
    unrecoverable: dict[str, int]  # reason → how many
    recovered_events: int
    max_s: float

    @classmethod
    def of(cls, rows: list[dict[str, Any]]) -> Self:
        closed = [row for row in rows if row["closed_at"] is not None]
        unrecoverable: dict[str, int] = {}
        for row in rows:
            if not row["recoverable"]:
                unrecoverable[row["reason"]] = unrecoverable.get(row["reason"], 0) + 1
        return cls(
            opened=len(rows),
            closed=len(closed),
            unrecoverable=unrecoverable,
            recovered_events=sum(row["recovered_events"] for row in rows),
            max_s=max((_length_s(row) for row in closed), default=0.0),
        )


def _length_s(row: dict[str, Any]) -> float:
    return round(float((row["closed_at"] - row["opened_at"]).total_seconds()), 3)


def silences(gaps: list[dict[str, Any]], begun: list[tuple[int, str]]) -> dict[str, float]:
    """Kind of fault → seconds of the longest gap (of accounts) that opened after it and before the next fault."""
    longest: dict[str, float] = {}
    for row in gaps:
        if row["closed_at"] is None or row["account"] is None:
            continue
        opened_ms = row["opened_at"].timestamp() * 1000
        near = [(at, kind) for at, kind in begun if opened_ms - BEFORE_MS <= at <= opened_ms + AFTER_MS]
        if near:
            kind = max(near)[1]
            longest[kind] = max(longest.get(kind, 0.0), _length_s(row))
    return dict(sorted(longest.items(), key=lambda item: -item[1]))


class Report(msgspec.Struct):
    """`problems` is empty if nothing was lost and everything is calm again."""

    seed: int
    replay: str
    seconds: float
    exchanges: list[str]
    accounts: int
    workers: int
    faults: dict[str, int]
    verdict: Verdict
    gaps: Gaps
    silence_s: dict[str, float]
    settle_s: float
    problems: list[str]

    @property
    def passed(self) -> bool:
        return self.verdict.complete and not self.problems
