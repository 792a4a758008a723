"""Public market data under faults for minutes or an hour, compared with the simulated exchange's truth."""
