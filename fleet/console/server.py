"""The console's HTTP server, on loopback: `/metrics`, `/`, `/api/shards`, `/api/overview`, `/healthz`.

In: requests of Prometheus and of people. Out: see each path below. Run by `python -m fleet.console`.
"""

from __future__ import annotations

import json
import socketserver
import sys
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from fleet.console import page
from fleet.console.overview import Overview
from fleet.console.scrape import merge, scrape
from fleet.runtime import logs
from fleet.runtime.metrics import LOOPBACK
from fleet.runtime.settings import Settings

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
JSON_TYPE = "application/json; charset=utf-8"
HTML_TYPE = "text/html; charset=utf-8"
REQUEST_TIMEOUT_S = 5.0  # for a client that connects and says nothing

log = logs.get(__name__)


class Console(ThreadingHTTPServer):
    """One thread per request; the stores are shared behind the overview's lock, a scrape is the request's own."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, settings: Settings, overview: Overview, ports: Mapping[str, int]) -> None:
        self.settings = settings
        self.overview = overview
        self.ports = ports
        super().__init__((LOOPBACK, settings.console_port), _Request)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's own asks the DNS for our name, which may take seconds
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that did not wait for its answer is no error, and a traceback helps nobody."""
        error = sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            log.error("console request failed", action="console", error=type(error).__name__, exc_info=True)

    def answer(self, path: str) -> tuple[HTTPStatus, str, str]:
        """(status, content type, body) of a GET."""
        if path == "/metrics":
            return HTTPStatus.OK, METRICS_TYPE, merge(scrape(self.ports))
        if path == "/healthz":
            down = [shard for shard, text in scrape(self.ports).items() if text is None]
            return HTTPStatus.OK, JSON_TYPE, _json({"console": "up", "ok": not down, "down": down})
        if path == "/api/shards":
            view = self.overview.read()
            status = HTTPStatus.SERVICE_UNAVAILABLE if _redis_is_away(view) else HTTPStatus.OK
            return status, JSON_TYPE, _json(view["shards"])
        if path == "/api/overview":
            return HTTPStatus.OK, JSON_TYPE, _json(self.overview.read())
        if path == "/":
            up = {shard: text is not None for shard, text in scrape(self.ports).items()}
            return HTTPStatus.OK, HTML_TYPE, page.render(self.settings.fleet, self.overview.read(), up)
        return HTTPStatus.NOT_FOUND, JSON_TYPE, _json({"error": "not found"})


class _Request(BaseHTTPRequestHandler):
    server: Console
    server_version = "streamfleet"
    sys_version = ""
    timeout = REQUEST_TIMEOUT_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/") or "/"
        try:
            status, kind, text = self.server.answer(path)
        except Exception as error:  # noqa: BLE001 - one bad answer must not look like a dead console
            log.error("console request failed", action="console", path=path, error=type(error).__name__, exc_info=True)
            status, kind, text = HTTPStatus.INTERNAL_SERVER_ERROR, JSON_TYPE, _json({"error": type(error).__name__})
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """No access log: Prometheus asks every few seconds."""


def _redis_is_away(view: dict[str, Any]) -> bool:
    return not view["shards"] and any(problem.startswith("Redis") for problem in view["problems"])


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
