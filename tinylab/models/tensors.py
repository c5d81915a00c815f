"""Tensors: whether a file's are the architecture's own, every one of them, and hold numbers.

transformers draws random numbers for what a file lacks, and leaves out what its architecture has no place for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from math import isinf, isnan
from typing import TYPE_CHECKING, Any

from tinylab.errors import ModelError
from tinylab.models.placement import resident

if TYPE_CHECKING:
    from torch import nn

NOT_WEIGHTS = re.compile(r"(^|\.)(attn|attention|self_attn|self_attention)\.(bias|masked_bias|causal_mask)$|inv_freq$"
                         r"|(^|\.)position_ids$|(^|\.)embed_positions\.weights$")
"""Masks, rotary frequencies and positions, which earlier versions of transformers saved among the weights and compute today."""
TOWERS = re.compile(r"^(model\.)?(vision_model|vision_tower|visual|multi_modal_projector)\.")
"""What reads images, and hands them to the language model."""
_TOLD = 3
"""Names that a message has at most."""


def check_tensors(info: Mapping[str, Any], what: str, architecture: str, *, towers: bool = False,
                  described: str = "config.json") -> None:
    """Refuse weights that are not the architecture's.

    Args:
        info: what `from_pretrained(…, output_loading_info=True)` tells.
        what: the model, for the message.
        architecture: the class that was loaded.
        towers: whether the file is of a model that reads images too, of which the language model alone may be loaded.
        described: what says which tensors there are.

    Raises:
        ModelError: a tensor is missing, has another shape, or has no place in the architecture.
    """
    unexpected = [name for name in info["unexpected_keys"] if not NOT_WEIGHTS.search(name)]
    unexpected = [name for name in unexpected if not (towers and TOWERS.search(name))]
    found = {
        "lack": list(info["missing_keys"]),
        "have in another shape": [f"{name} {list(got)} for {list(expected)}" for name, got, expected in info["mismatched_keys"]],
        "hold, though the architecture has no place for them,": unexpected,
    }
    told = "; they ".join(f"{verb} {_some(names)}" for verb, names in found.items() if names)
    if told:
        raise ModelError(f"{what}: its weights are not those of a {architecture} as {described} describes it: they {told}; "
                         "expected every tensor of the architecture and no other (what is missing would be random numbers), so "
                         f"fix {described} or the names of the tensors.")


def check_numbers(model: nn.Module, what: str, dtype: str) -> None:
    """Refuse weights that hold NaN or infinite numbers; what overflows in 16 bits alone is told when it makes logits overflow.

    Raises:
        ModelError: a tensor does.
    """
    import torch

    broken = []
    for name, parameter in _in_memory(model):
        if parameter.numel() and parameter.is_floating_point():
            low, high = map(float, torch.aminmax(parameter.detach()))
            if isnan(low) or (parameter.element_size() > 2 and (isinf(low) or isinf(high))):
                broken.append(name)
    if broken:
        raise ModelError(f"{what}: the weights hold NaN or infinite numbers as {dtype} ({_some(broken)}); expected finite ones, "
                         "so get the file again, or use a model.dtype that holds larger numbers if the file's own are finite.")


def _in_memory(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Each parameter once, in memory while it is looked at."""
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        names = [name for name, parameter in module.named_parameters(recurse=False) if id(parameter) not in seen]
        if names:
            seen |= {id(getattr(module, name)) for name in names}
            with resident(module):
                yield from ((f"{prefix}.{name}", getattr(module, name)) for name in names)


def _some(names: Iterable[str]) -> str:
    """A few names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _TOLD} more" if len(ordered) > _TOLD else ""
    return ", ".join(ordered[:_TOLD]) + more
