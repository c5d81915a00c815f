"""Placement: on which devices a model's weights lie, and in how many bits.

As a rule on one device, in the dtype. `model.device_map=auto` spreads the modules over the devices that there are, and leaves on
the disk what none of them holds: accelerate brings the weights of such a module to the device that computes whenever it runs, and
lets them go again. Modules on the disk are read from the model's own files, or from a temporary folder where transformers has to
lay tensors out in another way (experts), which is removed with the model.

`model.quantize=8bit` and `4bit` are bitsandbytes' formats for linear layers; embeddings and the unembedding keep the dtype.
8 bits are without the outlier threshold of LLM.int8(), which looks at all rows of a matmul at once: a token's logits would depend
on the tokens that come later.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tinylab.config.groups import ModelConfig
from tinylab.errors import DeviceError, ModelError, install

if TYPE_CHECKING:
    import torch
    from torch import nn

SHARE = 0.9
"""The part of a device's free memory that weights may fill where `model.max_memory` says nothing; the rest is for activations."""
FOLDER = "offload_folder"


def on_one_device(config: ModelConfig) -> bool:
    """Whether a model is loaded as it is and then moved to its device."""
    return config.device_map is None and config.quantize == "none"


def check_packages(config: ModelConfig) -> None:
    """Check that the packages are installed which placing this model takes.

    Raises:
        ModelError: one is not.
    """
    wanted = [("model.device_map=auto", "accelerate", "large")] if config.device_map is not None else []
    if config.quantize != "none":
        what = f"model.quantize={config.quantize}"
        wanted += [(what, "bitsandbytes", "bitsandbytes"), (what, "accelerate", "bitsandbytes")]
    for what, package, extra in wanted:
        if find_spec(package) is None:
            raise ModelError(f"{what}: needs the package {package}, which is not installed; {install(extra)}.")


@contextmanager
def placing(config: ModelConfig, device: str, what: str) -> Iterator[dict[str, Any]]:
    """While a model is loaded: what `from_pretrained` has to be told besides, so that it comes to lie where its config says.

    Args:
        config: which model.
        device: the type of the device that computes.
        what: the model, for messages.

    Raises:
        ModelError: a package is not installed, or quantised weights would have to be offloaded.
        DeviceError: `model.max_memory` names a device that is not there.
    """
    given = {} if on_one_device(config) else _arguments(config, device)
    try:
        yield given
    except BaseException as error:
        if FOLDER in given:
            shutil.rmtree(given[FOLDER], ignore_errors=True)
        if config.quantize == "none" or "dispatched on the CPU or the disk" not in str(error):
            raise
        raise ModelError(f"{what}: in {config.quantize} it does not fit where it is computed, and quantised weights cannot be "
                         "offloaded; use a larger device or model.max_memory, or model.quantize=none.") from error


def _arguments(config: ModelConfig, device: str) -> dict[str, Any]:
    check_packages(config)
    import torch

    for package in ("accelerate", "bitsandbytes"):
        logging.getLogger(package).setLevel(logging.ERROR)  # their warnings: of every matmul, of what was asked for
    given: dict[str, Any] = {}
    if config.quantize != "none":
        given["quantization_config"] = _bits(config)
        given["device_map"] = {"": torch.cuda.current_device() if device == "cuda" else device}
    if config.device_map is not None:
        given |= {"device_map": config.device_map, "max_memory": _limits(config, device)}
        given[FOLDER] = tempfile.mkdtemp(prefix="tinylab-offload-")
    return given


def _bits(config: ModelConfig) -> Any:
    """The quantisation as transformers describes it."""
    import torch
    from transformers import BitsAndBytesConfig

    if config.quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, config.dtype))


def _limits(config: ModelConfig, device: str) -> dict[int | str, int | str]:
    """How many bytes of weights each device may hold: what the config says, else most of what is free."""
    import psutil
    from accelerate.utils import get_max_memory

    free = {"cpu": psutil.virtual_memory().available} if device == "cpu" else get_max_memory()
    given = config.max_memory or {}
    for name in given:
        if name not in free:
            raise DeviceError(f"model.max_memory: no device {name} is used here with device={device}; available: "
                              f"{', '.join(map(str, free))}.")
    return {name: given.get(name, int(SHARE * size)) for name, size in free.items()}


def tidy_after(model: nn.Module, given: Mapping[str, Any]) -> None:
    """Remove the folder of offloaded weights as soon as the model is gone, at the latest when the process ends."""
    if FOLDER in given:
        weakref.finalize(model, shutil.rmtree, given[FOLDER], ignore_errors=True)


def main_device(model: nn.Module) -> torch.device:
    """The device that takes a model's inputs, and on which its logits come out."""
    import torch

    if not _hooks(model):
        device: torch.device = model.device  # type: ignore[assignment]
        return device
    return torch.device(next(hook.execution_device for module in model.modules() for hook in _hooks(module)
                             if hook.execution_device is not None))


def spread(model: nn.Module) -> dict[str, int] | None:
    """Over which devices a model is spread: by name, the number of modules that were placed there; None where it is on one."""
    if not any(_hooks(model)):
        return None
    return dict(Counter(f"cuda:{name}" if isinstance(name, int) else str(name) for name in model.hf_device_map.values()))  # type: ignore[operator]


@contextmanager
def resident(module: nn.Module) -> Iterator[None]:
    """While open, the weights of a module and of its parts are in memory, also those that accelerate keeps elsewhere."""
    with ExitStack() as stack:
        for part in module.modules():
            for hook in _hooks(part):
                if hook.offload:
                    stack.enter_context(_held(hook, part))
        yield


@contextmanager
def _held(hook: Any, module: nn.Module) -> Iterator[None]:
    hook.pre_forward(module)
    hook.offload = False
    try:
        yield
    finally:
        hook.offload = True
        hook.post_forward(module, None)


def _hooks(module: nn.Module) -> list[Any]:
    """The hooks of accelerate on a module that see to devices."""
    hook: Any = getattr(module, "_hf_hook", None)
    return [one for one in getattr(hook, "hooks", [hook]) if hasattr(one, "execution_device")]
