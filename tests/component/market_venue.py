"""A tiny Binance-like public venue on loopback for the market-data tests: real sockets and REST, events on a fast clock.

Every subscribed topic of an open socket gets an event each TICK_S; ids count per symbol over all sockets, as at the exchange.
Names in `unknown` are acknowledged and stay silent. `stall()` silences the sockets open now, pongs go on.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

TICK_S = 0.02
SIDE_LEVELS = 3


class Client:
    """One open socket of the venue."""

    def __init__(self, connection: ServerConnection, path: str) -> None:
        self.connection, self.path = connection, path
        self.topics: list[str] = []
        self.stalled = False
        self.closed = False
        self.sent: dict[str, int] = {}  # events by topic

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionClosed, OSError):
            self.connection.send(json.dumps(message))


class Venue:
    """See the module. All state belongs to the clock thread, or is replaced as a whole."""

    def __init__(self) -> None:
        self.clients: list[Client] = []
        self.unknown: frozenset[str] = frozenset()
        self.skip_depth = 0  # this many depth updates reach no socket
        self.ws_override = ""
        self.snapshots = 0
        self.snapshot_status = 200
        self.snapshot_lag = 0  # snapshots are this many updates old
        self.skip_trades = 0  # this many trades reach no socket
        self.trades: dict[str, list[dict[str, Any]]] = {}  # by symbol, with contiguous ids
        self.trade_reads = 0
        self.trades_status = 200
        self._seq: dict[str, int] = {}
        self._stop = threading.Event()
        self._lock = threading.Lock()  # guards clients and _seq
        self._ws: Server = serve(self._serve, "127.0.0.1", 0, compression=None, ping_interval=None)
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._rest())
        self._threads = [
            threading.Thread(target=self._ws.serve_forever),
            threading.Thread(target=self._http.serve_forever, args=(0.05,)),
            threading.Thread(target=self._clock),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def ws_url(self) -> str:
        return self.ws_override or f"ws://127.0.0.1:{self._ws.socket.getsockname()[1]}"

    @property
    def rest_url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def close(self) -> None:
        self._stop.set()
        self._ws.shutdown()
        self._http.shutdown()
        self._http.server_close()
        for thread in self._threads:
            thread.join(5)

    def open_clients(self) -> list[Client]:
        with self._lock:
            return [c for c in self.clients if not c.closed]

    def stall(self) -> None:
        for client in self.open_clients():
            client.stalled = True

    def cut(self) -> None:
        for client in self.open_clients():
            client.connection.socket.shutdown(socket.SHUT_RDWR)

    # ── sockets ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _serve(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        client = Client(connection, connection.request.path)
        with self._lock:
            self.clients.append(client)
        try:
            for message in connection:
                request = json.loads(message)
                client.topics = client.topics + request["params"]
                client.send({"result": None, "id": request["id"]})
        except ConnectionClosed:
            pass  # cut by the test or by the client
        finally:
            client.closed = True

    def _clock(self) -> None:
        tick = 0
        while not self._stop.wait(TICK_S):
            tick += 1
            clients = self.open_clients()
            names = {name for client in clients for name in client.topics}
            for name in sorted(names - self.unknown):
                data = self._event(name, tick)
                if "@depth" in name and self.skip_depth:
                    self.skip_depth -= 1
                    continue
                if "@aggTrade" in name and self.skip_trades:
                    self.skip_trades -= 1
                    continue
                for client in clients:
                    if name in client.topics and not client.stalled:
                        client.sent[name] = client.sent.get(name, 0) + 1
                        client.send({"stream": name, "data": data})

    def _event(self, name: str, tick: int) -> dict[str, Any]:
        symbol, _, kind = name.partition("@")
        symbol, ms = symbol.upper(), 1_790_000_000_000 + tick
        with self._lock:
            seq = self._seq[name] = self._seq.get(name, 1000) + 10
        if kind.startswith("depth"):
            levels = {
                "b": [[f"{100 - tick % SIDE_LEVELS}.0", str(tick)]],
                "a": [[f"{101 + tick % SIDE_LEVELS}.0", str(tick)]],
            }
            return {"e": "depthUpdate", "E": ms, "T": ms, "s": symbol, "U": seq - 9, "u": seq, "pu": seq - 10, **levels}
        if kind == "aggTrade":
            trade = {"a": seq // 10, "p": "1.0", "q": "2", "T": ms, "m": True}
            self.trades.setdefault(symbol, []).append(trade)
            return {"e": "aggTrade", "E": ms, "s": symbol, **trade}
        return {"e": "markPriceUpdate", "E": ms, "s": symbol, "p": "1.0", "i": "1.0", "r": "0.0001", "T": ms}

    # ── REST ─────────────────────────────────────────────────────────────────────────────────────────────────────
    def _rest(self) -> type[BaseHTTPRequestHandler]:
        venue = self

        class Rest(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                if url.path.endswith("/time"):
                    status, body = 200, json.dumps({"serverTime": int(time.time() * 1000)}).encode()
                elif url.path.endswith("/aggTrades"):
                    status, body = venue.history(query["symbol"], int(query.get("fromId", 0)), int(query["limit"]))
                else:
                    status, body = venue.snapshot(query["symbol"])
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Rest

    def history(self, symbol: str, first: int, limit: int) -> tuple[int, bytes]:
        self.trade_reads += 1
        if self.trades_status != 200:
            return self.trades_status, b'{"code":-1001,"msg":"internal"}'
        rows = [t for t in list(self.trades.get(symbol, ())) if t["a"] >= first]
        return 200, json.dumps(rows[:limit]).encode()

    def snapshot(self, symbol: str) -> tuple[int, bytes]:
        self.snapshots += 1
        with self._lock:
            seq = self._seq.get(f"{symbol.lower()}@depth@100ms", 1000) - 10 * self.snapshot_lag
        if self.snapshot_status != 200:
            return self.snapshot_status, b'{"code":-1001,"msg":"internal"}'
        book = {"lastUpdateId": seq, "E": 1, "T": 1, "bids": [["90.0", "1"]], "asks": [["110.0", "1"]]}
        return 200, json.dumps(book).encode()


@contextlib.contextmanager
def venue() -> Iterator[Venue]:
    """A running venue."""
    running = Venue()
    try:
        yield running
    finally:
        running.close()
