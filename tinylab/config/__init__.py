"""Configs: the types of their groups, small checks of values, composing them ahead of Hydra."""
