"""What was asked of the demo, as one value."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Options(msgspec.Struct, frozen=True):
    """`seconds` None = until Ctrl-C; `venues` are names of exchange folders; `chaos` is a seed; `replay` are capture files;
    `logs` is a directory that keeps the log files."""

    accounts: int
    workers: int
    venues: tuple[str, ...]
    seconds: float | None
    rate: float
    chaos: int | None = None
    replay: tuple[str, ...] = ()
    report: Path | None = None
    logs: Path | None = None
