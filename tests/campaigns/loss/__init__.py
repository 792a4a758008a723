"""The loss campaign: random faults of exchanges, processes and services, then the tables against the exchange's ledger."""
