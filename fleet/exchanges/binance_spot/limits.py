"""Binance Spot: hosts, limits and liveness as data. Sources: exchanges/binance.md sections 1.2, 2.1, 2.2, 5.3."""

from __future__ import annotations

from fleet.core.exchange import Hosts, Limits, Liveness, Rate

NAME = "binance_spot"
EXCHANGE = "binance"
MARKET = "spot"

# User data comes over the WebSocket API, which has a host of its own. Binance's demo mode (demo-api.binance.com, ...) is a
# third environment; an account's is_testnet means the test network.
HOSTS = Hosts(
    rest="https://api.binance.com",
    ws="wss://stream.binance.com:9443",
    extra={"wsapi": "wss://ws-api.binance.com:443"},
)
TESTNET_HOSTS = Hosts(
    rest="https://testnet.binance.vision",
    ws="wss://stream.testnet.binance.vision",
    extra={"wsapi": "wss://ws-api.testnet.binance.vision"},
)
HOST_SETTINGS = {
    "rest": "FLEET_BINANCE_SPOT_REST_URL",
    "ws": "FLEET_BINANCE_SPOT_WS_URL",
    "wsapi": "FLEET_BINANCE_SPOT_WSAPI_URL",
}

DAY_MS = 86_400_000
WINDOW_MS = DAY_MS - 1  # longest startTime..endTime of allOrders and myTrades (section 5.3)
PAGE = 1000  # rows of one page, the documented maximum

LIMITS = Limits(
    streams_per_connection=1024,
    subscribe_chunk=200,  # 200 names in one frame were seen to work (1.4)
    # 5 inbound messages a second are documented, pings and pongs included; measured: one each 500 ms is safe, each 250 ms is
    # not. One SUBSCRIBE a second leaves room for our pings and the pongs to theirs.
    subscribe_interval_s=1.0,
    connections_per_ip=10_000,  # none documented; dials are limited instead
    # 300 attempts per 5 min and IP (section 2.1), and nothing says that they are counted by clock window.
    dial=Rate(burst=290, per_s=290 / 300, window_s=300.0, sliding=True),
    # 6000 a UTC clock minute per IP. A margin for calls under way and for what goes past this budget: a handshake of the
    # WebSocket API costs 2, a subscription 2.
    weight=Rate(burst=5400, per_s=5400 / 60, window_s=60.0, used_header="x-mbx-used-weight-1m"),
    lifetime_s=24 * 3600,
    rotate_after_s=23.5 * 3600,
    history_s=89 * 86_400,  # orders that ended unfilled are archived after 90 days (-2026); a day of margin
    proof_weight=26,  # tests/unit/test_recovery_weight.py
)

# The server pings every 20 s, too rarely to find a half-open socket in 15 s, so we ping when nothing came for 5 s: 0.2
# messages a second, and a pong each 20 s, of the 5 that are allowed. Two pings unanswered = dead.
LIVENESS = Liveness(ping=None, interval_s=5.0, timeout_s=11.0)
