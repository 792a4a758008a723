"""What the fleet's own log lines say of moves and restarts. Pure.

In: log files as text (JSON lines, docs/operations.md). Out: accounts on the move at once, what was released by reason, the steps
of a worker's start in seconds. Figures only: violations are read from Kafka and from the exchange's sockets (judge.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import msgspec

PASS_MS = 300  # one pass of the leader, from its first to its last line


class Line(msgspec.Struct):
    """The fields that are looked at."""

    time: datetime
    event: str
    action: str = ""
    stream: str = ""
    shard: str = ""
    reason: str = ""

    @property
    def at_ms(self) -> int:
        return round(self.time.timestamp() * 1000)


def lines(text: str, since_ms: int, actions: Iterable[str]) -> list[Line]:
    """Lines of these actions since then, in order of time. What is no JSON line is somebody else's (supervisord's, a traceback)."""
    decoder, wanted = msgspec.json.Decoder(Line), tuple(f'"{action}"' for action in actions)
    found = (decoder.decode(each) for each in _json(text) if any(action in each for action in wanted))
    return sorted((line for line in found if line.at_ms >= since_ms), key=lambda line: line.time)


def _json(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.startswith("{") and line.endswith("}"))


def releases(of_coordinators: Iterable[Line]) -> Counter[str]:
    """Accounts that were taken from their worker, by reason."""
    return Counter(line.reason for line in of_coordinators if line.action == "release")


def most_in_flight(of_coordinators: Iterable[Line]) -> int:
    """The most accounts that were revoked and not assigned again at one time. A pass of the leader first revokes the next ones,
    then assigns those that were released before; these do not count any more."""
    under_way: set[str] = set()
    most = 0
    for line in sorted(of_coordinators, key=lambda line: line.at_ms - (PASS_MS if line.action == "move" else 0)):
        if line.action == "release":
            under_way.add(line.stream)
        elif line.action == "move":
            under_way.discard(line.stream)
        most = max(most, len(under_way))
    return most


def steps(of_worker: Iterable[Line], killed_ms: int) -> dict[str, Any]:
    """Seconds from the kill to each step of the next life, and the accounts that are connected again."""
    seen: dict[str, list[float]] = {}
    for line in of_worker:
        seen.setdefault(line.action, []).append((line.at_ms - killed_ms) / 1000)
    names = {"register": "registered_s", "dial": "first_dial_s", "connected": "first_live_s"}
    connected = seen.get("connected", [])
    found: dict[str, Any] = {name: seen[action][0] for action, name in names.items() if action in seen}
    if connected:
        found |= {"half_live_s": connected[len(connected) // 2], "last_live_s": connected[-1], "live": len(connected)}
    return found
