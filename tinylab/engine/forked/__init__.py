"""The forked engine."""
