"""A ClickHouse server over HTTP for tests: the embedded engine behind the two requests that clickhouse-connect sends.

In: `python -m tests.support.clickhouse_server DIRECTORY`. Out: its port on the first line of standard output; then queries
and inserts as the real server answers them (body or `query=`, `param_…`, Native blocks, `X-ClickHouse-Exception-Code`).
"""

from __future__ import annotations

import gzip
import re
import sys
import tempfile
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import chdb
import lz4.frame

UNPACK = {"": bytes, "gzip": gzip.decompress, "lz4": lz4.frame.decompress}
MAX_FIELD = 128 * 1024  # http_max_field_value_size, of a parameter in the URL or in a form
CODE = re.compile(r"Code: (\d+)")


class Handler(BaseHTTPRequestHandler):
    """One request at a time: the engine is one connection."""

    engine: Any = None
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer(200, b"Ok.\n", {})

    def do_POST(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        body = (
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if "Content-Length" in self.headers
            else self._chunks()
        )
        body = UNPACK[self.headers.get("Content-Encoding") or ""](body)
        form = self._form(body)
        if form:  # so the client sends long parameters
            query |= form
            body = query.pop("query").encode()
        sql = query.get("query", "")
        params = {name[6:]: value for name, value in query.items() if name.startswith("param_")}
        try:
            if any(len(value) > MAX_FIELD for value in query.values()):
                raise ValueError("Poco::Exception. Code: 1000, HTML Form Exception: Field value too long")
            if body.startswith(b"INSERT"):  # the statement is the body's first line
                head, _, body = body.partition(b"\n")
                sql = head.decode()
            if sql:  # an insert: the body is its rows
                answer = self._insert(sql, body)
            else:
                answer = bytes(
                    self.engine.query(body.decode(), query.get("default_format", "Native"), params=params).bytes()
                )
        except Exception as error:  # noqa: BLE001  # whatever the engine says goes to the client, as the server does
            found = CODE.search(str(error))
            self._answer(500, str(error).encode(), {"X-ClickHouse-Exception-Code": found[1] if found else "1002"})
            return
        self._answer(200, answer, {"X-ClickHouse-Format": "Native"})

    def _insert(self, sql: str, body: bytes) -> bytes:
        head, _, form = sql.rpartition("FORMAT")
        with tempfile.NamedTemporaryFile(suffix=".raw") as file:
            file.write(body)
            file.flush()
            self.engine.query(
                f"{head} FROM INFILE '{file.name}' SETTINGS input_format_skip_unknown_fields = 1 FORMAT {form}"
            )
        return b""

    def _form(self, body: bytes) -> dict[str, str]:
        kind = self.headers.get("Content-Type") or ""
        if not kind.startswith("multipart/form-data"):
            return {}
        parts: Any = message_from_bytes(f"Content-Type: {kind}\r\n\r\n".encode() + body, policy=HTTP).iter_parts()
        return {part["Content-Disposition"].params["name"]: part.get_payload(decode=True).decode() for part in parts}

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Length": str(len(body)), "X-ClickHouse-Server-Display-Name": "test"} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    Handler.engine = chdb.connect(sys.argv[1])
    server = HTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
