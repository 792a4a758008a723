"""One call's budget over all of its steps, in each form of FLEET_REDIS_URL, against a pretended Redis that is slow or wrong."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fleet.core.errors import StoreUnavailable
from fleet.core.names import Keys
from fleet.runtime.deadline import Names
from fleet.runtime.redis_store import RedisStore
from simulator.tls import server_context

BUDGET_S = 0.5
SLACK_S = 0.4  # of a loaded machine; the slow server's steps add up to three times the budget
LOOKUPS = ("SENTINEL", "CLUSTER")


class Slow(socketserver.StreamRequestHandler):
    """One connection to a `Pretended`."""

    server: Pretended

    def setup(self) -> None:
        if self.server.tls is not None:
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def handle(self) -> None:
        while line := self.rfile.readline():
            words = []
            for _ in range(int(line[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2].decode())
            self.server.heard.append(words[0])
            self.server.closing.wait(self.server.lookup_s if words[0] in LOOKUPS else self.server.delay_s)
            try:
                self.wfile.write(self.server.answer(words[0]))
            except OSError:
                return


class Pretended(socketserver.ThreadingTCPServer):
    """A server of any form. It names `named` as the holder of everything, after `lookup_s`; all else it says after `delay_s`."""

    daemon_threads = True
    block_on_close = False
    tls: ssl.SSLContext | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Slow)
        self.port = int(self.server_address[1])
        self.named, self.role, self.delay_s, self.lookup_s = self.port, "master", 0.0, 0.0
        self.heard: list[str] = []
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The client gave up in the middle, which is what these tests are about."""

    def answer(self, command: str) -> bytes:
        port = str(self.named)
        answers = {
            "SENTINEL": f"*2\r\n$9\r\n127.0.0.1\r\n${len(port)}\r\n{port}\r\n",
            "CLUSTER": f"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$2\r\nid\r\n",
            "ROLE": f"*3\r\n${len(self.role)}\r\n{self.role}\r\n:0\r\n*0\r\n",
            "EVALSHA": "-NOSCRIPT No matching script.\r\n",
            "EVAL": "*1\r\n$2\r\nOK\r\n",
            "GET": "$-1\r\n",
        }
        return answers.get(command, "+OK\r\n").encode()


@pytest.fixture
def servers() -> Iterator[list[Pretended]]:
    made = [Pretended(), Pretended()]
    yield made
    for server in made:
        server.closing.set()
        server.shutdown()
        server.server_close()


def url_of(form: str, *ports: int) -> str:
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    return {
        "redis": f"redis://me:word@{hosts.partition(',')[0]}/3",
        "sentinel": f"redis+sentinel://me:word@{hosts}/m/3",
        "cluster": f"redis+cluster://me:word@{hosts}",
    }[form]


@pytest.mark.parametrize("form", ["redis", "sentinel", "cluster"])
def test_all_steps_of_a_call_share_its_budget(form: str, servers: list[Pretended]) -> None:
    """Logging in, choosing a database, ROLE, EVALSHA and EVAL, each of which would be in time alone."""
    server = servers[0]
    server.delay_s = 0.3
    store = RedisStore(url_of(form, server.port), Keys("t"), BUDGET_S)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.resign("x")
        assert time.monotonic() - began < BUDGET_S + SLACK_S
    server.delay_s = 0.0
    store.resign("x")
    assert server.heard[-2:] == ["EVALSHA", "EVAL"]
    store.close()


@pytest.mark.parametrize("form", ["sentinel", "cluster"])
def test_a_slow_lookup_shortens_no_later_call(form: str, servers: list[Pretended]) -> None:
    server = servers[0]
    store = RedisStore(url_of(form, server.port), Keys("t"), 1.0)
    server.lookup_s = 0.25
    store.leader()
    server.delay_s = 0.8  # more than the call that opened the connection had left
    assert store.leader() == ""
    store.close()


def test_a_sentinel_that_names_a_former_master_is_not_asked_twice_in_a_row(servers: list[Pretended]) -> None:
    """It was cut off from the others and is the first of the URL; the next call asks the next one."""
    behind, master = servers
    behind.role = "slave"
    store = RedisStore(url_of("sentinel", behind.port, master.port), Keys("t"), BUDGET_S)
    with pytest.raises(StoreUnavailable, match="not the master"):
        store.leader()
    assert store.leader() == ""
    store.close()


def test_a_name_that_does_not_resolve_in_time_is_no_usable_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver takes its own time, 10 s and more; one question waits for it, and no call does."""
    released, asked = threading.Event(), []

    def stuck(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        released.wait(20)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    for url in ("redis://store.invalid:1/0", "redis+sentinel://store.invalid:1,store.invalid:2/m"):
        store = RedisStore(url, Keys("t"), BUDGET_S)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable):
            store.leader()
        assert time.monotonic() - began < BUDGET_S + SLACK_S
        store.close()
    released.set()
    assert asked == ["store.invalid"]


def test_names_are_asked_again_after_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [[(0, 0, 0, "", ("10.0.0.1", 0)), (0, 0, 0, "", ("10.0.0.1", 0))], UnicodeError("idna")]

    def resolver(*_: Any, **__: Any) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    names = Names()
    assert names.addresses("a.example", 5.0) == ["10.0.0.1"]
    with pytest.raises(OSError, match="not a host name"):
        names.addresses("a.example", 5.0)
    assert names.addresses("::1", 0.0) == ["::1"]  # an address asks nobody


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_tls_compares_the_name_of_the_url(host: str, servers: list[Pretended], tmp_path: Path) -> None:
    server = servers[0]
    ca = tmp_path / "ca.pem"
    server.tls = server_context(ca)
    for url in (
        f"rediss://{host}:{server.port}/0?ssl_ca_certs={ca}&socket_timeout=60",
        f"rediss+cluster://{host}:{server.port}?ssl_ca_certs={ca}",
    ):
        store = RedisStore(url, Keys("t"), 2.0)
        assert store.leader() == ""
        store.close()
    strange = RedisStore(f"rediss://{host}:{server.port}/0", Keys("t"), 2.0)
    with pytest.raises(StoreUnavailable, match="certificate"):
        strange.leader()
    strange.close()


def test_closing_a_store_closes_its_connection(servers: list[Pretended]) -> None:
    for form in ("redis", "sentinel"):
        store = RedisStore(url_of(form, servers[0].port), Keys("t"), BUDGET_S)
        store.leader()
        pool: Any = store._client.connection_pool
        connection = pool._available_connections[0]
        store.close()
        assert connection._sock is None
