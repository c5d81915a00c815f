"""Checks of runs and models: the verify slice, soundness, published numbers."""
