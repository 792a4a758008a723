"""Deterministic simulation of the ownership rules: one seed = one history. `python -m tests.rules --help`."""
