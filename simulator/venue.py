"""The seam between the simulator and one simulated exchange. In: requests, sockets, messages; out: replies and
frames.

A venue is a folder `simulator/venues/<name>/` (the name of its adapter's folder in fleet/exchanges) whose package
exports `create(world) -> Venue`. Nothing else in the simulator knows a venue by name: add a folder and it is served,
faulted, loaded and ledgered.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Protocol

import simulator.venues
from simulator.clock import Clock
from simulator.http1 import Request, Response

if TYPE_CHECKING:
    from simulator.account import Account
    from simulator.listener import Listener
    from simulator.replay import Capture
    from simulator.stream_socket import StreamSocket
    from simulator.world import World


@dataclass(frozen=True)
class Endpoint:
    """One listening port: the setting that tells its URL, its scheme, and the role the venue knows it by."""

    setting: str
    scheme: Literal["http", "ws"]
    role: str


@dataclass
class SocketSettings:
    """Timings and limits of a venue's sockets and REST, as documented; `PATCH /settings` changes them at run time. A
    venue may subclass it.
    """

    ping_interval_s: float = 180.0  # 0 = the server sends no protocol pings
    first_ping_s: float = 140.0
    pong_deadline_s: float = 600.0
    lifetime_s: float = 86_400.0
    max_message_bytes: int = 1024 * 1024

    def change(self, values: dict[str, Any]) -> list[str]:
        """Set the named values; returns the names that do not exist here."""
        unknown = []
        for name, value in values.items():
            if isinstance(getattr(self, name, None), int | float) and isinstance(value, int | float):
                setattr(self, name, type(getattr(self, name))(value))
            else:
                unknown.append(name)
        return unknown


@dataclass(frozen=True)
class OrderTicket:
    """What `POST /orders` and the load ask for: `fills` executions at `price`; 0 = the order rests. `filled_qty`
    None = all of it.
    """

    api_key: str
    symbol: str
    side: str  # buy | sell
    qty: str
    price: str
    fills: int = 1
    order_type: str = "LIMIT"
    position_side: str = ""
    maker: bool = False
    filled_qty: str | None = None
    client_order_id: str = ""


class Refused(Exception):
    """The venue refuses a control call; the text says why."""


class Venue(Protocol):
    """One simulated exchange product. All calls come from the event loop's thread."""

    name: str
    exchange: str
    market: str
    clock: Clock
    listeners: list[Listener]
    accounts: dict[str, Account]  # by api_key

    @property
    def settings(self) -> SocketSettings:
        """Timings and limits; `PATCH /settings` changes them in place."""

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """The ports to listen on."""

    def rest(self, request: Request, role: str) -> Response:
        """Answer one REST call."""

    def handshake(self, request: Request, role: str) -> Response | None:
        """Refuse a WebSocket handshake with a reply, or None to let it upgrade."""

    def key_of(self, request: Request) -> str | None:
        """The api_key a call or handshake is about, if it says."""

    def path_group(self, path: str) -> str:
        """`path` as `/calls` counts it: without keys and stream names."""

    def opened(self, socket: StreamSocket) -> None:
        """A socket is open: read its URL."""

    def inbound(self, socket: StreamSocket) -> bool:
        """A frame came in; False when it broke the inbound limit and the socket is being closed."""

    def received(self, socket: StreamSocket, message: bytes, is_text: bool) -> None:
        """A complete message came in."""

    def closed(self, socket: StreamSocket) -> None:
        """The socket is gone."""

    def ping_payload(self) -> bytes:
        """Payload of the server's protocol pings."""

    def tick(self) -> None:
        """Called about every 10 ms: market data, expiries."""

    def events_sent(self) -> int:
        """User events sent so far."""

    def error(self, status: int, code: int | str, msg: str) -> Response:
        """The venue's form of an error reply."""

    def is_user_path(self, path: str) -> bool:
        """Does `path` (of a fault) name private sockets or calls, as against market ones?"""

    def add_account(self, spec: dict[str, Any]) -> Account:
        """`POST /accounts`. Raises Refused."""

    def place(self, ticket: OrderTicket) -> dict[str, Any]:
        """`POST /orders`: {order_id, trade_ids}. Raises Refused."""

    def cancel(self, api_key: str, symbol: str, order_id: str) -> None:
        """Cancel a resting order. Raises Refused."""

    def deposit(self, api_key: str, asset: str, amount: Decimal, kind: str) -> None:
        """Add to a balance (additive call `POST /deposits`); `kind` TRANSFER or FUNDING_FEE. Raises Refused."""

    def random_ticket(self, account: Account) -> OrderTicket:
        """An order the load may place on `account`."""

    def expire_sessions(self, api_key: str | None, limit: int | None) -> int:
        """Fault `expire_listen_key`: how many sessions, at most `limit`, were expired (0 where the venue has none)."""

    def replay(self, capture: Capture) -> bool:
        """Take a capture for replay if it is this venue's; False when it is not."""

    def replays(self) -> list[dict[str, Any]]:
        """State of the replays: {capture, frames, sent, done, …}."""

    def restart_replays(self, loop: bool | None) -> None:
        """Play all replays again; `loop` changes whether they loop."""


def names() -> list[str]:
    """Names of all venues there are."""
    return sorted(module.name for module in pkgutil.iter_modules(simulator.venues.__path__) if module.ispkg)


def create(name: str, world: World) -> Venue:
    """Make the venue of folder `name`. Raises LookupError when there is none."""
    if name not in names():
        raise LookupError(f"no venue {name!r}; there are: {', '.join(names())}")
    module = importlib.import_module(f"simulator.venues.{name}")
    venue: Venue = module.create(world)
    return venue
