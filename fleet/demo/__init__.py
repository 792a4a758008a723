"""The whole fleet on one machine: embedded services, simulated exchanges, real processes, and a comparison at the end.

`run.py` is the table of contents. Run by `fleet demo` (and so by `make demo`); leaves nothing behind.
"""
