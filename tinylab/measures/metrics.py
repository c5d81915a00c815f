"""Metrics: pure functions from reading-row logits to one number per example.

Letters: B examples, W words of the vocabulary. What they compare with is always the unmodified clean run.
Everything is computed in float32 or better, whatever the model's dtype.

| metric | unit | which way is more impact |
|---|---|---|
| logit_diff | logits, target − foil, the level under the intervention | away from the unmodified level |
| kl_div | nats, KL(clean ‖ intervened) at the reading row | up |
| acc_flip_rate | fraction of examples right in the clean run and wrong now | up |
| p_drop | probability of the target lost | up |
| recovery | fraction of the way from the target run to the source run (patching) | up |
| logprob_diff | nats, log-probability of the target − of the foil | away from the unmodified level |
| prob_diff | probability of the target − of the foil | away from the unmodified level |
| target_rank | 1 + words of the vocabulary with a larger logit than the target | away from the unmodified level |
| iia | fraction of examples whose better of target and foil is the unmodified source run's (patching) | up |

So they are of first tokens. Of whole answers and of sets (`condition.answer`) a probability is that of the answer after its
prompt (`tinylab.measures.answers`); right is a run whose likeliest token, and the likeliest one after it and so on, give an
alternative of the target; KL is taken at the prompt's last token; recovery and iia are made of logprob_diff, by which effects are
labelled; and logit_diff and target_rank, which are of one token, are not defined.

Sources: logit difference and its companions, Zhang & Nanda 2309.16042; recovery, Heimersheim & Nanda 2404.15255; interchange
intervention accuracy (iia), Geiger et al. 2106.02997.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tinylab.arrays import FloatArray
from tinylab.config.groups import ANSWERS, FIRST
from tinylab.errors import ConfigError, options
from tinylab.measures.ability import answered, answered_whole
from tinylab.measures.readings import CleanRun, Reading, precise, read
from tinylab.measures.recovery import recovery, same_preference

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float, Float64
    from torch import Tensor


def logit_diff(reading: Reading, clean_run: CleanRun) -> Float[Tensor, " B"]:
    """Logit of the target minus logit of the foil, [B]."""
    pair = _of_first(reading.logits, clean_run)
    return pair[:, 0] - pair[:, 1]


def kl_div(reading: Reading, clean_run: CleanRun) -> Float[Tensor, " B"]:
    """KL(clean ‖ intervened) in nats, [B]; a word that the clean run rules out adds nothing (0·log 0 = 0)."""
    terms = (clean_run.log_probs - reading.log_probs).mul_(clean_run.probs)
    return terms.masked_fill_(clean_run.ruled_out, 0.0).sum(dim=-1)


def acc_flip_rate(reading: Reading, clean_run: CleanRun) -> Float[Tensor, " B"]:
    """1 where the clean run is right and this one is wrong, else 0, [B]; its mean is the rate."""
    found = reading.found
    right = reading.logits.argmax(dim=-1) == clean_run.target if found is None else found.greedy[:, 0]
    return (clean_run.right & ~right).to(reading.logits.dtype)


def p_drop(reading: Reading, clean_run: CleanRun) -> Float[Tensor, " B"]:
    """Probability of the target in the clean run minus in this one, [B]."""
    if reading.found is not None:
        return clean_run.p_target - reading.found.log_probs[:, 0].exp()
    return clean_run.p_target - reading.log_probs.gather(-1, clean_run.target[:, None]).squeeze(-1).exp()


def logprob_diff(reading: Reading, clean_run: CleanRun) -> Float[Tensor, " B"]:
    """Log-probability of the target minus that of the foil in nats, [B]."""
    pair = _log_probs(reading, clean_run)
    return pair[:, 0] - pair[:, 1]


def prob_diff(reading: Reading, clean_run: CleanRun) -> Float[Tensor, " B"]:
    """Probability of the target minus that of the foil, [B]."""
    pair = _log_probs(reading, clean_run).exp()
    return pair[:, 0] - pair[:, 1]


def target_rank(reading: Reading, clean_run: CleanRun) -> Float[Tensor, " B"]:
    """1 + the number of words whose logit is larger than the target's, [B]; words that are equal to it do not count."""
    own = reading.logits.gather(-1, clean_run.target[:, None])
    return 1 + (reading.logits > own).sum(dim=-1).to(reading.logits.dtype)


