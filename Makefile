# The same commands here, on your machine and in CI. Needs Python 3.11 or newer, make and git; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

OLD := .venv-oldest
RAY := .venv-ray
PEERS := .venv-peers
BITS := .venv-bits
# Two processes with a core each (tests/conftest.py), each test file in one of them.
SPREAD := -n 2 --dist loadfile

.PHONY: demo test test-bits test-real real-models test-families test-same test-oldest test-faults test-slurm test-browser test-ray test-peers fuzz mutants families validation statistics schemas check bench bench-peers bench-real bench-large findings gallery site constraints clean test-slow

demo: $(VENV)/.base ## which heads matter for two tasks, and which for both
	$(BIN)/python -m tinylab -m condition=cond_a,cond_b

test: $(VENV)/.dev ## the suite, but for what has a target of its own below
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q $(SPREAD)

test-families: $(VENV)/.dev $(OLD)/.dev ## every family in float64 and on long prompts; engines and models with the oldest transformers
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q $(SPREAD) -m families
	OMP_WAIT_POLICY=PASSIVE $(OLD)/bin/python -m pytest -q $(SPREAD) tests/engine tests/interventions tests/embedded/test_embedded_model.py tests/models/test_hub.py

real-models: $(VENV)/.dev ## fetch two trained models (350 MB) into .real-models and convert them (2 GB)
	$(BIN)/python tests/real_models.py

test-real: real-models ## runs on trained models: GGUF files, tokenizers, templates, what a command costs
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -m real tests/real

test-bits: $(BITS)/.dev ## models in 8 and 4 bits on this CPU, by bitsandbytes
	OMP_WAIT_POLICY=PASSIVE $(BITS)/bin/python -m pytest -q -k quantised tests/models/test_placement.py

test-same: $(VENV)/.dev ## every file, column and number is that of the base commit, which has to be in the clone
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -rs -m same tests/test_same_numbers.py

test-slurm: $(VENV)/.dev ## sweeps on a real SLURM on this machine; fetches Debian's packages if they are missing
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -rs -m slurm tests/sweep/test_slurm.py tests/sweep/test_fault_table.py

test-browser: $(VENV)/.dev ## report.html in a real browser; fetches Debian's chromium if there is none
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -rs -m browser tests/report/test_page_in_browser.py

test-oldest: $(OLD)/.dev ## the whole suite with the oldest transformers
	OMP_WAIT_POLICY=PASSIVE $(OLD)/bin/python -m pytest -q $(SPREAD)

test-faults: $(VENV)/.dev ## sweeps whose workers, parent or disk fail
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -m faults

fuzz: $(VENV)/.dev ## corpora, configs, command lines, models and results of any content: five minutes, the same each time
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q $(SPREAD) -m fuzz tests/fuzz

test-ray: $(RAY)/.dev ## sweeps on a local Ray: the same tables, a killed worker, nothing left running
	OMP_WAIT_POLICY=PASSIVE $(RAY)/bin/python -m pytest -q -m ray

test-slow: $(VENV)/.dev ## quick runs of the benchmarks; the wheel; recipes of CONTRIBUTING; sweeps whose workers each start Python anew
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q $(SPREAD) -m slow

test-peers: $(PEERS)/.dev ## H1 and H2 tables against TransformerLens's own hooks, in ten families; the benchmark beside other tools; folders of datasets
	OMP_WAIT_POLICY=PASSIVE $(PEERS)/bin/python -m pytest -q $(SPREAD) -m "" tests/engine/test_peers.py tests/test_benchmarks.py tests/task/test_saved_datasets.py

mutants: $(VENV)/.dev ## wrong programs, one at a time: the tests must notice each of them
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py

families: $(VENV)/.dev ## measure docs/families.md anew
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -m families --write-docs tests/engine/test_families.py

MEASURING := tests/engine tests/measures tests/test_validation.py tests/sweep/test_invariants.py

validation: $(VENV)/.dev $(PEERS)/.dev ## measure docs/validation.md anew, mutants included
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q --write-docs $(MEASURING)
	OMP_WAIT_POLICY=PASSIVE $(PEERS)/bin/python -m pytest -q --write-docs tests/engine/test_peers.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/mutants.py --write-docs

statistics: $(VENV)/.dev ## simulations of known truth: coverage, false claims, power; writes docs/statistics.md
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.statistics_document

schemas: $(VENV)/.dev ## write docs/schemas anew, from the models of the JSON documents
	$(BIN)/python -m tinylab.records.schemas

gallery: $(VENV)/.dev ## make the pictures of docs/gallery.md anew, in Debian's chromium
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python tests/gallery.py

site: $(VENV)/.dev ## the documentation as a site, in site/; fails on a broken link
	$(INSTALL) -e '.[site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

check: $(VENV)/.dev ## lint, types, and which room may import which
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.base ## speed, states, peak and memory against plain hooks; writes docs/benchmarks.md
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/run.py

findings: real-models ## H1 and H2 on two trained models and the five conditions; writes docs/findings.md
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.findings

bench-peers: $(PEERS)/.dev ## the same with TransformerLens and nnsight beside it on the distinct prompts
	OMP_WAIT_POLICY=PASSIVE $(PEERS)/bin/python benchmarks/run.py

bench-real: $(VENV)/.base ## whole runs on two trained models beside a plain script; writes its section of docs/benchmarks.md
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python benchmarks/end_to_end.py

bench-large: $(VENV)/.base ## a whole run on a 3B model in memory (8 GiB free); writes its section of docs/benchmarks.md
	OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m benchmarks.large

clean: ## remove the environment and caches; outputs/ stays
	rm -rf $(VENV) $(OLD) $(RAY) $(PEERS) $(BITS) .mypy_cache .ruff_cache .pytest_cache

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[report]'
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	touch $@ $(VENV)/.base

extras-oldest := dev
extras-ray := dev,ray

# Environments with the versions of another file.
.venv-%/.dev: pyproject.toml constraints-%.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --disable-pip-version-check -c constraints-$*.txt -e '.[$(extras-$*)]'
	touch $@

# A version that is in a file stays where it still fits: renewed is what a bound of pyproject.toml moved, and what is deleted there.
LOCK := UV_FIND_LINKS= $(BIN)/uv pip compile --quiet --no-annotate --custom-compile-command "make constraints"
constraints: $(VENV)/.dev ## resolve the three constraints files anew, after a change of pyproject.toml
	$(LOCK) pyproject.toml $(foreach one,dev site report peers notebook slurm gguf large bitsandbytes mlflow wandb xarray,--extra $(one)) -o constraints.txt
	$(LOCK) pyproject.toml --extra dev --extra ray -o constraints-ray.txt
	echo transformers==5.0.0 | $(LOCK) pyproject.toml - --extra dev -o constraints-oldest.txt

$(PEERS)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,peers]'
	touch $@

$(BITS)/.dev: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BITS)
	$(BITS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bitsandbytes]'
	touch $@
