"""The Autobahn test suite against our connection (as its client) and the simulator's server: `python -m tests.conformance`."""
