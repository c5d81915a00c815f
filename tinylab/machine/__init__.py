"""The machine: threads, GPUs, large imports, interruptions."""
