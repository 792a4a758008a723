"""One error tree. Vendor errors are translated at the one door that imports the vendor's library and chained with `from`.

Every class says `retryable`: may the same action be tried again unchanged, after waiting?
"""

from __future__ import annotations


class FleetError(Exception):
    """Root of everything Streamfleet raises on purpose. The text never holds a secret, a listen key or a signed URL."""

    retryable = False


class SettingsError(FleetError):
    """A setting is missing or wrong: the process prints one line and exits with 2."""


class SecretsError(FleetError):
    """A keyring cannot be read, or a ciphertext does not belong to its row."""


class StoreUnavailable(FleetError):
    """Redis, Postgres, Kafka or ClickHouse did not answer in time. Retry later; nothing is known about the effect."""

    retryable = True


class BeingRebuilt(StoreUnavailable):
    """Redis answers, but has lost its data, and what it holds of ownership is not whole before a leader has restored it (R10)."""


class WireError(FleetError):
    """Bytes from Redis or Kafka do not have the form `fleet.core.wire` writes."""


class ConnectionFailed(FleetError):
    """A socket could not be opened, or died: refused, reset, timed out, closed by the peer."""

    retryable = True

    def __init__(self, reason: str, *, code: int | None = None) -> None:
        super().__init__(reason if code is None else f"{reason} (code {code})")
        self.reason = reason
        self.code = code


class NoPermit(ConnectionFailed):
    """The budget has no room for a call now, and the caller is one that does not wait for it."""


class DialRefused(ConnectionFailed):
    """The server answered the handshake with an HTTP status other than 101. `retry_after_s` is 0 where it did not say."""

    def __init__(self, status: int, retry_after_s: float = 0.0, body: bytes = b"") -> None:
        super().__init__("handshake refused", code=status)
        self.status = status
        self.retry_after_s = retry_after_s
        self.body = body


class ProtocolViolation(ConnectionFailed):
    """The peer broke RFC 6455; `code` is the close code to answer with."""


class ExchangeRefused(FleetError):
    """The exchange answered a call, a login or a subscription with an error; `verdict` says what to do about it."""

    def __init__(self, what: str, verdict: object) -> None:
        super().__init__(f"{what}: {verdict}")
        self.what = what
        self.verdict = verdict


class LeaseLost(FleetError):
    """The worker may no longer publish under its token."""
