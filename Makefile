# make run: the example, from nothing to a table of verdicts. make test: everything. `make` lists the rest.
# Needs make, git and Python 3.11 or later. What it installs stays in .venv, .tools and examples/shop/node_modules; a second run finds it there.

VERSION ?= 1.0.0
TESTS ?= tests/*.spec.*
TARGETS ?= emulator device browserstack
# the example fails for good or not at all, so a second try is enough to see it
RETRIES ?= 1
ARGS ?=
# of the suite; most of its time is waiting
WORKERS ?= 3

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
SHOP := examples/shop
export PATH := $(CURDIR)/.tools/bin:$(BIN):$(PATH)

RUNTIME := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
MODULES := $(SHOP)/node_modules/.package-lock.json
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run up test unit check lint format suite bench soak chaos audit screenshots install dev node assets example nats-cli actionlint chromium adb lock clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: install assets example  ## run the example's tests: VERSION=2.0.0 has bugs, TARGETS="emulator device", ARGS for more flags
	@cd $(SHOP) && exec qgjet run --org-id shop --app-version-id '$(VERSION)' --test '$(TESTS)' $(TARGETS:%=--target %) --max-retries $(RETRIES) $(ARGS)

up: install assets example  ## server, API and agents for the example, until Ctrl-C
	@cd $(SHOP) && exec qgjet up $(ARGS)

test: check  ## the whole suite, with format, lint, types and import directions before it: what CI runs

check: dev assets example nats-cli actionlint chromium adb lint suite  ## the same

unit: lint  ## format, lint, types, import directions and the tests without servers or processes: under a minute, after each change
	$(BIN)/python -m pytest -n $(WORKERS) tests/pure $(ARGS)

lint: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

suite: dev assets example nats-cli actionlint chromium adb
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

format: dev  ## format, and mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install  ## throughput and latency, next to the raw client: ARGS="submit drain" for some of it
	$(BIN)/python -m bench $(ARGS)

chaos: dev  ## jobs while everything is killed, frozen and cut in turn, and whether every promise was kept: ARGS="--nodes 3 --minutes 10"
	@cd tests && exec $(BIN)/python -m chaos $(ARGS)

soak: dev  ## the same for many minutes, and a cluster of three
	$(BIN)/python -m pytest tests/soak $(ARGS)
	$(BIN)/python -m pytest tests/security --hypothesis-profile=soak --timeout=1800 $(ARGS)

screenshots: dev assets  ## docs/images anew: every page of the dashboard with a day's data, light and dark
	PYTHONPATH=tests $(BIN)/python -m web.screenshots $(ARGS)

audit: | $(BIN)/python  ## known holes in what the locks name; says so when that cannot be known, and fails then too
	@tools/audit.sh $(BIN)/python

install: $(RUNTIME)  ## the environment with qgjet in it

dev: $(DEV)

$(BIN)/python:
	@tools/venv.sh $(VENV)

$(RUNTIME): requirements.lock pyproject.toml | $(BIN)/python
	@echo "installing qgjet"
	@$(PIP) -r requirements.lock
	@QGJET_WITHOUT_ASSETS=1 $(PIP) --no-deps --editable .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	@echo "installing what the tests need"
	@$(PIP) -r requirements-dev.lock
	@touch $@

node: | $(BIN)/python
	@tools/node.sh $(BIN)/python

example: node $(MODULES)

$(MODULES): $(SHOP)/package-lock.json | node
	@echo "installing the example's npm packages"
	@cd $(SHOP) && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

assets: node  ## what the dashboard loads in a browser: HTMX and its extensions
	@tools/assets.sh

nats-cli:
	@tools/nats-cli.sh

chromium:
	@tools/chromium.sh

adb:
	@tools/adb.sh

actionlint: | $(BIN)/python
	@tools/actionlint.sh $(BIN)/python

# No index lines: the lock has to work with whatever registry pip is set up for.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --custom-compile-command 'make lock' --all-extras pyproject.toml
lock: dev  ## compile requirements*.lock anew from pyproject.toml; ARGS=--upgrade for newer versions
	@$(PIP) uv
	$(LOCK) -o requirements.lock $(ARGS)
	$(LOCK) --group dev -c requirements.lock -o requirements-dev.lock $(ARGS)

clean:  ## remove everything that was installed or made here
	rm -rf $(VENV) .tools $(SHOP)/node_modules $(SHOP)/.qgjet .qgjet dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
