"""OKX v5: hosts, limits and liveness as data. Sources: exchanges/okx.md sections 1.1, 1.3, 2, 6.2, 6.3.

A key belongs to one regional site. The global one is the default; `REGIONS` lists the others, to be set by FLEET_OKX_REST_URL
and FLEET_OKX_WS_URL. Demo trading (`is_testnet`) has sockets of its own and the same REST host with one more header.
"""

from __future__ import annotations

from fleet.core.exchange import Hosts, Limits, Liveness, Rate

NAME = "okx"
EXCHANGE = "okx"
MARKET = "unified"

HOSTS = Hosts(rest="https://www.okx.com", ws="wss://ws.okx.com:8443")
TESTNET_HOSTS = Hosts(rest="https://www.okx.com", ws="wss://wspap.okx.com:8443")
HOST_SETTINGS = {"rest": "FLEET_OKX_REST_URL", "ws": "FLEET_OKX_WS_URL"}
REGIONS: dict[str, tuple[Hosts, Hosts]] = {  # site -> live, demo; port 443 works too
    "global": (HOSTS, TESTNET_HOSTS),
    "us": (  # and Australia: app.okx.com
        Hosts(rest="https://us.okx.com", ws="wss://wsus.okx.com:8443"),
        Hosts(rest="https://us.okx.com", ws="wss://wsuspap.okx.com:8443"),
    ),
    "eea": (  # my.okx.com
        Hosts(rest="https://eea.okx.com", ws="wss://wseea.okx.com:8443"),
        Hosts(rest="https://eea.okx.com", ws="wss://wseeapap.okx.com:8443"),
    ),
}
IN_TWO_SECONDS = (
    400  # weight: a public call that is allowed n times in two seconds and address weighs IN_TWO_SECONDS // n
)
DEMO_HEADER = ("x-simulated-trading", "1")

PRIVATE, PUBLIC, BUSINESS = "/ws/v5/private", "/ws/v5/public", "/ws/v5/business"

DAY_MS = 86_400_000
PAGE = 100  # rows of one page of orders and fills, the documented maximum
RECENT_FILLS_MS = 3 * DAY_MS  # /trade/fills; older ones only in /trade/fills-history, one product at a time
RECENT_ORDERS_MS = 7 * DAY_MS  # /trade/orders-history; older ones in orders-history-archive

LIMITS = Limits(
    streams_per_connection=200,  # a cap exists (close code 4009) and is not documented: well below what clients use
    subscribe_chunk=50,  # 64 KB a request are allowed, 4096 bytes were; 50 arguments stay below the old limit
    subscribe_interval_s=0.35,  # 480 requests an hour and connection; a lane sends four
    connections_per_ip=1000,  # none documented; 30 a private channel and account
    dial=Rate(burst=1, per_s=2),  # 3 new connections a second and IP
    # Private calls are limited per user and endpoint (5 to 30 a second), not per address; only public ones are, from 5/s on.
    # A read-back is serial, so one account stays below its own limits; this bounds a crowd of accounts and the order books.
    weight=Rate(burst=200, per_s=100),  # IN_TWO_SECONDS in the worst two
    lifetime_s=365 * 86_400,  # none documented: the end is announced by notice 64008
    rotate_after_s=23.5 * 3600,  # a login counts as use of the key, a socket kept open does not (3.3): at least daily
    history_s=89 * 86_400,  # fills-history, orders-history-archive: 3 months; a day of margin
    proof_weight=7,  # tests/unit/test_recovery_weight.py
)

# The server closes a socket on which nothing was pushed for 30 s; the text `ping` counts, protocol pings perhaps not (section 2).
# Asked twice a quiet quarter minute, so that a half-open socket is found within it too.
LIVENESS = Liveness(ping=b"ping", interval_s=5.0, timeout_s=12.0)
