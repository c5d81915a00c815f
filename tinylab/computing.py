"""A run's numbers: from a resolved config to its impact. Nothing is written but checkpoints."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from tinylab.batteries.shams import without_sham
from tinylab.config.groups import AUTO
from tinylab.effects.ability import Telling, ability, sentence, tell
from tinylab.effects.impact import Impact, assemble
from tinylab.effects.prospect import prospect
from tinylab.errors import TinylabError
from tinylab.interventions.sources import RUNS
from tinylab.machine.imports import large_import
from tinylab.machine.progress import no_bar
from tinylab.machine.threads import set_threads
from tinylab.measures.metrics import Scorer, named, scored
from tinylab.models.device import resolve_device
from tinylab.models.loading import kept_model
from tinylab.models.weights import identify
from tinylab.records.checkpoint import Checkpoint
from tinylab.records.identity import IDENTITY_VERSION, RESULTS_VERSION, Resolved, digest
from tinylab.records.manifest import RunFolder
from tinylab.records.provenance import package_versions, peak_memory_bytes, provenance
from tinylab.schema import Config
from tinylab.task.corpus import load_condition
from tinylab.task.notes import about_rows, look_swapped
from tinylab.task.preparation import Prepared, prepare

if TYPE_CHECKING:
    from tinylab.engine.base import Checkpointer, Evaluation, Prediction
    from tinylab.engine.choose import Choice
    from tinylab.interventions.variants import Variant
    from tinylab.models.network import CausalModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Computed:
    """A battery's numbers on a condition, and where they come from."""

    impact: Impact
    provenance: dict[str, Any]
    ready: Ready


@dataclass(frozen=True)
class Ready:
    """Everything that a run needs before it computes."""

    model: CausalModel
    device: str
    prepared: Prepared
    choice: Choice
    value_bias: str  # what a scale does to it

    @property
    def variants(self) -> list[Variant]:
        """Of the battery's cells, in table order."""
        return [cell.variant for cell in self.prepared.cells]


def compute(
    resolved: Resolved, folder: RunFolder, metrics: Sequence[str], begin: Callable[[], object] | None = None,
    warning: str | None = None,
) -> Computed:
    """Evaluate a battery on a condition.

    Args:
        resolved: the run.
        folder: where its checkpoint is.
        metrics: to compute.
        begin: called when everything is there that the run needs, before it computes.
        warning: logged once the corpus can be read.

    Raises:
        TinylabError: a corpus, model or device that cannot be used; numbers that are not finite.
    """
    began = time.monotonic()
    config = resolved.config
    ready = get_ready(resolved, warning)
    engine, prepared, names = ready.choice.engine, ready.prepared, scored(metrics, config.condition.answer)
    found = None if resolved.screen is not None else prepared.screen  # by a screen of this very command
    prediction = engine.plan(prepared.tokens, ready.variants)
    log.info("%s engine: %s", engine.name, prediction.sentence())
    if begin is not None:
        begin()
    engine_began = time.monotonic()
    checkpoint = _checkpoint(resolved, folder, metrics, ready, prediction)
    if config.overwrite:
        checkpoint.discard()
    evaluation = _evaluate(config, ready, telling := Telling(checkpoint, len(prepared.tokens)), names)
    engine_seconds = time.monotonic() - engine_began
    impact = assemble(config.battery, prepared.cells, prepared.condition.pairs, prepared.seeds, evaluation,
                      computed=names, wanted=metrics, lacking=prepared.lacking)
    _check_finite(impact, config)
    told = ability(impact.ability, impact.pairs)
    if (said := sentence(told)) != telling.said:
        tell(said, told)
    if look_swapped(*(impact.unmodified[run][config.labelled] for run in RUNS)):
        log.warning("after most clean prompts the model prefers the foil, and after most corrupt ones the target: "
                    "are clean and corrupt (condition.clean_field, condition.corrupt_field) swapped?")
    return Computed(impact, {
        **provenance(ready.model, prepared, ready.device),
        "value_bias": ready.value_bias,
        "identity_version": IDENTITY_VERSION,
        "results_version": RESULTS_VERSION,
        "dtype": config.model.dtype,
        "quantize": None if config.model.quantize == "none" else config.model.quantize,
        "engine": engine.name,
        "engine_fallback_reason": ready.choice.reason,
        "self_check_max_difference": ready.choice.max_difference,
        "self_check": ready.choice.verdict,
        "seeds": list(config.seeds),
        "forwards": evaluation.forwards + (0 if found is None else found["forwards"]),
        "states": evaluation.states + (0 if found is None else found["states"]),
        "wall_seconds": round(time.monotonic() - began, 3),
        "engine_seconds": round(engine_seconds, 3),
        "peak_memory_bytes": peak_memory_bytes(),
    }, ready)


