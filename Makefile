# make demo: the whole chain on sample data. make test-fast, make test, make test-all: the unit tests, with the integration tests, all tests.
# All set up .venv first.
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
PEERS := .venv-peers/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test-fast test test-all check dvc.yaml audit bench up install

demo: install
	@reelnest sample
	@python -m flows.pipeline

# The unit tests.
test-fast: install
	pytest -n 2 --dist loadfile --no-loadscope-reorder tests/unit

# The unit and integration tests.
test: install
	pytest -n 2 --dist loadfile --no-loadscope-reorder

# All tests: after those of `make test`, the ones that run the whole chain or start whole services. These need PostgreSQL, Redis and SLURM:
# apt-get install postgresql redis-server slurmctld slurmd slurm-client munge slurm-wlm-basic-plugins
test-all: test
	pytest -n 2 --dist loadfile --no-loadscope-reorder -v --durations=15 -m "slow and not series"

check: install
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pytest -q -p no:cacheprovider tests/unit/test_structure.py

# The files of code that each stage depends on, from what it imports.
dvc.yaml: install
	@python -m reelnest.commands.dvc_yaml

# Known vulnerabilities of the pinned versions. It asks PyPI about each one. Mirrors do not have this, so it is not part of `check`.
# Strict: a version that PyPI does not know is an error.
audit: .venv-audit/bin/pip-audit
	.venv-audit/bin/pip-audit --strict --requirement requirements.lock --disable-pip --no-deps

.venv-audit/bin/pip-audit:
	@$(PYTHON) -m venv .venv-audit
	@.venv-audit/bin/pip install --quiet --disable-pip-version-check pip-audit

bench: install $(PEERS)/.installed
	python -m benchmarks.run $(NAME)

up: install
	@python -m tasks.services.local_services

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "reelnest needs Python 3.11 or newer; name one with: make PYTHON=python3.12 …")'
	@echo "Installing into .venv (about 2.3 GB, two minutes) …"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[dev]'
	@touch $@

# An environment of its own, because it has another version of torch, and torchvision for sentence-transformers.
$(PEERS)/.installed: benchmarks/peers/requirements.txt
	@echo "Installing the libraries that the benchmarks compare with into .venv-peers (about 5 GB) …"
	@$(PYTHON) -m venv .venv-peers
	@$(PEERS)/pip install --quiet --disable-pip-version-check --requirement benchmarks/peers/requirements.txt
	@touch $@
