"""How many jobs of a sweep a machine has room for beside its cores: free memory, and a GPU for each."""

from __future__ import annotations

from collections.abc import Sequence

import psutil

from tinylab.errors import ModelError
from tinylab.models.device import resolve_device
from tinylab.models.weights import loaded_bytes
from tinylab.schema import Config

BESIDE_WEIGHTS = 1536 * 2**20
"""Bytes that a job needs beside its weights, at most: imported packages, and what the forked engine's budget allows."""


def job_bytes(config: Config) -> int:
    """The memory of a job at most, from the headers of the weights alone; weights that are yet to be fetched count nothing."""
    try:
        weights = loaded_bytes(config.model)
    except ModelError:  # the job will tell
        weights = None
    return (weights or 0) + BESIDE_WEIGHTS


def room(configs: Sequence[Config]) -> int:
    """How many jobs fit into the memory that is available now, and no more than GPUs where any job computes on one."""
    fit = psutil.virtual_memory().available // max(job_bytes(config) for config in configs)
    if any(uses_gpu(config) for config in configs):
        import torch

        fit = min(fit, torch.cuda.device_count())
    return max(1, fit)


def uses_gpu(config: Config) -> bool:
    """Whether a job computes anything on a CUDA device."""
    devices = {config.device.type, config.verify_slice.device} - {None}
    return "cuda" in {resolve_device(str(device)) for device in devices}
