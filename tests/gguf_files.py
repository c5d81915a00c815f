"""Small GGUF files with random weights, written with the gguf package as llama.cpp's own converters do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen3Config, Qwen3ForCausalLM

TEXT = ["the capital of France is Paris", "the capital of Italy is Rome", "a river and a town"]
LAYERS = 2
OLD = Version(transformers.__version__) < Version("5.23")
needs_reader = pytest.mark.skipif(OLD, reason="this transformers reads GGUF files otherwise, and is refused (test_gguf.py)")


def bpe() -> Tokenizer:
    """Byte-level BPE, as of GPT-2: each byte, and some merges."""
    from tokenizers.trainers import BpeTrainer

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False)
    made.train_from_iterator(TEXT * 3, trainer)
    return made


def network(vocabulary: int) -> Qwen3ForCausalLM:
    """Two layers of four heads, with grouped queries, untied; the same numbers each time."""
    torch.manual_seed(0)
    config = Qwen3Config(vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=LAYERS, head_dim=128,
                         num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64, rope_theta=10_000.0,
                         rms_norm_eps=1e-6, tie_word_embeddings=False, bos_token_id=None, eos_token_id=0, pad_token_id=None)
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def write_gguf(
    file: Path, *, quantised: bool = False, settings: Callable[[Any], object] = lambda _: None,
    more: dict[str, Any] | None = None, architecture: str = "qwen3", way: str = "gpt-2",
) -> Qwen3ForCausalLM:
    """Write a model's file; returns the model with the very numbers that were written, unpacked.

    Args:
        file: where.
        quantised: whether matrices are packed as Q8_0.
        settings: called with the writer, to say more.
        more: further tensors by name, as arrays.
        architecture: what the file says it is.
        way: how it says that text is cut into words.
    """
    import gguf

    tokenizer = bpe()
    vocabulary = tokenizer.get_vocab()
    model = network(len(vocabulary))
    config = model.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantised else gguf.LlamaFileType.ALL_F32)
    words = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(way)
    writer.add_token_list(words)
    writer.add_token_types([3 if word == "<end>" else 1 for word in words])
    writer.add_token_merges([" ".join(pair) for pair in _merges(tokenizer)])
    writer.add_eos_token_id(0)
    settings(writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, config.num_hidden_layers)
    packed = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if quantised and array.ndim == 2:
            raw = gguf.quants.quantize(array, packed)
            tensor.copy_(torch.from_numpy(gguf.quants.dequantize(raw, packed)))
            writer.add_tensor(names.get_name(name, (".weight",)), raw, raw_dtype=packed)
        else:
            writer.add_tensor(names.get_name(name, (".weight",)), array)
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    import json

    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]
