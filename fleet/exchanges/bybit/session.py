"""Bybit v5: signed calls, verdicts on answers, login and subscription of the private socket: as data and pure functions.

In: calls, replies, credentials, exchange time. Out: requests ready to send, verdicts. Run by the processes that dial.
Sources: exchanges/bybit.md sections 3.1 (login), 3.3 (codes), 5 (private topics), 6.1 (signing), 6.2 (limits).
"""

from __future__ import annotations

import re
from urllib.parse import quote

import msgspec

from fleet.core import decoding
from fleet.core.exchange import Hosts, HttpCall, HttpReply, HttpRequest, Outcome, Step, Verdict
from fleet.core.model import Credentials
from fleet.core.replies import decode, retry_after_s
from fleet.core.signing import signature
from fleet.exchanges.bybit import wire

CLOCK = HttpCall("GET", "/v5/market/time")
PROBE = HttpCall("GET", "/v5/user/query-api", auth="signed")  # any key may call it
RECV_WINDOW_MS = 5000
LOGIN_AHEAD_MS = 10_000  # `expires` of the login: one second, as the docs show, arrives too late in practice (3.1)
# All-in-one topics. Never `dcp`: when its last socket closes, the venue cancels the account's orders (5.5).
TOPICS = ("order", "execution", "position", "wallet")

_TABLE: tuple[tuple[Outcome, str, dict[int, str]], ...] = (
    # A key of another environment or regional domain is answered exactly like a deleted one (3.3).
    (Outcome.ELSEWHERE, "credentials, or another environment or region", {10003: "API key invalid"}),
    (Outcome.INVALID, "credentials", {
        10004: "signature not valid (wrong secret)",
        33004: "API key expired", -2015: "API key expired (spot)",
    }),
    (Outcome.CLOCK, "clock", {-1: "request expired", 10002: "timestamp outside the window"}),
    (Outcome.RATE, "rate", {
        10006: "too many visits of this endpoint", 10018: "address over its limit", 10009: "address banned",
    }),
    (Outcome.TRANSIENT, "retry later", {10000: "server timeout", 10016: "server error", 10019: "service restarting"}),
    # 10007 is ours or a proxy's doing (a header is missing): never a reason to deactivate anybody
    (Outcome.PERMANENT, "the user's or operator's to cure", {
        10005: "permission denied to this key", 10007: "not authenticated: a header is missing", 10008: "user banned",
        10010: "address not bound to this key", 10024: "compliance rules", 10027: "trading banned",
        10028: "only for unified accounts", 100028: "not for unified accounts",
    }),
    (Outcome.PERMANENT, "our request", {
        10001: "parameter error", 10014: "duplicate request", 10017: "no such route", 110001: "order does not exist",
    }),
)  # fmt: skip

CODES: dict[int, Outcome] = {code: outcome for outcome, _, codes in _TABLE for code in codes}
CODE_TEXTS: dict[str, str] = {str(code): f"{area}: {text}" for _, area, codes in _TABLE for code, text in codes.items()}
BAN_WAIT_S = 600.0  # "access too frequent": at least ten minutes (6.2)
RATE_WAIT_S = {10006: 1.0, 10018: 5.0, 10009: BAN_WAIT_S}  # rolling windows of 1 s and 5 s


def sign(call: HttpCall, credentials: Credentials, now_ms: int, is_testnet: bool) -> HttpRequest:
    """The call with its headers. The query is signed as sent; `%` stays as it is, because a page's cursor comes escaped."""
    query = "&".join(f"{name}={quote(value, safe='%:,')}" for name, value in call.params)
    target = f"{call.path}?{query}" if query else call.path
    if call.auth == "none":
        return HttpRequest(call.method, target, ())
    payload = f"{now_ms}{credentials.api_key}{RECV_WINDOW_MS}{query}"
    return HttpRequest(call.method, target, (
        ("X-BAPI-API-KEY", credentials.api_key), ("X-BAPI-TIMESTAMP", str(now_ms)), ("X-BAPI-RECV-WINDOW", str(RECV_WINDOW_MS)),
        ("X-BAPI-SIGN", signature(credentials, payload)),
    ))  # fmt: skip


def classify(reply: HttpReply) -> Verdict:
    """What an answer means: `retCode` decides, whatever the status; without one the status. `retMsg` is never read (it may
    echo the key). A page of status 401 or 403 is no verdict on credentials, it may be a proxy's."""
    try:
        answer = decoding.decode(reply.body, wire.Refusal)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _by_status(reply)
    if answer.code == 0:
        return Verdict(Outcome.OK) if 200 <= reply.status < 300 else Verdict(Outcome.TRANSIENT, f"http {reply.status}")
    outcome = CODES.get(answer.code, Outcome.TRANSIENT)
    wait_s = _told_s(reply, answer.time) or RATE_WAIT_S[answer.code] if outcome is Outcome.RATE else 0.0
    return Verdict(outcome, str(answer.code), wait_s)


def _by_status(reply: HttpReply) -> Verdict:
    code = f"http {reply.status}"
    if reply.status == 429:
        return Verdict(Outcome.RATE, code, _told_s(reply, 0))
    if reply.status == 403 and b"access too frequent" in reply.body:  # the other 403: a country, or a proxy
        return Verdict(Outcome.RATE, code, _told_s(reply, 0) or BAN_WAIT_S)
    return Verdict(Outcome.TRANSIENT, code)  # status 200 and no envelope: somebody else's page


def _told_s(reply: HttpReply, sent_ms: int) -> float:
    """How long it told us to wait, 0 = it did not: Retry-After, or when the endpoint's limit is reset."""
    told_s = retry_after_s(reply)
    if told_s:
        return told_s
    reset = reply.headers.get("x-bapi-limit-reset-timestamp", "")
    if sent_ms and re.fullmatch(r"\d{13}", reset):
        return min(60.0, max(0.0, (int(reset) - sent_ms) / 1000))
    return 0.0


def clock_ms(reply: HttpReply) -> int:
    """Exchange time of a CLOCK reply. Raises ConnectionFailed if it is not one."""
    return decode(reply, wire.ServerTime, "server time").time


def user_url(hosts: Hosts, ticket: str) -> str:
    """There is no ticket: the socket logs in."""
    return f"{hosts.ws}/v5/private"


def opening(credentials: Credentials, now_ms: int) -> tuple[Step, ...]:
    """Log in, wait, subscribe: the answer to a subscription before the login is not known (3.1)."""
    expires = now_ms + LOGIN_AHEAD_MS
    proof = signature(credentials, f"GET/realtime{expires}")
    login = {"req_id": "auth", "op": "auth", "args": [credentials.api_key, expires, proof]}
    return (
        Step("authenticating", "auth", msgspec.json.encode(login)),
        Step(
            "subscribing",
            "subscribe",
            msgspec.json.encode({"req_id": "subscribe", "op": "subscribe", "args": TOPICS}),
        ),
    )
