"""What the fleet is made of: accounts, credentials, workers, ownership. Frozen values, no behaviour beyond small derivations."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Literal

import msgspec

KeyKind = Literal["hmac", "ed25519", "rsa"]


class AccountSpec(msgspec.Struct, frozen=True):
    """One active row of `exchange_accounts`, without its secrets.

    `revision` grows whenever something that needs a new socket changes (credentials, testnet, market).
    """

    id: str
    user_id: str
    exchange: str
    market: str
    label: str
    is_testnet: bool
    revision: int
    created_at_ms: int
    telegram_chat_id: str | None = None

    @property
    def venue(self) -> str:
        """Name of the exchange folder."""
        return venue_name(self.exchange, self.market)


class Credentials(msgspec.Struct, frozen=True):
    """Plaintext API key. Lives only in the process that dials; its repr never shows it."""

    api_key: str
    secret: str
    passphrase: str | None = None

    @property
    def kind(self) -> KeyKind:
        """A shared secret, unless it is a KeyPair."""
        return "hmac"

    def __repr__(self) -> str:
        return "Credentials(…)"

    __str__ = __repr__


class KeyPair(Credentials, frozen=True, kw_only=True):
    """Credentials whose `secret` is a private key in PEM. `sign_with` is that key's signature; the one door to cryptography
    (fleet.runtime.secrets) makes it, so that exchange folders sign without knowing how."""

    pair: Literal["ed25519", "rsa"]
    sign_with: Callable[[bytes], bytes]

    @property
    def kind(self) -> KeyKind:
        return self.pair


class StreamState(enum.StrEnum):
    """Where one account stream stands; `fleet.core.lifecycle` holds the transitions."""

    IDLE = "idle"
    WAITING = "waiting"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    SUBSCRIBING = "subscribing"
    RECOVERING = "recovering"
    LIVE = "live"
    ROTATING = "rotating"
    DRAINING = "draining"
    STOPPED = "stopped"
    SUSPENDED = "suspended"
    REJECTED = "rejected"
    LOST = "lost"


class Ownership(msgspec.Struct, frozen=True):
    """The one record per account (R1): `own[account] = slot|incarnation|token|state|since_ms|revision[|egress_ip]`.

    `revision` is that of the account row the token was given for (-1 = not known): a newer row needs a new token. `egress_ip`
    is the source address its worker dials from ("" = the worker's choice).
    """

    slot: str
    incarnation: str
    token: int
    state: str  # run | revoke
    since_ms: int
    revision: int = -1
    egress_ip: str = ""


class Desired(msgspec.Struct, frozen=True):
    """What a worker is to do with one account: run it under this token, from this source address ("" = its own choice), or stop
    it (revoke) and say so."""

    token: int
    state: str  # run | revoke
    egress_ip: str = ""


class StreamStatus(msgspec.Struct, frozen=True):
    """What a worker reports of one of its streams."""

    account_id: str
    token: int
    state: StreamState
    last_event_ms: int
    reconnects: int
    gap_open: bool


class WorkerView(msgspec.Struct, frozen=True):
    """One worker as its heartbeat shows it. `seq` is the heartbeat counter that observers time (R3)."""

    slot: str
    incarnation: str
    seq: int
    state: str  # up | draining | gone
    host: str
    pid: int
    capacity: int
    load: float
    applied: int
    rotation: str = ""  # the operator's last wish for new sockets that was heard of, and how many are left: "id|left"


def venue_name(exchange: str, market: str) -> str:
    """`binance_usdm`; a venue with one unified market has none in its name: `okx`."""
    return exchange if market == "unified" else f"{exchange}_{market}"


def incarnation_of(process: str, life: int) -> str:
    """One process may live more than once: fenced, it begins anew without ending. `process_of` tells the two apart."""
    return f"{process}-{life}"


def process_of(incarnation: str) -> str:
    return incarnation.partition("-")[0]


def token_of(term: int, n: int) -> int:
    """R2: fencing token; `n` never restarts inside a term."""
    return (term << 32) + n


def format_token(token: int) -> str:
    """20 zero-padded digits, so that Lua may compare tokens as strings (its numbers are doubles)."""
    return f"{token:020d}"