Score = Callable[[Reading, CleanRun], "torch.Tensor"]
Relative = Callable[[FloatArray, FloatArray, FloatArray], FloatArray]


@dataclass(frozen=True)
class Metric:
    """A number of a run, and what generic code has to know of it.

    Either it is scored from logits (`score`), one number per example whose mean is the cell's; or it is made (`relative`), for
    patching, of another metric's numbers (`made_of`) in the intervened run, the unmodified target run and the unmodified
    source run. Then a cell's number is the mean of its examples' own, or, `pooled`, made of the three means.
    """

    name: str
    unit: str
    score: Score | None = None  # from the reading rows to [B]
    made_of: str | None = None
    relative: Relative | None = None  # number by number; NaN where undefined
    pooled: bool = False
    always: bool = False  # whether every example has one, although it is made of others
    differentiable: bool = True
    signed: bool = True  # whether a change may have either sign
    companion: str | None = None  # a metric that is reported wherever this one is
    chosen: bool = True  # whether a user may name it; a companion comes by itself
    usual: bool = True  # whether `metrics=null` computes it; others have to be named
    answers: tuple[str, ...] = (FIRST,)  # for which kinds of `condition.answer` it is defined

    @property
    def needs_source(self) -> bool:
        """Whether only a battery with a source has it."""
        return self.made_of is not None

    @property
    def may_be_undefined(self) -> bool:
        """Whether a cell or an example may have none."""
        return self.made_of is not None and not self.always

    @property
    def judged(self) -> bool:
        """Whether its size tells how far two computations agree: a flip is a jump at a tie, a ratio blows up."""
        return self.made_of is None and self.differentiable

    def of_means(self, *columns: FloatArray) -> float | None:
        """The number that is made of means, None where it is undefined.

        Args:
            columns: [B] each: what the metric is made of in the intervened run, the unmodified target and source runs.
        """
        assert self.relative is not None
        found = float(self.relative(*(np.asarray(np.mean(column)) for column in columns)))
        return None if np.isnan(found) else found


LOGIT_DIFF, LOGPROB_DIFF = "logit_diff", "logprob_diff"
METRICS: dict[str, Metric] = {}
"""Every metric by name: those of this module, and those of a user's own that `named` was asked for."""


def register(metric: Metric) -> Metric:
    """Enter a metric.

    Raises:
        ConfigError: another one has its name.
    """
    if METRICS.setdefault(metric.name, metric) != metric:
        raise ConfigError(f"metrics: two different metrics are called {metric.name}; give yours another name.")
    return metric


def metric(
    unit: str, *, differentiable: bool = True, signed: bool = True, usual: bool = True, answers: tuple[str, ...] = (FIRST,)
) -> Callable[[Score], Metric]:
    """Declare a metric by its function, which gives it its name; `metrics=[logit_diff,my_module.my_metric]` computes it.

    Args:
        unit: of its numbers.
        differentiable: whether it changes smoothly with the logits.
        signed: whether a change may have either sign.
        usual: of those of tinylab, whether `metrics=null` computes it.
        answers: the kinds of `condition.answer` for which it is defined; where it is more than `first`, `Reading.found` has what
            a run says of whole answers.
    """

    def declare(score: Score) -> Metric:
        return register(Metric(score.__name__, unit, score, differentiable=differentiable, signed=signed, usual=usual,
                               answers=answers))

    return declare


def named(name: str) -> Metric:
    """The metric that a config means: one of `METRICS`, or the path of one in a module of the user's (`my_module.my_metric`).

    Raises:
        ConfigError: there is none.
    """
    if name in METRICS:
        return METRICS[name]
    found: object = None
    if "." in name:
        from tinylab.config.plugins import imported

        try:
            found = imported(name)
        except ImportError as error:
            raise ConfigError(f"metrics={name}: cannot be imported ({error}); expected a metric of tinylab, or the path of one "
                              "in a module that Python finds (PYTHONPATH).") from error
    if not isinstance(found, Metric):
        known = [one.name for one in METRICS.values() if one.chosen]
        raise ConfigError(f"metrics={name}: not an option; {options(name, known)}, or module.name of your own.")
    return register(found)


