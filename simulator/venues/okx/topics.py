"""Public channels. In: the argument of a subscription; out: what it carries, on which path and how often, or why it is refused
(sheet 1.1, 1.2, 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulator.venues.okx.rules import SocketError
from simulator.venues.okx.symbols import product

PRIVATE, PUBLIC, BUSINESS = "/ws/v5/private", "/ws/v5/public", "/ws/v5/business"
PATHS = (PRIVATE, PUBLIC, BUSINESS)
# The venue's bar -> the engine's interval. Those that begin at midnight in Hong Kong (6H, 1D, …) and `1s` are not simulated.
BARS = {
    "1m": "1m", "3m": "3m", "5m": "5m", "15m": "15m", "30m": "30m", "1H": "1h", "2H": "2h", "4H": "4h", "6Hutc": "6h",
    "12Hutc": "12h",
    "1Dutc": "1d", "3Dutc": "3d", "1Wutc": "1w", "1Mutc": "1M",
}  # fmt: skip
_BY_SYMBOL = {  # channel -> path, push period in ms (0 = when something happens)
    "tickers": (PUBLIC, 200), "trades": (PUBLIC, 0), "trades-all": (BUSINESS, 0), "books": (PUBLIC, 100), "books5": (PUBLIC, 100),
    "bbo-tbt": (PUBLIC, 0), "mark-price": (PUBLIC, 200), "index-tickers": (PUBLIC, 500), "funding-rate": (PUBLIC, 30_000),
    "open-interest": (PUBLIC, 3000), "price-limit": (PUBLIC, 5000),
}  # fmt: skip
_VIP = ("books-l2-tbt", "books50-l2-tbt")
PRODUCTS = ("SWAP", "FUTURES", "MARGIN", "OPTION")
# private channel -> is instType required, on /business rather than /private
PRIVATE_CHANNELS = {
    "orders": True, "positions": True, "account": False, "balance_and_position": False, "liquidation-warning": True,
    "account-greeks": False,
}  # fmt: skip
BUSINESS_PRIVATE = ("orders-algo", "algo-advance", "deposit-info", "withdrawal-info")
INST_TYPES = ("SPOT", "MARGIN", "SWAP", "FUTURES", "OPTION", "EVENTS", "ANY")


@dataclass(frozen=True)
class Topic:
    """One valid public subscription. `name` is the channel's in the hub."""

    name: str
    channel: str
    path: str
    symbol: str  # "" where it is of a product
    period_ms: int
    interval: str = ""


def refused(channel: str, what: str) -> SocketError:
    text = f"Wrong URL or channel:{channel}, {what} doesn't exist. Please use the correct URL, channel and parameters referring"
    return SocketError(60018, f"{text} to API document.")


def understand(arg: dict[str, Any], path: str, symbols: dict[str, Any]) -> Topic:
    """What a public argument means. Raises SocketError with the real code."""
    channel, symbol = str(arg.get("channel", "")), str(arg.get("instId", ""))
    if channel in ("liquidation-orders", "status", "instruments"):
        kind = str(arg.get("instType", ""))
        if channel != "status" and kind not in (*PRODUCTS, "SPOT"):
            raise refused(channel, f"instType:{kind}")
        _on(PUBLIC, path, channel)
        return Topic(f"{channel}:{kind}", channel, PUBLIC, "", 0)
    if channel in _VIP:
        raise SocketError(64003, "Your trading fee tier doesn't meet the requirement to access this channel.")
    bar = channel.removeprefix("candle")
    if channel.startswith("candle") and bar in BARS:
        wanted, period_ms, interval = BUSINESS, 1000, BARS[bar]
    elif channel in _BY_SYMBOL:
        (wanted, period_ms), interval = _BY_SYMBOL[channel], ""
    else:
        raise refused(channel, f"instId:{symbol}")
    _on(wanted, path, channel)
    if symbol not in symbols and not (channel == "index-tickers" and f"{symbol}-SWAP" in symbols):
        raise refused(channel, f"instId:{symbol}")
    if channel == "funding-rate" and product(symbol) != "SWAP":
        raise refused(channel, f"instId:{symbol}")
    return Topic(f"{channel}:{symbol}", channel, wanted, symbol, period_ms, interval)


def _on(wanted: str, path: str, channel: str) -> None:
    if wanted == path:
        return
    if wanted == BUSINESS:
        raise SocketError(64001, f"This channel has been migrated to the '/business' URL. Channel: {channel}.")
    if path == BUSINESS:
        raise SocketError(64002, f"This channel is not supported by '/business' URL. Channel: {channel}.")
    raise refused(channel, "")
