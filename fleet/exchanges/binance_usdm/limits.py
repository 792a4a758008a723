"""Binance USDⓈ-M Futures: hosts, limits and liveness as data. Sources: exchanges/binance.md sections 1.1, 2.1, 2.2, 5.2."""

from __future__ import annotations

from fleet.core.exchange import Hosts, Limits, Liveness, Rate

NAME = "binance_usdm"
EXCHANGE = "binance"
MARKET = "usdm"

HOSTS = Hosts(rest="https://fapi.binance.com", ws="wss://fstream.binance.com")
TESTNET_HOSTS = Hosts(rest="https://demo-fapi.binance.com", ws="wss://fstream.binancefuture.com")
HOST_SETTINGS = {"rest": "FLEET_BINANCE_USDM_REST_URL", "ws": "FLEET_BINANCE_USDM_WS_URL"}

DAY_MS = 86_400_000
WINDOW_MS = 7 * DAY_MS - 1  # longest startTime..endTime of allOrders and userTrades (section 5.2)
PAGE = 1000  # rows of one page, the documented maximum

LIMITS = Limits(
    streams_per_connection=1024,  # since 2025-07-02; the 1025th closes the socket with 1008
    subscribe_chunk=100,  # 200 in one frame were seen to work; no documented bound, so half of that
    subscribe_interval_s=0.25,  # 10 inbound messages a second are documented; 4/s leaves room for pings
    connections_per_ip=10_000,  # none documented for fstream; ephemeral ports end first
    # fstream documents no limit on connection attempts. Spot's is 300 per 5 min; a fleet of 500 accounts must still be able
    # to start at once, so: 800 a minute, 500 of them together, less a few, because a permit is spent a moment before its handshake.
    # A 429 or 418 at the handshake stops everybody anyway.
    dial=Rate(burst=480, per_s=5),
    # 2400 a UTC clock minute per IP (section 2.2). Counted as the exchange counts, because read-backs come in crowds (a worker
    # died, the exchange restarted): a steady bucket would let through half as much. A margin for calls under way.
    weight=Rate(burst=2200, per_s=2200 / 60, window_s=60.0, used_header="x-mbx-used-weight-1m"),
    lifetime_s=24 * 3600,
    rotate_after_s=23.5 * 3600,
    history_s=89 * 86_400,  # userTrades: 3 months since 2026-08-26, allOrders: 90 days; a day of margin
    proof_weight=7,  # tests/unit/test_recovery_weight.py
)

# A quiet private socket is normal and the server pings only every 3 minutes, so we ping: two pings unanswered = dead.
# Binance answers client pings (section 2.1) and 0.2/s is far below its 10 messages/s.
LIVENESS = Liveness(ping=None, interval_s=5.0, timeout_s=11.0)
