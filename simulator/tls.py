"""TLS of the simulated exchanges: a CA of our own and one certificate for loopback. In: where to write the CA; out: a
server context.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


def server_context(ca_file: Path) -> ssl.SSLContext:
    """Make a CA, write its certificate to `ca_file` (PEM) and return a context with a certificate it signed."""
    authority = trustme.CA(organization_name="Streamfleet simulator")
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority.issue_cert("127.0.0.1", "localhost", "::1").configure_cert(context)
    return context
