# `make` alone lists the targets. VENV names the virtual environment, PYTHON the
# interpreter it is made from, JOBS how many tests run side by side,
# KILLS how many kills `make torture` deals out in its laboratory (a tenth of that in
# each of its other tests), RECORDS how many records its audit of the stores sends,
# SAMPLES how many damages of a state file it tries, SEEDS how many histories it plays,
# FIGURES where it puts what it has measured.

VENV ?= .venv
JOBS ?= 4
KILLS ?= 1000
RECORDS ?= 100000
SAMPLES ?= 1000
SEEDS ?= 20000
FIGURES ?= torture.jsonl
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& echo $$p && break; done)
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
SOURCES := tyk_pump tests scripts benchmarks setup.py
TORTURE := tests/daemon/test_laboratory.py tests/daemon/test_isolation.py \
	tests/daemon/test_swap.py tests/daemon/test_kills.py tests/daemon/test_mix.py \
	tests/daemon/test_journal.py tests/daemon/test_ledger.py tests/daemon/test_audit.py \
	tests/daemon/test_replay.py tests/faults/exploration/test_exploration.py \
	tests/state/test_rescue.py tests/mutations/test_mutations.py \
	tests/faults/simulation/test_simulation.py

.DEFAULT_GOAL := help
.PHONY: help install format lint types docs docs-check servers test golden torture mutants bench \
	demo check clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): setup.py setup.cfg
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or later found; set PYTHON" >&2; exit 1; }
	@echo "Installing into $(VENV); the first time that takes about a minute."
	@$(PYTHON) -m venv $(VENV)
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(READY) ## Make the virtual environment and install into it

format: $(READY) ## Rewrite the code in the one format, and mend what ruff can mend
	$(RUN) -m ruff format $(SOURCES)
	$(RUN) -m ruff check --fix $(SOURCES)

lint: $(READY) ## Check format and lint
	$(RUN) -m ruff format --check $(SOURCES)
	$(RUN) -m ruff check $(SOURCES)

types: $(READY) ## Check the types
	$(RUN) -m mypy --strict

docs: $(READY) ## Write docs/reference, the schema and the example again
	$(RUN) scripts/build_reference.py

docs-check: $(READY) ## Fail where a generated page is stale
	$(RUN) scripts/build_reference.py --check

servers: $(READY) ## Fetch and build the servers of the tests (needs mvn, java, go, npm, apt-get)
	$(RUN) -m tests.servers.prepare

test: $(READY) ## Run the whole suite
	$(RUN) -m pytest -n $(JOBS)

golden: $(READY) ## Compare with what the reference sent, and print the differences
	$(RUN) -m pytest -n $(JOBS) -vv tests/golden

torture: $(READY) ## Kill and freeze processes under load, a thousand times; print figures
	@rm -f $(FIGURES)
	TYK_PUMP_KILLS=$(KILLS) TYK_PUMP_RECORDS=$(RECORDS) \
		TYK_PUMP_SAMPLES=$(SAMPLES) TYK_PUMP_SEEDS=$(SEEDS) \
		TYK_PUMP_FIGURES=$(abspath $(FIGURES)) $(RUN) -m pytest -v $(TORTURE); \
		tests=$$?; $(RUN) scripts/figures.py $(FIGURES) && exit $$tests

mutants: $(READY) ## Plant deliberate bugs one by one, and see that tests fail
	$(RUN) -m tests.mutations.run

bench: $(READY) ## Measure each stage and the whole way
	$(RUN) -m benchmarks.run

demo: $(READY) ## Show the pump draining an embedded Valkey into CSV files
	@$(RUN) -m tyk_pump demo

check: lint types docs-check test ## Everything that CI runs

clean: ## Remove the virtual environment and what the tools left behind
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
