"""The console's one HTML page: an overview in, text out. No script, no outside resource; it reloads itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark}
body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem}
h1{font-size:1.3rem;margin:0 0 .2rem} h2{font-size:1rem;margin:1.8rem 0 .4rem}
table{border-collapse:collapse;width:100%} th,td{text-align:left;padding:.2rem .8rem .2rem 0;border-bottom:1px solid #8884}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums} code{font-size:.92em} .quiet{opacity:.65}
.figures{display:flex;flex-wrap:wrap;gap:.4rem 2.2rem;margin:1rem 0} .figures b{font-size:1.5rem;display:block}
.bad{color:#c62828} .ok{color:#2e7d32} .problem{border-left:4px solid #c62828;padding:.2rem .8rem;margin:.3rem 0}
"""
GOOD_STATES = ("up", "live")


def render(fleet: str, overview: Mapping[str, Any], up: Mapping[str, bool]) -> str:
    """The page for `fleet`; `up` says which of this host's processes answered just now."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5><title>{escape(fleet)}"
        f"</title><style>{STYLE}</style><h1>{escape(fleet)}</h1>",
        f"<div class=quiet>{_when(overview['at_ms'])} · leader {escape(overview['leader'] or 'none')} · "
        "<a href=/metrics>/metrics</a> · <a href=/api/shards>/api/shards</a></div>",
        *(f"<div class=problem>{escape(problem)}</div>" for problem in overview["problems"]),
        _figures(overview),
        "<h2>Shards</h2>" + _shards(overview["shards"]),
        "<h2>Processes of this host</h2><p>" + " · ".join(_up(name, alive) for name, alive in up.items()) + "</p>",
        _section("Streams that are not live", overview["not_live"], _STREAM_COLUMNS),
        _section("Open gaps", overview["open_gaps"], ("account_id", "stream", "opened_at", "reason")),
        _section("Last moves", overview["moves"], ("since", "account_id", "slot", "incarnation")),
        _section("Last deactivations", overview["deactivations"], _DEACTIVATION_COLUMNS),
    ]
    return "\n".join(parts)


_STREAM_COLUMNS = ("id", "slot", "state", "since_ms", "reconnects", "gap", "last_event_ms")
_DEACTIVATION_COLUMNS = ("deactivated_at", "id", "exchange", "market", "label", "deactivated_reason")
_SHARD_COLUMNS = ("slot", "state", "accounts", "live", "load", "heartbeat_age_s", "host", "pid", "incarnation")


def _figures(overview: Mapping[str, Any]) -> str:
    accounts, gaps = overview["accounts"], overview["gaps"]
    figures = [("active accounts", accounts.get("active", "?")), *sorted(overview["states"].items())]
    figures += [(f"gaps in 24 h: {word}", gaps[word]) for word in ("opened", "open", "unrecoverable") if word in gaps]
    return (
        "<div class=figures>"
        + "".join(f"<div><b>{_text(number)}</b>{escape(name)}</div>" for name, number in figures)
        + "</div>"
    )


def _shards(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(rows, _SHARD_COLUMNS) if rows else "<p class=bad>No worker is registered.</p>"


def _section(title: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    return f"<h2>{title}</h2>" + (_table(rows, columns) if rows else "<p class=quiet>none</p>")


def _table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    head = "".join(f"<th>{escape(name.removesuffix('_ms').replace('_', ' '))}" for name in columns)
    body = "".join("<tr>" + "".join(_cell(name, row.get(name)) for name in columns) for row in rows)
    return f"<table><tr>{head}{body}</table>"


def _cell(name: str, value: Any) -> str:
    if name.endswith("_ms"):
        return f"<td>{_when(value) if value else '–'}"
    if name == "state":
        return f"<td class={'ok' if value in GOOD_STATES else 'bad'}>{_text(value)}"
    return f"<td>{_text(value)}"


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
    return escape("–" if value is None else str(value))


def _when(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _up(name: str, alive: bool) -> str:
    return f"<span class={'ok' if alive else 'bad'}>{escape(name)} {'up' if alive else 'no answer'}</span>"
