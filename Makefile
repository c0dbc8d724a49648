# Everything runs in .venv, made once per change of the requirements.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test gpu-check lint format clean

# The shipped weights on real frames, a short fine-tuning, and reports. Interrupted, `make demo` continues where it stopped.
demo: .venv/.installed
	$(BIN)/python -m train_script.demo

test: .venv/.test-installed
	$(BIN)/python -m pytest

# On a machine with a CUDA GPU: correctness, number formats, training, speed and memory there, in a few minutes.
gpu-check: .venv/.test-installed
	ISTD_GPU_CHECK=cuda $(BIN)/python -m pytest tests/gpu -n 0 -s

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

.venv/.installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/.test-installed: requirements-test.txt requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@
