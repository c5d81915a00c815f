"""The canonical points of a network: where in its modules the sites of interventions are reached.

Found by shape and by the names that transformers gives these modules in nearly all of its decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import TYPE_CHECKING

from tinylab.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

PROJECTIONS = ("o_proj", "c_proj", "out_proj", "dense", "wo")
MLPS = ("mlp", "feed_forward", "ffn", "block_sparse_moe", "fc2")
NORMS = ("pre_feedforward_layernorm", "feedforward_layernorm", "post_attention_layernorm", "ln_2", "norm_2", "final_layer_norm")
"""Through one of these the MLP's branch leaves the residual stream; a block has one of them, the first here that it has."""
BEHIND = "post_feedforward_layernorm"
"""Blocks that have this one and not the first of `NORMS` have their norms behind attention and MLP, and none before the MLP."""
LAST_MAPS = ("down_proj", "c_proj", "dense_4h_to_h", "fc2", "fc_out", "w2")


def find_blocks(modules: Sequence[nn.Module], n_layers: int, what: str) -> nn.ModuleList:
    """The transformer blocks: the module list as long as the model is deep whose parts hold attention.

    Args:
        modules: all modules of the network.
        n_layers: how many blocks there are.
        what: the model, for the message.

    Raises:
        ModelError: there is no such list.
    """
    from torch import nn

    for module in modules:
        if isinstance(module, nn.ModuleList) and len(module) == n_layers and any(projections(block) for block in module):
            return module
    raise ModelError(f"{what}: found no list of {n_layers} blocks with an attention output projection (one of "
                     f"{', '.join(PROJECTIONS)}); this architecture is not supported.")


def projections(block: nn.Module) -> list[nn.Module]:
    """The output projections of the self-attention in a block."""
    found = []
    for name, module in block.named_modules():
        parent, _, own = name.rpartition(".")
        if own in PROJECTIONS and "att" in parent.lower() and "cross" not in parent.lower():
            found.append(module)
    return found


def find_attention(block: nn.Module, what: str) -> tuple[nn.Module, nn.Module]:
    """A block's attention module and its output projection.

    Args:
        block: the block.
        what: the block, for the message.

    Raises:
        ModelError: it has no attention.
    """
    found = projections(block)
    if not found:
        parts = ", ".join(f"{name} ({type(part).__name__})" for name, part in block.named_children())
        raise ModelError(f"{what} has no attention (it is made of {parts}), and every layer needs one here; hybrid models are "
                         "not supported, use one that has attention in each layer.")
    return next(module for module in block.modules() if found[0] in module.children()), found[0]


def find_mlp(block: nn.Module, what: str) -> nn.Module:
    """The module whose output is the MLP's: the MLP, or its last linear map.

    The latter where the MLP has no module of its own (OPT), or adds the residual stream itself (Bloom, MPT).

    Args:
        block: the block.
        what: the block, for the message.

    Raises:
        ModelError: it has neither.
    """
    from torch import nn

    children = dict(block.named_children())
    for name in MLPS:
        if name in children:
            module = children[name]
            if "residual" not in signature(module.forward).parameters:
                return module
            return [child for child in module.children() if isinstance(child, nn.Linear)][-1]
    raise ModelError(f"{what} has no MLP (expected one of {', '.join(MLPS)}).")


def find_norm(block: nn.Module, mlp: nn.Module) -> nn.Module:
    """The module whose input is the residual stream between attention and MLP, if it is anywhere: a norm, or the MLP itself.

    Args:
        block: the block.
        mlp: what `find_mlp` found in it.
    """
    children = dict(block.named_children())
    if BEHIND in children and NORMS[0] not in children:
        return mlp
    return next((children[name] for name in NORMS if name in children), mlp)


def find_last_map(mlp: nn.Module) -> nn.Module | None:
    """An MLP's last linear map: itself if it is one, or a part of it; None where there is none of such a name (experts)."""
    children = dict(mlp.named_children())
    if not children and hasattr(mlp, "weight"):
        return mlp
    return next((children[name] for name in LAST_MAPS if name in children and not list(children[name].children())), None)
