"""Settings: environment in, one frozen value out. Used by every process, once, at start.

Each field documents its variable, unit and default; `Settings.table()` prints them for `fleet doctor` and the docs. A bad
value raises SettingsError with one clear line (the process exits with 2).
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fleet.core.errors import SettingsError
from fleet.core.exchange import MARKET_KINDS
from fleet.runtime import redis_place

PLAIN_SCHEMES = ("ws", "http")
LAST_PORT = 65535
LONGEST_S = 10**9  # a wait of ten times that overflows the clock
LONGEST_DAYS = (
    18_250  # ClickHouse's times end in 2106: what is to be kept beyond began anew in 1970, and was dropped at once
)
FIXED_PORTS = 5  # metrics ports of the programs that are no workers, from the first on (fleet/runtime/metrics.py)
WORKER_OFFSET = 10  # the metrics port of worker_00 is this far from the first
DEFAULT_VENUE = "binance_usdm"
SILENCE_S = 1.0  # Q: what a stream may still be doing with one message when its lease ends
KIND_WORDS = {  # what people write for the kinds of streams, beside the core's own words
    "kline": "kline_1m", "klines": "kline_1m", "candle": "kline_1m", "candles": "kline_1m",
    "tickers": "ticker", "book_tickers": "book_ticker",
    "order_book": "depth", "orderbook": "depth", "books": "depth",
    "trades": "trade", "agg_trade": "trade", "agg_trades": "trade", "aggtrade": "trade",
    "liquidations": "liquidation", "force_order": "liquidation", "forceorder": "liquidation",
    "mark_prices": "mark_price", "markprice": "mark_price", "bookticker": "book_ticker",
}  # fmt: skip


def _setting(env: str, default: Any, doc: str, unit: str = "") -> Any:
    return field(default=default, metadata={"env": env, "doc": doc, "unit": unit})


@dataclass(frozen=True)
class Settings:
    """All settings of a process."""

    fleet: str = _setting("FLEET_NAME", "fleet", "name of this fleet: prefix of its Redis keys")
    postgres_dsn: str = _setting("FLEET_POSTGRES_DSN", "", "libpq connection string or URL of Postgres")
    redis_url: str = _setting(
        "FLEET_REDIS_URL",
        "redis://127.0.0.1:6379/0",
        "URL of Redis; also redis+sentinel://host:port,…/MASTER/DB and redis+cluster://host:port,…",
    )
    kafka_bootstrap: str = _setting("FLEET_KAFKA_BOOTSTRAP", "127.0.0.1:9092", "Kafka brokers, host:port[,host:port]")
    clickhouse_dsn: str = _setting(
        "FLEET_CLICKHOUSE_DSN", "", "ClickHouse: a directory (embedded engine) or a server URL"
    )
    workers: int = _setting("FLEET_WORKERS", 2, "user-data worker processes on this host")
    slot: str = _setting("FLEET_SLOT", "", "slot of this worker, host:n (supervisord sets it)")
    capacity: int = _setting("FLEET_WORKER_CAPACITY", 1000, "accounts one worker may hold", "accounts")
    keyring_file: str = _setting("FLEET_KEYRING_FILE", "", "keyring with the keys that encrypt credentials (mode 0600)")
    log_dir: str = _setting("FLEET_LOG_DIR", "", "directory of the log files; empty = standard error")
    log_level: str = _setting("FLEET_LOG_LEVEL", "info", "debug, info, warning or error")
    run_dir: str = _setting("FLEET_RUN_DIR", "/tmp", "directory of slot locks, shared by the processes of one host")
    metrics_base_port: int = _setting("FLEET_METRICS_BASE_PORT", 9100, "first loopback port of the processes' metrics")
    console_port: int = _setting("FLEET_CONSOLE_PORT", 9090, "port of the console and the aggregated /metrics")
    metrics_namespace: str = _setting("FLEET_METRICS_NAMESPACE", "prometheus", "prefix of the six original metrics")
    egress_ips: tuple[str, ...] = _setting("FLEET_EGRESS_IPS", (), "source addresses to dial from, comma-separated")
    connections_per_ip: tuple[str, ...] = _setting(
        "FLEET_CONNECTIONS_PER_IP",
        (),
        "venue=N, comma-separated: connections one source address may hold, if not the venue's",
    )
    health_check_interval_s: float = _setting("FLEET_HEALTH_CHECK_INTERVAL_S", 60.0, "health check sweep", "s")
    max_consecutive_failures: int = _setting(
        "FLEET_MAX_CONSECUTIVE_FAILURES", 3, "failed health checks before a warning"
    )
    listenkey_renewal_s: float = _setting("FLEET_LISTENKEY_RENEWAL_S", 1800.0, "listen key renewal", "s")
    reconcile_interval_s: float = _setting(
        "FLEET_RECONCILE_INTERVAL_S", 300.0, "full reload of accounts from Postgres", "s"
    )
    market_symbols: tuple[str, ...] = _setting(
        "FLEET_MARKET_SYMBOLS", ("BTCUSDT", "ETHUSDT"), "[venue:]SYMBOL, comma-separated"
    )
    market_streams: tuple[str, ...] = _setting(
        "FLEET_MARKET_STREAMS",
        ("kline_1m", "ticker", "depth", "trade", "liquidation", "mark_price"),
        "kinds of public streams, comma-separated (also book_ticker)",
    )
    telegram_token_file: str = _setting("FLEET_TELEGRAM_TOKEN_FILE", "", "file with the bot token; empty = no notices")
    telegram_api_url: str = _setting("FLEET_TELEGRAM_API_URL", "https://api.telegram.org", "root of the Bot API")
    tls_ca_file: str = _setting("FLEET_TLS_CA_FILE", "", "further CA certificates to trust (PEM)")
    heartbeat_s: float = _setting("FLEET_HEARTBEAT_S", 1.0, "worker heartbeat H", "s")
    worker_lease_s: float = _setting("FLEET_WORKER_LEASE_S", 4.0, "worker lease L", "s")
    dead_after_s: float = _setting("FLEET_DEAD_AFTER_S", 7.0, "heartbeat silence that means dead, T_dead", "s")
    leader_tick_s: float = _setting("FLEET_LEADER_TICK_S", 0.5, "leader tick D", "s")
    leader_lease_s: float = _setting("FLEET_LEADER_LEASE_S", 6.0, "leader lease", "s")
    redis_timeout_s: float = _setting("FLEET_REDIS_TIMEOUT_S", 0.5, "budget of one Redis call c", "s")
    redis_failover_s: float = _setting(
        "FLEET_REDIS_FAILOVER_S", 5.0, "Sentinel, Cluster: the least time from losing a master to the next one", "s"
    )
    redis_max_lag_s: float = _setting(
        "FLEET_REDIS_MAX_LAG_S", 5.0, "Sentinel, Cluster: min-replicas-max-lag of the masters", "s"
    )
    isolation_max_s: float = _setting(
        "FLEET_ISOLATION_MAX_S", 300.0, "how long streams go on without Redis and Postgres", "s"
    )
    probe_interval_s: float = _setting(
        "FLEET_PROBE_INTERVAL_S",
        45.0,
        "a quiet private socket is compared with REST, if 5 % of the weight suffice",
        "s",
    )
    accounts_per_socket: int = _setting(
        "FLEET_ACCOUNTS_PER_SOCKET", 1, "accounts on one private socket, where a venue allows it"
    )
    audit_interval_s: float = _setting("FLEET_AUDIT_INTERVAL_S", 1200.0, "REST audit of a connected account", "s")
    recover_margin_s: float = _setting(
        "FLEET_RECOVER_MARGIN_S", 10.0, "read-back starts this long before the watermark", "s"
    )
    second_read_s: float = _setting("FLEET_SECOND_READ_S", 8.0, "second read-back this long after the first", "s")
    recover_hold_s: float = _setting(
        "FLEET_RECOVER_HOLD_S", 2.0, "live frames wait at most this long for the read-back", "s"
    )
    buffer_bytes: int = _setting(
        "FLEET_BUFFER_BYTES", 64 * 1024 * 1024, "events waiting for Kafka, per process", "bytes"
    )
    market_ttl_days: int = _setting(
        "FLEET_MARKET_TTL_DAYS", 90, "ClickHouse keeps trades, candles, marks this long", "days"
    )
    book_ttl_days: int = _setting("FLEET_BOOK_TTL_DAYS", 7, "ClickHouse keeps depth and tickers this long", "days")
    endpoints: Mapping[str, str] = field(default_factory=dict)  # FLEET_<VENUE>_{REST,WS,WSAPI}_URL as given

    @classmethod
    def from_env(cls, env: Mapping[str, str] | None = None) -> Settings:
        """Read and check everything. Raises SettingsError naming the variable, the value and what was expected."""
        env = os.environ if env is None else env
        values: dict[str, Any] = {}
        for f in fields(cls):
            name = f.metadata.get("env")
            if name and name in env:
                values[f.name] = _convert(name, env[name], f.default)
        values["endpoints"] = {
            k: _endpoint(k, v) for k, v in env.items() if re.fullmatch(r"FLEET_[A-Z_]+_(REST|WS|WSAPI)_URL", k) and v
        }
        settings = cls(**values)
        settings._check()
        return settings

    def _check(self) -> None:
        h, c, lease = self.heartbeat_s, self.redis_timeout_s, self.worker_lease_s
        if 2 * (h + c) + c > lease:
            raise SettingsError(
                f"FLEET_WORKER_LEASE_S={lease:g}: must be at least"
                " 2*(FLEET_HEARTBEAT_S + FLEET_REDIS_TIMEOUT_S) + FLEET_REDIS_TIMEOUT_S"
            )
        if self.dead_after_s < lease + SILENCE_S + self.leader_tick_s:
            raise SettingsError(
                f"FLEET_DEAD_AFTER_S={self.dead_after_s:g}: must be at least FLEET_WORKER_LEASE_S + 1 + FLEET_LEADER_TICK_S"
            )
        if self.telegram_api_url:
            _endpoint("FLEET_TELEGRAM_API_URL", self.telegram_api_url)
        self._check_failover()
        self._check_places()
        self.connection_limits()
        self.symbols_by_venue()
        self.market_kinds()
        if self.tls_ca_file and not os.access(self.tls_ca_file, os.R_OK):
            raise SettingsError(f"FLEET_TLS_CA_FILE={self.tls_ca_file}: cannot be read")

    def _check_failover(self) -> None:
        """A master that was cut off may confirm leases for `lag` + 1 s; whoever reads the next one must not call these workers
        dead before their leases have run out."""
        if not redis_place.parse(self.redis_url).replicated:
            return
        quiet_s = self.redis_max_lag_s + 1 + self.worker_lease_s + SILENCE_S
        if self.redis_failover_s + self.dead_after_s < quiet_s:
            raise SettingsError(
                f"FLEET_REDIS_FAILOVER_S + FLEET_DEAD_AFTER_S = {self.redis_failover_s + self.dead_after_s:g}: must be at least"
                f" FLEET_REDIS_MAX_LAG_S + 1 + FLEET_WORKER_LEASE_S + {SILENCE_S:g} = {quiet_s:g}"
            )

    def _check_places(self) -> None:
        """Names and ports that others build on: Redis keys, Kafka groups, metric names, listening sockets."""
        if not re.fullmatch(r"[^\s{}|]+", self.fleet):  # braces end the hash tag that keeps its keys together
            raise SettingsError(f"FLEET_NAME={self.fleet!r}: a word without spaces and braces is expected")
        if self.slot and not re.fullmatch(r"[^|:\s]+:[0-9]{1,5}", self.slot):
            raise SettingsError(f"FLEET_SLOT={self.slot!r}: host:n is expected")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.metrics_namespace):
            raise SettingsError(
                f"FLEET_METRICS_NAMESPACE={self.metrics_namespace!r}: letters, digits and '_' are expected"
            )
        number = int(self.slot.rpartition(":")[2] or 0)
        last = WORKER_OFFSET + max(self.workers - 1, number)
        if self.metrics_base_port + last > LAST_PORT:
            raise SettingsError(
                f"FLEET_METRICS_BASE_PORT={self.metrics_base_port}: needs {last + 1} ports up to {LAST_PORT}"
                + (f" for slot {self.slot}" if number >= self.workers else "")
            )
        if self.console_port > LAST_PORT:
            raise SettingsError(f"FLEET_CONSOLE_PORT={self.console_port}: at most {LAST_PORT}")
        offset = self.console_port - self.metrics_base_port
        if 0 <= offset < FIXED_PORTS or WORKER_OFFSET <= offset < WORKER_OFFSET + self.workers:
            raise SettingsError(
                f"FLEET_CONSOLE_PORT={self.console_port}: is the port of a process's metrics, those from"
                f" FLEET_METRICS_BASE_PORT={self.metrics_base_port} on"
            )
        for name, days in (("MARKET", self.market_ttl_days), ("BOOK", self.book_ttl_days)):
            if days > LONGEST_DAYS:
                raise SettingsError(f"FLEET_{name}_TTL_DAYS={days}: at most {LONGEST_DAYS}")
        for address in self.egress_ips:
            try:
                ipaddress.ip_address(address)
            except ValueError:
                raise SettingsError(f"FLEET_EGRESS_IPS: {address!r} is not an IP address") from None
        for broker in self.kafka_bootstrap.split(","):
            place = re.fullmatch(r"(?:[^\s:\[\]]+|\[[0-9a-fA-F:]+\])(?::([0-9]{1,5}))?", broker.strip())
            if not place or not 0 < int(place[1] or 9092) <= LAST_PORT:
                raise SettingsError(
                    f"FLEET_KAFKA_BOOTSTRAP={self.kafka_bootstrap!r}: host:port[,host:port] is expected"
                )

    def need(self, *names: str) -> Settings:
        """Raise SettingsError unless each named field is set; for the processes that cannot run without it."""
        by_name = {f.name: f for f in fields(self)}
        for name in names:
            if not getattr(self, name):
                meta = by_name[name].metadata
                raise SettingsError(f"{meta['env']} is not set: {meta['doc']}")
        return self

    def symbols_by_venue(self) -> dict[str, list[str]]:
        """FLEET_MARKET_SYMBOLS as {venue: symbols}; a symbol without a venue belongs to DEFAULT_VENUE."""
        by_venue: dict[str, list[str]] = {}
        for entry in self.market_symbols:
            venue, sep, symbol = entry.partition(":")
            if not sep:
                venue, symbol = DEFAULT_VENUE, entry
            if not re.fullmatch(r"[a-z0-9_]+", venue) or not symbol:
                raise SettingsError(
                    f"FLEET_MARKET_SYMBOLS: {entry!r} is not SYMBOL or venue:SYMBOL, e.g. {DEFAULT_VENUE}:BTCUSDT"
                )
            symbols = by_venue.setdefault(venue, [])
            if symbol not in symbols:
                symbols.append(symbol)
        return by_venue

    def connection_limits(self) -> dict[str, int]:
        """FLEET_CONNECTIONS_PER_IP as {venue: connections}."""
        limits: dict[str, int] = {}
        for entry in self.connections_per_ip:
            venue, _, number = entry.partition("=")
            if not re.fullmatch(r"[a-z0-9_]+", venue) or not re.fullmatch(r"[0-9]{1,9}", number):
                raise SettingsError(f"FLEET_CONNECTIONS_PER_IP: {entry!r} is not venue=N, e.g. okx=100")
            limits[venue] = int(number)
        return limits

    def market_kinds(self) -> tuple[str, ...]:
        """FLEET_MARKET_STREAMS in the core's words (`fleet.core.exchange.MarketKind`), without repetitions."""
        kinds: list[str] = []
        for entry in self.market_streams:
            word = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", entry).lower()
            kind = KIND_WORDS.get(word, word)
            if kind.startswith("kline_") and entry.endswith("M") and not entry.isupper():
                kind = (
                    f"{kind[:-1]}M"  # the one letter whose case matters, in a word that has both: months, not minutes
                )
            if not re.fullmatch(r"kline_\d+[smhdwM]", kind, re.IGNORECASE) and kind not in MARKET_KINDS:
                raise SettingsError(
                    f"FLEET_MARKET_STREAMS: unknown kind {entry!r}; known: kline_<interval>, {', '.join(MARKET_KINDS)}"
                )
            if kind not in kinds:
                kinds.append(kind)
        return tuple(kinds)

    def slot_or_default(self) -> str:
        return self.slot or f"{socket.gethostname()}:0"

    @classmethod
    def table(cls) -> list[tuple[str, str, str, str]]:
        """(variable, default, unit, what) for the docs and `fleet doctor`."""
        rows = []
        for f in fields(cls):
            if "env" in f.metadata:
                default = ",".join(f.default) if isinstance(f.default, tuple) else str(f.default)
                rows.append((f.metadata["env"], default, f.metadata["unit"], f.metadata["doc"]))
        return rows


