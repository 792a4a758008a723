"""The ownership campaign: each row of the failure table (design: ownership.md) on a real fleet, judged by what reached Kafka.

`python -m tests.campaigns.ownership [ROW…]` prints a JSON line per row; `--random --seed N --minutes M` mixes faults.
`rig.py` is the fleet, `journal.py` what reached Kafka, `judge.py` the invariants, `table.py` and `on_*.py` the
failure table.
"""
