"""Every name that must not drift: Kafka topics, Redis keys, metric names, log messages (`docs/contracts` has the prose).

In: ids. Out: strings. Used by every process.
"""

from __future__ import annotations

# ── Kafka ────────────────────────────────────────────────────────────────────────────────────────────────────────
TOPIC_ORDERS = "user.orders"
TOPIC_FILLS = "user.fills"
TOPIC_POSITIONS = "user.positions"
TOPIC_BALANCES = "user.balances"
TOPIC_ACCOUNT = "user.account"
TOPIC_STREAMS = "fleet.streams"
TOPIC_TRADES = "market.trades"
TOPIC_KLINES = "market.klines"
TOPIC_TICKERS = "market.tickers"
TOPIC_DEPTH = "market.depth"
TOPIC_LIQUIDATIONS = "market.liquidations"
TOPIC_MARK_PRICES = "market.mark_prices"

USER_TOPICS = (TOPIC_ORDERS, TOPIC_FILLS, TOPIC_POSITIONS, TOPIC_BALANCES, TOPIC_ACCOUNT)
MARKET_TOPICS = (TOPIC_TRADES, TOPIC_KLINES, TOPIC_TICKERS, TOPIC_DEPTH, TOPIC_LIQUIDATIONS, TOPIC_MARK_PRICES)

TOPIC_OF_TYPE = {
    "order": TOPIC_ORDERS,
    "fill": TOPIC_FILLS,
    "position": TOPIC_POSITIONS,
    "balance": TOPIC_BALANCES,
    "account": TOPIC_ACCOUNT,
    "stream": TOPIC_STREAMS,
    "trade": TOPIC_TRADES,
    "kline": TOPIC_KLINES,
    "ticker": TOPIC_TICKERS,
    "depth": TOPIC_DEPTH,
    "liquidation": TOPIC_LIQUIDATIONS,
    "mark_price": TOPIC_MARK_PRICES,
}

HEADER_TOKEN = "token"
HEADER_SHARD = "shard"
HEADER_INCARNATION = "incarnation"

# ── Postgres channel ─────────────────────────────────────────────────────────────────────────────────────────────
NOTIFY_CHANNEL = "exchange_accounts_changed"


ARRIVALS = "arrivals"  # no slot has this name: on its channel workers tell coordinators that they have registered


# ── Redis: one hash tag, so that each script is single-slot on a Cluster ─────────────────────────────────────────
class Keys:
    """The Redis keys of one fleet (design: ownership.md). No value under them holds a secret, listen key or signed URL."""

    def __init__(self, fleet: str) -> None:
        self.prefix = f"{{fleet:{fleet}}}:"
        self.gen = self.prefix + "gen"
        self.leader = self.prefix + "leader"
        self.term = self.prefix + "term"
        self.workers = self.prefix + "workers"
        self.own = self.prefix + "own"
        self.rebalance = self.prefix + "rebalance"  # an operator's wish; the leader withdraws it when it is done
        self.unplaced = (
            self.prefix + "unplaced"
        )  # the leader's word: accounts that run nowhere, wishes that go no further
        self.version = self.prefix + "ver"  # counts writes to `own`: observers re-read it only when it moved

    def worker(self, slot: str) -> str:
        return f"{self.prefix}w:{slot}"

    def desired(self, slot: str) -> str:
        return f"{self.prefix}d:{slot}"

    def report(self, slot: str) -> str:
        return f"{self.prefix}r:{slot}"

    def channel(self, slot: str) -> str:
        return f"{self.prefix}ch:{slot}"

    def budget(self, kind: str, exchange: str, egress_ip: str) -> str:
        """Token bucket of `kind` ('dial' or 'weight') for one exchange host seen from one egress address."""
        suffix = "" if kind == "dial" else f":{kind}"
        return f"{self.prefix}budget:{exchange}:{egress_ip}{suffix}"


# ── Log messages, kept word for word from the original system ────────────────────────────────────────────────────
MARKET_STARTED = "✓ Market Data Manager started"
MARKET_DISCONNECTED = "⚠️ Market Data WebSocket disconnected, attempting reconnect"
MARKET_RECONNECTED = "✅ Market Data WebSocket reconnected successfully"
USER_STARTED = "✓ User Data Manager started"
HOT_RELOAD_NEW = "🆕 HOT RELOAD: Detected new active account in database"
USER_CONNECTING = "🔌 Connecting User Data WebSocket for account"
USER_CONNECTED = "✅ User Data WebSocket connected and streaming"
CREDENTIALS_ERROR = "⚠️ Detected credentials error, deactivating account"
USER_RECONNECTED = "✓ Reconnected account"
