"""FLEET_REDIS_URL in, what it says out: one server, a master that sentinels know, or a cluster. Pure; used by every process.

    redis://[[user]:password@]host:port/DB                                   one server (rediss:// = TLS)
    redis+sentinel://[[user]:password@]host:port[,host:port…]/MASTER[/DB]    ask the sentinels for MASTER
    redis+cluster://[[user]:password@]host:port[,host:port…]                 any nodes of the cluster
    rediss+sentinel://…, rediss+cluster://…                                  the same over TLS

`?sentinel_username=` and `?sentinel_password=` are for sentinels that want a password of their own, `?ssl_ca_certs=FILE` names
the CA. No error text holds any part of the URL but its scheme: it may contain a password.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from fleet.core.errors import SettingsError

Form = Literal["server", "sentinel", "cluster"]
Node = tuple[str, int]
PORTS = {"sentinel": 26379, "cluster": 6379}
OPTIONS = ("sentinel_username", "sentinel_password", "ssl_ca_certs")
EXPECTED = (
    "FLEET_REDIS_URL: redis://host:port/DB, redis+sentinel://host:port,…/MASTER/DB or redis+cluster://host:port,… is expected"
    " (rediss for TLS)"
)


@dataclass(frozen=True)
class Place:
    """Where Redis is. For one server only `form` and `tls` count; redis-py reads that URL itself."""

    form: Form
    tls: bool = False
    nodes: tuple[Node, ...] = ()
    master: str = ""
    db: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    options: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def replicated(self) -> bool:
        """May a failover lose acknowledged writes here?"""
        return self.form != "server"


def parse(url: str) -> Place:
    """Raises SettingsError, which never quotes the URL."""
    try:
        parts = urlsplit(url)
        scheme, _, form = parts.scheme.partition("+")
        if scheme not in ("redis", "rediss") and parts.scheme != "unix":
            raise ValueError
        if not form:
            return Place("server", scheme == "rediss")
        if form == "sentinel":
            master, _, db = parts.path.strip("/").partition("/")
            place: tuple[Form, str, int] = ("sentinel", unquote(master), int(db or 0))
        elif form == "cluster" and parts.path.strip("/") in ("", "0"):
            place = ("cluster", "", 0)
        else:
            raise ValueError
        options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
        login, _, hosts = parts.netloc.rpartition("@")
        username, _, password = login.partition(":")
        nodes = tuple(_node(each, PORTS[form]) for each in hosts.split(","))
        if not set(options) <= set(OPTIONS) or (form == "sentinel" and not place[1]):
            raise ValueError
    except ValueError:
        raise SettingsError(EXPECTED) from None  # the cause would quote the URL
    return Place(
        place[0], scheme == "rediss", nodes, place[1], place[2], unquote(username), unquote(password), options
    )  # fmt: skip


def _node(text: str, port: int) -> Node:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError
    return parts.hostname, parts.port or port
