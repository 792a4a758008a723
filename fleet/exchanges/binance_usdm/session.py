"""Binance USDⓈ-M: signed calls, verdicts on answers, listen key, private URL: as data and pure functions.

In: calls, replies, credentials, exchange time. Out: requests ready to send, verdicts. Run by the processes that dial.
Sources: exchanges/binance.md sections 1.1 (private URL), 2.3 (statuses), 4.1 (listen key), 5.1 (signing), 6 (codes).
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlencode

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.exchange import Hosts, HttpCall, HttpReply, HttpRequest, Outcome, Renewal, Step, Verdict
from fleet.core.model import Credentials
from fleet.core.replies import decode, left_s, retry_after_s
from fleet.core.signing import signature

CLOCK = HttpCall("GET", "/fapi/v1/time", weight=1)
# Signed: POST listenKey checks no signature, so it cannot tell whether the secret is right.
PROBE = HttpCall("GET", "/fapi/v3/balance", weight=5, auth="signed")
TICKET = HttpCall("POST", "/fapi/v1/listenKey", weight=1, auth="key")
RENEWAL = Renewal(call=HttpCall("PUT", "/fapi/v1/listenKey", weight=1, auth="key"), interval_s=1800.0)

# Without `events=` some servers stay silent or expire the key at once (1.1); the docs' names, all that an account can receive.
USER_EVENTS = (
    "ORDER_TRADE_UPDATE", "ACCOUNT_UPDATE", "TRADE_LITE", "ACCOUNT_CONFIG_UPDATE", "MARGIN_CALL", "ALGO_UPDATE",
    "STRATEGY_UPDATE", "listenKeyExpired",
)  # fmt: skip

_TABLE: tuple[tuple[Outcome, str, dict[int, str]], ...] = (
    (Outcome.INVALID, "credentials", {
        -1002: "unauthorized", -1022: "signature not valid (wrong secret)", -1099: "not authenticated or authorized",
        -1109: "bad account", -2014: "API key format invalid", -2015: "invalid key, IP or permission", -2017: "API keys locked",
        -4056: "invalid API key type", -4057: "invalid API public key", -4109: "futures account inactive",
    }),
    (Outcome.CLOCK, "clock", {-1021: "timestamp outside recvWindow", -5028: "timestamp outside the engine's window"}),
    (Outcome.TRANSIENT, "retry later", {
        -1000: "unknown error", -1001: "disconnected, internal error", -1006: "unexpected response",
        -1007: "timeout, outcome unknown", -1008: "throttled by system-level protection", -1016: "service shutting down",
    }),
    (Outcome.RATE, "rate", {-1003: "too many requests or banned", -1015: "too many orders", -1034: "too many connections"}),
    (Outcome.TICKET_GONE, "listen key", {-1125: "listen key does not exist"}),
    (Outcome.PERMANENT, "our request", {
        -1100: "illegal characters", -1101: "too many parameters", -1102: "mandatory parameter missing", -1103: "unknown parameter",
        -1104: "unread parameters", -1105: "parameter empty", -1106: "parameter not required", -1111: "bad precision",
        -1120: "bad interval", -1121: "bad symbol", -1127: "lookup interval too long", -1128: "bad parameter combination",
        -1130: "bad parameter value", -4021: "bad depth limit", -4165: "invalid time interval", -4166: "search window too old",
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


class _ListenKey(msgspec.Struct):
    key: str = msgspec.field(name="listenKey", default="")


def sign(call: HttpCall, credentials: Credentials, now_ms: int, is_testnet: bool) -> HttpRequest:
    """The call with its key header, and for a signed one `timestamp` and, last, `signature` in the query. Signed is exactly
    what is sent, percent-encoded."""
    params = list(call.params)
    headers = () if call.auth == "none" else (("X-MBX-APIKEY", credentials.api_key),)
    if call.auth == "signed":
        params.append(("timestamp", str(now_ms)))
    query = urlencode(params, quote_via=quote, safe="")
    if call.auth == "signed":
        query += f"&signature={quote(signature(credentials, query), safe='')}"
    return HttpRequest(call.method, f"{call.path}?{query}" if query else call.path, headers)


def classify(reply: HttpReply) -> Verdict:
    """What an answer means. Codes decide, then the status; texts never (only how long a ban lasts is read from one)."""
    if 200 <= reply.status < 300:
        return Verdict(Outcome.OK)
    try:
        refusal = decoding.decode(reply.body, _Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        refusal = None
    code = str(refusal.code) if refusal else f"http {reply.status}"
    unknown = Outcome.RATE if reply.status == FIREWALL else Outcome.TRANSIENT
    outcome = CODES.get(refusal.code, unknown) if refusal else unknown
    outcome = STATUSES.get(reply.status, outcome)
    return Verdict(outcome, code, _wait_s(reply, outcome, refusal.msg if refusal else ""))


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


def ticket_of(reply: HttpReply) -> str:
    """The listen key of a POST or PUT reply, "" where an older server's PUT names none. Raises ConnectionFailed if unreadable."""
    try:
        return decoding.decode(reply.body, _ListenKey).key
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ConnectionFailed("listen key: unreadable reply") from None  # the cause may quote the key


def user_url(hosts: Hosts, ticket: str) -> str:
    """Query form with an explicit event list: the one form that every report says works (1.1). The URL is a secret."""
    return f"{hosts.ws}/private/ws?listenKey={quote(ticket, safe='')}&events={'/'.join(USER_EVENTS)}"


def opening(credentials: Credentials, now_ms: int) -> tuple[Step, ...]:
    """Nothing to say after the handshake: the URL names key and events."""
    return ()
