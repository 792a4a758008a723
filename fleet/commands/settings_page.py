"""`python -m fleet.commands.settings_page > docs/settings.md`: the page of all settings.

In: Settings.table() and the exchange folders; out: Markdown. A test holds the page and the code together.
"""

from __future__ import annotations

import sys

from fleet.exchanges import exchanges
from fleet.runtime.settings import Settings

HEAD = """# Settings

Every process reads its settings from the environment, once, at start. A wrong value ends the process with exit code 2 and
one line that names the variable. `fleet … --env-file FILE` reads `KEY=VALUE` lines instead.
This page is generated: `python -m fleet.commands.settings_page > docs/settings.md`.

| variable | default | unit | what |
|---|---|---|---|
"""
ENDPOINTS = """
## Exchange endpoints
Each replaces the documented root of one venue, so that a proxy or a simulator can stand in; `ws://` and `http://` are
accepted for loopback only. The values are roots: the adapter adds its own paths.

| variable | default |
|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = [
        f"| `{variable}` | {f'`{default}`' if default else 'none'} | {unit or '–'} | {what} |\n"
        for variable, default, unit, what in Settings.table()
    ]
    ends: list[str] = []
    for venue in exchanges().values():
        roots = {"rest": venue.hosts.rest, "ws": venue.hosts.ws, **venue.hosts.extra}
        ends += [f"| `{variable}` | `{roots[part]}` |\n" for part, variable in venue.host_settings.items()]
    return HEAD + "".join(rows) + ENDPOINTS + "".join(ends)


if __name__ == "__main__":
    sys.stdout.write(page())
