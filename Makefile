# Every target bootstraps .venv/ by itself: a fresh machine needs Python 3.11 and make.
#
#   make demo     publish real data, store it, compare it
#   make test     all tests, in parallel
#   make up       servers, worker, beat and Flower in this folder until Ctrl-C
#   make chaos    break everything on purpose for half an hour, and count what is lost
#   make bench    measure everything, beside raw COPY and beside peers: half an hour, on a quiet machine
#   make check    format, lint, types, layers, tests
#   make test-compose  deploy/ in a container engine, with both brokers: ten minutes; skipped where there is none
#
# `make test ARGS="-k upsert"` and `make demo ARGS=--json` pass arguments on; `make chaos MINUTES=1 SEED=7 BROKER=redis` takes less.
# `make bench ARGS="--only drain peers"` measures these anew and leaves the other results as they are.

PYTHON ?= python3
ARGS ?=

BIN := .venv/bin
#: Newer than the lock and the project file when .venv/ is what they say.
INSTALLED := .venv/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo up test test-compose chaos bench check format lint types layers lock vulnerabilities servers schemas help

help:
	@sed -n '3,10s/^# *//p' Makefile

setup: $(INSTALLED) servers schemas

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "penstock needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# RabbitMQ, Prometheus and Chromium come in no wheel; without them their tests are skipped on a laptop and fail in CI.
servers:
	@sh tests/servers/install.sh

# What checks deploy/kubernetes.
schemas: $(INSTALLED)
	@$(BIN)/python tests/kubernetes/install.py

demo: $(INSTALLED)
	$(BIN)/penstock demo $(ARGS)

up: $(INSTALLED)
	$(BIN)/penstock up $(ARGS)

test: setup
	$(BIN)/python -m pytest --numprocesses 4 --dist worksteal $(ARGS)

test-compose: $(INSTALLED)
	$(BIN)/python -m tests.compose $(if $(BROKER),--broker $(BROKER)) $(ARGS)

chaos: setup
	$(BIN)/python -m tests.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED)) $(if $(BROKER),--broker $(BROKER)) $(ARGS)

bench: setup
	$(BIN)/python -m bench all $(ARGS)

check: format lint types layers test

format: $(INSTALLED)
	$(BIN)/ruff format --check

lint: $(INSTALLED)
	$(BIN)/ruff check

types: $(INSTALLED)
	$(BIN)/mypy
	$(BIN)/pyright --warnings --project tests/typing --pythonpath $(BIN)/python

layers: $(INSTALLED)
	$(BIN)/lint-imports

# In CI, and not in `check`: what others find out must not stop a commit of yours.
vulnerabilities: $(INSTALLED)
	@$(BIN)/python .ci/vulnerabilities.py

# For Linux and macOS, Python 3.11 and newer. What the machine's configuration says of indexes stays out of the files.
# The image has what its processes import, in the same versions; hatchling makes the wheel that goes into it.
UV_COMPILE = env -u PIP_FIND_LINKS -u UV_FIND_LINKS $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-strip-extras --custom-compile-command "make lock" --quiet

lock:
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet uv
	$(UV_COMPILE) pyproject.toml --extra dev --output-file requirements.lock $(ARGS)
	$(UV_COMPILE) pyproject.toml --extra worker --extra flower --constraint requirements.lock --output-file deploy/requirements.lock
	echo hatchling | $(UV_COMPILE) - --constraint requirements.lock --output-file deploy/build.lock
