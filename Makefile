# make demo: the whole chain on sample data. make test: the tests. Both set up .venv first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test check bench up install

demo: install
	@reelnest sample
	@python -m flows.pipeline

test: install
	pytest -n 2 --dist loadfile

check: install
	ruff check .
	ruff format --check .
	mypy
	lint-imports

bench: install
	python benchmarks/run.py $(NAME)

up: install
	@python -m tasks.local_services

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reelnest needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …")'
	@echo "Installing into .venv (about 2.3 GB, two minutes) …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@
