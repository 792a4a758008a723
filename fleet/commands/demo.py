"""`fleet demo`: the whole fleet on one machine. In: options; out: a live view, a report, exit code 1 if anything is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from fleet.commands.session import FiniteRange, env_file_option
from fleet.exchanges import exchanges

UNATTENDED_S = 60.0
SIMULATED = Path(__file__).resolve().parents[2] / "simulator" / "venues"


@click.command()
@click.option("--accounts", default=20, show_default=True, type=click.IntRange(min=1), help="Accounts to stream.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(min=1), help="User-data worker processes.")
@click.option("--exchanges", "names", default="", help="Simulated venues, comma-separated; default: `all` there are.")
@click.option(
    "--for",
    "seconds",
    type=FiniteRange(min=1),
    help="Seconds from the moment all accounts are live. Default: until Ctrl-C on a terminal, 60 elsewhere.",
)
@click.option(
    "--rate",
    default=50.0,
    show_default=True,
    type=FiniteRange(min=0),
    help="Orders and fills a second, all accounts.",
)
@click.option(
    "--chaos", type=int, metavar="SEED", help="Random faults of exchanges and processes for 70 % of the time."
)
@click.option(
    "--replay",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False),
    help="Recorded market data to replay (repeatable).",
)
@click.option(
    "--report", type=click.Path(dir_okay=False, writable=True), help="Write the report to this file, as JSON."
)
@click.option("--logs", type=click.Path(file_okay=False), help="Keep the log files of all processes in this directory.")
@click.argument("more", nargs=-1, metavar="[CAPTURE…]", type=click.Path(exists=True, dir_okay=False))
@env_file_option
def demo(
    accounts: int,
    workers: int,
    names: str,
    seconds: float | None,
    rate: float,
    chaos: int | None,
    replay: tuple[str, ...],
    report: str | None,
    logs: str | None,
    more: tuple[str, ...],
) -> None:
    """Everything on this machine: services, simulated exchanges, the fleet under supervisord. Ctrl-C ends it cleanly."""
    from fleet.demo.options import Options  # psutil and the services are extras: the other commands do without them
    from fleet.demo.run import run

    if more and not replay:
        raise click.UsageError(f"unexpected argument {more[0]!r}; captures follow --replay")
    target = Path(report).resolve() if report else None
    if target and not os.access(target.parent, os.W_OK):
        raise click.UsageError(f"--report: {target.parent} is no directory that can be written to")
    if seconds is None and (chaos is not None or not sys.stdout.isatty()):
        seconds = UNATTENDED_S
    options = Options(
        accounts=accounts,
        workers=workers,
        venues=venues_of(names),
        seconds=seconds,
        rate=rate,
        chaos=chaos,
        replay=tuple(str(Path(capture).resolve()) for capture in (*replay, *more)),
        report=target,
        logs=Path(logs).resolve() if logs else None,
    )
    click.get_current_context().exit(run(options))


def venues_of(names: str) -> tuple[str, ...]:
    """Names of exchange folders: `binance_usdm`, `binance` for every market of it, or `all`."""
    known = [name for name in exchanges() if (SIMULATED / name / "__init__.py").is_file()]
    if names.strip() in ("", "all"):
        return tuple(known)
    chosen: list[str] = []
    for name in filter(None, (part.strip() for part in names.split(","))):
        matching = [venue for venue in known if venue == name or venue.split("_")[0] == name]
        if not matching:
            raise click.UsageError(f"--exchanges: {name!r} is not known; known: {', '.join(known)}")
        chosen += [venue for venue in matching if venue not in chosen]
    return tuple(chosen)
