"""Bybit v5, unified account: hosts, limits and liveness as data. Sources: exchanges/bybit.md sections 1.1, 1.3, 2, 6.2, 6.3."""

from __future__ import annotations

from fleet.core.exchange import Hosts, Limits, Liveness, Rate

NAME = "bybit"
EXCHANGE = "bybit"
MARKET = "unified"  # of private events; public ones carry their category instead (subscribe.py)

HOSTS = Hosts(rest="https://api.bybit.com", ws="wss://stream.bybit.com")
TESTNET_HOSTS = Hosts(rest="https://api-testnet.bybit.com", ws="wss://stream-testnet.bybit.com")
# Regional accounts (.tr, .kz, .eu, ...) and demo trading have hosts of their own: these settings select them.
HOST_SETTINGS = {"rest": "FLEET_BYBIT_REST_URL", "ws": "FLEET_BYBIT_WS_URL"}

DAY_MS = 86_400_000
WINDOW_MS = 7 * DAY_MS - 1  # longest startTime..endTime of order history and executions (6.3)
ORDER_PAGE, FILL_PAGE, POSITION_PAGE = 50, 100, 200  # rows of one page, the documented maxima (6.3)

LIMITS = Limits(
    # 21,000 characters of topics per public connection; ours have at most 35, with quotes and comma (1.3)
    streams_per_connection=500,
    # One topic a frame: a reply names its request only, so a wrong symbol would hide what became of its neighbours (1.4).
    # 200 such frames in a row were accepted in 0.42 s (1.3); this is a quarter of that pace.
    subscribe_chunk=1,
    subscribe_interval_s=0.01,
    connections_per_ip=1000,  # of each public category (1.3)
    dial=Rate(burst=490, per_s=490 / 300, window_s=300.0, sliding=True),  # 500 per 5 min and WS domain (1.3)
    weight=Rate(burst=100, per_s=95),  # 600 calls per 5 s and address (6.2), each weighs 1: 100 + 95 × 5 = 575
    lifetime_s=7 * 86_400,  # no lifetime is documented (2): a week, so that even a quiet socket is renewed
    rotate_after_s=6 * 86_400,
    history_s=729 * 86_400,  # executions are kept for 2 years (6.3); a day of margin
    proof_weight=12,  # tests/unit/test_recovery_weight.py
)

# The text ping, because that is what the idle cuts are documented by (2). One every 20 s is recommended, also while data
# flows; one after 5 s of silence finds a dead socket in time.
LIVENESS = Liveness(ping=b'{"req_id":"ping","op":"ping"}', interval_s=5.0, timeout_s=11.0, keepalive_s=20.0)
