"""When are credentials dead? Two strikes, the second by a signed REST call, and never half of the house at once.

In: verdicts `invalid` of single streams. Out: at most one deactivation (row and notice in one transaction). Runs in the
stream's own thread, which has nothing to read at that moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from fleet.core.errors import ConnectionFailed, ExchangeRefused, StoreUnavailable
from fleet.core.exchange import REFUSED, Outcome, Verdict
from fleet.core.model import AccountSpec, Credentials
from fleet.core.names import CREDENTIALS_ERROR
from fleet.runtime.logs import get
from workers.accounts import Accounts
from workers.rest import VenueRest

MASS_WINDOW_S = 120.0
MASS_MINIMUM = 5  # so many accounts of a venue, and over half of ours there, struck together: suspect our address


class CredentialDesk:
    """One per worker: sees all strikes of the worker's accounts."""

    def __init__(self, accounts: Accounts, streams: Callable[[AccountSpec], int]) -> None:
        """`streams`: how many streams of an account's venue this worker has."""
        self._accounts, self._streams = accounts, streams
        self._lock = threading.Lock()  # guards _struck
        self._struck: dict[str, tuple[AccountSpec, float]] = {}  # account id -> monotonic time of its last strike
        self._log = get("credentials")

    def strike(self, spec: AccountSpec, verdict: Verdict) -> None:
        """The first strike: remembered and logged, nothing else."""
        with self._lock:
            self._struck[spec.id] = spec, time.monotonic()
        self._log.warning(
            "credentials were refused, to be confirmed", action="credentials_strike", stream=spec.id, code=verdict.code
        )

    def acquit(self, spec: AccountSpec) -> None:
        with self._lock:
            self._struck.pop(spec.id, None)

    def confirm(
        self, spec: AccountSpec, credentials: Credentials, rest: VenueRest, cancelled: Callable[[], bool]
    ) -> bool:
        """The second strike: ask the exchange with a signed call. True = the row is now inactive, the stream ends. False = go
        on trying (they work, or the exchange, the database or the address may be what is wrong). The call may have to wait for a
        ban's end, and is given up when `cancelled`."""
        try:
            rest.call(rest.exchange.probe, credentials, cancelled)
        except ConnectionFailed:
            return False
        except ExchangeRefused as error:
            verdict = error.verdict
            if not (isinstance(verdict, Verdict) and verdict.outcome in REFUSED):
                self._log.warning(
                    "credentials neither refused nor accepted", action="probe", stream=spec.id, verdict=str(verdict)
                )
                return False
            return self._deactivate(spec, verdict)
        self.acquit(spec)
        return False

    def _deactivate(self, spec: AccountSpec, verdict: Verdict) -> bool:
        if self._mass(spec):
            self._log.error(
                "many accounts are refused at once: suspecting this address, deactivating nobody",
                action="credentials_hold",
                stream=spec.id,
                code=verdict.code,
            )
            return False
        reason = f"credentials refused by {spec.exchange}: code {verdict.code or 'unknown'}"
        text = (
            f"Streaming of your {spec.exchange} account '{spec.label}' has stopped: the exchange refused its API key "
            f"(code {verdict.code or 'unknown'}). Check or replace the key, then activate the account again."
        )
        if verdict.outcome is Outcome.ELSEWHERE:
            reason += " (also the answer to a key of another environment or region)"
            text += (
                " A key of another environment (testnet, demo trading) or of another region is refused in the same way."
            )
        try:
            done = self._accounts.deactivate(spec, reason, text)
        except StoreUnavailable as error:
            self._log.warning("could not deactivate", action="deactivate", stream=spec.id, error=str(error))
            return False
        if done:
            self._log.warning(
                CREDENTIALS_ERROR,
                action="deactivate",
                stream=spec.id,
                account_id=spec.id,
                user_id=spec.user_id,
                exchange=spec.exchange,
                label=spec.label,
                code=verdict.code,
            )
        self.acquit(spec)
        return True  # done, or the row changed under us: either way the coordinator decides what runs next

    def _mass(self, spec: AccountSpec) -> bool:
        """Is it most of the accounts at this venue? What other venues think of our address does not count."""
        now_s = time.monotonic()
        with self._lock:
            self._struck = {k: (of, at) for k, (of, at) in self._struck.items() if now_s - at < MASS_WINDOW_S}
            struck = sum(of.venue == spec.venue for of, _ in self._struck.values())
        return struck >= MASS_MINIMUM and 2 * struck > self._streams(spec)
