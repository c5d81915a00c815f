"""The runs whose numbers must stay, and the process that makes all of them with one tree's code.

    cd FOLDER && PYTHONPATH=TREE python -P tests/same_runs.py TREE

It relies on `tinylab.app.main` and `python -m tinylab.aggregate`, and on nothing else of tinylab: it runs with the code of
the base commit too. Every run has an `output_dir` of its own, its name here; `../models/` holds the random families.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

Line = tuple[str, ...]

FEW = ("condition.n_examples=5", "plots=false", "threads=1")
TWO_SEEDS = "seeds=[0,7]"
NOISING = "battery.patch_direction='corrupt->clean'"
BOTH_WAYS = "battery.patch_direction='clean->corrupt','corrupt->clean'"
H2 = "battery=h2"
HEADS = "battery.granularity=head_out"
PER_HEAD = "battery.per_head=true"
SHAM = "battery.sham_control=true"
EACH = "run_name=${battery.granularity}_${battery.patch_direction}_${battery.positions}"
"""A name for every run of a sweep over settings of H2: without it folders differ by their run ids alone."""
FAMILIES = {"llama": "cond_b", "gpt_neox": "facts", "gemma3": "cond_a"}
"""Random models of 3 layers × 4 heads (`tests/families.py`), each with a condition: grouped queries with biases, a parallel
residual with a fused projection, sliding windows."""


def _embedded() -> dict[str, Line]:
    """Runs of the embedded model, a GPT-2 with biases."""
    return {
        "h1_scales": ("battery.scales=[0,0.5,1.7,-1]", TWO_SEEDS),
        "h1_keeps_bias": ("battery.scales=[0,0.5]", "battery.keep_value_bias=true", "condition=facts"),
        "h1_chosen": ("battery.layers=[3,1]", "battery.heads=[5,0]", "metrics=[p_drop,kl_div]", "condition=cond_b"),
        "h1_float64": ("model.dtype=float64", "model.add_bos=false", "condition=negation", "battery.layers=[0,3]"),
        "h1_bfloat16": ("model.dtype=bfloat16", "condition=logic", "battery.layers=[1]", "battery.heads=[0,4]"),
        "h1_forked": ("engine=forked", "engine.max_states=200", "battery.layers=[0,1]"),
        "h1_reference": ("engine=reference", "battery.layers=[0,1]", TWO_SEEDS),
        "h2_reference": (H2, "engine=reference", "battery.granularity=mlp_out", "battery.positions=[5,2]", NOISING),
        "h2_sham": (H2, "condition=facts", SHAM, TWO_SEEDS, "battery.layers=[2,0]"),
        "h2_sham_all": (H2, HEADS, "battery.positions=all", NOISING, SHAM, "metrics=[recovery]"),
        "per_head": (H2, HEADS, PER_HEAD, SHAM, TWO_SEEDS, NOISING),
        "per_head_list": (H2, HEADS, PER_HEAD, "battery.positions=[3,8]", NOISING, "engine=reference", "battery.layers=[1]"),
        "per_head_all": (H2, HEADS, PER_HEAD, "battery.positions=all", "condition=cond_b"),
        "verified": (H2, "condition=facts", "+verify_slice.device=cpu", "verify_slice.n_examples=3", TWO_SEEDS),
        "verified_heads": (H2, HEADS, PER_HEAD, "battery.layers=[0,2]", "verify_slice.dtype=float64"),
        "verify_fails": ("battery.layers=[1]", "verify_slice={dtype:float64,n_examples:2,tolerance:0,strict:true}"),
        "refused": (H2, PER_HEAD),
    }


def _planted() -> dict[str, Line]:
    """Runs of the planted models: the ledger, the gates, the Llama."""
    ledger, gates, llama = (
        ("model=planted", f"model.variant={variant}", f"condition={condition}")
        for variant, condition in (("ledger", "planted_a"), ("gates", "planted_b"), ("llama", "planted_llama"))
    )
    return {
        "planted_ledger_h1": (*ledger, "battery.scales=[0,0.25]"),
        "planted_ledger_heads": (*ledger, H2, HEADS, NOISING),
        "planted_ledger_per_head": (*ledger, H2, HEADS, PER_HEAD, "battery.positions=[1,3]"),
        "planted_gates_h1": (*gates, "battery.scales=[0,0.5]"),
        "planted_gates_resid": (*gates, H2, NOISING),
        "planted_llama_h1": (*llama, "verify_slice.n_examples=2"),
        "planted_llama_mlp": (*llama, H2, "battery.granularity=mlp_out", NOISING),
        "planted_llama_per_head": (*llama, H2, HEADS, PER_HEAD),
    }


def _random(name: str, condition: str) -> dict[str, Line]:
    """Runs of a random family."""
    model = ("model=local", f"model.path=../models/{name}", "model.add_bos=true", f"condition={condition}")
    return {
        f"{name}_h1": (*model, "battery.scales=[0,0.5]", "battery.keep_value_bias=true", TWO_SEEDS),
        f"{name}_resid": (*model, H2, SHAM, "verify_slice.n_examples=2"),
        f"{name}_heads": (*model, H2, HEADS, "battery.positions=[2,4]", NOISING),
        f"{name}_mlp": (*model, H2, "battery.granularity=mlp_out", "battery.positions=all", NOISING),
        f"{name}_per_head": (*model, H2, HEADS, PER_HEAD, "battery.positions=all", NOISING),
    }


def _sweeps() -> dict[str, Line]:
    """Sweeps, which also write matrices and invariants; one lacks a condition, whose corpus the embedded model cannot use."""
    two = ("-m", "condition=cond_a,cond_b")
    settings = ("-m", H2, EACH, "battery.layers=[0,2]")
    return {
        "sweep": (*two, "battery=h1,h2", "invariants.k=5", TWO_SEEDS),
        "sweep_again": (*two, H2, HEADS, PER_HEAD, "invariants.rank=lowest", "hydra.sweep.dir=sweep_again/swept"),
        "sweep_resid": (*settings, BOTH_WAYS, "battery.positions=last,[4,2]"),
        "sweep_sites": (*settings, "battery.granularity=mlp_out,head_out", "battery.positions=last,all,[4,2]"),
        "sweep_twins": ("-m", "model=planted", "model.variant=twins", "condition=planted_c,planted_d", "invariants.k=5"),
        "sweep_lacks_one": ("-m", "condition=cond_a,planted_a", "battery.layers=[0]"),
    }


_GROUPS = (_embedded(), _planted(), *(_random(*item) for item in FAMILIES.items()), _sweeps())
RUNS: dict[str, Line] = {name: (*line, *FEW, f"output_dir={name}") for runs in _GROUPS for name, line in runs.items()}
assert len(RUNS) == sum(map(len, _GROUPS)), "two runs of one name"
JOINED_AGAIN = ("sweep_again/swept", "--k", "3", "--metrics", "kl_div", "logit_diff", "--rank", "highest")
"""What `python -m tinylab.aggregate` is given after all runs."""
CODES = "exit_codes.json"


def _joined_again() -> int | str | None:
    sys.argv[1:] = JOINED_AGAIN
    try:
        runpy.run_module("tinylab.aggregate", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code
    return None


def main(tree: Path) -> None:
    """Make every run in the current folder, and write down the exit codes."""
    import tinylab
    from tinylab.app import main as command

    assert Path(str(tinylab.__file__)).is_relative_to(tree), f"{tinylab.__file__} is not of {tree}"
    codes: dict[str, int | str | None] = {name: command(line) for name, line in RUNS.items()}
    codes["aggregate"] = _joined_again()
    Path(CODES).write_text(json.dumps(codes, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
