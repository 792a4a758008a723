"""The invariants of ownership, as functions of what was recorded. Pure.

In: records of Kafka (journal.py) and the exchange's sockets. Out: violations in words, and figures.
    I1 never two incarnations publishing one account outside the window (one message) · I2 tokens never fall
    I4 at the end one producer · I5 control-plane faults cause no reconnect
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fleet.core.names import TOPIC_STREAMS
from tests.campaigns.ownership.journal import Line

WINDOW_MS = 50  # one message may be on its way between the gate's check and the record
SHOWN = 3

Socket = Mapping[str, Any]


def tokens_fall(lines: Iterable[Line]) -> list[str]:
    """I2: in the order of a partition, an account's tokens never fall; events about streams count too, moves do not (the leader
    announces them before the worker acts)."""
    highest: dict[tuple[str, str, int], Line] = {}
    found: list[str] = []
    for line in lines:
        if not line.token or line.event == "moved":
            continue
        place = (line.account, line.topic, line.partition)
        before = highest.get(place)
        if before is not None and line.token < before.token:
            found.append(
                f"I2 {line.topic} {line.account}: {line.incarnation} published under an older token "
                f"{line.made_ms - before.made_ms} ms after {before.incarnation} had begun"
            )
        else:
            highest[place] = line
    return found


def overlaps_ms(lines: Iterable[Line]) -> dict[str, int]:
    """I1: for how long two incarnations made records of one account at the same time, by the producers' clocks."""
    spans: dict[str, dict[tuple[int, str], list[int]]] = defaultdict(dict)
    for line in lines:
        if line.topic != TOPIC_STREAMS:
            span = spans[line.account].setdefault((line.token, line.incarnation), [line.made_ms, line.made_ms])
            span[0], span[1] = min(span[0], line.made_ms), max(span[1], line.made_ms)
    worst: dict[str, int] = {}
    for account, owners in spans.items():
        ordered = [span for _, span in sorted(owners.items())]
        overlap = max((a[1] - b[0] for i, a in enumerate(ordered) for b in ordered[i + 1 :]), default=-1)
        if overlap > WINDOW_MS:
            worst[account] = overlap
    return worst


def late_words(lines: Iterable[Line], incarnations: set[str], after_ms: int) -> list[Line]:
    """Records of these incarnations that came out of Kafka after `after_ms`."""
    return [line for line in lines if line.incarnation in incarnations and line.seen_ms > after_ms]


def opened_after(sockets: Iterable[Socket], api_key: str, after_ms: int) -> list[Socket]:
    return [s for s in sockets if s["api_key"] == api_key and s["opened_at"] > after_ms]


def longest_gap_ms(sockets: Sequence[Socket], since_ms: int, until_ms: int, dead_at_ms: int | None) -> int:
    """The longest stretch of one account without a socket that somebody read. `dead_at_ms`: whatever was open then counts as
    ended, because its owner was killed or paused."""
    covered = []
    for each in sockets:
        end = each["closed_at"] or until_ms
        if dead_at_ms is not None and each["opened_at"] <= dead_at_ms:
            end = min(end, dead_at_ms)
        if end > since_ms:
            covered.append((each["opened_at"], end))
    longest, reached = 0, since_ms
    for begin, end in sorted(covered):
        longest = max(longest, begin - reached)
        reached = max(reached, end)
    return max(longest, until_ms - reached)


def longest_silence_ms(lines: Iterable[Line], since_ms: int, until_ms: int) -> dict[str, int]:
    """Per account, the longest time between two records that its stream (not a read-back) brought."""
    last: dict[str, int] = {}
    longest: dict[str, int] = {}
    for line in lines:
        if line.topic == TOPIC_STREAMS or line.source != "stream" or not since_ms - 5000 <= line.made_ms <= until_ms:
            continue
        before = max(last.get(line.account, line.made_ms), since_ms)
        longest[line.account] = max(longest.get(line.account, 0), line.made_ms - before)
        last[line.account] = line.made_ms
    return longest


def invariants(lines: Sequence[Line]) -> list[str]:
    """I1 and I2 in words."""
    found = tokens_fall(lines)
    double = overlaps_ms(lines)
    found += [f"I1 {account}: two incarnations for {ms} ms" for account, ms in sorted(double.items())[:SHOWN]]
    return found[: SHOWN * 3]
