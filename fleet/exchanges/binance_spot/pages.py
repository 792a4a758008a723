"""All rows of one symbol since the watermark, page by page: its trades, allocations or orders. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from fleet.core.errors import ConnectionFailed
from fleet.core.exchange import HttpCall
from fleet.core.replies import decode
from fleet.exchanges.binance_spot import rows, wire
from fleet.exchanges.binance_spot.findings import Dialogue, Findings
from fleet.exchanges.binance_spot.limits import PAGE, WINDOW_MS

Row = TypeVar("Row", wire.TradeRow, wire.AllocationRow, wire.OrderRow)
MAX_PAGES = 1000


def since(
    call: Callable[..., HttpCall], symbol: str, shape: type[list[Row]], by_id: str, found: Findings
) -> Dialogue[list[Row]]:
    """Rows since the watermark. Within 24 h by time. Before that the latest page, and if that does not reach back far enough,
    by time in windows of 24 h until one has rows; in all cases from there on by id."""
    page: list[Row]
    if found.now_ms - found.since_ms <= WINDOW_MS:
        page = decode((yield call(symbol, startTime=found.since_ms)), shape, symbol)
        return page if len(page) < PAGE else page + (yield from _following(call, symbol, shape, by_id, page))
    page = decode((yield call(symbol)), shape, symbol)
    if len(page) < PAGE or min(map(_created_ms, page)) <= found.since_ms:
        return page
    for start_ms in range(found.since_ms, found.now_ms, WINDOW_MS + 1):
        page = decode((yield call(symbol, startTime=start_ms, endTime=start_ms + WINDOW_MS)), shape, symbol)
        if page:
            break
    return page + (yield from _following(call, symbol, shape, by_id, page))


def allocations_since(symbol: str, found: Findings) -> Dialogue[list[wire.AllocationRow]]:
    """Within 24 h by time, else all: asked for without a time the venue begins with the oldest, and few accounts have a page."""
    near = found.now_ms - found.since_ms <= WINDOW_MS
    call = rows.allocations_call(symbol, startTime=found.since_ms) if near else rows.allocations_call(symbol)
    page = decode((yield call), list[wire.AllocationRow], symbol)
    if len(page) < PAGE:
        return page
    return page + (
        yield from _following(rows.allocations_call, symbol, list[wire.AllocationRow], "fromAllocationId", page)
    )


def _following(
    call: Callable[..., HttpCall], symbol: str, shape: type[list[Row]], by_id: str, page: list[Row]
) -> Dialogue[list[Row]]:
    """The rows after those of `page`, and its last again: a trade of the account with itself is two rows of one id, and a page may
    end between them."""
    found: list[Row] = []
    for _ in range(MAX_PAGES):
        last = max(map(_id, page), default=0)
        page = decode((yield call(symbol, **{by_id: last})), shape, symbol)
        found += page
        if len(page) < PAGE:
            return found
    raise ConnectionFailed(f"{symbol}: pages do not end")


def _id(row: Any) -> int:
    return row.trade_id if isinstance(row, wire.TradeRow) else row.order_id


def _created_ms(row: Any) -> int:
    return row.trade_ms if isinstance(row, wire.TradeRow) else row.created_ms
