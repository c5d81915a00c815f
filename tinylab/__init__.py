"""tinylab: which heads and layers of a language model matter for a task, and for the next one too?

On the command line `python -m tinylab --help` lists all options. In Python:

    >>> import tinylab
    >>> run = tinylab.run("battery=h1", "condition=cond_a")     # doctest: +SKIP
    >>> run.effects.sort_values("effect")                       # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from tinylab.api.results import Run, Sweep

__version__ = "0.1.0"
__all__ = ["__version__", "load_run", "load_sweep", "run", "sweep"]


def run(
    *overrides: str, battery: str | None = None, condition: str | None = None, model: Any = None, tokenizer: Any = None,
    pairs: Any = None, output_dir: str | PathLike[str] | None = None, config_dir: str | PathLike[str] | None = None,
) -> Run:
    """Run a battery on a condition, in this process.

        run = tinylab.run("battery=h1", "condition=cond_a", "seeds=[0,1]")
        run = tinylab.run(battery="h2", model=hf_model, tokenizer=tokenizer, pairs=[{"clean": …, "corrupt": …, …}])

    Args:
        overrides: what the command line would say, such as "condition.n_examples=16".
        battery: an option of the group, as battery=… says.
        condition: the same.
        model: the same; or a causal language model of transformers that is in memory. It is used as it is, and is afterwards as
            it was: its attention, hooks, training mode and gradients.
        tokenizer: of a model that is in memory.
        pairs: prompt pairs in place of a condition: a list of mappings or a DataFrame with clean, corrupt, target, foil (and
            template, item, spans), or a list of four texts each. Their tag is `pairs`, unless "condition.tag=…" says another.
        output_dir: keeps the run's folder where the command line would, and reuses what is finished there; None keeps nothing on
            disk: the files vanish with the result.
        config_dir: a folder of configs of your own, as --config-dir is.

    Returns:
        The run, with its tables as DataFrames; see `tinylab.api.results.Run`.

    Raises:
        TinylabError: see `tinylab.errors`; never SystemExit.
    """
    from tinylab.api.running import run as run_here

    return run_here(*overrides, battery=battery, condition=condition, model=model, tokenizer=tokenizer, pairs=pairs,
                    output_dir=output_dir, config_dir=config_dir)


def sweep(
    *overrides: str, battery: str | None = None, condition: str | None = None, model: Any = None, tokenizer: Any = None,
    pairs: Any = None, output_dir: str | PathLike[str] | None = None, config_dir: str | PathLike[str] | None = None,
) -> Sweep:
    """Run every combination of what is given several values of, one after another in this process, and join the runs.

        sweep = tinylab.sweep("condition=cond_a,cond_b", "battery=h1")
        sweep = tinylab.sweep(model=hf_model, tokenizer=tokenizer, pairs={"capitals": [...], "rivers": [...]})

    A run that fails is listed in `sweep.manifest["failures"]`, as on the command line.

    Args:
        overrides: what the command line would say after -m.
        battery: options of the group, with commas between them.
        condition: the same.
        model: the same, or one that is in memory; see `run`.
        tokenizer: see `run`.
        pairs: see `run`; or several conditions by name.
        output_dir: see `run`.
        config_dir: see `run`.

    Returns:
        The sweep, with its matrices as DataFrames; see `tinylab.api.results.Sweep`.

    Raises:
        TinylabError: see `tinylab.errors`; what the first run died of, if none could be computed.
    """
    from tinylab.api.running import sweep as sweep_here

    return sweep_here(*overrides, battery=battery, condition=condition, model=model, tokenizer=tokenizer, pairs=pairs,
                      output_dir=output_dir, config_dir=config_dir)


def load_run(path: str | PathLike[str]) -> Run:
    """Load a run's folder: tables as DataFrames, manifest and summary as dicts (see `tinylab.api.results.Run`)."""
    from tinylab.api.results import load_run as load

    return load(path)


def load_sweep(path: str | PathLike[str]) -> Sweep:
    """Load a sweep's folder: matrices as DataFrames, the rest as dicts (see `tinylab.api.results.Sweep`)."""
    from tinylab.api.results import load_sweep as load

    return load(path)
