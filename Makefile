# One command per chore. Each makes the environment first (.ci/setup: a minute the first time, then instant).
#   make demo ARGS="--accounts 50 --for 60"      make test ARGS="tests/unit -k backoff"

VENV := .venv/bin
ARGS ?=
JOBS ?= 3
SEED ?= 1
MINUTES ?= 2
SEEDS ?= 1000
INPUTS ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help setup demo test check fmt bench chaos ownership proof conformance sdk fuzz coverage clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

setup: ## the environment alone: .venv, from setup.cfg and constraints.txt
	@.ci/setup

demo: setup ## the whole fleet on this machine against simulated exchanges (ARGS="--help" lists the options)
	@$(VENV)/fleet demo $(ARGS)

test: setup ## the whole suite, on real services
	@$(VENV)/python -m pytest -n $(JOBS) --dist loadgroup $(ARGS)

check: setup ## types, lint, import rules
	$(VENV)/ruff check .
	$(VENV)/ruff format --check .
	$(VENV)/mypy
	$(VENV)/lint-imports --no-logo

fmt: setup ## format, and mend what can be mended
	$(VENV)/ruff format .
	$(VENV)/ruff check --fix .

bench: setup ## the benchmarks, each against a baseline of the same run
	@$(VENV)/python -m benchmarks $(ARGS)

chaos: setup ## the loss campaign, random faults of everything, tables against the ledger: SEED=n MINUTES=m
	@$(VENV)/python -m tests.campaigns.loss --seed $(SEED) --minutes $(MINUTES) $(ARGS)

ownership: setup ## one live owner per account, under random faults of processes and stores: SEED=n MINUTES=m
	@$(VENV)/python -m tests.campaigns.ownership --random --seed $(SEED) --minutes $(MINUTES) $(ARGS)

proof: setup ## the ownership rules under a virtual clock: SEEDS=n random histories (1000), replay with ARGS="--seed n --verbose"
	@$(VENV)/python -m tests.proof --seeds $(SEEDS) $(ARGS)

conformance: setup ## the Autobahn suite against our WebSocket reader and the simulator's server (needs Python 2.7)
	@$(VENV)/python -m tests.conformance $(ARGS)

sdk: setup ## real client libraries against the simulator, in an environment of their own
	@test -x .venv-sdk/bin/python || $(VENV)/python -m venv .venv-sdk
	@.venv-sdk/bin/python -m pip install --quiet -e '.[demo,test,sdk]'
	@.venv-sdk/bin/python -m pytest tests/sdk $(ARGS)

fuzz: setup ## a million inputs into each venue's parsers (INPUTS=n), then every hypothesis test with 100 times its examples
	@$(VENV)/python -m tests.fuzz --inputs $(INPUTS)
	@$(VENV)/python -m pytest -m hypothesis --hypothesis-profile=fuzz --timeout=3600 -n $(JOBS) $(ARGS)

coverage: setup ## fleet/core and fleet/exchanges from their own tests: 100 % of lines, at least 95 % of branches, or it fails
	@$(VENV)/python -m tests.coverage $(ARGS)

clean: ## remove the environment and every cache of this checkout
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
