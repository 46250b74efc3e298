# Everything a newcomer types. Needs python3 (3.11 to 3.13) with venv and pip, nothing else.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV_VERSION := 0.13.9
# Two files of tests at a time even on a large machine: their trainings have two threads each.
PARALLEL ?= -n 2 --dist loadfile
.DEFAULT_GOAL := help
.PHONY: help env demo test test-all gpu lint format lock clean

help: ## Say what the targets do
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

env: $(VENV)/.complete ## Make .venv with the locked requirements (nothing to do when up to date)

$(VENV)/.complete: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"python3 is {v[0]}.{v[1]}; 3.11 to 3.13 is needed (make env PYTHON=python3.12)")'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked requirements into $(VENV) (some 7 GB on disk, most of it CUDA) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@$(VENV)/bin/uv pip sync --quiet --compile-bytecode --python $(PY) --require-hashes requirements.txt
	@$(PY) -m pip --version >/dev/null && touch $@

demo: env ## All of it on synthetic data: shards, training on 2 CPU processes, report
	@$(PY) scripts/demo.py

test: env ## Every test not marked slow (CI runs this)
	@$(PY) -m pytest -m "not slow" $(PARALLEL)

test-all: env ## The slow ones too
	@$(PY) -m pytest $(PARALLEL)

gpu: env ## On a machine with a GPU: check and measure what only a GPU shows (ARGS=--dry-run: on a CPU)
	@$(PY) -m benchmarks.gpu $(ARGS)

lint: env ## ruff (lint and format) and pyright
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright --pythonpath $(PY)

format: env ## Let ruff mend what it can
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

lock: env ## Resolve requirements.txt again from pyproject.toml
	@$(VENV)/bin/uv pip compile pyproject.toml --group dev --extra cluster --extra hdf5 --extra postgres --extra timm --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --quiet --upgrade -o requirements.txt

clean: ## Remove the environment and caches (never data, shards or runs)
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
