"""What every exchange folder does with a REST reply, whatever its facts. In: replies. Out: typed bodies, waits, closed candles.

Pure; run by the processes that dial and by market data.
"""

from __future__ import annotations

import email.utils
import re
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.events import Kline
from fleet.core.exchange import CANDLE_ALONE_MS, CANDLE_SETTLE_MS, HttpReply

T = TypeVar("T")


def decode(reply: HttpReply, shape: type[T], what: str) -> T:
    """The body of an OK reply. Raises ConnectionFailed if it is something else (a proxy's page): tried again later."""
    try:
        return decoding.decode(reply.body, shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConnectionFailed(f"{what}: unreadable reply") from error


def retry_after_s(reply: HttpReply) -> float:
    """How long Retry-After tells us to stay away, 0 = it does not say."""
    told = reply.headers.get("retry-after", "")
    return float(told) if re.fullmatch(r"[0-9]{1,7}", told) else 0.0


def left_s(reply: HttpReply, until_ms: int) -> float | None:
    """How long after the reply `until_ms` is, both by the server's clock; None where the reply has no date, nor its call a time."""
    sent = email.utils.parsedate_tz(reply.headers.get("date", ""))
    sent_s = email.utils.mktime_tz(sent) if sent else reply.at_ms / 1000
    return max(0.0, until_ms / 1000 - sent_s) if sent_s else None


def closed(candles: Sequence[Kline], reply: HttpReply, now_ms: int) -> list[Kline]:
    """Those that had ended when the question went out, long enough ago for the exchange to be done with them: that it knows a
    later candle shows that its reply is not from before their end."""
    newest_ms = max((c.open_time for c in candles), default=0)
    at_ms = reply.at_ms or now_ms
    return [
        c for c in candles
        if c.close_time + (CANDLE_SETTLE_MS if c.open_time < newest_ms else CANDLE_ALONE_MS) < at_ms
    ]  # fmt: skip
