# flawmap: everything a fresh machine needs is Python 3.11 or newer and make. `make` alone lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo bench test fuzz lint types layers check clean

help:
	@echo "make demo     draw sample parts, train on the good ones, find the defects: demo/index.html"
	@echo "make bench    the targets of speed and quality against what was measured, some minutes"
	@echo "make test     all tests"
	@echo "make fuzz     20 000 damaged images, masks, bundles, tables, recipes, label files and requests, some minutes"
	@echo "make lint     ruff"
	@echo "make types    mypy --strict"
	@echo "make layers   the direction of imports"
	@echo "make check    test, lint, types and layers"
	@echo "make clean    remove what these targets made, .venv included"

demo: $(VENV)/.ready
	@$(BIN)/python -m flawmap.demo

bench: $(VENV)/.ready
	@$(BIN)/python bench/table.py

test: $(VENV)/.ready
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 --max-worker-restart 0 --dist loadfile

fuzz: $(VENV)/.ready
	@FLAWMAP_FUZZ=20000 $(BIN)/python -m pytest tests/fuzz

lint: $(VENV)/.ready-dev
	@$(BIN)/ruff check .

types: $(VENV)/.ready-dev
	@$(BIN)/mypy

layers: $(VENV)/.ready-dev
	@$(BIN)/lint-imports

check: test lint types layers

clean:
	@rm -rf $(VENV) demo build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis src/flawmap.egg-info
	@find src tests docs bench -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("flawmap needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.ready: pyproject.toml constraints.txt | $(BIN)/python
	@echo "setting up $(VENV): PyTorch and others, some minutes the first time"
	@$(PIP) -e '.[test]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@$(PIP) -e '.[dev]'
	@touch $@
