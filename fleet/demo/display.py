"""What a person sees of the demo: a live panel on a terminal, plain lines anywhere else. In: notes and numbers; out: stdout."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

PLAIN_EVERY_S = 5.0
NOTES_SHOWN = 8


class Row(msgspec.Struct, frozen=True):
    """One program as the panel shows it."""

    program: str
    pid: int
    accounts: str
    rss_mb: float


class Picture(msgspec.Struct, frozen=True):
    """The numbers of one moment."""

    elapsed_s: float
    length_s: float | None
    accounts: int
    live: int
    events: dict[str, int]
    rates: dict[str, float]
    fills_ledger: int
    fills_kafka: int
    latency_p50_ms: float
    latency_p99_ms: float
    open_gaps: int
    rows: list[Row]
    console: str


class Display(Protocol):
    """Where the demo writes to."""

    def note(self, text: str) -> None: ...
    def show(self, picture: Picture) -> None: ...
    def close(self) -> None: ...


class Plain:
    """A line a note, and a line of numbers every PLAIN_EVERY_S."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._began = time.monotonic()
        self._next = 0.0

    def note(self, text: str) -> None:
        print(f"[{time.monotonic() - self._began:6.1f} s] {text}", file=self._out, flush=True)

    def show(self, picture: Picture) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PLAIN_EVERY_S
        self.note(
            f"live {picture.live}/{picture.accounts} · fills {picture.fills_kafka}/{picture.fills_ledger} · "
            f"events {sum(picture.events.values())} · open gaps {picture.open_gaps} · "
            f"event to Kafka p50 {picture.latency_p50_ms:.0f} ms, p99 {picture.latency_p99_ms:.0f} ms"
        )

    def close(self) -> None:
        """Nothing to undo."""


class Panel:
    """A panel that redraws itself in place; the last notes below it."""

    def __init__(self) -> None:
        self._console = Console()
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)
        self._notes: list[str] = []
        self._picture: Picture | None = None
        self._began = time.monotonic()
        self._live.start()

    def note(self, text: str) -> None:
        self._notes = [*self._notes, f"{time.monotonic() - self._began:6.1f} s  {text}"][-NOTES_SHOWN:]
        self._draw()

    def show(self, picture: Picture) -> None:
        self._picture = picture
        self._draw()

    def close(self) -> None:
        self._live.stop()

    def _draw(self) -> None:
        parts: list[Table | Text] = [] if self._picture is None else [*_panel(self._picture)]
        self._live.update(Group(*parts, *(Text(note, style="dim") for note in self._notes)))


def _panel(picture: Picture) -> list[Table | Text]:
    left = "until Ctrl-C" if picture.length_s is None else f"{max(picture.length_s - picture.elapsed_s, 0):.0f} s left"
    head = Text(
        f"Streamfleet demo · {picture.live}/{picture.accounts} accounts live · {left} · {picture.console}", style="bold"
    )
    numbers = Text(
        f"fills in Kafka {picture.fills_kafka} of {picture.fills_ledger} at the exchange · open gaps {picture.open_gaps} · "
        f"event to Kafka p50 {picture.latency_p50_ms:.0f} ms, p99 {picture.latency_p99_ms:.0f} ms"
    )
    events = Table(title=None, box=None, padding=(0, 2))
    for column in ("event", "total", "per s"):
        events.add_column(column, justify="left" if column == "event" else "right")
    for kind in sorted(picture.events):
        events.add_row(kind, str(picture.events[kind]), f"{picture.rates.get(kind, 0.0):.0f}")
    processes = Table(title=None, box=None, padding=(0, 2))
    for column in ("process", "pid", "live/accounts", "MiB"):
        processes.add_column(column, justify="left" if column == "process" else "right")
    for row in picture.rows:
        processes.add_row(row.program, str(row.pid), row.accounts, f"{row.rss_mb:.0f}")
    both = Table.grid(padding=(0, 4))
    both.add_row(processes, events)
    return [head, numbers, both]


def display() -> Display:
    """A panel where standard output is a terminal, plain lines elsewhere."""
    return Panel() if sys.stdout.isatty() else Plain(sys.stdout)
