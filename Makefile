# Holdfast: everything a person types. `make help` lists it.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := uv==0.13.9
EXTRAS := all
GROUP  := dev
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help run test unit check format coverage test-pythons mutants slim bench lock install clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## create .venv and install the pinned packages into it

# uv installs the same wheels as pip in a tenth of the time. pip does it where uv cannot be had, or cannot reach the
# index (behind a proxy with a certificate of its own, for example). pip reads dependency groups from 25.1 on.
ARGUMENTS := --quiet --constraint requirements.lock --editable '.[$(EXTRAS)]' --group $(GROUP)
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else "Holdfast needs Python 3.11 to 3.13, and this is %d.%d: call make with PYTHON=python3.12, for example." % v)'
	@echo "Installing Holdfast into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(UV) && \
		$(BIN)/uv pip install --system-certs --python $(BIN)/python $(ARGUMENTS) || { \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1' && \
		$(BIN)/python -m pip install --disable-pip-version-check $(ARGUMENTS); }
	@touch $@

run: $(STAMP) ## start everything, load the example, serve it
	@exec $(BIN)/holdfast up

test: $(STAMP) ## run all tests, on real servers of their own
	$(BIN)/python -m pytest

unit: $(STAMP) ## run the unit tests alone (seconds, no server)
	$(BIN)/python -m pytest tests/unit

check: $(STAMP) ## formatting, lint, types, spelling, and which package may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/shellcheck compose/make-secrets .ci/run
	$(BIN)/python -m pytest --quiet --durations=0 tests/unit/test_import_rules.py

format: $(STAMP) ## format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(STAMP) ## run all tests and count the lines that they reach, in every process
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

test-pythons: $(STAMP) ## run the unit tests on every Python from 3.11 to 3.13 that is here
	$(BIN)/python tests/pythons.py

mutants: $(STAMP) ## put small faults into the core, and see whether the unit tests find them (ARGS="--seed 1")
	$(BIN)/python -m tests.mutants.run $(ARGS)

slim: $(STAMP) ## install the gateway alone into an empty environment, and start it
	$(BIN)/python tests/slim_install.py

bench: $(STAMP) ## measure the gateway beside a bare Granian application
	$(BIN)/python tests/bench/gateway.py

lock: ## renew requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --system-certs --universal --no-annotate --no-header --no-emit-index-url --upgrade \
		--extra $(EXTRAS) --group $(GROUP) --output-file requirements.lock pyproject.toml

clean: ## remove the virtual environments and every cache (the data in .holdfast stays)
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
