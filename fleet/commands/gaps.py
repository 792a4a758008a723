"""`fleet gaps`: when streams were not proven complete, and what was recovered. Reads the table stream_gaps."""

from __future__ import annotations

import datetime as dt
import re

import click

from fleet.commands.output import emit_newest, limit_option
from fleet.commands.session import env_file_option, json_option, session
from fleet.runtime.account_rows import AccountRows

COLUMNS = ("account_id", "stream", "opened_at", "closed_at", "reason", "recovered_events", "recoverable")
UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Since(click.ParamType[dt.datetime]):
    """ISO 8601, UNIX milliseconds, or an age such as 30m."""

    name = "time"

    def convert(
        self, value: str | dt.datetime, param: click.Parameter | None, ctx: click.Context | None
    ) -> dt.datetime:
        if isinstance(value, dt.datetime):
            return value
        age = re.fullmatch(r"(\d+)([smhd])", value)
        try:
            if age:
                return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(age[1]) * UNITS_S[age[2]])
            if value.isdigit():
                return dt.datetime.fromtimestamp(int(value) / 1000, tz=dt.UTC)
            when = dt.datetime.fromisoformat(value)
        except (ValueError, OverflowError, OSError):
            self.fail(f"{value!r} is neither ISO 8601, UNIX milliseconds nor an age such as 30m", param, ctx)
        return when if when.tzinfo else when.replace(tzinfo=dt.UTC)


@click.command()
@click.option("--open", "open_only", is_flag=True, help="Only gaps that are not closed.")
@click.option(
    "--since", type=Since(), help="Only gaps that lasted into this time: ISO 8601, UNIX ms, or an age such as 30m."
)
@limit_option(10_000)
@json_option
@env_file_option
def gaps(open_only: bool, since: dt.datetime | None, limit: int, as_json: bool) -> None:
    """Gaps of the streams, newest first."""
    emit_newest(AccountRows(session().postgres()).gaps(open_only, since, limit), limit, as_json, COLUMNS)