def _checkpoint(
    resolved: Resolved, folder: RunFolder, metrics: Sequence[str], ready: Ready, prediction: Prediction
) -> Checkpoint:
    """What an attempt at this very evaluation keeps, for another to go on from."""
    screen = ready.prepared.screen
    return Checkpoint(folder.checkpoint, {
        "run_id": resolved.run_id, "threads": resolved.threads, "engine": ready.choice.engine.name, "device": ready.device,
        "metrics": list(metrics), "forwards": prediction.forwards, "states": prediction.states, "packages": package_versions(),
        **({} if screen is None else {"screen": digest(screen)}),
    })


def get_ready(resolved: Resolved, warning: str | None = None) -> Ready:
    """Load corpus and model, and choose the engine; mistakes that need no model are reported before torch is imported.

    Args:
        resolved: the run.
        warning: logged once the corpus can be read.

    Raises:
        TinylabError: see `compute`.
    """
    config = resolved.config
    condition = load_condition(config.condition)
    if warning is not None:
        log.warning("%s", warning)
    identity = resolved.model or identify(config.model)
    with large_import("transformers"):
        from tinylab.engine.biases import biases_for, convention
        from tinylab.engine.choose import choose_engine
        from tinylab.engine.screen import screened

    set_threads(resolved.threads)
    device = resolved.device or resolve_device(config.device.type)
    if device == "mps":
        log.warning("device=mps has been seen to get signs wrong; add +verify_slice.device=cpu to check these numbers")
    model = kept_model(config.model, device, identity)
    prepared = prepare(config, condition, model)
    _tell_bos(model, prepared.chat)
    for said in about_rows(prepared.condition, condition.rows):
        log.warning("%s", said)
    if some := prepared.lacking.any(axis=1).sum():
        log.warning("positions=each: %d of %d cells act at a position that some prompts do not have: their numbers are in "
                    "per_example, and are left out of other tables", some, len(prepared.cells))
    if config.labelled in config.metric_names:
        log.info("%s", prospect(prepared, config.effects))
    if config.controls.sham is not False and (silent := without_sham(prepared.cells)):
        log.info("no sham of %s: such operations declare none (Operation.sham)", ", ".join(silent))
    variants = [cell.variant for cell in prepared.cells]
    value_bias = convention(biases_for(model, variants))
    choice = choose_engine(model, config.engine, prepared.read, variants)  # tries the sites, before anything is read there
    return Ready(model, device, screened(prepared, config.battery, model, resolved.screen), choice, value_bias)


def _tell_bos(model: CausalModel, chat: dict[str, Any] | None) -> None:
    """Say what `model.add_bos=auto` came to, and how prompts are turns."""
    if chat is not None:
        log.info("condition.chat=true: the first prompt is %s", "|".join(chat["tokens"]))
        if chat["date"] is not None:
            log.warning("the chat template of %s writes a date into prompts: it is always %s",
                        model.identity.name, chat["date"])
    elif (bos := model.describe_bos())["policy"] == AUTO:
        log.info("model.add_bos=auto: the tokenizer of %s itself puts %s before a text, and so does tinylab before every prompt",
                 model.identity.name, bos["token"] or "nothing")


def _evaluate(config: Config, ready: Ready, checkpointer: Checkpointer, names: tuple[str, ...]) -> Evaluation:
    """Evaluate every cell on every example, with a progress bar."""
    tokens = ready.prepared.tokens
    layout = "{desc} {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} cells, {rate_fmt}, {remaining} left"
    title = f"{config.battery.name} on {config.condition.tag}"
    with tqdm(total=len(ready.variants), desc=title, unit=" cells", bar_format=layout, disable=no_bar()) as bar:
        return ready.choice.engine.evaluate(
            tokens, ready.variants, Scorer(names), lambda done: bar.update(done / len(tokens)), checkpointer=checkpointer
        )


def _check_finite(impact: Impact, config: Config) -> None:
    """Refuse to report numbers that are none.

    Raises:
        TinylabError: a logit overflowed or was undefined.
    """
    numbers = [values[~impact.lacking] for name, values in impact.values.items() if not named(name).may_be_undefined]
    numbers += [values for run in impact.unmodified.values() for name, values in run.items() if not named(name).may_be_undefined]
    broken = sum(int((~np.isfinite(values)).sum()) for values in numbers)
    if broken:
        wider = "float64" if config.model.dtype in ("float32", "bfloat16") else "float32 (or bfloat16, or float64)"
        raise TinylabError(f"{broken} numbers are not finite: the model overflows in {config.model.dtype} on "
                           f"{config.condition.tag}; use model.dtype={wider}, nothing was written.")
