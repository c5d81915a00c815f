"""``python -m tinylab.planted [--out DIR]`` writes the planted models and their corpora.

A model's folder is what `from_pretrained` reads: config.json, model.safetensors in float64, a tokenizer that splits at
spaces. The files are the same, byte for byte, whenever they are written.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tinylab.planted import corpora, gates, ledger, llama, twins

ASSETS: Final = Path(__file__).parent.parent / "assets"
"""Where the shipped files are."""


@dataclass(frozen=True)
class Planted:
    """A variant of ``model=planted``: what it is made of."""

    build: Callable[[], Any]
    config: dict[str, Any]  # what differs from the stock class
    vocabulary: Sequence[str]


MODELS: Final = {
    "ledger": Planted(ledger.build, ledger.CONFIG, corpora.LEDGER),
    "gates": Planted(gates.build, gates.CONFIG, corpora.GATES),
    "twins": Planted(twins.build, twins.CONFIG, corpora.TWINS),
    "llama": Planted(llama.build, llama.CONFIG, corpora.LLAMA),
}


def write_model(folder: Path, model: Any, config: dict[str, Any], vocabulary: Sequence[str]) -> None:
    """Write a model's folder.

    Args:
        folder: where to.
        model: a model of a stock class, in float64.
        config: what its config.json says beside the class and the dtype.
        vocabulary: the words in the order of their ids, BOS and the unknown word first.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    known = {"architectures": [type(model).__name__], "dtype": "float64", "model_type": model.config.model_type}
    _write_json(folder / "config.json", {**known, **config})
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "tokenizer.json", tokenizer(vocabulary))
    _write_json(folder / "tokenizer_config.json", {
        "bos_token": corpora.BOS,
        "clean_up_tokenization_spaces": False,
        "eos_token": corpora.BOS,
        "tokenizer_class": "TokenizersBackend",
        "unk_token": corpora.UNKNOWN,
    })


def tokenizer(vocabulary: Sequence[str]) -> dict[str, Any]:
    """The content of tokenizer.json: one token per word between spaces."""
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": at, "content": word, **special} for at, word in enumerate(corpora.SPECIAL)],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: at for at, word in enumerate(vocabulary)},
            "unk_token": corpora.UNKNOWN,
        },
    }


def _write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8", newline="\n")


def write(assets: Path) -> None:
    """Write every model to `planted/NAME` and every corpus to `corpora` in a folder."""
    for name, planted in MODELS.items():
        write_model(assets / "planted" / name, planted.build(), planted.config, planted.vocabulary)
    corpora.write(assets / "corpora")


def main() -> None:
    """Write them from the command line."""
    parser = argparse.ArgumentParser(prog="python -m tinylab.planted", description="Write the planted models and their corpora.")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write planted/ and corpora/ into")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
