"""What every command shares: settings from the environment or --env-file, stores opened on demand, errors as one line.

In: click's context. Out: open stores, closed when the command ends; exit codes 0, 1, 2 of `fleet.cli`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

from fleet.core.errors import FleetError, SecretsError, SettingsError
from fleet.core.names import Keys
from fleet.runtime.account_rows import BadAccount
from fleet.runtime.postgres import Postgres, StatementFailed
from fleet.runtime.redis_store import RedisStore
from fleet.runtime.secrets import Keyring
from fleet.runtime.settings import Settings, load_env_file

ENV_KEY = "fleet.env"
UNDEFINED = ("42P01", "42703")  # SQLSTATE: no such table, no such column
REDIS_TIMEOUT_S = 3.0  # an operator waits longer than a heartbeat may

Command = TypeVar("Command", bound=Callable[..., Any])


class Stopped(click.ClickException):
    """One line on standard error and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]  # click documents it as settable, its stubs say ClassVar

    def show(self, file: Any = None) -> None:
        click.echo(f"fleet: {self.message}", err=True, file=file)


class FiniteRange(click.FloatRange):
    """A number in a range. click itself lets NaN through, which is in no range and never reached, and infinity."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a number to count with.", param, ctx)
        return number


class FleetGroup(click.Group):
    """The root group: turns the errors of the tree into one line and the exit code they mean."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (SettingsError, SecretsError, BadAccount) as error:
            raise Stopped(str(error), 2) from error
        except StatementFailed as error:
            missing = error.sqlstate in UNDEFINED
            raise Stopped("the schema is missing: run `fleet migrate`" if missing else str(error), 1) from error
        except FleetError as error:
            raise Stopped(str(error), 1) from error
        except KeyboardInterrupt:
            raise click.exceptions.Exit(130) from None  # as a shell says it


def _read_env_file(ctx: click.Context, _param: click.Parameter, path: str | None) -> None:
    if path is None:
        return
    try:
        ctx.find_root().meta[ENV_KEY] = {**os.environ, **load_env_file(path)}
    except SettingsError as error:
        raise Stopped(str(error), 2) from error


def env_file_option(command: Command) -> Command:
    """`--env-file FILE`: KEY=VALUE lines, over the environment's. Accepted before and after a command's name."""
    option = click.option(
        "--env-file",
        type=click.Path(dir_okay=False),
        expose_value=False,
        callback=_read_env_file,
        help="Read settings from KEY=VALUE lines.",
    )
    return option(command)


def json_option(command: Command) -> Command:
    """`--json`, for reads."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


class Session:
    """Settings and stores of one command. Opened lazily, closed with the command."""

    def __init__(self, ctx: click.Context) -> None:
        self._ctx = ctx
        self.env: dict[str, str] = ctx.find_root().meta.get(ENV_KEY) or dict(os.environ)
        self.settings = Settings.from_env(self.env)

    def postgres(self) -> Postgres:
        self.settings.need("postgres_dsn")
        pg = Postgres(self.settings.postgres_dsn, application="fleet-cli")
        self._ctx.call_on_close(pg.close)
        return pg

    def redis(self) -> RedisStore:
        store = RedisStore(self.settings.redis_url, Keys(self.settings.fleet), timeout_s=REDIS_TIMEOUT_S)
        self._ctx.call_on_close(store.close)
        return store

    def keyring(self) -> Keyring:
        self.settings.need("keyring_file")
        return Keyring.load(self.settings.keyring_file)


def session() -> Session:
    """The session of the running command. Raises SettingsError for a bad environment."""
    return Session(click.get_current_context())
