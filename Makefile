# `make run` shows the fabric at work; `make test` shows that it keeps its promises. Both install what they need first.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install run test unit parts faults api cluster check benchmark clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kubeirq needs Python 3.11 or later; say PYTHON=/path/to/python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3-venv is needed: apt-get install python3-venv"; exit 1; }
	@echo "installing into .venv (about half a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

run: install
	$(BIN)/kubeirq dev examples/orders

test: install
	$(BIN)/python tests/run.py

unit parts faults api cluster: install
	$(BIN)/python tests/run.py $@

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/unit

benchmark: install
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .kubeirq .mypy_cache .ruff_cache .hypothesis
