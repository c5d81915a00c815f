"""The benchmark behind docs/benchmarks.md: `make bench` runs it (see `benchmarks/run.py`)."""
