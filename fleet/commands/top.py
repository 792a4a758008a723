"""`fleet top`: shards and streams, redrawn every second until Ctrl-C; printed once where there is no terminal. Reads Redis."""

from __future__ import annotations

import sys
import threading
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fleet.commands.output import cell, emit
from fleet.commands.session import FiniteRange, env_file_option, json_option, session
from fleet.commands.views import SHARD_COLUMNS, fleet_view
from fleet.core.errors import StoreUnavailable
from fleet.runtime.fleet_view import FleetView

TROUBLED_SHOWN = 15


@click.command()
@click.option(
    "--every",
    "every_s",
    default=1.0,
    show_default=True,
    type=FiniteRange(min=0.1),
    help="Seconds between pictures.",
)
@json_option
@env_file_option
def top(every_s: float, as_json: bool) -> None:
    """The fleet, live."""
    view = fleet_view(session())
    if as_json or not sys.stdout.isatty():
        emit(view.shards(), as_json, SHARD_COLUMNS)
        return
    with Live(picture(view), console=Console(), auto_refresh=False, screen=True) as live:
        try:
            while not threading.Event().wait(every_s):
                live.update(picture(view), refresh=True)
        except KeyboardInterrupt:
            return


def picture(view: FleetView) -> Group:
    try:
        rows = view.shards()
        streams = [stream for row in rows for stream in view.shard(row["slot"]) or []]
    except StoreUnavailable as error:
        return Group(Text(f"{error}; trying again", style="bold red"))
    troubled = [stream for stream in streams if stream["state"] != "live"]
    head = Text(f"{len(rows)} shards · {len(streams)} accounts · {len(streams) - len(troubled)} live", style="bold")
    return Group(
        head,
        grid(rows, SHARD_COLUMNS),
        Text("not live:" if troubled else "all live"),
        *([grid(troubled[:TROUBLED_SHOWN], ("id", "slot", "state", "reconnects", "gap"))] if troubled else []),
    )


def grid(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    table = Table(box=None, padding=(0, 2))
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*(cell(row.get(column)) for column in columns))
    return table
