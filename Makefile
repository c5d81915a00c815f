# The same commands here, on your machine and in CI. Needs Python 3.11 or newer, make and git; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

OLD := .venv-oldest

.PHONY: demo test test-families test-oldest families check bench clean

demo: $(VENV)/.base ## which heads matter for two tasks, and which for both
	$(BIN)/python -m tinylab -m condition=cond_a,cond_b

test: $(VENV)/.dev ## the whole suite
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q

test-families: $(VENV)/.dev $(OLD)/.dev ## every family in float64 and on long prompts; engines and models with the oldest transformers
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -m families
	OMP_WAIT_POLICY=PASSIVE $(OLD)/bin/python -m pytest -q $(addprefix tests/test_,engine.py families.py embedded_model.py hub.py)

test-oldest: $(OLD)/.dev ## the whole suite with the oldest transformers
	OMP_WAIT_POLICY=PASSIVE $(OLD)/bin/python -m pytest -q

families: $(VENV)/.dev ## measure docs/families.md anew
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -m families --write-docs tests/test_families.py

check: $(VENV)/.dev ## lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.base ## speed, states, peak and memory against plain hooks; writes docs/benchmarks.md
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/run.py

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) $(OLD) .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.base

$(OLD)/.dev: pyproject.toml constraints.txt constraints-oldest.txt
	$(PYTHON) -m venv $(OLD)
	grep -vE "^($$(sed -n 's/==.*//p' constraints-oldest.txt | paste -sd '|'))==" constraints.txt > $(OLD)/rest.txt
	$(OLD)/bin/pip install --quiet --disable-pip-version-check -c $(OLD)/rest.txt -c constraints-oldest.txt -e '.[dev]'
	touch $@
