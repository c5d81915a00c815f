"""Max-T by sums over templates is the literal flip-and-test-again."""

from __future__ import annotations

import numpy as np
import pytest

from tinylab.statistics.families import BLOCK, max_t
from tinylab.statistics.strata import Groups


@pytest.mark.parametrize("codes", [[0] * 9, [0, 1] * 6, [0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2]], ids=["one", "two", "unequal"])
def test_it_is_what_flipping_every_example_and_testing_again_gives(codes: list[int]) -> None:
    templates, n = Groups(np.array(codes)), len(codes)
    e = np.random.default_rng(1).normal(size=(6, n)) * np.arange(6)[:, None]  # the first cell is constant: it has no t
    rng, largest = np.random.default_rng(0), []
    signs = np.concatenate([rng.integers(0, 2, size=(size, n)) for size in (BLOCK, 200)]) * 2.0 - 1
    for sign in signs:
        found = []
        for cell in e[1:]:
            total = variance = 0.0
            for g, size in enumerate(templates.sizes):
                own = cell[templates.codes == g]
                flipped = sign[templates.codes == g] * (own - own.mean()) * np.sqrt(size / (size - 1))
                total += flipped.sum() / n
                variance += (size / n) ** 2 * flipped.var(ddof=1) / size
            found.append(0.0 if variance < 1e-12 * cell.var() / n else abs(total) / np.sqrt(variance))
        largest.append(max(found))
    expected = np.quantile(largest, 0.9, method="higher")
    assert max_t(e, templates, alpha=0.1, flips=BLOCK + 200) == pytest.approx(expected, rel=1e-9)
