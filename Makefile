# One command a job. `make demo` and `make test` need git, make and Python 3.11 or newer, nothing else:
# the first call makes .venv and installs the development tools there with pip's own configuration.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The stamp is newer than pyproject.toml when the environment holds what pyproject.toml asks for.
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
DEMO_FLAGS ?= --seconds 20
# tests/conftest.py keeps all system tests, which start processes of their own and wait for them, on one worker; two more
# keep two cores busy meanwhile.
PYTEST_FLAGS ?= -n 3
# Tests start hundreds of processes: without bytecode each of them would compile every module again.
unexport PYTHONDONTWRITEBYTECODE
PLUGINS := $(patsubst protocols/%/__init__.py,%,$(wildcard protocols/*/__init__.py))

.PHONY: help setup demo test lint format types mypy pyright contracts docs wheel clean

help:
	@echo "make demo       a group of real processes survives a killed leader, a liar and a power cut"
	@echo "make test       the whole test suite"
	@echo "make lint       ruff: rules and layout          make format     let ruff mend what it can"
	@echo "make types      mypy and pyright, both strict   make contracts  which package may import which"
	@echo "make docs       the manual, as HTML in docs/_build/html"
	@echo "make wheel      the distribution, in dist/      make clean      remove everything that was built"
	@echo "PYTHON=...      which Python to build .venv with (3.11 or newer; now: $(PYTHON))"

setup: $(STAMP)

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "make: '$(PYTHON)' was not found; name a Python 3.11 or newer: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: '$(PYTHON)' is $$($(PYTHON) -V 2>&1); bftkit needs Python 3.11 or newer: make PYTHON=/path/to/python3 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: '$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --editable '.[dev]'
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install -qq --editable '.[docs]'
	@touch $@

demo: $(STAMP)
	$(BIN)/bftkit demo $(DEMO_FLAGS)

test: $(STAMP)
	$(BIN)/pytest $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: mypy pyright

mypy: $(STAMP)
	$(BIN)/mypy

pyright: $(STAMP)
	$(BIN)/pyright

contracts: $(STAMP)
	$(BIN)/lint-imports

docs: $(DOCS_STAMP)
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

wheel: $(STAMP)
	rm -rf dist build
	$(BIN)/pip wheel -qq --no-deps --wheel-dir dist .
	@ls -l dist

clean:
	rm -rf $(VENV) dist build docs/_build .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find bftkit protocols tests simulations -name __pycache__ -type d -prune -exec rm -rf {} +
