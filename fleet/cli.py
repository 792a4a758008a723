"""`fleet …`: what an operator types. In: arguments and settings; out: text or JSON, and an exit code.

0 fine, 1 a problem was found (also: a service is away), 2 wrong use (also: a wrong setting). Errors are one line on standard
error, never a traceback. This file is the table of contents; the commands are in `fleet/commands/`.
"""

from __future__ import annotations

import signal

QUIET = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if QUIET:  # Ctrl-C while everything is imported (half a second) ends the process, without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import click  # noqa: E402

from fleet.commands import accounts, control, demo, doctor, gaps, letters, setup, top, views  # noqa: E402
from fleet.commands.session import FleetGroup, env_file_option  # noqa: E402


@click.group(cls=FleetGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="streamfleet")
@env_file_option
def main() -> None:
    """Streamfleet: every account's private stream and the shared market streams, alive and complete."""


main.add_command(demo.demo)
main.add_command(setup.migrate)
main.add_command(setup.keyring)
main.add_command(accounts.accounts)
main.add_command(views.shards)
main.add_command(views.shard)
main.add_command(views.account)
main.add_command(gaps.gaps)
main.add_command(views.budget)
main.add_command(control.drain)
main.add_command(control.rebalance)
main.add_command(control.rotate)
main.add_command(doctor.doctor)
main.add_command(top.top)
main.add_command(letters.dead_letters)

if QUIET:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if __name__ == "__main__":
    main()
