"""The failure table's register: each row is a function that takes a healthy rig and how long an outage lasts, does the harm, and
returns a Finding. `hold_s` is 60 s in the table, less in the suite. Every row leaves the rig healthy.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.campaigns.ownership.rig import Rig
from tests.campaigns.ownership.trial import Finding

Row = Callable[[Rig, float], Finding]
ROWS: dict[str, Row] = {}


def row(function: Row) -> Row:
    ROWS[function.__name__] = function
    return function


def open_since(rig: Rig, accounts: set[str], since_ms: int) -> int:
    """How many of these accounts have dialled since then."""
    keys = {rig.credentials[a].api_key for a in accounts}
    return len({s["api_key"] for s in rig.sockets() if s["api_key"] in keys and s["opened_at"] > since_ms})
