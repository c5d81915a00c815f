"""Clocks and counters: seconds, floating-point operations, the machine's matmul peak, memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils.flop_counter import FlopCounterMode

from tinylab.models.network import CausalModel

Result = TypeVar("Result")
PEAK_ROWS = {"cpu": (512, 2048), "cuda": (4096, 16384)}
PEAK_REPEATS = 3
SAMPLING_SECONDS = 0.002


def synchronise(device: torch.device) -> None:
    """Wait for a device that computes in the background."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(device: torch.device, call: Callable[[], Result]) -> tuple[Result, float]:
    """What a call returns, and its seconds."""
    synchronise(device)
    began = time.perf_counter()
    result = call()
    synchronise(device)
    return result, time.perf_counter() - began


def _attention(query: Any, key: Any, value: Any, *_args: Any, **_kwargs: Any) -> int:
    """Operations of an attention of these shapes, [batch, heads, rows, width] each."""
    pairs = query[0] * query[1] * query[2] * key[2]
    return int(2 * pairs * (query[3] + value[3]))


def counted(call: Callable[[], Result]) -> tuple[Result, int]:
    """What a call returns, and the operations of its matmuls and attentions (2 per multiply-add).

    Under inference_mode attention reaches torch's counter as one operator, which it does not know, so it is told.
    """
    attention = torch.ops.aten.scaled_dot_product_attention
    with FlopCounterMode(display=False, custom_mapping={attention: _attention, attention.default: _attention}) as counter:
        result = call()
    return result, int(counter.get_total_flops())


def matmul_peak(model: CausalModel) -> float:
    """Operations per second of the best matmul of the MLP's own sizes, up and down."""
    width = int(model.config.hidden_size)
    inner = int(getattr(model.config, "intermediate_size", None) or 4 * width)
    return max(_rate(model, rows, *size) for rows in PEAK_ROWS[model.device.type] for size in ((width, inner), (inner, width)))


def _rate(model: CausalModel, rows: int, width: int, out: int) -> float:
    left = torch.randn(rows, width, device=model.device, dtype=model.dtype)
    right = torch.randn(width, out, device=model.device, dtype=model.dtype)
    product = torch.empty(rows, out, device=model.device, dtype=model.dtype)
    torch.mm(left, right, out=product)
    seconds = min(timed(model.device, lambda: torch.mm(left, right, out=product))[1] for _ in range(PEAK_REPEATS))
    return 2 * rows * width * out / seconds


class PeakMemory:
    """While open, the most memory that the process holds beyond what it held at the start, in MiB.

    On a CPU a thread samples the resident set size; on a GPU it is what torch's allocator counts.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing is measured yet."""
        self._device = device
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._start = self._peak = 0

    def __enter__(self) -> PeakMemory:
        """Begin."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._start = torch.cuda.memory_allocated(self._device)
        else:
            self._start = self._peak = resident()
            self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        """End."""
        if self._device.type == "cuda":
            self._peak = torch.cuda.max_memory_allocated(self._device)
        else:
            self._done.set()
            self._thread.join()

    @property
    def mebibytes(self) -> float:
        """The growth."""
        return (self._peak - self._start) / 2**20

    def _sample(self) -> None:
        while not self._done.wait(SAMPLING_SECONDS):
            self._peak = max(self._peak, resident())


def resident() -> int:
    """The resident set size of this process in bytes."""
    import psutil

    return int(psutil.Process().memory_info().rss)
