"""Gather the metrics of this host's processes and re-export them as one page.

In: the loopback ports of the programs. Out: one Prometheus text with a `shard` label on every series (the worker's slot,
or the program's name) and `fleet_scrape_up{shard}`. Run by the console, once per request.

All ports are read at the same time under one deadline, so a hung or stopped process costs its own series and nothing
else; a dead one is simply absent. No series is ever remembered: what a process does not say now is not exported.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from fleet.core.errors import SettingsError
from fleet.runtime.metrics import LOOPBACK, OFFSETS, port_of
from fleet.runtime.settings import Settings

REQUEST = b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n"
DEADLINE_S = 1.0
MAX_BYTES = 16 * 1024 * 1024  # of one process's answer


def targets(settings: Settings, programs: Iterable[str] = OFFSETS) -> dict[str, int]:
    """Shard name → port: `programs` by name, this host's workers by slot (the host part is FLEET_SLOT's).

    Raises SettingsError for a program that does not exist.
    """
    base = settings.metrics_base_port
    host = settings.slot_or_default().rpartition(":")[0]
    unknown = [program for program in programs if program not in OFFSETS]
    if unknown:
        raise SettingsError(f"unknown program {unknown[0]!r}: known are {', '.join(OFFSETS)}")
    ports = {program: port_of(base, program) for program in programs}
    for n in range(settings.workers):
        ports[f"{host}:{n}"] = port_of(base, f"worker_{n}")
    return ports


@dataclass
class _Fetch:
    shard: str
    sock: socket.socket
    asked: bool = False
    chunks: list[bytes] = field(default_factory=list)
    size: int = 0


def scrape(ports: Mapping[str, int], deadline_s: float = DEADLINE_S) -> dict[str, str | None]:
    """The text of each shard, None where it did not answer in full by the deadline."""
    texts: dict[str, str | None] = dict.fromkeys(ports)
    end = time.monotonic() + deadline_s
    with selectors.DefaultSelector() as selector:
        for shard, port in ports.items():
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            sock.setblocking(False)
            sock.connect_ex((LOOPBACK, port))
            selector.register(sock, selectors.EVENT_WRITE, _Fetch(shard, sock))
        while selector.get_map() and (left_s := end - time.monotonic()) > 0:
            for key, _ in selector.select(left_s):
                fetch: _Fetch = key.data
                try:
                    done = _step(fetch, selector)
                except OSError:  # refused, reset: this shard is down
                    selector.unregister(fetch.sock)
                    fetch.sock.close()
                    continue
                if done:
                    texts[fetch.shard] = _body(b"".join(fetch.chunks))
                    selector.unregister(fetch.sock)
                    fetch.sock.close()
        for key in list(selector.get_map().values()):
            key.data.sock.close()
    return texts


def _step(fetch: _Fetch, selector: selectors.BaseSelector) -> bool:
    """One readiness of one socket; True at the end of the answer. Raises OSError."""
    if not fetch.asked:
        fetch.sock.sendall(REQUEST)  # 46 bytes into an empty send buffer: never blocks
        fetch.asked = True
        selector.modify(fetch.sock, selectors.EVENT_READ, fetch)
        return False
    data = fetch.sock.recv(256 * 1024)
    fetch.chunks.append(data)
    fetch.size += len(data)
    if fetch.size > MAX_BYTES:
        raise OSError("answer too long")
    return not data


def _body(answer: bytes) -> str | None:
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator or b" 200 " not in head.partition(b"\r\n")[0] + b" ":
        return None
    return body.decode("utf-8", "replace")


@dataclass
class _Family:
    head: list[str] = field(default_factory=list)  # HELP and TYPE, as the first shard that knows the family says them
    samples: list[str] = field(default_factory=list)


def merge(texts: Mapping[str, str | None]) -> str:
    """One text: HELP and TYPE once per family, every sample labelled with its shard, `fleet_scrape_up` for all shards."""
    families: dict[str, _Family] = {}
    for shard, text in texts.items():
        label = f'shard="{_escape(shard)}"'
        family = _Family()
        for line in (text or "").split("\n"):  # a label may hold what else ends a line of text
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(" ", 3)[2]
                family = families.setdefault(name, _Family())
                if len(family.head) < 2 and line not in family.head:
                    family.head.append(line)
            elif line and not line.startswith("#"):
                family.samples.append(_labelled(line, label))
    lines = [line for family in families.values() for line in (*family.head, *family.samples)]
    lines += ["# HELP fleet_scrape_up 1 where the process answered the console", "# TYPE fleet_scrape_up gauge"]
    lines += [f'fleet_scrape_up{{shard="{_escape(shard)}"}} {int(text is not None)}' for shard, text in texts.items()]
    return "\n".join(lines) + "\n"


def _labelled(sample: str, label: str) -> str:
    """`name{a="b"} 1` → `name{a="b",shard="…"} 1`. A label's value may hold any character, the number after it none of }."""
    end = sample.rfind("}")
    if end < 0:
        name, _, value = sample.partition(" ")
        return f"{name}{{{label}}} {value}"
    comma = "" if sample[end - 1] == "{" else ","
    return f"{sample[:end]}{comma}{label}{sample[end:]}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
