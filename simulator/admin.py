"""The control interface (contracts.md, Simulator). In: HTTP calls on loopback; out: accounts, orders, load, faults,
ledger, connections, calls.

Beside the contract's calls: GET / (summary), GET /faults, GET /accounts, DELETE /orders/ID?api_key=&symbol=, POST /deposits,
GET and POST /replay, GET and PATCH /settings, GET /load. Ledger: `since`, and `api_key`, `type` (comma-separated),
`market=0` to narrow it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import Callable
from dataclasses import asdict
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import unquote

from simulator import keys
from simulator.http1 import BadRequest, Request, Response, parse, reply
from simulator.listener import LOOPBACK
from simulator.load import Load
from simulator.venue import OrderTicket, Refused, Venue
from simulator.world import World

STATES = ("active", "invalid", "no_permission", "ip_banned")
log = logging.getLogger("simulator")


class NotFound(Exception):
    """Nothing under that name."""


class Admin:
    """Answers the control calls."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.load = Load(world)
        self._routes: dict[tuple[str, str], Callable[[Request, str], Response]] = {
            ("GET", ""): self._summary,
            ("GET", "accounts"): self._list_accounts, ("POST", "accounts"): self._add_account, ("PATCH",
            "accounts"): self._change_account,
            ("POST", "orders"): self._order, ("DELETE", "orders"): self._cancel, ("POST", "deposits"): self._deposit,
            ("POST", "load"): self._set_load, ("GET", "load"): self._get_load,
            ("POST", "faults"): self._add_fault, ("DELETE", "faults"): self._end_fault, ("GET", "faults"): self._list_faults,
            ("GET", "ledger"): self._ledger, ("GET", "connections"): self._connections, ("GET", "calls"): self._calls,
            ("GET", "replay"): self._replay, ("POST", "replay"): self._restart_replay,
            ("GET", "settings"): self._settings, ("PATCH", "settings"): self._change_settings,
        }  # fmt: skip

    def answer(self, request: Request) -> Response:
        """One control call."""
        resource, _, ident = request.path.strip("/").partition("/")
        run = self._routes.get((request.method, resource))
        if run is None:
            return reply({"error": f"no such call: {request.method} {request.path}"}, 404)
        try:
            return run(request, unquote(ident))
        except (BadRequest, Refused, ValueError, KeyError, InvalidOperation) as error:
            return reply({"error": f"missing field {error}" if isinstance(error, KeyError) else str(error)}, 400)
        except NotFound as error:
            return reply({"error": str(error)}, 404)
        except Exception:  # noqa: BLE001 - shown as a 500 and a traceback; the simulation goes on
            log.exception("control call %s %s failed", request.method, request.path)
            return reply({"error": "the simulator failed; see its log"}, 500)

    # ── accounts ─────────────────────────────────────────────────────────────────────────────────────────────────
    def _venue(self, spec: dict[str, Any]) -> Venue:
        exchange, market = spec.get("exchange"), spec.get("market")
        found = [
            v for v in self._world.venues.values() if (exchange in (v.exchange, v.name)) and market in (None, v.market)
        ]
        if len(found) != 1:
            known = ", ".join(f"{v.exchange}/{v.market}" for v in self._world.venues.values())
            raise Refused(f"no single venue {exchange!r}/{market!r}; there are: {known}")
        return found[0]

    def _owner(self, api_key: str, market: str | None = None) -> Venue:
        for venue in self._world.venues.values():
            if api_key in venue.accounts and market in (None, venue.market):
                return venue
        raise NotFound("no such api_key")

    def _list_accounts(self, request: Request, ident: str) -> Response:
        return reply([
            {"exchange": v.exchange, "market": v.market, "api_key": a.api_key,
            "state": a.state} for v in self._world.venues.values() for a in v.accounts.values()
        ])  # fmt: skip

    def _add_account(self, request: Request, ident: str) -> Response:
        spec = request.json()
        for name in ("api_key", "secret"):
            if not isinstance(spec.get(name), str) or not spec[name]:
                raise BadRequest(f"{name}: a string is expected")
        keys.kind(spec["secret"])  # raises ValueError for PEM that is no key
        account = self._venue(spec).add_account(spec)
        return reply({"api_key": account.api_key, "state": account.state})

    def _change_account(self, request: Request, ident: str) -> Response:
        account, spec = self._owner(ident).accounts[ident], request.json()
        if "state" in spec:
            if spec["state"] not in STATES:
                raise BadRequest(f"state: one of {', '.join(STATES)}")
            account.state = spec["state"]
        if "secret" in spec:
            account.secret = str(spec["secret"])
        return reply({"api_key": ident, "state": account.state})

    # ── orders and load ──────────────────────────────────────────────────────────────────────────────────────────
    def _order(self, request: Request, ident: str) -> Response:
        spec = request.json()
        ticket = OrderTicket(
            api_key=spec["api_key"], symbol=spec["symbol"], side=str(spec["side"]), qty=str(spec["qty"]), price=str(spec["price"]),
            fills=int(spec.get("fills", 1)), order_type=str(spec.get("type", "LIMIT")).upper(),
            position_side=spec.get("position_side", ""),
            maker=bool(spec.get("maker", False)), filled_qty=str(spec["filled_qty"]) if "filled_qty" in spec else None,
            client_order_id=spec.get("client_order_id", ""),
        )  # fmt: skip
        return reply(self._owner(ticket.api_key, spec.get("market")).place(ticket))

    def _cancel(self, request: Request, ident: str) -> Response:
        params = request.params()
        api_key, symbol = params.get("api_key", ""), params.get("symbol", "")
        self._owner(api_key).cancel(api_key, symbol, ident)
        return reply({"order_id": ident, "status": "canceled"})

    def _deposit(self, request: Request, ident: str) -> Response:
        spec = request.json()
        asset, kind = str(spec.get("asset", "USDT")), str(spec.get("kind", "TRANSFER"))
        self._owner(spec["api_key"]).deposit(spec["api_key"], asset, Decimal(str(spec["amount"])), kind)
        return reply({})

    def _set_load(self, request: Request, ident: str) -> Response:
        spec = request.json()
        rate = float(spec["events_per_s"])
        seconds = spec.get("seconds")
        if not math.isfinite(rate) or rate < 0:
            raise BadRequest("events_per_s: a number of at least 0 is expected")
        self.load.set(rate, None if seconds is None else float(seconds))
        return self._get_load(request, ident)

    def _get_load(self, request: Request, ident: str) -> Response:
        return reply({"events_per_s": self.load.events_per_s, "events": self.load.events})

    # ── faults ───────────────────────────────────────────────────────────────────────────────────────────────────
    def _add_fault(self, request: Request, ident: str) -> Response:
        fault = self._world.faults.add(request.json())
        return reply({"id": fault.id, "hits": fault.hits})

    def _end_fault(self, request: Request, ident: str) -> Response:
        if not ident.isdigit() or not self._world.faults.end(int(ident)):
            raise NotFound("no such fault in force")
        return reply({"id": int(ident)})

    def _list_faults(self, request: Request, ident: str) -> Response:
        return reply({"active": self._world.faults.as_json(), "counts": self._world.faults.counts})

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────
    def _ledger(self, request: Request, ident: str) -> Response:
        params, ledger = request.params(), self._world.ledger
        types = [name for name in params.get("type", "").split(",") if name]
        rows = ledger.rows(
            int(params.get("since") or 0),
            api_key=params.get("api_key"),
            types=types,
            market=params.get("market") != "0",
            limit=int(params["limit"]) if "limit" in params else None,
        )
        headers = {"X-Ledger-Seq": str(ledger.last_seq), "X-Ledger-Oldest-Market-Seq": str(ledger.oldest_market_seq)}
        return Response(200, ledger.ndjson(rows), headers, content_type="application/x-ndjson")

    def _connections(self, request: Request, ident: str) -> Response:
        params = request.params()
        entries = self._world.sockets.as_json(only_open=params.get("open") == "1")
        if "api_key" in params:
            entries = [entry for entry in entries if entry["api_key"] == params["api_key"]]
        return reply(entries)

    def _calls(self, request: Request, ident: str) -> Response:
        return reply(self._world.calls.as_json())

    def _summary(self, request: Request, ident: str) -> Response:
        world = self._world
        return reply({
            "venues": [v.name for v in world.venues.values()], "accounts": sum(len(v.accounts) for v in world.venues.values()),
            "open_sockets": len(world.sockets.open()), "ledger_seq": world.ledger.last_seq, "faults": len(world.faults.as_json()),
        })  # fmt: skip

    # ── replay and settings ──────────────────────────────────────────────────────────────────────────────────────
    def _replay(self, request: Request, ident: str) -> Response:
        replays = [entry for venue in self._world.venues.values() for entry in venue.replays()]
        return reply({
            "frames": sum(r["frames"] for r in replays), "sent": sum(r["sent"] for r in replays),
            "done": all(r["done"] for r in replays), "replays": replays
        })  # fmt: skip

    def _restart_replay(self, request: Request, ident: str) -> Response:
        loop = request.json().get("loop")
        for venue in self._world.venues.values():
            venue.restart_replays(loop)
        return self._replay(request, ident)

    def _settings(self, request: Request, ident: str) -> Response:
        return reply({name: asdict(venue.settings) for name, venue in self._world.venues.items()})

    def _change_settings(self, request: Request, ident: str) -> Response:
        spec = request.json()
        exchange, market = spec.pop("exchange", None), spec.pop("market", None)
        unknown = set(spec)
        for venue in self._world.venues.values():
            if exchange in (None, venue.exchange, venue.name) and market in (None, venue.market):
                unknown &= set(venue.settings.change(spec))
        if unknown:
            raise BadRequest(f"unknown settings: {', '.join(sorted(unknown))}")
        return self._settings(request, ident)


class AdminConnection(asyncio.Protocol):
    """One control connection: plain HTTP with keep-alive."""

    def __init__(self, admin: Admin) -> None:
        self._admin = admin
        self._buffer = bytearray()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._transport.is_closing():
            try:
                request = parse(self._buffer)
            except BadRequest as error:
                self._transport.write(reply({"error": str(error)}, 400).encode(False))
                self._transport.close()
                return
            if request is None:
                return
            keep = request.headers.get("connection", "").lower() != "close"
            self._transport.write(self._admin.answer(request).encode(keep))
            if not keep:
                self._transport.close()


async def serve(world: World, port: int = 0) -> tuple[asyncio.Server, str]:
    """Listen; returns the server and its URL."""
    admin = Admin(world)
    server = await asyncio.get_running_loop().create_server(lambda: AdminConnection(admin), LOOPBACK, port)
    return server, f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"
