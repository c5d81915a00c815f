"""Variants that are evaluated beside a finished run, by its own engine: what its controls are made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tqdm import tqdm

from tinylab.engine.base import Engine, Evaluation
from tinylab.interventions.variants import Variant
from tinylab.machine.progress import no_bar
from tinylab.measures.metrics import Scorer
from tinylab.records.checkpoint import Checkpoint
from tinylab.records.identity import Resolved, digest
from tinylab.records.manifest import RunFolder
from tinylab.records.provenance import package_versions
from tinylab.task.preparation import Prepared
from tinylab.task.tokens import TokenPair

Ready = Callable[[], tuple[Engine, Prepared]]
"""Loads what a run needs, or has it."""
log = logging.getLogger(__name__)


def evaluated(
    resolved: Resolved, folder: RunFolder, engine: Engine, pairs: Sequence[TokenPair], variants: Sequence[Variant], *,
    what: str, unit: str,
) -> Evaluation:
    """Some variants on some pairs by the metric of labels, kept as it is made, so that what is cut off goes on.

    Args:
        resolved: the run.
        folder: where it lies, finished.
        engine: the run's.
        pairs: the prompts.
        variants: the interventions.
        what: the control, as the log and the progress bar call it.
        unit: what variants are to the progress bar.
    """
    plan = engine.plan(pairs, variants)
    log.info("%s: %s", what, plan.sentence())
    checkpoint = Checkpoint(folder.checkpoint, {
        "run_id": resolved.run_id, "control": what, "threads": resolved.threads, "engine": engine.name,
        "device": resolved.device, "pairs": digest([str(pair) for pair in pairs]),
        "variants": digest([str(variant) for variant in variants]), "packages": package_versions(),
    })
    with tqdm(total=len(variants), desc=what, unit=unit, disable=no_bar()) as bar:
        found = engine.evaluate(pairs, variants, Scorer((resolved.config.labelled,)), lambda done: bar.update(done / len(pairs)),
                                checkpointer=checkpoint)
    checkpoint.discard()
    return found
