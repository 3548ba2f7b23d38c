# `make help` lists the targets. Knobs: PYTHON (interpreter of the virtual environment), PYTEST_ARGS, BENCH_ARGS.
PYTHON ?= python3
PYTEST_ARGS ?=
BENCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo ui services test test-nightly check format bench screenshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP) ## export five real tables from an embedded PostgreSQL through Dagster backfills
	$(BIN)/python -m demo.run

ui: $(STAMP) ## open the demo in Dagster's UI (http://127.0.0.1:3000)
	$(BIN)/python -m demo.ui

services: ## install PostgreSQL's programs and pgBouncer for the tests, if they are missing (Debian)
	@sh tests/services.sh

test: services check ## lint, type-check and run every test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-nightly: services $(STAMP) ## export hundreds of random tables from each PostgreSQL server (minutes)
	RIVET_TEST_SCHEMAS=300 RIVET_TEST_SEED=$${RIVET_TEST_SEED:-random} \
		$(BIN)/python -m pytest tests/property/test_postgres_roundtrip.py -s $(PYTEST_ARGS)

check: $(STAMP) ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## rewrite the sources in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# DuckDB's scanner of PostgreSQL comes for an older DuckDB than the tests read with, so it stands in a folder of its own.
.bench/.installed: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target .bench/duckdb \
		duckdb==1.5.5 duckdb-extension-postgres-scanner==1.5.5
	@touch $@

bench: .bench/.installed ## compare with rivals and with limits (a quarter of an hour; BENCH_ARGS=--help lists sections)
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

screenshots: $(STAMP) ## take the pictures of the docs from the demo (needs Chromium)
	$(BIN)/python -m docs.screenshots

clean: ## remove the virtual environment, the demo's data and caches
	rm -rf $(VENV) .demo .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
