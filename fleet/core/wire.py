"""Every value in Redis ⇄ the model. Pure; used by both sides of Redis (coordinator, workers) and by the CLI.

In: strings as Redis holds them. Out: frozen values, or WireError where a string has another form (it is then skipped with
an alert by whoever read it; one bad value never hides the others). Fields are separated by `|`, so no name holds one.

    own[account]   slot|incarnation|token|state|since_ms|revision[|egress_ip]
    d:<slot>[account]   token|state          (the pull script appends the record's |egress_ip)
    r:<slot>[account]   token|status|last_event_ms|reconnects|gap
    unplaced[account]   why it runs nowhere; of many only some, and unplaced[*] = {"why": how many} of all
    unplaced[*drain:<slot>]   why the rest of a drained slot stays      unplaced[*rebalance]   how the last wish ended
    gen   id|building or id|ready       leader   holder|term
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from fleet.core import decoding
from fleet.core.errors import WireError
from fleet.core.model import Desired, Ownership, StreamState, StreamStatus, WorkerView, format_token

RUN = "run"
REVOKE = "revoke"
UP = "up"
DRAINING = "draining"
GONE = "gone"
FENCED = "fenced"
OWN_STATES = (RUN, REVOKE)
ALL = "*"  # field of `unplaced` that holds the numbers by reason
EVENED = "rebalance"  # a wish: its answer is why load stays uneven, "" once it is even
UNPLACED_NAMED = 1000  # accounts that `unplaced` names, at most


class Generation(msgspec.Struct, frozen=True):
    """One life of the data in Redis. Until it is ready, workers obey no new desired view (R5c)."""

    id: str
    ready: bool


class WorkerRecord(msgspec.Struct, frozen=True):
    """The whole worker hash: the view, and what leader and operators wrote beside it.

    `version` counts changes of its desired view, `fenced` is the incarnation that was fenced ("" = none), `drain` and `rotate`
    are operators' wishes, `beat_ms` is Redis' clock at its last beat (for display only: nothing is decided by it), `reported`
    the incarnation that uploaded its streams since the data of this generation began.
    """

    view: WorkerView
    fenced: str = ""
    version: int = 0
    drain: bool = False
    beat_ms: int = 0
    egress_ips: tuple[str, ...] = ()
    reported: str = ""
    rotate: str = ""


def check_name(name: str) -> str:
    """A slot, incarnation or account id that may go into a value. Raises WireError."""
    if not name or "|" in name or "\n" in name:
        raise WireError(f"{name!r} cannot be part of a Redis value")
    return name


def pack_own(record: Ownership) -> str:
    text = f"{record.slot}|{record.incarnation}|{format_token(record.token)}|{record.state}|{record.since_ms}|{record.revision}"
    return f"{text}|{record.egress_ip}" if record.egress_ip else text


def parse_own(text: str) -> Ownership:
    """Raises WireError. A record of five fields (no revision) is read as revision -1, one without an address as ""."""
    parts = text.split("|")
    if len(parts) == 5:
        parts.append("-1")
    if len(parts) not in (6, 7) or parts[3] not in OWN_STATES or not parts[0]:
        raise WireError(f"not an ownership record: {text[:120]!r}")
    try:
        return Ownership(parts[0], parts[1], _token(parts[2]), parts[3], int(parts[4]), int(parts[5]), *parts[6:])
    except ValueError as error:
        raise WireError(f"not an ownership record: {text[:120]!r}") from error


def pack_desired(wish: Desired) -> str:
    return f"{format_token(wish.token)}|{wish.state}"


def parse_desired(text: str) -> Desired:
    """Raises WireError. As the pull script tells it: with the address that the record names, if it does."""
    token, _, rest = text.partition("|")
    state, _, egress_ip = rest.partition("|")
    if state not in OWN_STATES or "|" in egress_ip:
        raise WireError(f"not a desired entry: {text[:120]!r}")
    try:
        return Desired(_token(token), state, egress_ip)
    except ValueError as error:
        raise WireError(f"not a desired entry: {text[:120]!r}") from error


def pack_report(status: StreamStatus) -> str:
    return f"{format_token(status.token)}|{status.state}|{status.last_event_ms}|{status.reconnects}|{1 if status.gap_open else 0}"


def parse_report(account_id: str, text: str) -> StreamStatus:
    parts = text.split("|")
    try:
        token, state, last_event_ms, reconnects, gap = parts
        return StreamStatus(
            account_id, _token(token), StreamState(state), int(last_event_ms), int(reconnects), gap == "1"
        )
    except ValueError as error:
        raise WireError(f"not a report of {account_id}: {text[:120]!r}") from error


def pack_worker(view: WorkerView, *, egress_ips: tuple[str, ...] = ()) -> dict[str, str]:
    """The fields a worker writes about itself; `inc` and `seq` are the scripts' own arguments, the time is Redis'."""
    fields = {
        "state": view.state,
        "host": view.host,
        "pid": str(view.pid),
        "capacity": str(view.capacity),
        "load": f"{view.load:.6g}",
        "applied": str(view.applied),
        "ips": ",".join(egress_ips),
    }
    return {**fields, "rotation": view.rotation} if view.rotation else fields


def parse_worker(slot: str, fields: Mapping[str, str]) -> WorkerRecord:
    """Raises WireError. A hash without `inc` (only fenced, or only a version) is a worker nobody has seen: state `gone`."""
    try:
        inc = fields.get("inc", "")
        view = WorkerView(
            slot=slot,
            incarnation=inc,
            seq=int(fields.get("seq", "0")),
            state=fields.get("state", GONE) if inc else GONE,
            host=fields.get("host", slot.rpartition(":")[0]),
            pid=int(fields.get("pid", "0")),
            capacity=int(fields.get("capacity", "0")),
            load=float(fields.get("load", "0")),
            applied=int(fields.get("applied", "0")),
            rotation=fields.get("rotation", ""),
        )
        ips = tuple(ip for ip in fields.get("ips", "").split(",") if ip)
        return WorkerRecord(
            view,
            fenced=fields.get("fenced_inc", ""),
            version=int(fields.get("version", "0")),
            drain=fields.get("drain", "") == "1",
            beat_ms=int(fields.get("beat_ms", "0")),
            egress_ips=ips,
            reported=fields.get("reported", ""),
            rotate=fields.get("rotate", ""),
        )
    except ValueError as error:
        raise WireError(f"not a worker record: {slot}") from error


def drained(slot: str) -> str:
    """The name of a wish, as `answer_field` takes it: its answer is why accounts stay there."""
    return f"drain:{slot}"


def answer_field(wish: str) -> str:
    """Field of `unplaced` with the leader's answer to a wish; no account's name begins like it."""
    return ALL + wish


def pack_unplaced(reasons: Mapping[str, str], answers: Mapping[str, str]) -> dict[str, str]:
    """{} where every account has its place, and no wish (`drained`, EVENED) an answer."""
    if not (reasons or answers):
        return {}
    named = {account: reasons[account] for account in sorted(reasons)[:UNPLACED_NAMED]}
    answered = {answer_field(wish): answer for wish, answer in answers.items()}
    return {**named, **answered, ALL: msgspec.json.encode(Counter(reasons.values())).decode()}


def parse_unplaced(fields: Mapping[str, str]) -> tuple[dict[str, str], dict[str, int]]:
    """(account → why, of some; why → how many, of all). Raises WireError."""
    try:
        numbers = decoding.decode(fields[ALL], dict[str, int]) if fields else {}
    except (KeyError, msgspec.MsgspecError) as error:
        raise WireError("not a list of unplaced accounts") from error
    return {account: why for account, why in fields.items() if not account.startswith(ALL)}, numbers


def pack_generation(generation: Generation) -> str:
    return f"{generation.id}|{'ready' if generation.ready else 'building'}"


def parse_generation(text: str | None) -> Generation | None:
    """None where the key is missing (data loss, or a fleet that never ran) or unreadable, which is the same to everybody."""
    identity, sep, state = (text or "").partition("|")
    if not identity or not sep or state not in ("ready", "building"):
        return None
    return Generation(identity, state == "ready")


def pack_leader(holder: str, term: int) -> str:
    return f"{check_name(holder)}|{format_token(term)}"


def _token(text: str) -> int:
    if len(text) != 20 or not text.isascii() or not text.isdigit():
        raise ValueError(f"not a token: {text[:40]!r}")
    return int(text)
