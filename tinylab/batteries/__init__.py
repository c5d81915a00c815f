"""Batteries: each says which interventions to make and into which table their numbers go, and nothing else."""
