# `make run` shows the fabric at work; `make test` shows that it keeps its promises. Both install what they need first.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
RUNS := .venv/.runs
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# of `make images`
BUILDER ?= $(firstword $(foreach program,podman buildah docker,$(shell command -v $(program))))
IMAGE_PREFIX ?= kubeirq
IMAGE_TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BASE ?= python:3.13-slim
SMALL_BASE ?= busybox:1.37
BUILD_OPTIONS ?=

.PHONY: install run test unit parts faults api cluster soak check docs benchmark instructions scale edits neighbours images lock release-check clean

install: $(INSTALLED)

# what tests and checks need, too: a cluster's client, linters, Java
$(INSTALLED): pyproject.toml locks/build.txt locks/dev.txt
	$(call INSTALL_INTO_VENV,dev,with all tools (550 MB))
	@touch $@ $(RUNS)

# what one machine needs to run, and no more
$(RUNS): pyproject.toml locks/build.txt locks/machine.txt
	$(call INSTALL_INTO_VENV,machine,what it runs on (230 MB))
	@touch $@

define INSTALL_INTO_VENV
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kubeirq needs Python 3.11 or later; say PYTHON=/path/to/python3.11")'
@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3-venv is needed: apt-get install python3-venv"; exit 1; }
@echo "1 of 3: installing the build tools into .venv"
@$(PIP_INSTALL) --require-hashes --requirement=locks/build.txt
@echo "2 of 3: downloading and installing $(2): a minute, on a slow line more"
@$(PIP_INSTALL) --require-hashes --no-build-isolation --requirement=locks/$(1).txt
@echo "3 of 3: installing kubeirq itself"
@$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
endef

run: $(RUNS)
	$(BIN)/kubeirq dev examples/orders

test: install
	$(BIN)/python tests/run.py

unit parts faults api cluster: install
	$(BIN)/python tests/run.py $@

# an operator's actions at random under load; `make soak SECONDS=300 SEED=7` is shorter, with the choices of that seed
soak: install
	PYTHONPATH=tests $(BIN)/python -m soak $(SECONDS) $(if $(SEED),--seed $(SEED))

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/run.py unit

docs: install
	$(BIN)/kubeirq crds --chart helm/kubeirq
	$(BIN)/python -m kubeirq.reference docs
	$(BIN)/python -m kubeirq.chart_readme helm/kubeirq

benchmark: install
	$(BIN)/python -m benchmarks

# `make instructions AGAINST=FOLDER` compares with another checkout, and fails when an event costs more than it may
instructions: install
	$(BIN)/python -m benchmarks instructions $(if $(AGAINST),--against $(AGAINST))

# the controllers with many resources; `make scale AGAINST=FOLDER SIZE="--functions 2000 --triggers 10000 --slices 5000"`
scale: install
	$(BIN)/python -m benchmarks.controllers $(if $(AGAINST),--against $(AGAINST)) $(SIZE)

# edits of a live HTTP trigger under load; `make edits AGAINST=FOLDER`
edits: install
	$(BIN)/python -m benchmarks.edits $(if $(AGAINST),--against $(AGAINST))

# a hostile tenant beside nineteen others; `make neighbours ROUNDS=20` is longer
neighbours: install
	$(BIN)/python -m benchmarks.neighbours $(if $(ROUNDS),--rounds $(ROUNDS))

images:
	@test -n "$(BUILDER)" || { echo "podman or buildah is needed: apt-get install buildah"; exit 1; }
	$(BUILDER) build $(BUILD_OPTIONS) --build-arg BASE=$(BASE) \
	  --file images/controllers.Containerfile --tag $(IMAGE_PREFIX)/controllers:$(IMAGE_TAG) .
	$(BUILDER) build $(BUILD_OPTIONS) --build-arg BASE=$(BASE) --build-arg SMALL_BASE=$(SMALL_BASE) \
	  --file images/runtimes.Containerfile --tag $(IMAGE_PREFIX)/runtimes:$(IMAGE_TAG) .

# after a change of dependencies; `make lock UPGRADE=--upgrade` takes the newest versions that pyproject.toml allows
lock:
	$(BIN)/python locks/make.py $(UPGRADE)

release-check: install
	$(BIN)/python tests/release_check.py

clean:
	rm -rf .venv .kubeirq .mypy_cache .ruff_cache .hypothesis
