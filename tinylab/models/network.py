"""A causal language model, and the points of its network where interventions act."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from typing import TYPE_CHECKING, Any

from tinylab.config.groups import AUTO
from tinylab.errors import ModelError
from tinylab.interventions.sites import Module, Sizes, Units
from tinylab.models.lexicon import Lexicon
from tinylab.models.placement import main_device
from tinylab.models.points import find_attention, find_blocks, find_last_map, find_mlp, find_norm
from tinylab.models.weights import ModelIdentity

if TYPE_CHECKING:
    import torch
    from torch import nn

@dataclass
class CausalModel:
    """A loaded causal language model and the modules at which interventions act.

    `L` layers (`n_layers`), `H` query heads (`n_heads`) of width `d_head`.
    """

    model: Any
    tokenizer: Any
    identity: ModelIdentity
    add_bos: bool | str  # or auto: what the tokenizer itself puts before a text
    quantisation: dict[str, Any] | None = None  # of the file's weights, None where they are plain numbers

    @property
    def device(self) -> torch.device:
        """Where the weights are; of a model that is spread, the device that takes its inputs."""
        return main_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """The weights' dtype."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    @cached_property
    def config(self) -> Any:
        """The text model's config (a composite model has it nested)."""
        return self.model.config.get_text_config()

    @property
    def n_layers(self) -> int:
        """Number of blocks, L."""
        return int(self.config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """Number of query heads per layer, H."""
        return int(self.config.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        """Number of key-value heads per layer: with grouped queries, several query heads share one."""
        return int(getattr(self.config, "num_key_value_heads", None) or self.n_heads)

    @property
    def sizes(self) -> Sizes:
        """How many units of each kind its layers have."""
        return Sizes(self.n_layers, self.n_heads, self.n_kv_heads, tuple(self._neurons(layer) for layer in range(self.n_layers)))

    def _neurons(self, layer: int) -> int | None:
        try:
            return _taken(self.down(layer))
        except ModelError:  # no MLP, or none with a single last map: whoever acts there says so
            return None

    def units(self, units: Units, width: int) -> int:
        """Into how many units of a kind an activation of this width is cut."""
        return {"heads": self.n_heads, "key-value heads": self.n_kv_heads, "neurons": width, "whole": 1}[units]

    @property
    def head_width(self) -> int:
        """Width of one head's output, d_head: what the output projection takes, divided by H."""
        return self.taken(0) // self.n_heads

    def taken(self, layer: int) -> int:
        """How many numbers a layer's output projection takes of a token: the outputs of all its heads."""
        return _taken(self.projection(layer))

    @cached_property
    def widest(self) -> int:
        """Numbers in the widest activation of a row in a block: the MLP's inside, as a rule."""
        parts: list[Any] = list(self.blocks[0].modules())
        linear = [part for part in parts if hasattr(part, "in_features")]  # whose weights may be packed into bytes
        own = [p for part in parts if part not in linear for p in part.parameters(recurse=False) if p.dim() > 1]
        return max(int(max(size)) for size in [*((part.in_features, part.out_features) for part in linear),
                                               *(p.shape[-2:] for p in own)])

    @cached_property
    def chunks(self) -> dict[int, int]:
        """The layers whose attention is cut into chunks of positions, with the chunks' size (Llama 4)."""
        kinds = getattr(self.config, "layer_types", None) or []
        size = getattr(self.config, "attention_chunk_size", None)
        return {layer: int(size) for layer, kind in enumerate(kinds) if kind == "chunked_attention" and size is not None}

    @cached_property
    def linear(self) -> frozenset[int]:
        """The layers whose attention is linear by the config, whatever products it makes."""
        kinds = getattr(self.config, "layer_types", None) or []
        return frozenset(layer for layer, kind in enumerate(kinds) if kind == "linear_attention")

    @property
    def context(self) -> int | None:
        """The longest prompt in tokens, None if the config names no limit."""
        limit = getattr(self.config, "max_position_embeddings", None)
        return None if limit is None else int(limit)

    @cached_property
    def _keeps_logits(self) -> bool:
        return "logits_to_keep" in signature(self.model.forward).parameters

    def last_logits(self, rows: int) -> dict[str, Any]:
        """What a forward pass is asked so that only the last rows of its prompt get logits.

        Args:
            rows: how many, 0 for none; counted from the end they are the same where an architecture can but give all.
        """
        import torch

        if not self._keeps_logits:
            return {}
        return {"logits_to_keep": rows or torch.empty(0, dtype=torch.long)}  # the number 0 means all

    @property
    def vocabulary(self) -> int:
        """Number of tokens the model has an embedding for."""
        return int(self.config.vocab_size)

    @property
    def bos(self) -> int | None:
        """The token that starts every prompt, or None.

        Raises:
            ModelError: it is not what the tokenizer itself puts before a text, there is none, or `auto` and there are several.
        """
        if not self.add_bos:
            return None
        token, own = self.tokenizer.bos_token_id, self._lexicon.prefix
        if self.add_bos == AUTO and len(own) < 2:
            return own[0] if own else None
        if own and own != [token]:
            told = "".join(self.tokenizer.convert_ids_to_tokens(own))
            puts = f"=true puts {self.tokenizer.bos_token}" if self.add_bos is True else f"={AUTO} puts one token at most"
            raise ModelError(f"model.add_bos{puts} before every prompt, but the tokenizer of {self.identity.name} itself puts "
                             f"{told} there; use model.add_bos=false, and begin the prompts with {told}.")
        if token is None:
            raise ModelError(f"model.add_bos=true, but the tokenizer of {self.identity.name} has no BOS token; "
                             "use model.add_bos=false.")
        return int(token)

    def describe_bos(self) -> dict[str, Any]:
        """Whether prompts begin with a token of their own, which, and by whose word.

        Raises:
            ModelError: see `bos`.
        """
        token = self.bos
        return {
            "add_bos": token is not None,
            "token_id": token,
            "token": None if token is None else self.tokenizer.convert_ids_to_tokens(token),
            "policy": str(self.add_bos).lower(),
        }

    @property
    def unknown(self) -> int | None:
        """The token for words that the vocabulary lacks; None where there is none, or it is that of a document's begin or end."""
        tokenizer = self.tokenizer
        token = tokenizer.unk_token_id
        return None if token in (None, tokenizer.bos_token_id, tokenizer.eos_token_id) else int(token)

    def describe_tokenizer(self) -> dict[str, Any]:
        """Its class, its size, and a digest of what it does (None for tokenizers written in Python)."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        digest = None if backend is None else hashlib.sha256(backend.to_str().encode()).hexdigest()
        return {"class": type(self.tokenizer).__name__, "vocabulary": len(self.tokenizer), "digest": digest}

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, verbatim, without special tokens of the tokenizer's own accord."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    @property
    def offsets(self) -> Callable[[str], list[tuple[int, int]]] | None:
        """Where in a text each of its tokens begins and ends, in characters; None for tokenizers written in Python."""
        if not self.tokenizer.is_fast:
            return None

        def found(text: str) -> list[tuple[int, int]]:
            told = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            return [(int(begin), int(end)) for begin, end in told]

        return found

    def spelt(self, ids: Sequence[int]) -> list[str]:
        """Tokens as a person reads them: ␣ for the space that is a part of one, ⏎ for a new line."""
        return [re.sub("[Ġ▁ ]", "␣", re.sub("[Ċ\n]", "⏎", token)) for token in self.tokenizer.convert_ids_to_tokens(list(ids))]

    def lost(self, text: str) -> list[str]:
        """The parts of a text that no token stands for."""
        return self._lexicon.lost(text)

    @property
    def specials(self) -> frozenset[int]:
        """The tokens that are no text, such as those that begin documents."""
        return self._lexicon.specials

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon(self.tokenizer)

    @cached_property
    def modules(self) -> list[nn.Module]:
        """All modules of the network, at any depth."""
        return list(self.model.modules())

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks of the language model; towers for images or sound have some of their own.

        Raises:
            ModelError: there is no list of them.
        """
        return find_blocks(list(self.model.get_decoder().modules()), self.n_layers, self._what)

    @property
    def _what(self) -> str:
        return f"{self.identity.name} ({type(self.model).__name__})"

    def projection(self, layer: int) -> nn.Module:
        """The attention output projection of a layer; its input, cut into heads, is the site `head_out`."""
        return self._attentions[layer][1]

    def attention(self, layer: int) -> nn.Module:
        """The attention module of a layer, which holds the projection."""
        return self._attentions[layer][0]

    @cached_property
    def _attentions(self) -> list[tuple[nn.Module, nn.Module]]:
        """Each layer's attention module and its output projection."""
        return [find_attention(block, f"{self._what}: layer {layer}") for layer, block in enumerate(self.blocks)]

    def mlp(self, layer: int) -> nn.Module:
        """The module whose output is the site `mlp_out`: the MLP, or its last linear map.

        Raises:
            ModelError: the block has neither.
        """
        return find_mlp(self.blocks[layer], f"{self.identity.name}: layer {layer}")

    def norm(self, layer: int) -> nn.Module:
        """The module whose input is the site `resid_mid`, if the block has one (`tinylab.engine.trial` tells)."""
        return find_norm(self.blocks[layer], self.mlp(layer))

    def down(self, layer: int) -> nn.Module:
        """The last linear map of a layer's MLP; its input is the site `mlp_neurons`.

        Raises:
            ModelError: there is no single one.
        """
        last = find_last_map(mlp := self.mlp(layer))
        if last is None:
            raise ModelError(f"{self._what}: the {type(mlp).__name__} of layer {layer} has no single last linear map, as "
                             "mixtures of experts have none, and so no neurons; use other layers or another model.")
        return last

    def point(self, module: Module, layer: int) -> nn.Module:
        """The module of a layer at which a site is reached (`tinylab.interventions.sites.POINTS`)."""
        found: dict[Module, Callable[[int], nn.Module]] = {
            "block": self.blocks.__getitem__, "attention": self.attention, "projection": self.projection, "norm": self.norm,
            "mlp": self.mlp, "down": self.down,
        }
        return found[module](layer)


def _taken(linear: Any) -> int:
    """How many numbers a linear map takes."""
    return int(getattr(linear, "in_features", None) or getattr(linear, "nx", None) or linear.weight.shape[-1])
