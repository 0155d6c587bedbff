# demo, test and check work in a fresh clone: each sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test check format
demo: .venv/ready
	$(BIN)/nomad params/quickstart.txt

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@
