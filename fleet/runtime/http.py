"""The one door to urllib3: one REST call, data in (HttpRequest) and data out (HttpReply). Used by workers, coordinator, CLI.

No retries, no redirects, no proxies from the environment, bounded in time and size: whether to try again is the caller's
decision. Thread-safe; one instance per root URL and source address.
"""

from __future__ import annotations

import ssl
import time
import urllib.parse
from typing import Any

import certifi
import urllib3

from fleet.core.errors import ConnectionFailed
from fleet.core.exchange import HttpReply, HttpRequest

MAX_BODY_BYTES = 32 * 1024 * 1024
READ_BYTES = 64 * 1024
CONNECT_S = 5.0  # for TCP and TLS at the most, and beyond `timeout_s` for a call as a whole
USER_AGENT = "streamfleet"


def trust(ca_file: str = "") -> ssl.SSLContext:
    """TLS client context that trusts the public CAs and those in `ca_file` (PEM)."""
    context = ssl.create_default_context()
    context.load_verify_locations(cafile=certifi.where())
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    return context


class Http:
    """Connections to one root URL, kept alive between calls."""

    def __init__(
        self,
        root_url: str,
        *,
        source_ip: str | None = None,
        ca_file: str = "",
        timeout_s: float = 10.0,
        max_connections: int = 16,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.root_url = root_url.rstrip("/")
        secure = urllib.parse.urlsplit(root_url).scheme == "https"
        self._total_s = timeout_s + CONNECT_S
        self._timeout = urllib3.Timeout(connect=min(CONNECT_S, timeout_s), read=timeout_s, total=self._total_s)
        options: dict[str, Any] = {"maxsize": max_connections, "block": False, "retries": False}
        if secure:
            options["ssl_context"] = tls or trust(ca_file)
        if source_ip:
            options["source_address"] = (source_ip, 0)
        self._pool = urllib3.PoolManager(num_pools=2, **options)

    def send(self, request: HttpRequest) -> HttpReply:
        """Send one request; a reply of any status is a reply. Raises ConnectionFailed when there is none (retryable). The
        error's text has neither the query nor a header: both may be secret."""
        headers = {"User-Agent": USER_AGENT, **dict(request.headers)}
        until_s = time.monotonic() + self._total_s
        try:
            response = self._pool.request(
                request.method,
                self.root_url + request.target,
                headers=headers,
                body=request.body or None,
                timeout=self._timeout,
                redirect=False,
                preload_content=False,
            )
            body = _body(response, until_s)
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            # `from None`: urllib3 puts the whole URL, signature included, into its messages, and http.client, by a ValueError,
            # a header that it cannot write: the API key
            where = request.target.partition("?")[0]
            raise ConnectionFailed(f"{request.method} {where}: {_reason(error)}") from None
        if body is None:
            raise ConnectionFailed(
                f"{request.method} {request.target.partition('?')[0]}: reply is over {MAX_BODY_BYTES} bytes"
            )
        return HttpReply(response.status, {k.lower(): v for k, v in response.headers.items()}, body)

    def close(self) -> None:
        self._pool.clear()


def _body(response: urllib3.BaseHTTPResponse, until_s: float) -> bytes | None:
    """The whole body, or None where it is too large; each read has a timeout of its own, which a body that drips never meets.
    Raises TimeoutError at `until_s` (time.monotonic())."""
    body = bytearray()
    while part := response.read1(READ_BYTES, decode_content=True):
        body += part
        late = time.monotonic() > until_s
        if late or len(body) > MAX_BODY_BYTES:
            response.close()  # not to be used again: the rest is still to come
            if late:
                raise TimeoutError
            return None
    response.release_conn()
    return bytes(body)


def _reason(error: Exception) -> str:
    """The kind of failure, without the URL."""
    inner = error.args[-1] if error.args and isinstance(error.args[-1], Exception) else error
    return type(inner).__name__
