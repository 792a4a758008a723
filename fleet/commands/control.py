"""`fleet drain`: an operator's wish, carried out by the leader. In: a slot; out: a mark on the worker's record in Redis."""

from __future__ import annotations

import click

from fleet.commands.session import Stopped, env_file_option, session


@click.command()
@click.argument("slot")
@click.option("--undo", is_flag=True, help="Let the worker have accounts again.")
@env_file_option
def drain(slot: str, undo: bool) -> None:
    """Move a worker's accounts to the others, a few at a time. It keeps running, empty."""
    if not session().redis().set_drain(slot, not undo):
        raise Stopped(f"no shard {slot}; `fleet shards` lists them", 1)
