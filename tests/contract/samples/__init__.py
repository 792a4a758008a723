"""Samples of each exchange folder: one module per folder, named like it, with one `SAMPLES`. The contract suite finds them."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

from fleet.core.exchange import Outcome
from fleet.core.model import Credentials


@dataclass(frozen=True)
class Sample:
    """One frame and what it must become: for each item its class name and the fields that are pinned."""

    name: str
    frame: bytes
    expected: list[tuple[str, dict[str, Any]]]
    path: str = ""  # public frames: the path of the socket


@dataclass(frozen=True)
class Pair:
    """The same happening told by the socket and by a read-back: the ids must be equal, type by type."""

    name: str
    frames: list[bytes]
    replies: dict[str, bytes]  # REST path, or path?beginning of the query -> body; others answer with `empty`
    types: tuple[str, ...]
    symbol: str = ""


@dataclass(frozen=True)
class Samples:
    """What one exchange folder is held to."""

    user: list[Sample]
    market: list[Sample]
    pairs: list[Pair]
    errors: list[tuple[int, bytes, dict[str, str], Outcome]]  # status, body, headers, verdict
    documented_codes: dict[str, Outcome]
    code_reply: str  # body of a refusal, %s = the code
    quiet: dict[str, bytes]  # REST path -> body of an account to which nothing happened
    empty: bytes
    clock: tuple[bytes, int]
    ticket: tuple[bytes, str] | None
    snapshot: bytes | None
    quiet_calls: int = 1  # what a read-back of an account to which nothing happened may cost
    credentials: Credentials = field(
        default_factory=lambda: Credentials("key-canary-1", "secret-canary-2", "phrase-canary-3")
    )


def samples_of(name: str) -> Samples:
    """Raises ModuleNotFoundError if a folder has no samples: every exchange has some."""
    samples: Samples = importlib.import_module(f"{__name__}.{name}").SAMPLES
    return samples
