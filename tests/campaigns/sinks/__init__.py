"""The sinks under kill -9 and load: afterwards every table against a replay of the topics by a reader of its own."""
