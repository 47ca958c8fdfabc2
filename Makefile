# Every target makes its own virtual environment first. PYTHON picks the interpreter.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.14 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin

.PHONY: quickstart test slow services faults fuzz bench bench-peers clean

# The main job: the recipe of the README, on structures that ship inside ase.
quickstart: $(VENV)/installed
	$(BIN)/atomlake run workflows/quickstart.yaml
	$(BIN)/atomlake status lake

# Everything that must hold for a commit.
test: $(VENV)/installed-test
	$(BIN)/ruff check pipeline tests benchmarks docs
	$(BIN)/ruff format --check pipeline tests benchmarks docs
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow and not service" -n 2

# What takes minutes: all of ../shared/data, long fault campaigns.
slow: $(VENV)/installed-test
	$(BIN)/pytest -m "slow and not service"

# Real services on this machine: Slurm, Grid Engine, SSH, Ceph, databases, hosts in namespaces. As
# root, on Debian, whose packages it installs.
services: $(VENV)/installed-test
	$(BIN)/pytest -m service

# Kill runs at every point and at random times; prints the counts.
faults: $(VENV)/installed-test
	$(BIN)/python -W ignore tests/faults/campaign.py

# Inputs that coverage leads to, two minutes for each parser; prints their number.
fuzz: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet --editable ".[fuzz]"
	$(BIN)/python -W ignore tests/faults/fuzz.py extxyz 120 build/fuzz/extxyz
	$(BIN)/python -W ignore tests/faults/fuzz.py recipe 120 build/fuzz/recipe

bench: $(VENV)/installed-test
	$(BIN)/python benchmarks/pipeline.py

# Ratios to the codes of the field, a page and a plot in docs/reference.
bench-peers: .venvs/peers/installed
	.venvs/peers/bin/python -m benchmarks.peers $(ARGUMENTS)

.venvs/peers/installed: $(VENV)/python pyproject.toml
	$(BIN)/python -m venv .venvs/peers
	.venvs/peers/bin/python -m pip install --quiet --editable ".[peers]"
	touch $@

$(VENV)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.12 or newer is needed: make PYTHON=/path/to/python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/installed: $(VENV)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed pyproject.toml
	$(BIN)/python -m pip install --quiet --editable ".[test,oracles]"
	touch $@

clean:
	rm -rf $(VENV) build lake
