"""`python -m workers userdata|marketdata|sink NAME`: one process of the data path. Settings come from the environment.

Exit codes: 0 stopped as asked, 1 failed, 2 wrong use or wrong settings (one line on standard error says what).
"""

from __future__ import annotations

import sys

import click

from fleet.core.errors import FleetError, SecretsError, SettingsError
from fleet.runtime.settings import Settings

# structlog imports rich where it is installed, for coloured tracebacks that nobody here prints. That is a quarter of the time a
# worker takes to start, and a killed worker should stream again within 3 s.
sys.modules["rich"] = None  # type: ignore[assignment]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """One process of the data path; supervisord runs them, see supervisord.conf."""


@main.command()
def userdata() -> None:
    """Stream the accounts that the coordinator assigns to this worker's slot (FLEET_SLOT)."""
    from workers.userdata import run

    sys.exit(_guarded(run))


@main.command()
def marketdata() -> None:
    """Hold the shared public streams."""
    from workers.market_data import run

    sys.exit(_guarded(run))


@main.command()
@click.argument("name", type=click.Choice(["postgres", "clickhouse"]))
def sink(name: str) -> None:
    """Write Kafka's records into a table store."""
    from workers.sinks import run

    sys.exit(_guarded(lambda settings: run(name, settings)))


def _guarded(run: object) -> int:
    assert callable(run)
    try:
        code = run(Settings.from_env())
    except (SettingsError, SecretsError) as error:
        click.echo(f"workers: {error}", err=True)
        return 2
    except FleetError as error:
        click.echo(f"workers: {error}", err=True)
        return 1
    return int(code)


if __name__ == "__main__":
    main()
