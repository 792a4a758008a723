"""The truth: every event the simulated exchanges produced, and the sockets it was written to. In: rows; out: NDJSON
by sequence number.

Rows of accounts are kept for the life of the process. Market rows are many and go into a ring (MARKET_ROWS): a reader
that polls `since` its last seq gets them all; `oldest_market_seq` says where the ring begins.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec import UNSET, UnsetType

MARKET_ROWS = 500_000


class Row(msgspec.Struct, gc=False):
    """One row of the ledger; fields after `sockets` appear where they mean something."""

    seq: int
    exchange: str
    market: str
    api_key: str | None
    type: str
    symbol: str
    order_id: str | None
    trade_id: str | None
    ts: int
    sockets: tuple[int, ...]
    stream: str | UnsetType = UNSET
    side: str | UnsetType = UNSET
    price: str | UnsetType = UNSET
    qty: str | UnsetType = UNSET
    status: str | UnsetType = UNSET
    fee: str | UnsetType = UNSET
    asset: str | UnsetType = UNSET
    wallet: str | UnsetType = UNSET
    event: str | UnsetType = UNSET
    interval: str | UnsetType = UNSET
    open_time: int | UnsetType = UNSET
    closed: bool | UnsetType = UNSET
    first_seq: int | UnsetType = UNSET
    last_seq: int | UnsetType = UNSET


class Ledger:
    """Append-only; one seq over all venues, starting at 1."""

    def __init__(self, market_rows: int = MARKET_ROWS) -> None:
        self._seq = 0
        self._user: list[Row] = []
        self._market: deque[Row] = deque(maxlen=market_rows)
        self._encoder = msgspec.json.Encoder()

    @property
    def last_seq(self) -> int:
        return self._seq

    @property
    def oldest_market_seq(self) -> int:
        """Seq of the oldest market row still kept, 0 when there is none."""
        return self._market[0].seq if self._market else 0

    def add(self, row: Row) -> None:
        """Record `row` under the next seq (its own seq is overwritten)."""
        self._seq = row.seq = self._seq + 1
        (self._market if row.api_key is None else self._user).append(row)

    def rows(
        self,
        since: int = 0,
        *,
        api_key: str | None = None,
        types: Iterable[str] = (),
        market: bool = True,
        limit: int | None = None,
    ) -> list[Row]:
        """The first `limit` rows after `since` in order of seq, narrowed to one account or some types where asked."""
        found = self._user[bisect_right(self._user, since, key=lambda row: row.seq) :]
        if api_key is not None:
            found = [row for row in found if row.api_key == api_key]
        elif market:
            recent: list[Row] = []
            for row in reversed(self._market):
                if row.seq <= since:
                    break
                recent.append(row)
            recent.reverse()
            found = sorted(found + recent, key=lambda row: row.seq)
        wanted = frozenset(types)
        return ([row for row in found if row.type in wanted] if wanted else found)[:limit]

    def ndjson(self, rows: list[Row]) -> bytes:
        """One JSON object a line."""
        return self._encoder.encode_lines(rows)
