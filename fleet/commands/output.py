"""How answers look: JSON for programs, a plain aligned table for people. In: dicts of values; out: standard output."""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def iso(ms: float) -> str | None:
    """UNIX milliseconds → ISO 8601 UTC with milliseconds; 0 (never) → None."""
    if not ms:
        return None
    return moment(dt.datetime.fromtimestamp(ms / 1000, tz=dt.UTC))


def moment(when: dt.datetime) -> str:
    return when.astimezone(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """A value as JSON has it: times in ISO 8601 UTC, ids as text."""
    if isinstance(value, dt.datetime):
        return moment(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    return value


def emit(answer: Any, as_json: bool, columns: Sequence[str] = ()) -> None:
    """Print a list of rows or one record. `columns` chooses what people see; JSON always has everything."""
    rows = [answer] if isinstance(answer, dict) else list(answer)
    rows = [{key: plain(value) for key, value in row.items()} for row in rows]
    if as_json:
        click.echo(json.dumps(rows[0] if isinstance(answer, dict) else rows, ensure_ascii=False, default=str))
    elif isinstance(answer, dict):
        width = max(map(len, rows[0]), default=0)
        for key, value in rows[0].items():
            click.echo(f"{key:<{width}}  {cell(value)}")
    else:
        table(rows, columns or (tuple(rows[0]) if rows else ()))


def limit_option(most: int) -> Callable[[F], F]:
    return click.option(
        "--limit", type=click.IntRange(min=1), default=most, show_default=True, help="So many at most, the newest."
    )


def emit_newest(rows: list[dict[str, Any]], limit: int, as_json: bool, columns: Sequence[str]) -> None:
    """The same of the newest rows of a table. Says on standard error where there may be more."""
    emit(rows, as_json, columns)
    if len(rows) >= limit:
        click.echo(f"these are the newest {limit:,}; --limit shows more", err=True)


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    lines = [[column.upper() for column in columns]] + [[cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}"
    return str(value)
