"""`python -m tinylab.selftest [override …]`: is this model measured correctly on this machine?

Takes the overrides of `python -m tinylab` (`model=local model.path=my_model condition=facts device=cpu model.dtype=bfloat16`)
and uses a few prompt pairs of that condition and a few cells of that battery. Nothing is written. Exit code 0 if every check
passes, 1 if one fails, 2 for a mistake.

| check | what is compared |
|---|---|
| self-check | every logit of the forked engine with the reference engine's, as before each run |
| determinism | the same evaluation twice, bit for bit |
| batch invariance | each pair evaluated alone, and all of them together |
| sham | a run patched with its own activations, and unmodified |
| sum over heads | what each head of a layer writes alone, summed, and what attention writes |
| sum of patches | the change that each head patched alone makes to what attention writes, summed, and that of all |
| sites | heads, MLPs and blocks of every layer, tried as before each run |
| last block | what the last block returns, patched at all positions, and the source run |
| all heads | a layer with every head at 0, and with its attention's output at its bias |
| noise floor | per metric, forked against reference and alone against together, next to the largest effect |
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tinylab.command import run_command
from tinylab.config.composing import Composer
from tinylab.config.flags import Flags
from tinylab.errors import ConfigError
from tinylab.interventions.sites import HEAD_OUT
from tinylab.schema import Config
from tinylab.sweep.plan import make_plan

PROGRAM = "python -m tinylab.selftest"


def main(argv: Sequence[str] | None = None, program: str = PROGRAM) -> int:
    """Check the model of a command line; returns the exit code."""
    parser = Flags(prog=program, description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for python -m tinylab")
    parser.add_argument("--config-dir", help="a folder with YAML files of your own")
    args = parser.parse_args(argv)
    args.config_path = args.config_name = None
    return run_command(program, lambda: selftest(_config(args)), interrupted="nothing was checked to the end")


def _config(args: argparse.Namespace) -> Config:
    with Composer(args) as composer:
        plan = make_plan(composer, args.overrides, multirun=False)
    if plan.sweep_folder is not None:
        raise ConfigError("selftest checks the model of one run, got the jobs of a sweep (hydra.mode=MULTIRUN, as in a scan); "
                          "name the condition and battery with condition=… battery=….")
    return plan.first


def selftest(config: Config) -> int:
    """Check the model of a config and print what was found; 0 if every check passes, else 1.

    Raises:
        TinylabError: what a run would raise before it computes.
    """
    from tinylab.machine.imports import large_import
    from tinylab.models.device import resolve_device
    from tinylab.models.loading import kept_model
    from tinylab.report import console as report
    from tinylab.task.corpus import load_condition
    from tinylab.task.preparation import prepare

    condition = load_condition(config.condition)
    with large_import("transformers"):
        from tinylab.checks import places, soundness
        from tinylab.engine.trial import check_sites
    from tinylab.machine.threads import job_threads, set_threads
    from tinylab.measures.metrics import scored

    set_threads(job_threads(config.threads, multirun=False))
    model = kept_model(config.model, resolve_device(config.device.type))
    prepared = prepare(config, condition, model)
    pairs = soundness.some_pairs(prepared.tokens)
    variants = soundness.some_variants(prepared.cells)
    check_sites(model, prepared.tokens, [cell.variant for cell in prepared.cells])
    tried, unsound = places.sites(model, pairs[0])
    choice, engine = soundness.choose(model, config.engine, prepared.tokens)
    names = scored(config.metric_names, config.condition.answer)
    sound = soundness.Soundness(model, choice, pairs, variants, names, unsound=unsound)
    verdicts = [
        engine,
        sound.determinism(),
        sound.batch_invariance(),
        *sound.shams(),
        tried,
        places.last_block(model, choice.engine, pairs),
    ]
    if HEAD_OUT not in unsound:
        verdicts += [
            soundness.sum_over_heads(model, pairs),
            soundness.sum_of_patches(model, pairs[-1]),
            places.all_heads(model, pairs[-1]),
        ]
    floors = sound.floors()
    title = f"{model.identity.name}, {config.model.dtype} on {model.device.type}: {len(pairs)} pairs of {config.condition.tag}"
    report.print_selftest(title, verdicts, floors)
    return int(False in [one.passes for one in verdicts] + [floor.passes for floor in floors])


if __name__ == "__main__":
    sys.exit(main())
