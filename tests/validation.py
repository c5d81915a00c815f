"""What docs/validation.md is made of: tables between markers, in a text written by hand.

`CLAIMS` are numbers that tests measure through the fixture `within`; with --write-docs the largest one of each goes into
its table (make validation).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

DOCUMENT = Path(__file__).parent.parent / "docs/validation.md"


@dataclass(frozen=True)
class Claim:
    """A difference that has to be small: the table it stands in, between what, and why it may be as large as is allowed."""

    table: str
    what: str
    why: str


@dataclass(frozen=True)
class Measured:
    """The largest difference that tests found, and the one that they allow."""

    largest: float
    allowed: float


SUMS = "sums in another order; logits are of order 1"
EXACT = "the planted LayerNorm is the identity up to a relative 1e-10"
CLAIMS = {
    "plain transformers": Claim("identities", "logits of an unmodified run, both engines − plain transformers", SUMS),
    "sham, reference": Claim("identities", "a run patched with its own activations − the run, reference", "the same operations"),
    "sham, forked": Claim("identities", "a run patched with its own activations − the run, forked", SUMS),
    "scale 1": Claim("identities", "a head times 1 − the unmodified run, both engines", SUMS),
    "patched everywhere": Claim("identities", "resid_post patched at every position − the source run, both engines", SUMS),
    "patched at the end": Claim("identities", "resid_post of the last layer patched at the last position − the source run", SUMS),
    "scaled weights": Claim(
        "identities", "a head scaled − its rows of the output projection's weights scaled, reference",
        "0 and ½ only move exponents: the products are the same bits",
    ),
    "zeroed MLP": Claim("identities", "an MLP zeroed − its last linear map's weights zeroed, reference", "as above"),
    "patched by hand": Claim("identities", "one head patched − two hooks written in the test, reference",
                             "the same operations, but for the logits of one row"),
    "every cell, float32": Claim("engines", "every cell of H1 and H2, every metric, float32", SUMS),
    "every cell, float64": Claim(
        "engines", "every cell of H1 and H2, every metric, float64", "RMSNorm computes in float32 whatever the dtype"
    ),
    "unequal lengths": Claim("engines", "prompts of unequal length, float32", SUMS),
    "several layers": Claim("engines", "variants that act in several layers, all logits, float32", SUMS),
    "small passes": Claim("engines", "passes of 1, 12 and 40 rows − one large pass, forked, float32", SUMS),
    "embedded, float32": Claim(
        "engines", "the embedded model on its five corpora, float32, relative to max(1, number)",
        "logits of 10 to 20 carry 1e-6 each",
    ),
    "embedded, float64": Claim("engines", "the embedded model, the same, float64", "16 digits"),
    "ledger, scaled": Claim("closed forms", "ledger: each head times 0 or ½, logit_diff", EXACT),
    "ledger, pairs": Claim("closed forms", "ledger: two heads zeroed together, additive and redundant", "as above"),
    "ledger, patched": Claim("closed forms", "ledger: each head patched, recovery, both directions", "as above"),
    "gates, zeroed": Claim("closed forms", "gates: each input zeroed, logit_diff", "as above"),
    "gates, patched": Claim("closed forms", "gates: each input denoised and noised, recovery", "as above"),
    "twins, zeroed": Claim("closed forms", "twins: each of 25 heads zeroed in five conditions, logit_diff", "as above"),
    "kl literal": Claim("statistics", "kl_div − the sum of p·log(p/q) by math.fsum, float64, relative", "16 digits"),
    "kl torch": Claim("statistics", "kl_div − torch's kl_div on 50 random rows, float64", "16 digits; the same operations here"),
    "bootstrap literal": Claim(
        "statistics", "interval − a loop that writes every resampled example out (weights, templates, ratios)",
        "the same draws; sums in another order",
    ),
    "chance drawn": Claim("statistics", "expected_by_chance − mean of 20,000 drawn intersections, in standard errors",
                          "4 standard errors: one miss in 16,000"),
    "peers, tables": Claim("peers", "every number of the H1 and H2 tables", "two attention kernels in float32"),
    "peers, logits": Claim("peers", "every logit of every cell and prompt", "as above"),
}
KEPT = pytest.StashKey[dict[str, Measured]]()


def between(name: str, text: str) -> re.Match[str]:
    """The part of the document between the markers of this name.

    Raises:
        ValueError: there are none.
    """
    found = re.search(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end of {name} -->)", text, flags=re.DOTALL)
    if found is None:
        raise ValueError(f"{DOCUMENT}: no markers <!-- {name} --> and <!-- end of {name} -->")
    return found


def put(name: str, table: str) -> None:
    """Put a table between the markers of this name."""
    text = DOCUMENT.read_text(encoding="utf-8")
    found = between(name, text)
    DOCUMENT.write_text(f"{text[: found.start()]}\n{table}\n\n{text[found.end() :]}", encoding="utf-8")


def told(table: str) -> dict[str, str]:
    """The lines of a table in the document, by what they claim."""
    lines = between(table, DOCUMENT.read_text(encoding="utf-8")).group().splitlines()
    return {line.split(" | ")[0].removeprefix("| "): line for line in lines if line.startswith("| ")}


def write(measured: Mapping[str, Measured]) -> None:
    """Write what was measured into its tables; lines of claims that were not measured now stay as they are."""
    for table in dict.fromkeys(CLAIMS[key].table for key in measured):
        lines = told(table)
        for key, found in measured.items():
            claim = CLAIMS[key]
            if claim.table == table:
                largest = f"{found.largest:.1e}" if found.largest else "0"
                lines[claim.what] = f"| {claim.what} | {largest} | {found.allowed:g} | {claim.why} |"
        own = [lines[claim.what] for claim in CLAIMS.values() if claim.table == table and claim.what in lines]
        put(table, "\n".join(["| difference | largest | allowed | why so much |", "|---|---|---|---|", *own]))
