"""GGUF files: models as llama.cpp, LM Studio and Ollama keep them, read by transformers' own loader.

Weights are unpacked to the dtype that is asked for. What a file says and transformers would leave out without a word is
refused: scaled rotary positions, caps and windows that its config has no place for, tensors that no parameter takes.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from io import StringIO
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tinylab.errors import ModelError, first_sentence, install
from tinylab.paths import locate

if TYPE_CHECKING:
    import torch

SUFFIX = ".gguf"
_ALONE = "model.gguf"
_INSTALL = install("gguf")
_SAID = re.compile(r"(scal|softcap|sliding_window$)")
"""Settings that change numbers, by their names; those that transformers knows are in its config."""
_OF_LAYERS = re.compile(r"(blk|token_embd|position_embd|output|output_norm)\.")
_LIKE_GPT2 = ("default", "gpt-2", "smollm", "starcoder", "refact", "command-r", "codeshell", "olmo", "mpt", "exaone")
"""Ways to cut text into words that give a vocabulary of its own kind the tokens that GPT-2's way gives it."""


@dataclass(frozen=True)
class Tensor:
    """A tensor of a file: its name, its shape, and how its numbers are packed."""

    name: str
    shape: tuple[int, ...]
    kind: str


@dataclass(frozen=True)
class GgufFile:
    """A file's header: what it says of the model, and its tensors."""

    path: Path
    settings: Mapping[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        """The architecture's name in llama.cpp."""
        return str(self.settings["general.architecture"])

    @property
    def numbers(self) -> int:
        """How many numbers the tensors hold."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    @property
    def unknown_words(self) -> str | None:
        """The name of the way in which this vocabulary cuts text into words, if transformers has none of that name."""
        from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

        kind, way = (self.settings.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
        known = {None, *_LIKE_GPT2, *GGUF_PRE_TOKENIZER_SPLITS}
        return str(way) if kind == "gpt2" and way not in known else None

    def quantisation(self) -> dict[str, Any]:
        """The kind of the file, such as Q4_K_M, and how many tensors are packed in which way."""
        from gguf import LlamaFileType

        number = self.settings.get("general.file_type")
        known: dict[Any, str] = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in LlamaFileType}
        return {"format": "gguf", "kind": known.get(number), "tensors": dict(Counter(t.kind for t in self.tensors).most_common())}


def is_gguf(path: Path | str) -> bool:
    """Whether a path is that of a GGUF file, by its name; a folder may be called anything."""
    return str(path).lower().endswith(SUFFIX) and not locate(str(path)).is_dir()


def read_header(file: Path, what: str) -> GgufFile:
    """The header of a GGUF file that transformers can read.

    Args:
        file: where it lies.
        what: how the config names it, for the message.

    Raises:
        ModelError: the extra `gguf` is not installed; the file is none, a part of one, or of another architecture.
    """
    lacking = [name for name in ("gguf", "accelerate") if find_spec(name) is None]
    if lacking:
        raise ModelError(f"{what}: a GGUF file is read with {' and '.join(lacking)}, which cannot be imported; {_INSTALL}.")
    if find_spec("transformers.integrations.gguf") is None:
        raise ModelError(f"{what}: the installed transformers is too old for GGUF files; {_INSTALL}.")
    if not file.is_file():
        raise ModelError(f"{what}: no such file; expected a {SUFFIX} file.")
    header = _header(file, what)
    if (parts := int(header.settings.get("split.count") or 1)) > 1:
        raise ModelError(f"{what}: is one of {parts} parts; join them with llama.cpp's `llama-gguf-split --merge` and name the "
                         "joined file.")
    if header.architecture not in (known := _architectures()):
        raise ModelError(f"{what}: is a {header.architecture}, which transformers does not read from GGUF files; expected one of "
                         f"{', '.join(known)}, or get the model's safetensors.")
    return header


def check_config(header: GgufFile, config: Any, what: str) -> None:
    """Refuse a file that says more of how numbers are computed than transformers made a config of.

    Raises:
        ModelError: it does.
    """
    rotary = getattr(config, "rope_parameters", None) or {}
    for key, value in header.settings.items():
        _, _, name = key.partition(f"{header.architecture}.")
        if not name or _SAID.search(name) is None or value in (0, 1, "none", False):
            continue
        if name.startswith("rope.scaling."):
            known = rotary.get("rope_type", "default") != "default"
        elif name.endswith("sliding_window") and value >= (config.max_position_embeddings or value):
            continue
        else:
            known = getattr(config, name.rpartition(".")[2], None) == value
        if not known:
            raise ModelError(f"{what}: says {key}={value}, which transformers would ignore, so that other numbers would "
                             "be computed; get the model's safetensors (model=hf or model=local).")


def check_numbers_taken(header: GgufFile, model: Any, what: str) -> None:
    """Refuse a file with tensors that no parameter takes: transformers leaves them out.

    Raises:
        ModelError: there are such tensors.
    """
    saved = model.state_dict()
    taken = sum(parameter.numel() for parameter in model.parameters())
    taken += sum(buffer.numel() for name, buffer in model.named_buffers() if name in saved)
    if taken != header.numbers:
        apart = [tensor.name for tensor in header.tensors if _OF_LAYERS.match(tensor.name) is None]
        raise ModelError(f"{what}: has {header.numbers:,} numbers and a {type(model).__name__} takes {taken:,} of them, so that "
                         f"other numbers would be computed (tensors of no layer: {', '.join(apart[:5]) or 'none'}); get the "
                         "model's safetensors (model=hf or model=local).")


@contextmanager
def as_transformers_reads(file: Path) -> Iterator[dict[str, str]]:
    """While open, arguments of `from_pretrained` that mean a file alone, whatever lies beside it; it is parsed once."""
    import gguf

    parse = gguf.GGUFReader
    with TemporaryDirectory(prefix="tinylab-") as folder, _bars_in_terminals_only():
        (Path(folder) / _ALONE).symlink_to(file.resolve())
        gguf.GGUFReader = lambda _path: _reader(file, file.stat().st_mtime_ns)
        try:
            yield {"pretrained_model_name_or_path": folder, "gguf_file": _ALONE}
        finally:
            gguf.GGUFReader = parse


@contextmanager
def _bars_in_terminals_only() -> Iterator[None]:
    """While open, what transformers says of its progress goes to a terminal or nowhere."""
    with nullcontext() if sys.stderr.isatty() else redirect_stderr(StringIO()):
        yield


def load_weights(source: Mapping[str, str], config: Any, dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The model with a file's weights unpacked, as any other model of its class, and what transformers tells of its tensors."""
    from transformers import AutoModelForCausalLM, GgufConfig

    model, info = AutoModelForCausalLM.from_pretrained(
        **source, config=config, dtype=dtype, quantization_config=GgufConfig(dequantize=True), output_loading_info=True,
        ignore_mismatched_sizes=True,  # they are refused afterwards, by name
    )
    if hasattr(model.config, "quantization_config"):  # which would keep it from being saved or moved
        del model.config.quantization_config
    model.hf_quantizer = None
    model.is_quantized = False
    return model, info


def _architectures() -> list[str]:
    """What transformers reads, as llama.cpp names it."""
    from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
    from transformers.integrations.gguf import GGUF_CONFIG_ARCHS

    renamed = {"qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe", "gpt_oss": "gpt-oss", "minimax_m2": "minimax-m2"}
    return sorted({renamed.get(name, name) for name in [*GGUF_CONFIG_MAPPING, *GGUF_CONFIG_ARCHS]} - {"general", "tokenizer"})


@lru_cache(maxsize=1)
def _reader(file: Path, _mtime_ns: int) -> Any:
    """The file, parsed: of a large vocabulary it takes seconds."""
    from gguf import GGUFReader

    return GGUFReader(file)


def _header(file: Path, what: str) -> GgufFile:
    from gguf import GGUFValueType

    try:
        reader = _reader(file, file.stat().st_mtime_ns)
        lists = GGUFValueType.ARRAY
        settings = {key: field.contents() for key, field in reader.fields.items() if lists not in field.types}
        tensors = tuple(Tensor(t.name, tuple(map(int, t.shape)), t.tensor_type.name) for t in reader.tensors)
        settings["general.architecture"]
    except (OSError, MemoryError):
        raise
    except Exception as error:  # whatever a broken file makes a parser raise
        raise ModelError(f"{what}: is not a GGUF file that can be read ({first_sentence(error)}); get it again.") from error
    return GgufFile(file, settings, tensors)
