"""A GPT-2 in which LayerNorm is the identity, and attention a lookup table: the ground that circuits are planted in.

**The norm.** A feature of size f is stored as a pair of coordinates (+f, −f), so that the mean of every state is exactly 0. With
ε = 10¹² and the weight √ε = 10⁶ a LayerNorm gives x·10⁶ / √(10¹² + var x) = x·(1 − var x / 2·10¹²): x itself, to 1e-10
even beside a vector of norm 100. Biases and MLPs are zero until a circuit sets them.

**Attention.** A head's query and key are lists of matching features; one match scores `SHARP`, which a softmax
in float64 turns into a weight of exactly 1 for one key, or 1/m for each of m. Where nothing matches,
all scores are exactly 0 and the head looks at every visible position alike.

Everything is read and written by feature, so a circuit says what it does and not where its numbers lie.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

if TYPE_CHECKING:
    from transformers import GPT2LMHeadModel

EPSILON: Final = 1e12
NORM_WEIGHT: Final = 1e6
SHARP: Final = 100.0
"""Score of a match: e^-100 is nothing beside 1 in any dtype."""
POSITIONS: Final = 12
"""Context of every planted model."""

Feature = tuple[str, str | int]
"""What it is about, and which one: ("word", "red"), ("place", 3)."""
Wire = tuple[int, Feature | None, float]
"""A coordinate inside a head (or a unit of an MLP), a feature or None for the constant 1, and a weight."""


@dataclass(frozen=True)
class Features:
    """The features of a residual stream of `width` coordinates, two for each."""

    names: tuple[Feature, ...]
    width: int

    @classmethod
    def of(cls, names: Iterable[Feature], heads: int) -> Features:
        """As many coordinates as the features need, rounded up to what the heads can share."""
        listed = tuple(names)
        step = math.lcm(2, heads)
        return cls(listed, -(-2 * len(listed) // step) * step)

    def write(self, feature: Feature, size: float = 1.0) -> torch.Tensor:
        """The state [D] that holds a feature of this size: (+size, −size) at its place."""
        return self._pair(feature, size)

    def read(self, feature: Feature, weight: float = 1.0) -> torch.Tensor:
        """The row [D] whose product with a state is the feature's size times the weight."""
        return self._pair(feature, weight / 2)

    def _pair(self, feature: Feature, half: float) -> torch.Tensor:
        place = 2 * self.names.index(feature)
        state = torch.zeros(self.width, dtype=torch.float64)
        state[place], state[place + 1] = half, -half
        return state


def blank(config: dict[str, Any], features: Features, vocabulary: Sequence[str]) -> GPT2LMHeadModel:
    """A GPT-2 that adds nothing to its embeddings and reads nothing off them; a circuit is planted into it.

    Its embeddings say ("word", w) and ("place", p), where these are features.

    Args:
        config: as `settings` returns it.
        features: of the residual stream.
        vocabulary: the words, in the order of their ids.
    """
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**config)).double().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.zero_()
        if name.endswith(("ln_1.weight", "ln_2.weight", "ln_f.weight")):
            parameter.fill_(NORM_WEIGHT)
    for table, rows in (
        (model.transformer.wte.weight, [("word", word) for word in vocabulary]),
        (model.transformer.wpe.weight, [("place", place) for place in range(POSITIONS)]),
    ):
        for row, feature in enumerate(rows):
            if feature in features.names:
                table[row] = features.write(feature)
    return model


def settings(features: Features, vocabulary: Sequence[str], *, layers: int, heads: int, units: int = 1) -> dict[str, Any]:
    """The config of a planted GPT-2, as plain data: what differs from the stock class.

    Args:
        features: of the residual stream.
        vocabulary: the words.
        layers: number of blocks.
        heads: heads of each.
        units: hidden units of each MLP.
    """
    return {
        "activation_function": "relu",
        "attn_pdrop": 0.0,
        "bos_token_id": 0,
        "embd_pdrop": 0.0,
        "eos_token_id": 0,
        "layer_norm_epsilon": EPSILON,
        "n_embd": features.width,
        "n_head": heads,
        "n_inner": units,
        "n_layer": layers,
        "n_positions": POSITIONS,
        "resid_pdrop": 0.0,
        "tie_word_embeddings": False,
        "vocab_size": len(vocabulary),
    }


@dataclass(frozen=True)
class Bed:
    """A blank model and its features; circuits are planted here, a head or a unit at a time."""

    model: Any
    features: Features

    def head(
        self, layer: int, head: int, *, query: Sequence[Wire] = (), key: Sequence[Wire] = (), value: Sequence[Wire] = (),
        write: Sequence[Wire] = (),
    ) -> None:
        """Plant a head. It looks where query and key hold the same coordinates, and writes what value reads there.

        Args:
            layer: which block.
            head: which head of it.
            query: (coordinate, feature or constant, weight); a product of 1 with a key scores `SHARP`.
            key: the same for keys.
            value: the same for values.
            write: what each coordinate of the head's output adds to the stream.
        """
        attention = self.model.transformer.h[layer].attn
        size = attention.head_dim
        sharp = SHARP * math.sqrt(size)  # undoes the scaling of scores
        for part, (wires, factor) in enumerate(((query, sharp), (key, 1.0), (value, 1.0))):
            start = (part * attention.num_heads + head) * size
            self._read(attention.c_attn, start, size, wires, factor)
        for at, feature, weight in write:
            assert feature is not None and at < size
            attention.c_proj.weight[head * size + at] += self.features.write(feature, weight)

    def unit(self, layer: int, unit: int, *, read: Sequence[tuple[Feature | None, float]], write: Feature, gain: float) -> None:
        """Plant a hidden unit of an MLP: relu of a sum of features (None is the constant 1), times a gain, into a feature."""
        mlp = self.model.transformer.h[layer].mlp
        self._read(mlp.c_fc, unit, 1, [(0, feature, weight) for feature, weight in read], 1.0)
        mlp.c_proj.weight[unit] += self.features.write(write, gain)

    def logit(self, token: int, feature: Feature, weight: float = 1.0) -> None:
        """Add a feature of the last state to a token's logit."""
        self.model.lm_head.weight[token] += self.features.read(feature, weight)

    def _read(self, linear: Any, start: int, size: int, wires: Sequence[Wire], factor: float) -> None:
        """Set columns of a weight [in, out] and entries of its bias."""
        for at, feature, weight in wires:
            assert at < size
            if feature is None:
                linear.bias[start + at] += weight * factor
            else:
                linear.weight[:, start + at] += self.features.read(feature, weight * factor)
