"""`python -m simulator`: the simulated exchanges as one process. In: the command line; out: listening ports, told in
the endpoints file.

Stops on SIGTERM or SIGINT, or when its parent dies. Exit 0 after a stop, 2 for wrong use.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import gc
import json
import logging
import math
import os
import signal
import sys
from pathlib import Path

from simulator import admin, venue
from simulator.echo import Echo
from simulator.listener import LOOPBACK, Listener
from simulator.replay import BadCapture, Capture
from simulator.world import Options, World

PR_SET_PDEATHSIG = 1


def options(argv: list[str]) -> Options:
    """The command line; argparse exits with 2 on wrong use."""
    parser = argparse.ArgumentParser(
        prog="simulator", description="Simulated exchanges: REST, WebSocket, faults and a ledger of the truth."
    )
    parser.add_argument(
        "--exchanges",
        default="",
        help=f"comma-separated; default: `all` of {', '.join(venue.names())} (`binance` = both)",
    )
    parser.add_argument("--plain", action="store_true", help="http and ws instead of https and wss")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--rate",
        type=float,
        default=200.0,
        metavar="FRAMES_PER_S",
        help="market frames a second and venue (default 200)",
    )
    parser.add_argument(
        "--replay",
        nargs="+",
        action="extend",
        type=Path,
        default=[],
        metavar="CAPTURE",
        help="recorded captures (*.ws.gz)",
    )
    parser.add_argument("--replay-loop", action="store_true", help="replay again and again")
    parser.add_argument("--replay-keep-times", action="store_true", help="leave the recorded event times as they are")
    parser.add_argument(
        "--echo-port",
        type=int,
        default=None,
        help="serve a WebSocket echo there (0 = any), alone unless --exchanges is given",
    )
    parser.add_argument("--admin-port", type=int, default=0, help="port of the control interface (default: any)")
    parser.add_argument("--endpoints", type=Path, required=True, metavar="FILE", help="written once every port listens")
    given = parser.parse_args(argv)
    asked = [name for name in given.exchanges.split(",") if name]
    if asked == ["all"] or (not asked and given.echo_port is None):
        asked = venue.names()
    matching = {ask: [name for name in venue.names() if name == ask or name.startswith(ask + "_")] for ask in asked}
    names = tuple(dict.fromkeys(name for found in matching.values() for name in found))
    unknown = [ask for ask, found in matching.items() if not found]
    if unknown:
        parser.error(f"no such exchange: {', '.join(unknown)}; there are: {', '.join(venue.names())}")
    if not math.isfinite(given.rate) or given.rate < 0:
        parser.error("--rate: at least 0")
    return Options(
        names, given.endpoints, given.plain, given.seed, given.rate, tuple(given.replay), given.replay_loop,
        given.replay_keep_times,
        given.echo_port, given.admin_port,
    )  # fmt: skip


def captures(paths: tuple[Path, ...]) -> list[Path]:
    """The recordings to load: a `.http` file whose `.ws` sibling is named too comes with that one."""
    siblings = {path.with_name(path.name.replace(".ws", ".http")) for path in paths if ".ws" in path.name}
    return [path for path in dict.fromkeys(paths) if path not in siblings]


async def serve(chosen: Options) -> int:
    """Run until told to stop."""
    world = World(chosen)
    tls, endpoints = None, {}
    if not chosen.plain:
        from simulator import tls as tls_module

        ca_file = chosen.endpoints.absolute().with_name(chosen.endpoints.name + ".ca.pem")
        tls = tls_module.server_context(ca_file)
        endpoints["FLEET_TLS_CA_FILE"] = str(ca_file)
    for name in chosen.exchanges:
        world.venues[name] = venue.create(name, world)
    for path in captures(chosen.replay):
        capture = Capture.load(path)
        if not any(v.replay(capture) for v in world.venues.values()):
            raise BadCapture(f"{path}: of none of the simulated exchanges")
    for v in list(world.venues.values()):
        for endpoint in v.endpoints:
            listener = Listener(world, v, endpoint.role, tls)
            v.listeners.append(listener)
            await listener.start()
            endpoints[endpoint.setting] = f"{endpoint.scheme}{'s' if tls else ''}://{LOOPBACK}:{listener.port}"
    if chosen.echo_port is not None:
        echo = Echo()
        listener = Listener(world, echo, "ws", None, chosen.echo_port)
        echo.listeners.append(listener)
        await listener.start()
        endpoints["echo"] = f"ws://{LOOPBACK}:{listener.port}"
    server, endpoints["admin"] = await admin.serve(world, chosen.admin_port)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    _write(chosen.endpoints, endpoints)
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)
    await world.run(stop)
    server.close()
    for v in world.venues.values():
        for listener in v.listeners:
            await listener.stop()
    for open_socket in world.sockets.open():
        open_socket.close(1001, "simulator stops")
    await asyncio.sleep(0)
    return 0


def _write(path: Path, endpoints: dict[str, str]) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(endpoints, indent=1))
    part.replace(path)


def main() -> int:
    """Entry point."""
    chosen = options(sys.argv[1:])
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s simulator %(levelname)s %(message)s")
    logging.getLogger("websockets").setLevel(logging.WARNING)
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return 0
    try:
        return asyncio.run(serve(chosen))
    except (BadCapture, OSError, OverflowError) as error:  # OverflowError: a port that is none
        sys.stderr.write(f"simulator: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
