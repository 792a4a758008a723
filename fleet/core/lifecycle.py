"""States of one account stream and the transition table: the only place that knows them.

    idle → waiting → connecting → authenticating → subscribing → recovering → live ⇄ rotating
             ↑           │ any failure while running │
             └───────────┴───────────────────────────┘
    waiting ⇄ suspended (breaker)     running → rejected (credentials) → waiting (retry) | stopped
    running → draining → stopped      running → lost (lease) → stopped

`connecting` may go straight to `subscribing` or `recovering` where a venue needs no login or no subscription. Each move is
one log line, one metric and one fleet.streams event; `workers/stream.py` makes them, nobody else does.
"""

from __future__ import annotations

from fleet.core.model import StreamState as S

RUNNING = frozenset(
    {
        S.WAITING,
        S.CONNECTING,
        S.AUTHENTICATING,
        S.SUBSCRIBING,
        S.RECOVERING,
        S.LIVE,
        S.ROTATING,
        S.SUSPENDED,
        S.REJECTED,
    }
)
CONNECTED = frozenset({S.RECOVERING, S.LIVE, S.ROTATING})
ENDED = frozenset({S.STOPPED, S.LOST})

_FORWARD: dict[S, frozenset[S]] = {
    S.IDLE: frozenset({S.WAITING}),
    S.WAITING: frozenset({S.CONNECTING, S.SUSPENDED}),
    S.SUSPENDED: frozenset({S.CONNECTING}),
    S.CONNECTING: frozenset({S.AUTHENTICATING, S.SUBSCRIBING, S.RECOVERING}),
    S.AUTHENTICATING: frozenset({S.SUBSCRIBING, S.RECOVERING}),
    S.SUBSCRIBING: frozenset({S.RECOVERING}),
    S.RECOVERING: frozenset({S.LIVE, S.ROTATING}),
    S.LIVE: frozenset({S.RECOVERING, S.ROTATING}),
    S.ROTATING: frozenset({S.LIVE, S.RECOVERING}),
    S.REJECTED: frozenset(),
    S.DRAINING: frozenset({S.STOPPED, S.LOST}),
    S.LOST: frozenset({S.STOPPED}),
    S.STOPPED: frozenset(),
}
_ANY_TIME = frozenset({S.WAITING, S.REJECTED, S.DRAINING, S.LOST, S.STOPPED})

TRANSITIONS: dict[S, frozenset[S]] = {
    state: (forward | _ANY_TIME if state in RUNNING or state is S.IDLE else forward) - {state}
    for state, forward in _FORWARD.items()
}


def check(now: S, then: S) -> None:
    """Raise ValueError if a stream cannot go from `now` to `then`: that is a bug in the flow, not an event of the world."""
    if then not in TRANSITIONS[now]:
        raise ValueError(f"a stream cannot go from {now} to {then}")
