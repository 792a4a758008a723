"""`python -m fleet.console [PROGRAM…]`: the web page and the aggregated /metrics of one host, until SIGTERM.

PROGRAM names what runs on this host besides its workers; by default everything of supervisord.conf.
In: settings, the loopback metrics ports, Redis, Postgres. Out: HTTP on FLEET_CONSOLE_PORT. One process per host. Nothing
depends on it: it only reads.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Mapping

from fleet.console.overview import Overview
from fleet.console.scrape import targets
from fleet.console.server import Console
from fleet.core.errors import SettingsError
from fleet.runtime import logs, shutdown
from fleet.runtime.metrics import OFFSETS, Metrics, port_of
from fleet.runtime.settings import Settings

BIND_RETRY_S = 1.0
DEADLINE_S = 4.0


def main() -> int:
    shutdown.die_with_parent()
    stop = shutdown.install_stop()
    try:
        settings = Settings.from_env()
        logs.configure(settings, "console")
        overview = Overview(settings)
        ports = targets(settings, sys.argv[1:] or OFFSETS)
    except SettingsError as error:
        print(f"console: {error}", file=sys.stderr)
        return 2
    log = logs.get("console")
    close_metrics = Metrics(settings.metrics_namespace).serve(port_of(settings.metrics_base_port, "console"))
    steps = shutdown.Checklist()
    steps.add("metrics", lambda _left_s: close_metrics())
    console = _open(settings, overview, ports, stop)
    if console is not None:
        serving = threading.Thread(target=console.serve_forever, args=(0.2,), name="console-http", daemon=True)
        serving.start()
        log.info("console started", action="start", port=settings.console_port)
        stop.wait()
        steps.add("http", lambda _left_s: console.shutdown())
        steps.add("port", lambda _left_s: console.server_close())
    steps.add("stores", lambda _left_s: overview.close())
    failed = steps.run(DEADLINE_S, log)
    log.info("console stopped", action="stop", failed=failed)
    logs.close()
    return 1 if failed else 0


def _open(settings: Settings, overview: Overview, ports: Mapping[str, int], stop: threading.Event) -> Console | None:
    """Bind the port, trying again while a predecessor still holds it; None if the process was told to stop first."""
    while not stop.is_set():
        try:
            return Console(settings, overview, ports)
        except OSError as error:
            logs.get("console").warning("console port is not free", port=settings.console_port, error=error.strerror)
            stop.wait(BIND_RETRY_S)
    return None


if __name__ == "__main__":
    sys.exit(main())
