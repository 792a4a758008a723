"""What a new venue adds, kept outside discovery: `exchange/` becomes fleet/exchanges/toy, `samples.py` tests/contract/samples/toy.py."""
