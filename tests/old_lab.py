"""A folder as the first version's was: configs, batteries, corpora and split files, all of our own making."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SPLIT = {"train": [1, 3, 5, 7], "val": [0], "test": [6, 2, 9, 4]}
BATTERIES: dict[str, dict[str, Any]] = {
    "battery_h1_heads_zero": {"type": "heads_zero", "layers": "all", "scales": [0.0, 0.5], "_comment": "every head"},
    "battery_h1_random": {"type": "heads_zero", "layers": [1], "heads": [0, 3], "random_control": True, "random_count": 1},
    "battery_h2_c2x": {"type": "activation_patch", "granularity": "head_out", "patch_direction": "clean->corrupt",
                       "layers": "all", "sham_control": True},
    "battery_h2_x2c": {"type": "activation_patch", "granularity": "layer_resid", "patch_direction": "corrupt->clean",
                       "layers": [0, 1]},
    "battery_h2_last": {"type": "activation_patch", "granularity": "mlp_out", "positions": "last"},
    "battery_h5_pairs": {"type": "heads_pair_zero", "pairs": [{"layer": 0, "h1": 4, "h2": 1}, {"layer": 1, "h1": 0, "h2": 2}]},
    "battery_h5_triplet": {"type": "heads_subset_zero", "groups": [
        {"layer": 0, "heads": [2, 4, 7], "label": "triplet"}, {"layer": 1, "heads": [5, 0]}]},
}
DATASET = {"id": "names_v1", "split": "test", "clean_field": "clean", "corrupt_field": "corrupt", "target_field": "target",
           "foil_field": "foil"}


def lay_out(folder: Path) -> Path:
    """Write `lab/` below a folder; returns the folder of configs."""
    lab = folder / "lab"
    for part in ("configs", "data/corpora", "data/splits"):
        (lab / part).mkdir(parents=True)
    for name, shipped in (("names_v1", "ioi"), ("repeats_v1", "induction")):
        lines = (ROOT / f"tinylab/assets/corpora/{shipped}.jsonl").read_text().splitlines()
        rows = [{key: json.loads(line)[key] for key in ("clean", "corrupt", "target", "foil")} for line in lines[::30][:11]]
        text = "".join(f"{json.dumps(row)}\n" for row in rows)
        (lab / f"data/corpora/{name}.jsonl").write_text(text)
        digest = hashlib.sha256(text.replace("\n", "\r\n").encode()).hexdigest()  # as the text was on another system
        write(lab / f"data/splits/{name}.split.json", {"seed": 1337, "data_hash": digest, **SPLIT})
    for name, battery in BATTERIES.items():
        write(lab / f"configs/{name}.json", battery)
    return lab / "configs"


def write(file: Path, content: Any) -> Path:
    """Write a JSON file."""
    file.write_text(json.dumps(content))
    return file


def run_file(battery: str, **more: Any) -> dict[str, Any]:
    """A run's config, with keys that nothing ever read among those that count."""
    return {
        "run_name": f"run_{battery}", "battery": f"lab/configs/{battery}.json", "seeds": [0, 1], "device": "mps",
        "model": {"name": "gpt2-medium", "family": "gpt2", "dtype": "float16"}, "dataset": dict(DATASET),
        "metrics": ["logit_diff"], "batch_size": 8, "max_seq_len": 64, "metric_span": "first_token", **more,
    }


def scan_file(battery: str, name: str = "scan_h1", **more: Any) -> dict[str, Any]:
    """An orchestrated config, as the first version's notes quote one."""
    return {
        "run_name": name, "battery": f"lab/configs/{battery}.json",
        "shared": {"seeds": [0, 1, 2], "device": "mps", "model": {"name": "gpt2-medium", "dtype": "float16"}, "batch_size": 4},
        "conditions": [{"tag": "cond_a", "dataset": DATASET},
                       {"tag": "cond_b", "dataset": {**DATASET, "id": "repeats_v1", "split": "train"}}],
        **more,
    }
