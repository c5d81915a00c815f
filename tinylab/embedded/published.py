"""The prompts on which published numbers stand: ``python -m tinylab.embedded.published`` writes them.

They are told as facts, with their source: which frame, which names, who acts. Each frame makes two pairs, one for each
name as the one who acts; in the corrupt prompt the other one acts. The files, ``tinylab/assets/published/*.jsonl``, are
the same, byte for byte, whenever they are written.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tinylab.embedded.corpora import Row, to_jsonl
from tinylab.embedded.frames import Filled, filled, spans
from tinylab.embedded.greater_than import rows as greater_than

FOLDER: Final = Path(__file__).parent.parent / "assets" / "published"
"""Where the shipped files are."""


@dataclass(frozen=True)
class Frame:
    """A sentence up to its last word, the name of the one who did not act."""

    name: str
    text: str
    first: str
    second: str

    def pair(self, actor: str, other: str) -> Row:
        """The pair in whose clean prompt `actor` acts."""
        clean, corrupt = self._filled(actor), self._filled(other)
        acts, receives = ("first", "second") if actor == self.first else ("second", "first")
        parts = spans(clean, corrupt, subject="actor", io=(receives, acts), s1=(acts, receives), s2="actor", name1="first",
                      name2="second")
        return {
            "clean": clean.text, "corrupt": corrupt.text, "target": f" {other}", "foil": f" {actor}", "template": self.name,
            "spans": parts,
        }

    def _filled(self, actor: str) -> Filled:
        return filled(self.text, first=self.first, second=self.second, actor=actor)


IOI_DEMO: Final = (
    Frame("bag", "When {first} and {second} went to the shops, {actor} gave the bag to", "John", "Mary"),
    Frame("ball", "When {first} and {second} went to the park, {actor} gave the ball to", "Tom", "James"),
    Frame("apple", "When {first} and {second} went to the shops, {actor} gave an apple to", "Dan", "Sid"),
    Frame("drink", "After {first} and {second} went to the park, {actor} gave a drink to", "Martin", "Amy"),
)
"""TransformerLens, demos/Activation_Patching_in_TL_Demo.ipynb: the variables `prompts` and `answers`."""

BOS_DEMO: Final = Frame(
    "milk", "{first} and {second} went to the shops, then {actor} gave a bottle of milk to", "Claire", "Mary"
)
"""TransformerLens, demos/Main_Demo.ipynb, the section on prepend_bos; there Mary acts."""

MCQA_DEMO: Final = "The {subject} is {colour}. What color is the {subject}?\nM. {m}\nZ. {z}\nAnswer:"
"""goodfire-ai/causalab, demos/onboarding_tutorial/02_ablation_attention.md: a red cup, M orange, Z red. Corrupt is ours"""


def _choice(subject: str, colour: str, other: str) -> Row:
    """The pair in whose clean prompt Z is right; in the corrupt one the two options are exchanged."""
    clean, corrupt = (
        filled(MCQA_DEMO, subject=subject, colour=colour, m=m, z=z) for m, z in ((other, colour), (colour, other))
    )
    parts = spans(clean, corrupt, subject="subject", colour="colour", m="m", z="z")
    return {"clean": clean.text, "corrupt": corrupt.text, "target": " Z", "foil": " M", "template": "choice", "spans": parts}


ROME_DEMO: Final = "The {subject} is in downtown"
"""goodfire-ai/causalab, demos/onboarding_tutorial/01_ablation_MLP.md (Meng et al. 2202.05262). Corrupt is ours."""


def _landmark(subject: str, city: str, other: tuple[str, str]) -> Row:
    """The pair about one landmark, and in the corrupt prompt about another."""
    clean, corrupt = (filled(ROME_DEMO, subject=name) for name in (subject, other[0]))
    return {"clean": clean.text, "corrupt": corrupt.text, "target": f" {city}", "foil": f" {other[1]}", "template": "downtown",
            "spans": spans(clean, corrupt, subject="subject")}


FILES: Final[dict[str, list[Row]]] = {
    "ioi_demo": [row for f in IOI_DEMO for row in (f.pair(f.first, f.second), f.pair(f.second, f.first))],
    "bos_demo": [BOS_DEMO.pair("Mary", "Claire")],
    "mcqa_demo": [_choice("cup", "red", "orange")],
    "rome_demo": [_landmark("Space Needle", "Seattle", ("Eiffel Tower", "Paris"))],
    "greater_than": greater_than(),
}


def write(folder: Path) -> None:
    """Write every file to ``folder`` as ``NAME.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in FILES.items():
        (folder / f"{name}.jsonl").write_text(to_jsonl(rows), encoding="utf-8", newline="\n")


def main() -> None:
    """Write the files from the command line."""
    parser = argparse.ArgumentParser(description="Write the prompts of published numbers.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write the JSONL files to")
    write(parser.parse_args().out)


if __name__ == "__main__":
    main()
