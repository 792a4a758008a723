"""Starting in order: the port of the program that comes first in, the moment to go on out. Used by the workers at start.

supervisord starts all programs within milliseconds and waits for none. `deploy/run --after N` names the metrics port of the
program to wait for in FLEET_START_AFTER_PORT, only while the whole fleet is starting; each process imports and prepares
meanwhile and waits just before it begins to work. A program that restarts later waits for nobody.
"""

from __future__ import annotations

import os
import socket
import threading
import time

from fleet.runtime.metrics import LOOPBACK

ENV_PORT = "FLEET_START_AFTER_PORT"
POLL_S = 0.05
HEAD_START_S = 0.3  # the port opens a moment before the program says that it has started


def wait_turn(stop: threading.Event, timeout_s: float = 10.0) -> bool:
    """Wait until the program before us listens; False after `timeout_s` or `stop` (then go on: it only costs the order)."""
    port = os.environ.get(ENV_PORT, "")
    if not port.isdigit():
        return True
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and not stop.is_set():
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((LOOPBACK, int(port))) == 0:
                return not stop.wait(HEAD_START_S)
        stop.wait(POLL_S)
    return False
