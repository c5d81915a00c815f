"""Metrics: pure functions from reading-row logits to one number per example.

Letters: B examples, W words of the vocabulary. `reference` is always the unmodified clean run (DESIGN.md).
Everything is computed in float32 or better, whatever the model's dtype.

| metric | unit | which way is more impact |
|---|---|---|
| logit_diff | logits, target − foil, the level under the intervention | away from the unmodified level |
| kl_div | nats, KL(clean ‖ intervened) at the reading row | up |
| acc_flip_rate | fraction of examples right in the clean run and wrong now | up |
| p_drop | probability of the target lost | up |
| recovery | fraction of the way from the target run to the source run (patching) | up |

Sources: logit difference and its companions, Zhang & Nanda 2309.16042; recovery, Heimersheim & Nanda 2404.15255.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Reference:
    """The clean run at the reading row, for B examples."""

    log_probs: torch.Tensor  # [B, W]
    probs: torch.Tensor  # [B, W]
    ruled_out: torch.Tensor  # [B, W] bool: words of probability 0
    target: torch.Tensor  # [B]
    foil: torch.Tensor  # [B]
    p_target: torch.Tensor  # [B]
    right: torch.Tensor  # [B] bool: the argmax over the vocabulary is the target

    def of(self, examples: torch.Tensor) -> Reference:
        """The clean run of some of the examples."""
        return Reference(*(getattr(self, field.name)[examples] for field in fields(self)))


@dataclass(frozen=True)
class Reading:
    """A run's logits at the reading row, with what several metrics share."""

    logits: torch.Tensor  # [B, W]
    log_probs: torch.Tensor  # [B, W]


def precise(logits: torch.Tensor) -> torch.Tensor:
    """Logits in float32, or in float64 if they already are."""
    import torch

    return logits if logits.dtype == torch.float64 else logits.float()


def reference(logits: torch.Tensor, target: torch.Tensor, foil: torch.Tensor) -> Reference:
    """What the metrics need of the unmodified clean run.

    Args:
        logits: [B, W] at each clean prompt's last token.
        target: [B] token ids of the right answers.
        foil: [B] token ids of the wrong answers.
    """
    logits = precise(logits)
    log_probs = logits.log_softmax(dim=-1)
    probs = log_probs.exp()
    p_target = probs.gather(-1, target[:, None]).squeeze(-1)
    return Reference(log_probs, probs, probs == 0, target, foil, p_target, logits.argmax(dim=-1) == target)


def logit_diff(reading: Reading, ref: Reference) -> torch.Tensor:
    """Logit of the target minus logit of the foil, [B]."""
    pair = reading.logits.gather(-1, _columns(ref))
    return pair[:, 0] - pair[:, 1]


def kl_div(reading: Reading, ref: Reference) -> torch.Tensor:
    """KL(clean ‖ intervened) in nats, [B]; a word that the clean run rules out adds nothing (0·log 0 = 0)."""
    terms = (ref.log_probs - reading.log_probs).mul_(ref.probs)
    return terms.masked_fill_(ref.ruled_out, 0.0).sum(dim=-1)


def acc_flip_rate(reading: Reading, ref: Reference) -> torch.Tensor:
    """1 where the clean run is right and this one is wrong, else 0, [B]; its mean is the rate."""
    return (ref.right & (reading.logits.argmax(dim=-1) != ref.target)).to(reading.logits.dtype)


def p_drop(reading: Reading, ref: Reference) -> torch.Tensor:
    """Probability of the target in the clean run minus in this one, [B]."""
    return ref.p_target - reading.log_probs.gather(-1, ref.target[:, None]).squeeze(-1).exp()


METRICS: dict[str, Callable[[Reading, Reference], torch.Tensor]] = {
    "logit_diff": logit_diff,
    "kl_div": kl_div,
    "acc_flip_rate": acc_flip_rate,
    "p_drop": p_drop,
}


@dataclass(frozen=True)
class Scorer:
    """The metrics of a run: turns reading-row logits into numbers.

    `names` are those of `METRICS`; `recovery` is made of logit_diff afterwards and is not among them.
    """

    names: tuple[str, ...]

    def score(self, logits: torch.Tensor, ref: Reference) -> torch.Tensor:
        """One number per example and metric, [B, M] in float64 on the CPU.

        Args:
            logits: [B, W] at the reading row.
            ref: the clean run of the same examples.
        """
        import torch

        logits = precise(logits)
        reading = Reading(logits, logits.log_softmax(dim=-1))
        return torch.stack([METRICS[name](reading, ref) for name in self.names], dim=-1).double().cpu()


def _columns(ref: Reference) -> torch.Tensor:
    import torch

    return torch.stack([ref.target, ref.foil], dim=-1)


def with_logit_diff(names: Sequence[str]) -> tuple[str, ...]:
    """The metrics of `METRICS` to compute for the chosen names: logit_diff always, for recovery and the baselines."""
    return tuple(dict.fromkeys([*(name for name in names if name in METRICS), "logit_diff"]))


BASIC_METRICS = ("logit_diff", "kl_div", "acc_flip_rate", "p_drop")

PATCHING_METRICS = (*BASIC_METRICS, "recovery")
