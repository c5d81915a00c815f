# The same commands here, on your machine and in CI. Needs Python 3.11 or newer, make and git; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test check bench clean

demo: $(VENV)/.base ## which heads matter for two tasks, and which for both
	$(BIN)/python -m tinylab -m condition=cond_a,cond_b

test: $(VENV)/.dev ## the whole suite
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q

check: $(VENV)/.dev ## lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.base ## speed, states, peak and memory against plain hooks; writes docs/benchmarks.md
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/run.py

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.base
