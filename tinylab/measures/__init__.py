"""Pure functions: what is read from logits, metrics, recovery, statistics."""
