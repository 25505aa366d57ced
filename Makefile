# What a person types, and what CI types.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all check servers bench ui lock clean

demo: $(VENV)/.installed  ## images, verdicts, a report and an MLflow run on the shipped models
	$(BIN)/python -m runner +experiment=demo

test: servers  ## the default suite: minutes on two cores
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: servers  ## with the slow tests: real kills, a real browser
	$(BIN)/python -m pytest -m "not gpu"

check: servers  ## what a commit must pass
	$(BIN)/ruff format --check runner hydra_plugins tests
	$(BIN)/ruff check runner hydra_plugins tests
	$(BIN)/mypy
	$(BIN)/python -m pytest -m "not slow and not gpu"

servers: $(VENV)/.installed  ## a real llama-server for the tests, once; without it theirs are skipped
	$(BIN)/python -m tests.servers

bench: servers  ## every ratio, measured against a peer in one run
	$(BIN)/python -m tests.bench

ui: $(VENV)/.installed  ## the MLflow UI on ./outputs
	$(BIN)/python -m runner ui

# torch first and by itself: with it installed, nothing asks for its CUDA packages on a machine without a GPU.
$(VENV)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	@echo "installing torch and about 150 packages into $(VENV); this takes some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

lock: $(VENV)/.installed  ## write requirements.lock from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed -E 's/^torch==([0-9.]+).*/torch==\1/' > requirements.lock

clean:
	rm -rf $(VENV) build dist
