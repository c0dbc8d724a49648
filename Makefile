# Everything runs in .venv, made once per change of the requirements.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: test lint format clean

test: .venv/.test-installed
	$(BIN)/python -m pytest

lint: .venv/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: .venv/.test-installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .pytest_cache .ruff_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.test-installed: requirements-test.txt requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@
