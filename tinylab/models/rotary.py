"""Rotary embeddings that remember: what is to be done before a prompt so that earlier ones do not matter."""

from __future__ import annotations

from tinylab.models.network import CausalModel


def forget_lengths(model: CausalModel) -> None:
    """Put `dynamic` rotary embeddings back to how they were loaded, so that a prompt's logits do not depend on earlier prompts.

    Such an embedding keeps the frequencies of a longer input it has seen; transformers resets it for some prompts only.
    """
    for module in model.modules:
        kinds = getattr(module, "rope_type", {})  # of the module, or by type of layer
        for prefix, kind in [("", kinds)] if isinstance(kinds, str) else [(f"{layer}_", kind) for layer, kind in kinds.items()]:
            if "dynamic" in kind:
                loaded = getattr(module, f"{prefix}original_inv_freq")
                module.register_buffer(f"{prefix}inv_freq", loaded.clone(), persistent=False)
                setattr(module, f"{prefix}max_seq_len_cached", module.original_max_seq_len)
