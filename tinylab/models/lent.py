"""A model that is in memory already: somebody else's, used as it is and given back as it was.

While it is lent, a config whose `model.name` is its name means this model, wherever weights are identified or loaded.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tinylab.config.groups import AUTO, DEVICES, DTYPES
from tinylab.errors import ModelError, TinylabError, first_sentence
from tinylab.models import loading, weights
from tinylab.models.lexicon import Lexicon
from tinylab.models.network import CausalModel
from tinylab.models.tensors import check_numbers
from tinylab.models.weights import ModelIdentity

UNSEEN = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Settings of a model's config that change no number: what it is called, who saved it, and what its weights say themselves."""


@contextmanager
def lending(model: Any, tokenizer: Any) -> Iterator[CausalModel]:
    """Use somebody's model while the block is open: in evaluation mode, without gradients; then it is as it was.

    Args:
        model: a causal language model of transformers.
        tokenizer: its tokenizer.

    Raises:
        ModelError: it is none, or cannot be used as it is.
    """
    name = _name(model)
    dtype = _check(model, tokenizer, name)
    training = {module: module.training for module in model.modules()}
    gradients = {parameter: parameter.requires_grad for parameter in model.parameters()}
    answers = [(part, part.return_dict) for part in _configs(model)]
    identity = ModelIdentity(name, None, digest(model, tokenizer))
    causal = CausalModel(model=model, tokenizer=tokenizer, identity=identity, add_bos=AUTO)
    try:
        model.eval()
        model.requires_grad_(False)
        for part, _ in answers:
            part.return_dict = True
        _try_out(tokenizer, name)
        check_numbers(model, name, dtype)
        loading.lent[name], weights.lent[name] = causal, identity
        yield causal
    finally:
        loading.lent.pop(name, None)
        weights.lent.pop(name, None)
        for module, mode in training.items():
            module.training = mode
        for parameter, wanted in gradients.items():
            parameter.requires_grad_(wanted)
        for part, asked in answers:
            part.return_dict = asked


def dtype_of(model: Any) -> str:
    """A model's dtype by the name that configs give it."""
    return str(model.dtype).removeprefix("torch.")


def digest(model: Any, tokenizer: Any) -> str:
    """sha256 of what determines a model's numbers: its config, its tensors, its tokenizer; hex."""
    import torch

    found = hashlib.sha256()
    settings = {key: value for key, value in model.config.to_diff_dict().items() if key not in UNSEEN}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    told = [type(model).__name__, settings, tokenizer.bos_token_id, words]
    found.update(json.dumps(told, sort_keys=True, default=str).encode())
    for name, tensor in model.state_dict().items():
        found.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\n".encode())
        found.update(memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()))
    return found.hexdigest()


def _name(model: Any) -> str:
    """What results call a model: where it was loaded from, without the way there, or its class."""
    told = str(getattr(model, "name_or_path", "") or "")
    told = os.path.basename(told.rstrip("/")) if os.path.isabs(told) or os.path.isdir(told) else told
    return re.sub(r"[^\w./-]", "_", told) or type(model).__name__


def _check(model: Any, tokenizer: Any, name: str) -> str:
    """Check that a model can be used as it is; returns its dtype.

    Raises:
        ModelError: it cannot, and why.
    """
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    if not isinstance(model, PreTrainedModel) or model.config.is_encoder_decoder or model.get_output_embeddings() is None:
        raise ModelError(f"model={type(model).__name__}: expected a causal language model of transformers, such as "
                         "AutoModelForCausalLM.from_pretrained gives, or the name of an option of model=….")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(f"tokenizer={type(tokenizer).__name__}: expected the tokenizer of {name}, such as "
                         "AutoTokenizer.from_pretrained gives, together with a model that is in memory.")
    if (attention := model.config._attn_implementation) not in loading.ATTENTIONS:
        raise ModelError(f"{name}: its attention is {attention}, and interventions need torch's own; load it with "
                         "attn_implementation=\"sdpa\" or \"eager\".")
    if (dtype := dtype_of(model)) not in DTYPES:
        raise ModelError(f"{name}: its weights are {dtype}, expected one of {', '.join(DTYPES)}.")
    if model.device.type not in DEVICES:
        raise ModelError(f"{name}: it is on the device {model.device.type}, expected one of {', '.join(DEVICES[1:])}.")
    return dtype


def _configs(model: Any) -> list[Any]:
    """A model's config, and that of its text part if it is another."""
    own, text = model.config, model.config.get_text_config()
    return [own] if text is own else [own, text]


def _try_out(tokenizer: Any, name: str) -> None:
    try:
        Lexicon(tokenizer).try_out()
    except TinylabError:
        raise
    except Exception as error:  # what a tokenizer's settings make other libraries raise: tokenizers raises a bare one
        raise ModelError(f"the tokenizer of {name} cannot be used ({first_sentence(error)}).") from error