def _convert(name: str, text: str, default: Any) -> Any:
    text = text.strip()
    if isinstance(default, tuple):
        return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if isinstance(default, (int, float)):
        try:
            number = type(default)(text)
        except ValueError:
            kind = "a whole number" if isinstance(default, int) else "a number"
            raise SettingsError(f"{name}={text!r}: {kind} is expected") from None
        if number < 0 or number != number or (number == 0 and default > 0):
            raise SettingsError(f"{name}={text!r}: must be greater than 0")
        if isinstance(number, float) and number > LONGEST_S:
            raise SettingsError(f"{name}={text!r}: at most {LONGEST_S}")
        return number
    return text


def _endpoint(name: str, url: str) -> str:
    allowed = ("wss", "ws") if name.endswith(("_WS_URL", "_WSAPI_URL")) else ("https", "http")
    expected = SettingsError(f"{name}={url!r}: a URL starting with {allowed[0]}:// is expected")
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:  # brackets without an address, a port that is none
        raise expected from None
    if (
        parts.scheme not in allowed
        or not re.fullmatch(r"[^\s@/]+", host)
        or "@" in parts.netloc
        or "?" in url
        or "#" in url
    ):
        raise expected
    if parts.scheme in PLAIN_SCHEMES and not _is_loopback(host):
        raise SettingsError(f"{name}={url!r}: {parts.scheme}:// is accepted for loopback only")
    return url.rstrip("/")


def _is_loopback(host: str) -> bool:
    """By its address: a name that only begins like one belongs to somebody else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def load_env_file(path: str) -> dict[str, str]:
    """Read KEY=VALUE lines ('#' starts a comment line). Raises SettingsError if the file or a line cannot be read."""
    env: dict[str, str] = {}
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: not a text file of KEY=VALUE lines") from error
    for number, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        key, sep, value = line.partition("=")
        if not sep:
            raise SettingsError(f"{path}:{number}: KEY=VALUE is expected")
        value = value.strip()
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
        env[key.strip()] = value[1:-1] if quoted else value
    return env
