"""What a campaign must have met, or it has proved less than it says: rows of the failure table, branches of the rules."""

from __future__ import annotations

from collections import Counter

from tests.proof.faults import KINDS

BRANCHES = {
    "a worker was fenced by the leader": "worker fenced",
    "R5b a fenced worker stopped everything": "fenced: all streams stopped",
    "R5c a lost record was registered again": "record lost, registering again",
    "R5 a pause was noticed": "worker was paused",
    "R9 a worker cut off from redis was left alone": "worker is cut off from redis, left alone",
    "R10 a rebuild was finished": "rebuild: done",
    "R11 verdicts were held": "too many workers silent at once: verdicts held",
    "R10 a worker refused older data": "redis shows older data than before: rebuild",
    "R7 a worker was fenced for not releasing": "fenced: not released",
    "R13 an account was quarantined": "account quarantined",
    "R12 a leader was replaced": "no longer leading",
    "R12 a write was refused": "write refused",
    "R7 a worker released accounts": "released",
    "Q a message in flight": "message in flight",
    "R5e a worker went on without both stores": "overlap of an isolated worker",
}


def missing(reached: Counter[str]) -> list[str]:
    rows = {kind.row for kind in KINDS.values()}
    return sorted(row for row in rows if not reached[row]) + [
        what for what, event in BRANCHES.items() if not reached[event]
    ]
