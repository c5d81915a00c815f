"""The first version's JSON configs: what they say, as experiment YAMLs and corpora of today's kind.

The first version had no Hydra: a JSON file named a battery file, a model and a dataset, whose rows it took from a split file.
"""
