"""A trained model whose blocks lie half in memory and half on the disk, in a file of 16-bit weights."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from conftest import Command, only

LINE = ("model=local", "model.add_bos=false", "battery=h2", "battery.layers=[0,29]", "condition.n_examples=2", "device=cpu",
        "engine=reference", "plots=false")


@pytest.mark.real
def test_a_trained_model_split_over_memory_and_disk_gives_the_table_of_one_in_memory(
    smollm2: Path, tinylab: Command, tmp_path: Path
) -> None:
    """Bit for bit, though the file holds bfloat16 and the run is in float32: both sides widen the same numbers."""
    for folder, more in (("whole", ()), ("split", ("model.device_map=auto", "model.max_memory={cpu:300MiB}"))):
        assert tinylab(*LINE, f"model.path={smollm2}", f"output_dir={folder}", *more) == 0
    whole, split = (pd.read_parquet(only(tmp_path, f"{folder}/runs/*/metrics/per_example.parquet"))
                    for folder in ("whole", "split"))
    pd.testing.assert_frame_equal(split, whole, check_exact=True)
