"""OKX v5: signed calls, verdicts on answers, login and private subscriptions: as data and pure functions.

In: calls, replies, credentials, exchange time. Out: requests ready to send, verdicts, the opening dialogue. Run by the
processes that dial. Sources: exchanges/okx.md sections 1.2, 3, 5, 6.1.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import hmac
import re
from urllib.parse import quote, urlencode

import msgspec

from fleet.core import decoding
from fleet.core.errors import ConnectionFailed
from fleet.core.exchange import Hosts, HttpCall, HttpReply, HttpRequest, Outcome, Step, Verdict
from fleet.core.model import Credentials
from fleet.core.replies import retry_after_s
from fleet.exchanges.okx.limits import DEMO_HEADER, PRIVATE

CLOCK = HttpCall("GET", "/api/v5/public/time", weight=1)
PROBE = HttpCall("GET", "/api/v5/account/config", weight=1, auth="signed")
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)
"""What decoding bytes can raise: not JSON, not the declared type, not UTF-8, nested too deeply, an integer of absurd length."""

LOGIN = "login"
# Fills come inside orders; pushes by event only: the periodic ones would repeat what is known and hide a broken heartbeat.
_BY_EVENT = '{"updateInterval":"0"}'
CHANNELS: tuple[dict[str, str], ...] = (
    {"channel": "orders", "instType": "ANY"},
    {"channel": "positions", "instType": "ANY", "extraParams": _BY_EVENT},
    {"channel": "account", "extraParams": _BY_EVENT},
    {"channel": "balance_and_position"},
)

_TABLE: tuple[tuple[Outcome, str, dict[int, str]], ...] = (
    # A key of another regional site, or a live key at demo trading, is answered exactly like a deleted one (1.1).
    (Outcome.ELSEWHERE, "credentials, or another site or environment", {
        50101: "API key does not match the environment", 50119: "API key does not exist", 60005: "invalid apiKey",
        60032: "API key does not exist",
    }),
    (Outcome.INVALID, "credentials", {
        50100: "API frozen", 50105: "wrong passphrase", 50111: "invalid OK-ACCESS-KEY", 50113: "invalid signature",
        50114: "invalid authorization", 60007: "invalid sign", 60024: "wrong passphrase",
        60009: "login failed, no reason told: the signed probe decides",
    }),
    (Outcome.CLOCK, "clock", {
        50102: "timestamp off by more than 30 s", 50112: "invalid OK-ACCESS-TIMESTAMP", 60004: "invalid timestamp",
        60006: "timestamp expired",
    }),
    (Outcome.RATE, "rate", {
        50011: "too many requests", 50040: "too many requests to this function", 50061: "too many orders",
        60014: "requests too frequent", 60023: "bulk login too frequent",
    }),
    (Outcome.TRANSIENT, "retry later", {
        50001: "service unavailable", 50004: "endpoint timeout, outcome unknown", 50005: "API offline", 50013: "system busy",
        50026: "system error", 60016: "buffer full: we read too slowly", 63999: "login failed, internal error",
        64007: "internal error", 64008: "service upgrade, the socket will close",
    }),
    (Outcome.PERMANENT, "needs the user", {
        50007: "user frozen", 50008: "user does not exist", 50009: "user suspended", 50027: "account restricted",
        50030: "no permission for this endpoint", 50035: "this key must be bound to an IP", 50110: "IP not in the whitelist",
        50120: "key without this permission", 50121: "no access to this service", 51024: "account closed",
        60026: "key and token login mixed", 60021: "login not allowed for this account", 60022: "bulk login partly failed",
    }),
    (Outcome.PERMANENT, "our request", {
        50014: "parameter empty", 50103: "OK-ACCESS-KEY missing", 50104: "OK-ACCESS-PASSPHRASE missing",
        50106: "OK-ACCESS-SIGN missing", 50107: "OK-ACCESS-TIMESTAMP missing", 51000: "parameter error",
        51001: "instrument does not exist", 51603: "order does not exist",
        60001: "key empty", 60002: "sign empty", 60003: "passphrase empty", 60008: "channel not on this URL",
        60010: "already logged in", 60011: "please log in", 60012: "invalid request", 60013: "invalid arguments",
        60018: "wrong URL, channel or instrument", 60019: "invalid op", 60027: "parameter empty", 60028: "not on this URL",
        60031: "repeated login", 60033: "parameter error", 64000: "uly retired", 64001: "channel moved to /business",
        64002: "channel not on /business", 64003: "fee tier too low for this channel", 64004: "books-l2-tbt clash",
    }),
)  # fmt: skip

CODES: dict[str, Outcome] = {str(code): outcome for outcome, _, codes in _TABLE for code in codes}
CODE_TEXTS: dict[str, str] = {str(code): f"{area}: {text}" for _, area, codes in _TABLE for code, text in codes.items()}
LOGGED_IN_ALREADY = frozenset({"60010", "60031"})  # whichever of the two a second login is answered with
STATUSES: dict[int, Outcome] = {429: Outcome.RATE, 451: Outcome.PERMANENT}
MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
WINDOW_S = 2.0  # limits are counted over two seconds, and nothing tells how long to wait


class _Envelope(msgspec.Struct):
    code: str


class _Time(msgspec.Struct):
    ts: str


class _Clock(msgspec.Struct):
    data: list[_Time]


_envelope = decoding.decoder(_Envelope).decode


def signature(secret: str, payload: str) -> str:
    """base64(HMAC-SHA256(secret, payload))."""
    return base64.b64encode(hmac.new(secret.encode(), payload.encode(), hashlib.sha256).digest()).decode()


def moment(at_ms: int) -> tuple[int, int, str, str]:
    """UTC year, month, day and hh:mm:ss of a UNIX time. Raises ValueError for a year that has no four digits."""
    _, day, month, year, clock, _ = email.utils.formatdate(at_ms // 1000, usegmt=True).split()
    return int(year), MONTHS.index(month) + 1, day, clock


def iso(now_ms: int) -> str:
    """The form of time in REST headers: UTC with milliseconds."""
    year, month, day, clock = moment(now_ms)
    return f"{year}-{month:02d}-{day}T{clock}.{now_ms % 1000:03d}Z"


def sign(call: HttpCall, credentials: Credentials, now_ms: int, is_testnet: bool) -> HttpRequest:
    """The call with its headers. The signature covers the target exactly as sent; demo trading is a header, not a host."""
    query = urlencode(call.params, quote_via=quote, safe="")
    target = f"{call.path}?{query}" if query else call.path
    headers: tuple[tuple[str, str], ...] = (DEMO_HEADER,) if is_testnet else ()
    if call.auth != "none":
        at = iso(now_ms)
        headers += (
            ("OK-ACCESS-KEY", credentials.api_key),
            ("OK-ACCESS-SIGN", signature(credentials.secret, f"{at}{call.method}{target}")),
            ("OK-ACCESS-TIMESTAMP", at),
            ("OK-ACCESS-PASSPHRASE", credentials.passphrase or ""),
            ("Content-Type", "application/json"),
        )
    return HttpRequest(call.method, target, headers)


def verdict_of(code: str) -> Verdict:
    """What a code of an error event means."""
    outcome = CODES.get(code, Outcome.TRANSIENT)
    return Verdict(outcome, code[:20], WINDOW_S if outcome is Outcome.RATE else 0.0)


def classify(reply: HttpReply) -> Verdict:
    """What an answer means. The code decides, whatever the status (50011 comes with 200 as well as 429); texts never."""
    try:
        code = _envelope(reply.body).code
    except UNREADABLE:
        code = ""
    if code == "0" and 200 <= reply.status < 300:
        return Verdict(Outcome.OK)
    if code in CODES:
        verdict = verdict_of(code)
    else:
        outcome = STATUSES.get(reply.status, Outcome.TRANSIENT)
        verdict = Verdict(outcome, (code if code not in ("", "0") else f"http {reply.status}")[:20])
    told_s = retry_after_s(reply)
    return Verdict(verdict.outcome, verdict.code, told_s) if told_s else verdict


def clock_ms(reply: HttpReply) -> int:
    """Exchange time of a CLOCK reply. Raises ConnectionFailed if it is not one (a proxy's page with status 200)."""
    try:
        return int(decoding.decode(reply.body, _Clock).data[0].ts)
    except (*UNREADABLE, LookupError) as error:
        raise ConnectionFailed("server time: unreadable reply") from error


def user_url(hosts: Hosts, ticket: str) -> str:
    """There is no ticket: the login comes after the handshake."""
    return f"{hosts.ws}{PRIVATE}"


def key_of(channel: str) -> str:
    """Request id of a channel's subscription: letters and digits only (1.2)."""
    return re.sub(r"[^A-Za-z0-9]", "", channel)[:32]


def opening(credentials: Credentials, now_ms: int) -> tuple[Step, ...]:
    """Log in, wait for the reply (an error in that phase has no id), then subscribe channel by channel, each with an id."""
    at = str(now_ms // 1000)  # seconds here, ISO in REST
    login = {
        "apiKey": credentials.api_key,
        "passphrase": credentials.passphrase or "",
        "timestamp": at,
        "sign": signature(credentials.secret, f"{at}GET/users/self/verify"),
    }
    steps = [Step("authenticating", LOGIN, msgspec.json.encode({"op": "login", "args": [login]}))]
    for arg in CHANNELS:
        key = key_of(arg["channel"])
        frame = msgspec.json.encode({"id": key, "op": "subscribe", "args": [arg]})
        steps.append(Step("subscribing", key, frame, vital=arg["channel"] == "orders"))
    return tuple(steps)
