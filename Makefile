# Everything runs in .venv, made once per change of the requirements.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint format clean

# SGMP-UNet from nothing to a report: trained briefly on rendered sequences, measured on others that it never saw.
# `make demo` again goes on where it was stopped, or measures once more.
demo: .venv/.installed data/demo_test/val.txt
	$(BIN)/python -m train_script.train --config demo --experiment_name make_demo --epochs 4 --val_every 2 \
		--limit_val 24 --keep_best 1 --final_test false --resume auto
	$(BIN)/python -m test_script.inference --model_path outputs/demo/make_demo/train/checkpoint_best.pth \
		--dataset data/demo_test --flip --msc --output_dir predict/demo

data/demo_test/val.txt: | .venv/.installed
	$(BIN)/python -m datasets.synthetic --output data/demo_test --sequences 3 --frames 8 --val_share 1 --seed 1

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

.venv/.installed: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/.test-installed: requirements-test.txt requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements-test.txt
	touch $@
