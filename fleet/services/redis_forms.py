"""Redis with a replica and three sentinels, and Redis as a cluster of three: real `redis-server` processes on loopback.

Comes in: a directory. Goes out: a FLEET_REDIS_URL, and the servers one by one, to be killed. Runs inside tests and campaigns.
"""

from __future__ import annotations

import random
import re
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from fleet.services.daemon import Daemon, ServiceFailed
from fleet.services.redis import Redis, command, find_program
from fleet.services.stacked import Stacked

MASTER = "fleet"
FORMED_WITHIN_S = 20.0
SLOTS = 16384
BUS = 10000  # a cluster node's second port lies this much above its first


class Sentinel(Daemon):
    """One sentinel. It rewrites its own configuration."""

    name = "sentinel"

    def __init__(self, directory: Path, master_port: int, down_after_ms: int) -> None:
        super().__init__(directory)
        self.program = find_program()
        self._monitor = (master_port, down_after_ms)

    def prepare(self) -> None:
        configuration = self.directory / "sentinel.conf"
        if not configuration.exists():
            port, down_after_ms = self._monitor
            configuration.write_text(
                f"sentinel monitor {MASTER} 127.0.0.1 {port} 2\nsentinel down-after-milliseconds {MASTER} {down_after_ms}\n"
                f"sentinel failover-timeout {MASTER} 5000\ndir {self.directory}\nbind 127.0.0.1\n"
            )

    def command(self) -> list[str]:
        return [self.program, str(self.directory / "sentinel.conf"), "--sentinel", "--port", str(self.port)]

    def ready(self) -> bool:
        return command(self.port, "PING").startswith(b"+PONG")


class Formation(Stacked):
    """Servers that make one Redis. A context manager: start, wait until they have found each other, stop."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory = directory

    def _start(self, daemon: Daemon) -> None:
        self._stack.callback(daemon.close)
        daemon.start()


class Replicated(Formation):
    """A master, a replica, three sentinels."""

    def __init__(self, directory: Path, down_after_ms: int = 1000) -> None:
        super().__init__(directory)
        self._down_after_ms = down_after_ms
        self.servers: list[Redis] = []
        self.sentinels: list[Sentinel] = []

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{s.port}' for s in self.sentinels)}/{MASTER}/0"

    def form(self) -> None:
        for number in range(2):
            options = {"repl-diskless-sync-delay": "0", "repl-diskless-sync": "yes", "repl-backlog-size": "4mb"}
            if number:
                options["replicaof"] = f"127.0.0.1 {self.servers[0].port}"
            self.servers.append(Redis(self.directory / f"server-{number}", options=options))
            self._start(self.servers[-1])
        wait_until(lambda: b"state=online" in command(self.servers[0].port, "INFO", "replication"), "no replica")
        for number in range(3):
            sentinel = Sentinel(self.directory / f"sentinel-{number}", self.servers[0].port, self._down_after_ms)
            self.sentinels.append(sentinel)
            self._start(sentinel)
        complete = b"status=ok,address=127.0.0.1:%d,slaves=1,sentinels=3" % self.servers[0].port
        for each in self.sentinels:
            wait_until(lambda each=each: complete in command(each.port, "INFO", "sentinel"), "sentinels alone")  # type: ignore[misc]

    @property
    def master(self) -> Redis:
        """The server that takes writes now. Raises ServiceFailed where none does."""
        for server in self.servers:
            if server.running and b"role:master" in command(server.port, "INFO", "replication"):
                return server
        raise ServiceFailed("no master")


class Cluster(Formation):
    """Three masters that share the slots evenly, in the order of `servers`; with `replicas`, one of each follows in that order."""

    def __init__(self, directory: Path, *, replicas: bool = False) -> None:
        super().__init__(directory)
        self.servers: list[Redis] = []
        self.replicas: list[Redis] = []
        self._replicated = replicas

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'127.0.0.1:{s.port}' for s in (*self.servers, *self.replicas))}"

    def form(self) -> None:
        for number in range(3):
            server = self._node(f"server-{number}")
            self.servers.append(server)
            slots = [str(slot) for slot in range(SLOTS * number // 3, SLOTS * (number + 1) // 3)]
            command(server.port, "CLUSTER", "ADDSLOTS", *slots)
            command(server.port, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for server in self.servers[1:]:
            command(server.port, "CLUSTER", "MEET", "127.0.0.1", str(self.servers[0].port))
        for server in self.servers:
            wait_until(lambda s=server: self._knows(s, 3), "the cluster did not form")  # type: ignore[misc]
        for master in self.servers if self._replicated else []:
            self._follow(master)

    def _node(self, name: str) -> Redis:
        server = Redis(
            self.directory / name,
            options={"cluster-enabled": "yes", "cluster-node-timeout": "2000", "repl-diskless-sync-delay": "0"},
        )
        server.port = _cluster_port()
        self._start(server)
        return server

    def _follow(self, master: Redis) -> None:
        """A replica of this master, that the whole cluster knows and that has its data."""
        replica = self._node(f"replica-{len(self.replicas)}")
        self.replicas.append(replica)
        command(replica.port, "CLUSTER", "MEET", "127.0.0.1", str(master.port))
        for server in (*self.servers, replica):
            wait_until(lambda s=server: self._knows(s, 3 + len(self.replicas)), "a replica is not known")  # type: ignore[misc]
        wait_until(
            lambda: command(replica.port, "CLUSTER", "REPLICATE", self.node_id(master)).startswith(b"+OK"), "no replica"
        )
        wait_until(
            lambda: b"master_link_status:up" in command(replica.port, "INFO", "replication"), "no replica's data"
        )

    def _knows(self, server: Redis, nodes: int) -> bool:
        info = command(server.port, "CLUSTER", "INFO")
        return b"cluster_state:ok" in info and b"cluster_known_nodes:%d" % nodes in info

    def replica_of(self, master: Redis) -> Redis:
        return self.replicas[self.servers.index(master)]

    def keeper_of(self, key: str) -> Redis:
        """The master, in the cluster as it was formed, of a key's slot."""
        answer = command(self.servers[0].port, "CLUSTER", "KEYSLOT", key)
        return self.servers[next(n for n in range(3) if int(answer.strip(b":\r\n")) < SLOTS * (n + 1) // 3)]

    def node_id(self, server: Redis) -> str:
        found = re.search(rb"[0-9a-f]{40}", command(server.port, "CLUSTER", "MYID"))
        if found is None:
            raise ServiceFailed("a cluster node without an id")
        return found.group().decode()


def wait_until(true: Callable[[], bool], otherwise: str, within_s: float = FORMED_WITHIN_S) -> None:
    """Raises ServiceFailed with `otherwise` where it does not come true."""
    end = time.monotonic() + within_s
    while not true():
        if time.monotonic() > end:
            raise ServiceFailed(otherwise)
        time.sleep(0.05)


def _cluster_port() -> int:
    """A free port whose bus port is free as well."""
    for _ in range(100):
        port = random.randrange(11000, 21000)
        with ExitStack() as stack:
            try:
                for each in (port, port + BUS):
                    probe = stack.enter_context(socket.socket())
                    probe.bind(("127.0.0.1", each))
            except OSError:
                continue
        return port
    raise ServiceFailed("no free ports for a cluster node")
