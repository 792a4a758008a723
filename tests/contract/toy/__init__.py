"""What a venue adds, kept outside discovery: `exchange/` goes to fleet/exchanges/toy, `samples.py` to tests/contract/samples."""
