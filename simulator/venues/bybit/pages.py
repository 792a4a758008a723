"""Parameters and pages of Bybit's lists. In: parameters of a call and its rows; out: windows, limits, a page with its cursor
(sheet 6.3). Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote, unquote

from simulator.venues.bybit.rules import bad_parameter

T = TypeVar("T")
WEEK = 7 * 86_400_000


def category_of(params: Mapping[str, Any], allowed: tuple[str, ...] = ("linear", "spot", "inverse", "option")) -> str:
    value = str(params.get("category", ""))
    if value not in allowed:
        raise bad_parameter("params error: Category is invalid")
    return value


def number(params: Mapping[str, Any], name: str) -> int | None:
    value = params.get(name)
    if value in (None, ""):
        return None
    if not str(value).isdigit():
        raise bad_parameter(f"params error: {name} invalid")
    return int(str(value))


def limit_of(params: Mapping[str, Any], default: int, most: int) -> int:
    """A limit above the maximum is cut to it."""
    return max(1, min(most, number(params, "limit") or default))


def window(params: Mapping[str, Any], now_ms: int) -> tuple[int, int]:
    """startTime and endTime; neither = the last seven days, one = seven days from or to it. Raises 10001 for a longer span."""
    start, end = number(params, "startTime"), number(params, "endTime")
    if start is None and end is None:
        return now_ms - WEEK, now_ms + 60_000
    if start is None:
        assert end is not None
        return end - WEEK, end
    if end is None:
        return start, start + WEEK
    if start > end:
        raise bad_parameter("The start time cannot be later than the end time.")
    if end - start > WEEK:
        raise bad_parameter("The time range between startTime and endTime cannot exceed 7 days.")
    return start, end


def page(rows: Sequence[tuple[int, T]], params: Mapping[str, Any], default: int, most: int) -> tuple[list[T], str]:
    """`rows` are (key, row), newest first, keys falling. The cursor names the last key told; it is handed out escaped."""
    limit = limit_of(params, default, most)
    cursor = unquote(str(params.get("cursor", "")))
    if cursor:
        last = cursor.partition(":")[0]
        if not last.isdigit():
            raise bad_parameter("params error: cursor invalid")
        rows = [row for row in rows if row[0] < int(last)]
    chosen = list(rows[:limit])
    following = quote(f"{chosen[-1][0]}:0,{chosen[-1][0]}:0", safe="") if len(rows) > limit else ""
    return [row for _, row in chosen], following
