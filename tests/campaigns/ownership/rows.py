"""All rows of the failure table, by name: importing this file fills `ROWS`."""

from __future__ import annotations

from tests.campaigns.ownership import on_clock, on_cluster, on_coordinators, on_sentinel, on_stores, on_workers, wishes  # noqa: F401
from tests.campaigns.ownership.table import ROWS

__all__ = ["ROWS"]
