.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo check test bench lint format lock clean

help:  ## Show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(READY)  ## Create .venv from the lock file (other targets do this when needed)

$(READY): requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is required; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Setting up $(VENV) from requirements-dev.lock ..."
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV) || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' requirements-dev.lock | cut -d' ' -f1)"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --requirement requirements-dev.lock
	@touch $(READY)

demo: $(READY)  ## Run the DAGs on a real Airflow, Postgres and S3, and show what they did (KEEP=1 keeps Airflow up)
	@$(BIN)/python -m demo.run $(if $(KEEP),--keep)

check: lint  ## Lint, then run the quick tests: no scheduler, no whole tasks, no emulators of clouds (about two minutes)
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile -m "not e2e and not slow" $(ARGS)

test: lint  ## Lint, then run every test (ARGS=... is passed to pytest)
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

bench: $(READY)  ## Compare with the alternatives and write build/bench.json (ARGS="--only audit" runs one part)
	@$(BIN)/python -m benchmarks.run $(ARGS)

lint: $(READY)  ## Run ruff and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

format: $(READY)  ## Format the code and sort imports with ruff
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

lock: $(READY)  ## Update requirements-dev.lock from requirements-dev.in
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" requirements-dev.in --output-file requirements-dev.lock

clean:  ## Remove everything the other targets created
	@rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
