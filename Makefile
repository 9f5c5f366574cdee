PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= $(firstword $(wildcard configs/xor.yaml configs/rows.yaml))
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 17

setup: .venv/ready ## Install the locked versions and the project into .venv

train: .venv/ready ## Train XOR, print how it learns; another: make train CONFIG=configs/mnist.yaml
	$(BIN)/python -m src fit --config $(CONFIG)

test: .venv/ready ## Run the tests
	$(PYTEST)

test-slow: .venv/ready ## Run the long tests: kills, removals, a release's worth of care
	$(PYTEST) -m slow

lint: .venv/ready ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: .venv/ready ## Put the format in order, and of the style what needs no thought
	$(BIN)/ruff check --fix --exit-zero
	$(BIN)/ruff format

new: .venv/ready ## Write the files of a new task from an example: make new NAME=iris FROM=rows
	@$(BIN)/python -m src new "$(NAME)" --from "$(or $(FROM),rows)"

# By their names, since yours may begin like them.
EXAMPLES := configs/{xor,mnist,mnist_augmented,sweep/mnist}.yaml src/models/{xor,mnist}.py \
	src/data/{xor,mnist,mnist_augmented,mnist_images}.py src/callbacks/{xor_surface,xor_table}.py \
	src/examples/{tensors,xor_plateau}.py tests/test_readme.py \
	tests/examples/test_{mnist,mnist_augmented,mnist_files,mnist_images,nets,speed,tensors,xor,xor_plateau,xor_surface}.py \
	tests/benchmarks/{__main__,handwritten,ours}.py

remove-examples: SHELL := bash
remove-examples: ## Delete the sources of XOR and MNIST, their tests and benchmarks
	rm -f $(EXAMPLES)
	@for folder in src/examples tests/examples tests/benchmarks; do \
		ls $$folder 2> /dev/null | grep -qvE '^__(init__.py|pycache__)$$' || rm -rf $$folder; done

bench: .venv/ready ## Measure against hand-written loops and the usual pipeline
	$(BIN)/python -m tests.benchmarks

trackers: .venv/ready ## Install what --track can send to, beside the locked versions
	$(BIN)/uv pip install --python $(BIN)/python --group trackers

use: .venv/ready ## Install what `export` and `demo` need, in locked versions
	$(BIN)/python -m pip install --require-hashes --requirement src/tools/use.lock

board: .venv/ready ## Open TensorBoard on runs/
	@test -x $(BIN)/tensorboard || { echo "TensorBoard is not installed: make trackers"; exit 1; }
	$(BIN)/tensorboard --logdir runs

lock: .venv/ready ## Write requirements.lock anew from pyproject.toml
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-annotate --custom-compile-command "make lock" --quiet --output-file requirements.lock
	$(BIN)/uv pip compile --group use --constraint requirements.lock --universal --python-version 3.11 --generate-hashes \
		--upgrade --no-annotate --custom-compile-command "make lock" --quiet --output-file src/tools/use.lock

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is %s: make PYTHON=python3.12" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: help setup train test test-slow lint format new remove-examples bench trackers use board lock
