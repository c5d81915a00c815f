"""Sweeps: plan the jobs of a multirun, join their tables when it ends, look for invariants."""
