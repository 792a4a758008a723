"""`python -m workers userdata|marketdata|sink NAME`: one process of the data path. Settings come from the environment.

Exit codes: 0 stopped as asked, 1 failed, 2 wrong use or wrong settings (one line on standard error says what).
"""

from __future__ import annotations

import gc
import importlib
import sys

import click

from fleet.core.errors import FleetError, SecretsError, SettingsError
from fleet.runtime.settings import Settings

# A killed worker should stream again within 3 s, and half a second of that is imports. structlog imports rich where it is
# installed, for coloured tracebacks that nobody here prints: a quarter of it. Python's collector takes a seventh, and as much
# again while the accounts start: at its 700 it looks through a worker's objects a hundred times.
sys.modules["rich"] = None  # type: ignore[assignment]
GC_THRESHOLDS = (20_000, 20, 20)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One process of the data path; supervisord runs them, see supervisord.conf."""


@main.command()
def userdata() -> None:
    """Stream the accounts that the coordinator assigns to this worker's slot (FLEET_SLOT)."""
    sys.exit(_run("workers.userdata"))


@main.command()
def marketdata() -> None:
    """Hold the shared public streams."""
    sys.exit(_run("workers.market_data"))


@main.command()
@click.argument("name", type=click.Choice(["postgres", "clickhouse"]))
def sink(name: str) -> None:
    """Write Kafka's records into a table store."""
    sys.exit(_run("workers.sinks", name))


def _run(module: str, *args: str) -> int:
    gc.disable()
    program = importlib.import_module(module)
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()
    try:
        return int(program.run(*args, Settings.from_env()))
    except (SettingsError, SecretsError) as error:
        click.echo(f"workers: {error}", err=True)
        return 2
    except FleetError as error:
        click.echo(f"workers: {error}", err=True)
        return 1


if __name__ == "__main__":
    main()
