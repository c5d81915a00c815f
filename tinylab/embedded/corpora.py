"""The shipped corpora: ``python -m tinylab.embedded.corpora`` writes ``tinylab/assets/corpora/*.jsonl``.

Each line is one pair: ``clean``, ``corrupt``, ``target``, ``foil``, ``template``, ``split`` and ``spans``. The files are
the same, byte for byte, whenever they are written: the pairs are drawn from generators seeded by corpus,
split and wording. The wordings of ``val`` and ``test`` are held out of the training text of the embedded
model; those of ``train`` are in it (mostly with other words in their slots).
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from tinylab.embedded.pairs import DRAW, Pair
from tinylab.embedded.wordings import SPLITS, WORDINGS, Split, Wording

FOLDER: Final = Path(__file__).parent.parent / "assets" / "corpora"
"""Where the shipped files are."""

PAIRS: Final[dict[Split, int]] = {"train": 160, "val": 60, "test": 120}
"""How many pairs each corpus has in each split."""

Row = dict[str, Any]


def corpus(name: str) -> list[Row]:
    """Return the rows of one corpus, split by split.

    Args:
        name: One of ``WORDINGS``, such as ``"ioi"``.
    """
    rows: list[Row] = []
    for split in SPLITS:
        for pair in _split_pairs(name, split):
            row = asdict(pair)
            named = row.pop("spans")
            rows.append(row | {"split": split, "spans": named})
    return rows


def _split_pairs(name: str, split: Split) -> list[Pair]:
    """Draw pairs from the wordings of a split, as evenly as can be; no two have the same clean prompt."""
    rng = random.Random(f"{name} {split}")
    wordings = list(WORDINGS[name][split])
    rng.shuffle(wordings)
    found: dict[str, Pair] = {}
    for number in range(PAIRS[split]):
        pair = _new_pair(name, wordings[number % len(wordings)], found, rng)
        found[pair.clean] = pair
    return sorted(found.values(), key=lambda pair: pair.template)


def _new_pair(name: str, wording: Wording, found: dict[str, Pair], rng: random.Random) -> Pair:
    """Draw until the clean prompt is new and the pair is not one that is there with its sides exchanged."""
    while True:
        pair = DRAW[name](wording, rng)
        mirror = found.get(pair.corrupt)
        if pair.clean not in found and (mirror is None or mirror.corrupt != pair.clean):
            return pair


def to_jsonl(rows: Sequence[Row]) -> str:
    """Return rows as JSON lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(folder: Path) -> None:
    """Write every corpus to ``folder`` as ``NAME.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in WORDINGS:
        (folder / f"{name}.jsonl").write_text(to_jsonl(corpus(name)), encoding="utf-8", newline="\n")


def main() -> None:
    """Write the corpora from the command line."""
    parser = argparse.ArgumentParser(description="Write the shipped corpora.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write the JSONL files to")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
