"""Devices: which one a config means, and whether it can compute in a dtype."""

from __future__ import annotations

from tinylab.errors import DeviceError
from tinylab.machine.imports import large_import


def resolve_device(device: str) -> str:
    """The device type that a config means; `auto` takes cuda, then mps, then cpu.

    Raises:
        DeviceError: the device is not there.
    """
    if device == "cpu":
        return device
    with large_import("torch"):
        import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, present in there.items() if present)
    if not there[device]:
        raise DeviceError(f"device={device}: this machine (or this build of torch) has none; "
                          f"available: {', '.join(name for name, present in there.items() if present)}.")
    return device


def check_dtype(device: str, dtype: str) -> None:
    """Check that a device can compute in a dtype, by computing.

    Raises:
        DeviceError: it cannot.
    """
    import torch

    try:
        ones = torch.ones(2, 2, dtype=getattr(torch, dtype), device=device)
        torch.softmax(ones @ ones, dim=-1)
    except (RuntimeError, TypeError) as error:
        raise DeviceError(f"model.dtype={dtype}: the device {device} lacks it; use model.dtype=float32.") from error
