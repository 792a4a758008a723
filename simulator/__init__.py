"""The exchanges, faked at the wire: REST, WebSocket, faults on demand, and a ledger of the truth.

`python -m simulator` runs it as one process.
"""
