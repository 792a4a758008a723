"""`python -m benchmarks`: four figures, each beside a baseline measured in the same run."""
