"""A metric: by how much the target is ahead of every other word."""

import torch

from tinylab.measures.metrics import CleanRun, Reading, metric


@metric(unit="logits")
def margin(reading: Reading, clean_run: CleanRun) -> torch.Tensor:
    """Logit of the target minus the largest other logit, [B]."""
    target = clean_run.target[:, None]
    others = reading.logits.scatter(-1, target, -torch.inf)
    return reading.logits.gather(-1, target).squeeze(-1) - others.max(dim=-1).values