metric("logits")(logit_diff)
metric("nats", signed=False, answers=ANSWERS)(kl_div)
metric("fraction", differentiable=False, signed=False, answers=ANSWERS)(acc_flip_rate)
metric("probability", answers=ANSWERS)(p_drop)
register(Metric("recovery", "fraction", made_of=LOGIT_DIFF, relative=recovery, pooled=True, companion="recovery_mean",
                answers=ANSWERS))
register(Metric("recovery_mean", "fraction", made_of=LOGIT_DIFF, relative=recovery, chosen=False, answers=ANSWERS))
metric("nats", usual=False, answers=ANSWERS)(logprob_diff)
metric("probability", usual=False, answers=ANSWERS)(prob_diff)
metric("rank", differentiable=False, usual=False)(target_rank)
register(Metric("iia", "fraction", made_of=LOGIT_DIFF, relative=same_preference, always=True, differentiable=False,
                usual=False, answers=ANSWERS))
SHIPPED = tuple(METRICS.values())
"""Those of tinylab: not what this process was asked for before."""


@dataclass(frozen=True)
class Scorer:
    """The metrics of a run: turns reading-row logits into numbers.

    `names` are of metrics that are scored from logits; `recovery` is made of others afterwards and is not among them.
    """

    names: tuple[str, ...]

    def score(self, logits: Float[Tensor, "Q W"], clean_run: CleanRun) -> Float[Tensor, "B M"]:
        """One number per example and metric, [B, M] in float64 on the CPU.

        Args:
            logits: [B, W] at the reading row; of whole answers all rows that are read.
            clean_run: of the same examples.
        """
        import torch

        reading = read(precise(logits), clean_run.asked)
        return torch.stack([self._score(name)(reading, clean_run) for name in self.names], dim=-1).double().cpu()

    def ability(self, logits: Float[Tensor, "Q W"], clean_run: CleanRun, which: int) -> Float64[Tensor, "B 2"]:
        """How unmodified prompts are answered whose right answer is the target (0) or the foil (1); see `measures.ability`."""
        if clean_run.asked is not None:
            return answered_whole(logits, clean_run.asked, which)
        return answered(logits, (clean_run.target, clean_run.foil)[which])

    @staticmethod
    def _score(name: str) -> Score:
        score = named(name).score
        assert score is not None
        return score


def _log_probs(reading: Reading, clean_run: CleanRun) -> torch.Tensor:
    """Log-probabilities of target and foil, [B, 2]."""
    return _of_first(reading.log_probs, clean_run) if reading.found is None else reading.found.log_probs


def _of_first(numbers: torch.Tensor, clean_run: CleanRun) -> torch.Tensor:
    import torch

    return numbers.gather(-1, torch.stack([clean_run.target, clean_run.foil], dim=-1))


def labelled(answer: str) -> str:
    """The metric by which effects are labelled and ranked, and of which others are made, for a kind of `condition.answer`."""
    return LOGIT_DIFF if answer == FIRST else LOGPROB_DIFF


def made_of(one: Metric, computed: Collection[str]) -> str | None:
    """The metric of which one is made in a run that computes these (`scored`); None of one that is scored from logits."""
    return LOGPROB_DIFF if one.made_of == LOGIT_DIFF and LOGIT_DIFF not in computed else one.made_of


def available(source: bool, answer: str = FIRST) -> list[str]:
    """The metrics of tinylab that a battery has and `metrics=null` computes; the one by which effects are labelled comes first.

    Args:
        source: whether the battery has one.
        answer: the kind of `condition.answer`.
    """
    return list(dict.fromkeys([labelled(answer), *(name for name in nameable(source, answer) if METRICS[name].usual)]))


def nameable(source: bool, answer: str = FIRST) -> list[str]:
    """The metrics of tinylab that a battery has and a user may name; arguments as for `available`."""
    return [one.name for one in SHIPPED if one.chosen and (source or not one.needs_source) and answer in one.answers]


def scored(names: Sequence[str], answer: str = FIRST) -> tuple[str, ...]:
    """What to score from logits for the chosen metrics: themselves or what they are made of, and what baselines are told by."""
    made = [labelled(answer) if named(name).made_of == LOGIT_DIFF else named(name).made_of for name in names]
    return tuple(dict.fromkeys([*(name for name, of in zip(names, made, strict=True) if of is None),
                                *(of for of in made if of is not None), labelled(answer)]))
