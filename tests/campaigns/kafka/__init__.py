"""Kafka away for minutes under load: what every process holds meanwhile, and whether everything is there afterwards."""
