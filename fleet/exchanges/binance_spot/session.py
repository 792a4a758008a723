"""Binance Spot: signed calls, verdicts on answers, private URL and its opening dialogue: as data and pure functions.

In: calls, replies, credentials, exchange time. Out: requests ready to send, frames, verdicts. Run by the processes that dial.
There is no listen key (gone since 2026-02-20) and nothing to renew: the socket is subscribed by one signed frame.
Keys of every kind subscribe alike, Ed25519 ones too: `session.logon` holds one account a socket, this frame many.
Sources: exchanges/binance.md sections 1.2, 2.3 (statuses), 4.3 (user data), 5.1 (signing), 6 (codes).
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote, urlencode

import msgspec

from fleet.core import decoding
from fleet.core.exchange import Hosts, HttpCall, HttpReply, HttpRequest, Outcome, Step, Verdict
from fleet.core.model import Credentials
from fleet.core.replies import decode, left_s, retry_after_s
from fleet.core.signing import signature

CLOCK = HttpCall("GET", "/api/v3/time", weight=1)
# Cheaper signed calls need an order or a symbol to ask for. Not the call of a read-back (rows.ACCOUNT): that one waits in line.
PROBE = HttpCall("GET", "/api/v3/account", weight=20, auth="signed")

_TABLE: tuple[tuple[Outcome, str, dict[int, str]], ...] = (
    (Outcome.INVALID, "credentials", {
        -1002: "unauthorized", -1022: "signature not valid (wrong secret)", -1099: "not authenticated or authorized",
        -1109: "bad account", -2014: "API key format invalid", -2015: "invalid key, IP or permission", -2017: "API keys locked",
        -4056: "invalid API key type", -4057: "invalid API public key",
    }),
    (Outcome.CLOCK, "clock", {-1021: "timestamp outside recvWindow"}),
    (Outcome.TRANSIENT, "retry later", {
        -1000: "unknown error", -1001: "disconnected, internal error", -1006: "unexpected response",
        -1007: "timeout, outcome unknown", -1008: "throttled by system-level protection", -1016: "service shutting down",
    }),
    (Outcome.TRANSIENT, "subscription: another socket", {
        -2035: "subscription already active", -2036: "subscription not active", -2042: "subscription ids used up",
    }),
    (Outcome.RATE, "rate", {-1003: "too many requests or banned", -1015: "too many orders", -1034: "too many connections"}),
    (Outcome.PERMANENT, "our request", {
        -1100: "illegal characters", -1101: "too many parameters", -1102: "mandatory parameter missing", -1103: "unknown parameter",
        -1104: "unread parameters", -1105: "parameter empty", -1106: "parameter not required", -1111: "bad precision",
        -1120: "bad interval", -1121: "bad symbol", -1125: "listen key: there are none on spot any more",
        -1127: "lookup interval too long", -1128: "bad parameter combination", -1130: "bad parameter value",
    }),
    (Outcome.PERMANENT, "data", {-2011: "unknown order at cancel", -2013: "order does not exist", -2026: "order archived"}),
)  # fmt: skip

CODES: dict[int, Outcome] = {code: outcome for outcome, _, codes in _TABLE for code in codes}
CODE_TEXTS: dict[str, str] = {str(code): f"{area}: {text}" for _, area, codes in _TABLE for code, text in codes.items()}
STATUSES: dict[int, Outcome] = {  # whatever the code; any other status without a known one is transient (a proxy's 401 page too)
    410: Outcome.PERMANENT, 418: Outcome.RATE, 429: Outcome.RATE, 451: Outcome.PERMANENT,
}  # fmt: skip
MINUTE_MS = 60_000
FIREWALL = 403  # with a page instead of a code it is the firewall's: too much from this address (sections 2.3, 6)
FALLBACK_WAIT_S = {
    FIREWALL: 120.0,
    418: 120.0,
    429: 60.0,
}  # minutes; shortest documented ban; the next minute boundary at the latest
_BANNED_UNTIL = re.compile(r"banned until (\d{13})\b")


class _Refusal(msgspec.Struct):
    code: int
    msg: str = ""


class _ServerTime(msgspec.Struct):
    server_ms: int = msgspec.field(name="serverTime")


def sign(call: HttpCall, credentials: Credentials, now_ms: int, is_testnet: bool) -> HttpRequest:
    """The call with its key header, and for a signed one `timestamp` and, last, `signature` in the query. Signed is exactly
    what is sent, percent-encoded."""
    if call.auth == "none":
        query = urlencode(call.params, quote_via=quote, safe="")
        return HttpRequest(call.method, f"{call.path}?{query}" if query else call.path, ())
    stamp = (("timestamp", str(now_ms)),) if call.auth == "signed" else ()
    query = urlencode((*call.params, *stamp), quote_via=quote, safe="")
    if stamp:
        query += f"&signature={quote(signature(credentials, query), safe='')}"
    return HttpRequest(call.method, f"{call.path}?{query}", (("X-MBX-APIKEY", credentials.api_key),))


def sign_frame(params: dict[str, str | int], credentials: Credentials) -> str:
    """Signature of a WebSocket API request: over its parameters in order of name, as they are (5.1)."""
    return signature(credentials, "&".join(f"{name}={params[name]}" for name in sorted(params)))


def classify(reply: HttpReply) -> Verdict:
    """What an answer means. Codes decide, then the status; texts never (only how long a ban lasts is read from one)."""
    if 200 <= reply.status < 300:
        return Verdict(Outcome.OK)
    unknown = Outcome.RATE if reply.status == FIREWALL else Outcome.TRANSIENT
    try:
        refusal = decoding.decode(reply.body, _Refusal)
        code, outcome, text = str(refusal.code), CODES.get(refusal.code, unknown), refusal.msg
    except (msgspec.MsgspecError, UnicodeDecodeError):
        code, outcome, text = f"http {reply.status}", unknown, ""
    outcome = STATUSES.get(reply.status, outcome)
    return Verdict(outcome, code, _wait_s(reply, outcome, text))


def _wait_s(reply: HttpReply, outcome: Outcome, text: str) -> float:
    told_s = retry_after_s(reply)
    if told_s or outcome is not Outcome.RATE:
        return told_s
    banned = _BANNED_UNTIL.search(text)
    left = left_s(reply, int(banned.group(1))) if banned else None
    if left is not None:
        return left
    if reply.status == 429 and reply.at_ms:  # weight counts by clock minute
        return (MINUTE_MS - reply.at_ms % MINUTE_MS) / 1000
    return FALLBACK_WAIT_S.get(reply.status, 60.0)


def clock_ms(reply: HttpReply) -> int:
    """Exchange time of a CLOCK reply. Raises ConnectionFailed if it is not one (a proxy's page with status 200)."""
    return decode(reply, _ServerTime, "server time").server_ms


# ── Private socket ───────────────────────────────────────────────────────────────────────────────────────────────
SUBSCRIBE = "subscribe"


def user_url(hosts: Hosts, ticket: str) -> str:
    """The WebSocket API; the socket belongs to nobody until it is subscribed, and may carry several accounts."""
    return f"{hosts.extra['wsapi']}/ws-api/v3"


def subscription(credentials: Credentials, now_ms: int, request_id: str) -> bytes:
    """The frame that subscribes the account of `credentials` on an open socket; its Reply's key is `request_id`."""
    params: dict[str, str | int] = {"apiKey": credentials.api_key, "timestamp": now_ms}
    params["signature"] = sign_frame(params, credentials)
    return msgspec.json.encode({"id": request_id, "method": "userDataStream.subscribe.signature", "params": params})


def opening(credentials: Credentials, now_ms: int) -> tuple[Step, ...]:
    """One signed request logs in and subscribes. Its id is the account's own: neighbours may share the socket."""
    request_id = f"{SUBSCRIBE}-{hashlib.sha256(credentials.api_key.encode()).hexdigest()[:16]}"
    return (Step("authenticating", request_id, subscription(credentials, now_ms, request_id)),)
