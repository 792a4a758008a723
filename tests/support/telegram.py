"""A stand-in for Telegram's Bot API on loopback. In: POST …/sendMessage. Out: what it was sent, and the answers a test scripts."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OK: tuple[int, dict[str, Any], dict[str, str]] = (200, {"ok": True, "result": {"message_id": 1}}, {})


class BotApi(ThreadingHTTPServer):
    """Records each sendMessage and answers what the test put into `script`, then `OK` for ever."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        self.messages: list[dict[str, Any]] = []
        self.accepted: list[dict[str, Any]] = []
        self.script: list[Any] = []
        self.paths: set[str] = set()
        super().__init__(("127.0.0.1", port), _Bot)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class _Bot(BaseHTTPRequestHandler):
    server: BotApi

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.paths.add(self.path)
        self.server.messages.append(message)
        answer = self.server.script.pop(0) if self.server.script else OK
        if answer == "cut":
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, body, headers = answer
        if status == 200:
            self.server.accepted.append(message)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass
