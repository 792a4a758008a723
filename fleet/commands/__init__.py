"""The commands of `fleet`, one module per family. Run by an operator's shell; each ends when it has answered."""
