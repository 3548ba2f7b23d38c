# `make help` lists the targets.
# Knobs: PYTHON (interpreter of the virtual environment), DEMO_ENGINE (postgres, mariadb), PYTEST_ARGS,
# TEST_WORKERS (processes of `make test`; 0 runs the tests in one, without others), BENCH_ARGS.
PYTHON ?= python3
DEMO_ENGINE ?= postgres
PYTEST_ARGS ?=
TEST_WORKERS ?= 3
BENCH_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The major version of pyarrow before that of constraints.txt: under both, equal rows have equal fingerprints.
PREVIOUS_PYARROW := 25.0.1
PREVIOUS := $(VENV)/previous-pyarrow

.DEFAULT_GOAL := help
.PHONY: help demo ui engine services kernels test test-nightly check format bench bench-governor screenshots clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(PREVIOUS)/.installed-$(PREVIOUS_PYARROW): $(STAMP)
	@rm -rf $(PREVIOUS)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target $(PREVIOUS) pyarrow==$(PREVIOUS_PYARROW)
	@touch $@

demo: $(STAMP) engine ## export five real tables from a private database through Dagster backfills
	DEMO_ENGINE=$(DEMO_ENGINE) $(BIN)/python -m demo.run

ui: $(STAMP) engine ## open the demo in Dagster's UI (http://127.0.0.1:3000)
	DEMO_ENGINE=$(DEMO_ENGINE) $(BIN)/python -m demo.ui

engine:
ifeq ($(DEMO_ENGINE),mariadb)
	@sh tests/services.sh mariadb-server # it comes in no wheel
endif

services: ## install the programs of PostgreSQL, MariaDB and pgBouncer, if they are missing (Debian)
	@sh tests/services.sh

# What the tests need is installed, and the sources are checked, side by side. Tests of a file stay together, because they
# share fixtures; files go out in their order, the longest (e2e) first. Much of the time is spent waiting for servers, so
# there are more workers than a small machine has cores. Every worker has servers of its own.
test: ## lint, type-check and run every test
	$(MAKE) --jobs=3 --output-sync=target services check kernels $(PREVIOUS)/.installed-$(PREVIOUS_PYARROW)
	$(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-nightly: services $(STAMP) ## export hundreds of random tables from each PostgreSQL server and from MariaDB (minutes)
	RIVET_TEST_SCHEMAS=300 RIVET_TEST_SEED=$${RIVET_TEST_SEED:-random} \
		$(BIN)/python -m pytest tests/property/test_postgres_roundtrip.py tests/property/test_mysql_roundtrip.py -s $(PYTEST_ARGS)
	RIVET_TEST_CRASHES=all RIVET_TEST_KILLS=200 RIVET_TEST_PLANS=20 RIVET_TEST_SLOT_PROCESSES=20 RIVET_TEST_HISTORIES=60 \
		$(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --dist=loadfile --timeout=3600 \
		tests/crash tests/property/test_planners.py tests/property/test_histories.py tests/integration/test_governed_exports.py $(PYTEST_ARGS)

# Each of the first tests would compile all that it needs, beside the others.
kernels: $(STAMP)
	@$(BIN)/rivet-dagster warm

check: $(STAMP) ## ruff and mypy
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP) ## rewrite the sources in the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# DuckDB's scanners come for an older DuckDB than the tests read with, and dlt brings what nothing else needs, so each
# stands in a folder of its own.
.bench/.installed: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target .bench/duckdb \
		duckdb==1.5.5 duckdb-extension-postgres-scanner==1.5.5 duckdb-extension-mysql-scanner==1.5.5
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --upgrade --target .bench/dlt \
		'dlt[sql_database,parquet]'
	@touch $@

bench: .bench/.installed ## compare with rivals and with limits (half an hour; BENCH_ARGS=--help lists sections)
	-@sh tests/services.sh mariadb-server # without it, the sections of MariaDB fail, and say so
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

bench-governor: $(STAMP) services ## measure what the governor saves others on a loaded server (half an hour)
	$(BIN)/python -m tests.benchmarks.governor --report docs/reference/governor.md $(BENCH_ARGS)

screenshots: $(STAMP) ## take the pictures of the docs from the demo (needs Chromium)
	$(BIN)/python -m docs.screenshots

clean: ## remove the virtual environment, the demo's data and caches
	rm -rf $(VENV) .demo .bench .pytest_cache .mypy_cache .ruff_cache .hypothesis dist
