# Commands: `make demo`, `make test`, `make quick` (a part of the tests, for while you edit),
# `make nightly` (rare combinations too).
# PYTHON chooses the interpreter (3.11 to 3.13).
PYTHON ?= python3
# What pip is told when it installs torch. CUDA 13 build: make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130
TORCH_INDEX ?=
BIN := .venv/bin
# A file's tests share what they train, so they stay together; the longest files begin.
WORKERS := --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: setup demo check quick test nightly docs ci clean

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	sh scripts/setup.sh "$(PYTHON)" "$(TORCH_INDEX)"

demo: setup
	@rm -rf multirun/demo
	$(BIN)/python train.py experiment=demo

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

quick: setup
	$(BIN)/python -m pytest -m quick $(WORKERS)

docs: setup
	@$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "site/index.html"

test: setup
	$(BIN)/python -m pytest -m "not nightly" $(WORKERS)

nightly: setup
	$(BIN)/python -m pytest $(WORKERS)

ci: check test

clean:
	rm -rf .venv multirun/demo site
