"""Starts the sender process with a certificate of a throw-away authority."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import trustme

ROOT = Path(__file__).resolve().parents[1]


class Peer(NamedTuple):
    """Where the sender listens, and the CA that signed it."""

    url: str
    ca_file: str


@contextmanager
def sender() -> Iterator[Peer]:
    """A running sender process."""
    with tempfile.TemporaryDirectory() as name:
        authority = trustme.CA()
        certificate, ca_file = Path(name, "server.pem"), Path(name, "ca.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        authority.cert_pem.write_to_path(str(ca_file))
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "benchmarks.sender", str(certificate)], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            yield Peer(f"wss://localhost:{int(process.stdout.readline())}", str(ca_file))
        finally:
            process.kill()
            process.wait()
