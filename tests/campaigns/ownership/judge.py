"""The invariants of ownership, as functions of what was recorded. Pure.

In: records of Kafka (journal.py) and the exchange's sockets. Out: violations in words, and figures.
    I1 never two incarnations publishing one account outside the window (one message) · I2 tokens never fall
    I3 nothing published past a deadline · I6 an account moves only where its owner was harmed, and once for that
    I8 processes, threads, files and memory are in the end what they were
I4 (one producer at the end) and I5 (no reconnect) are judged where the sockets are known; I7 (dial limits) is recovery/bounds.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from fleet.core.names import TOPIC_STREAMS
from tests.campaigns.ownership.journal import Line

WINDOW_MS = 50  # one message may be on its way between the gate's check and the record
SHOWN = 3
LEASE_MS = 4000  # the fast profile's
# What a process may have more than at the beginning: threads and files come and go with read-backs and connections to stores.
MORE_THREADS, MORE_FILES, MORE_RSS = 3, 8, 1.5

Socket = Mapping[str, Any]


class Nap(NamedTuple):
    """A worker process that was stopped and woken."""

    slot: str
    began_ms: int
    woke_ms: int


class Usage(NamedTuple):
    """Of all processes of one program."""

    processes: int
    threads: int
    files: int
    rss_mb: float


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


def woken_words(lines: Iterable[Line], incarnation: str, began_ms: int, woke_ms: int) -> tuple[list[Line], list[Line]]:
    """Records of a life that overslept its lease that came out of Kafka after it woke: those that Kafka's client held when it fell
    asleep, which nobody can call back, and those that were made since."""
    said = [line for line in lines if line.incarnation == incarnation and line.seen_ms > woke_ms]
    made = [line for line in said if line.made_ms > began_ms + WINDOW_MS]
    return [line for line in said if line.made_ms <= began_ms + WINDOW_MS], made


def past_deadline(lines: Sequence[Line], nap: Nap) -> list[str]:
    """I3: a life that overslept its lease publishes nothing when it wakes, but for one message between the gate and the client."""
    if nap.woke_ms - nap.began_ms <= LEASE_MS:
        return []
    before = [line for line in lines if line.shard == nap.slot and line.incarnation and line.made_ms <= nap.began_ms]
    if not before:
        return []
    former = max(before, key=lambda line: line.made_ms).incarnation
    _, late = woken_words(lines, former, nap.began_ms, nap.woke_ms)
    if len(late) <= 1:
        return []
    return [f"I3 {len(late)} records of {former} after {nap.woke_ms - nap.began_ms} ms asleep, {late[0].topic} first"]


def moves(lines: Iterable[Line], since_ms: int) -> dict[str, int]:
    """How often an account's records began to come from another worker, since then."""
    first: dict[str, dict[int, Line]] = defaultdict(dict)  # account → token → its first record
    for line in lines:
        if line.topic != TOPIC_STREAMS:
            first[line.account].setdefault(line.token, line)
    count: dict[str, int] = {}
    for account, by_token in first.items():
        owners = [by_token[token] for token in sorted(by_token)]
        changed = sum(a.shard != b.shard and b.made_ms >= since_ms for a, b in pairwise(owners))
        if changed:
            count[account] = changed
    return count


def needless_moves(lines: Iterable[Line], since_ms: int, harmed: Mapping[str, int]) -> list[str]:
    """I6: `harmed`: account → how many faults may have taken its owner."""
    over = {account: n for account, n in sorted(moves(lines, since_ms).items()) if n > harmed.get(account, 0)}
    return [f"I6 {account} moved {n} times for {harmed.get(account, 0)} faults" for account, n in over.items()][:SHOWN]


def not_returned(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> list[str]:
    """I8, program by program."""
    found = []
    for program in sorted(before.keys() | after.keys()):
        was, now = before.get(program), after.get(program)
        if was is None or now is None or was.processes != now.processes:
            found.append(f"I8 {program}: {now.processes if now else 0} processes, {was.processes if was else 0} before")
            continue
        if now.threads > was.threads + MORE_THREADS * was.processes:
            found.append(f"I8 {program}: {now.threads} threads, {was.threads} before")
        if now.files > was.files + MORE_FILES * was.processes:
            found.append(f"I8 {program}: {now.files} files, {was.files} before")
        if now.rss_mb > was.rss_mb * MORE_RSS:
            found.append(f"I8 {program}: {now.rss_mb:.0f} MiB, {was.rss_mb:.0f} before")
    return found


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
