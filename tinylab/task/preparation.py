"""A condition as one model sees it: tokens, the examples that the seeds draw, and the battery's cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Bool

from tinylab.batteries.base import Battery, Cell, check_cells
from tinylab.batteries.shams import shams
from tinylab.config.groups import AUTO, ConditionConfig
from tinylab.errors import CorpusError
from tinylab.interventions.sources import RunName
from tinylab.interventions.variants import Named
from tinylab.models.network import CausalModel
from tinylab.schema import Config
from tinylab.task.answers import Kind, check_means, described
from tinylab.task.chat import Turns
from tinylab.task.corpus import Condition, load_condition, subsamples
from tinylab.task.positions import at_each_position, common_tokens, lacking
from tinylab.task.references import Corpus, check_vectors, fill_in, needs_donors, with_donors
from tinylab.task.spans import at_parts
from tinylab.task.tokens import TokenPair, tokenise


@dataclass(frozen=True)
class Prepared:
    """A condition as one model sees it, cut to the examples that the run's seeds use."""

    condition: Condition
    tokens: list[TokenPair]
    seeds: dict[int, list[int]]  # for each seed, indices into condition.pairs
    cells: list[Cell]
    kept: int  # usable pairs, before the seeds drew theirs
    strata: dict[str, int] = field(default_factory=dict)  # those of each template; none where one names none
    bos: dict[str, Any] = field(default_factory=dict)  # what begins prompts, and by whose word
    chat: dict[str, Any] | None = None  # the template and the first prompt's tokens, where prompts are turns
    answers: dict[str, Any] | None = None  # where they are more than their first tokens
    reference: dict[str, Any] | None = None  # what means and deviations are taken over
    position_tokens: list[str | None] | None = None  # what stands at each position, where each has cells of its own
    screen: dict[str, Any] | None = None  # what found the units of the cells (`tinylab.engine.screen`), where something did
    elsewhere: list[TokenPair] = field(default_factory=list)  # of another condition, where means are taken over its pairs

    @property
    def read(self) -> list[TokenPair]:
        """All pairs whose prompts the model reads."""
        return [*self.tokens, *self.elsewhere]

    @property
    def lacking(self) -> Bool[np.ndarray, "V B"]:
        """Which examples do not have the position of a cell."""
        return lacking(self.cells, self.tokens)

    @property
    def spared(self) -> Bool[np.ndarray, "V B"]:
        """Which examples a cell is not for, as its seed does not use them."""
        every = np.arange(len(self.tokens))
        return np.array([np.full(len(every), False) if cell.seed is None else ~np.isin(every, self.seeds[cell.seed])
                         for cell in self.cells])


def prepare(config: Config, condition: Condition, model: CausalModel) -> Prepared:
    """Tokenise the condition, draw the seeds' examples, list the battery's cells and, behind them, shams.

    Raises:
        CorpusError: see `tokenise`.
        ModelError: prompts are to be turns, and the tokenizer cannot make them so.
        ConfigError: a layer, head, neuron or position that is out of range.
    """
    cells = config.battery.cells_of(model.sizes)
    check_vectors(cells, model)
    turns = _turns(config.condition, model)
    whole = _whole(config, model)
    condition, tokens = _read(config.condition, condition, model, aligned=config.battery.aligned)
    if isinstance(part := config.battery.acts_at, Named):
        condition, tokens = at_parts(condition, tokens, part, _runs(config.battery), offsets=model.offsets, turn=turns,
                                     strict=config.condition.strict)
    if needs_donors(cells):
        condition, tokens = with_donors(condition, tokens, config.battery, config.condition.strict)
    drawn = subsamples(condition, config.condition.n_examples, config.seeds)
    used = sorted({b for examples in drawn.values() for b in examples})
    place = {b: i for i, b in enumerate(used)}
    kept = len(condition.pairs)
    strata = Counter(pair.template for pair in condition.pairs if pair.template is not None)
    cut = replace(condition, pairs=tuple(condition.pairs[b] for b in used))
    if config.battery.each:
        cells = at_each_position(cells, max(len(tokens[b].prompt(config.battery.target).tokens) for b in used))
    check_cells(config.battery, cells, model.sizes.n_layers)
    cells = [*cells, *shams(cells, config.controls.sham)]
    filled = fill_in(config.battery, cells, (condition, tokens), drawn, whole)
    tokens = filled.tokens
    check_means((cell.variant for cell in filled.cells), (pair.answers for pair in tokens))
    config.battery.check_prompts([(len(pair.clean), len(pair.corrupt)) for pair in tokens])
    chat = None if turns is None else {**turns.describe(), "tokens": model.spelt(tokens[0].clean)}
    bos = model.describe_bos() if turns is None or model.add_bos != AUTO else _bos_of(model, tokens[0].clean[0])
    seeds = {seed: [place[b] for b in examples] for seed, examples in drawn.items()}
    strata = strata if strata.total() == kept else Counter()
    return Prepared(cut, tokens, seeds, filled.cells, kept, dict(strata), bos, chat,
                    described(config.condition.answer, [pair.answers for pair in tokens]), filled.reference,
                    _position_tokens(config.battery, tokens, model),
                    elsewhere=[] if whole is None or config.reference is None else whole[1])


def _turns(settings: ConditionConfig, model: CausalModel) -> Turns | None:
    """What makes prompts turns of a conversation, where they are to be."""
    return Turns(model.tokenizer, model.identity.name, settings.system) if settings.chat else None


def _read(settings: ConditionConfig, condition: Condition, model: CausalModel, *, aligned: bool) -> Corpus:
    """A condition's pairs as tokens, without those that the model cannot use."""
    turns = _turns(settings, model)
    return tokenise(
        condition,
        encode=model.encode,
        bos=None if turns is not None and model.add_bos == AUTO else model.bos,  # a template puts it where it belongs
        unknown=model.unknown,
        lost=model.lost,
        specials=model.specials,
        context=model.context,
        single_token=settings.single_token,
        aligned=aligned,
        strict=settings.strict,
        answer=Kind(settings.answer, settings.first_tokens),
        turn=turns,
        spell=model.spelt,
    )


def _whole(config: Config, model: CausalModel) -> Corpus | None:
    """The pairs that reference sets are made of, where there are such sets, of every split: its own, or another condition's.

    Raises:
        CorpusError: the model cannot use them.
    """
    if config.battery.reference_set is None:
        return None
    settings = replace(config.reference or config.condition, split=None)
    try:
        return _read(settings, load_condition(settings), model, aligned=config.battery.aligned)
    except CorpusError as error:
        if config.reference is None:
            raise
        raise CorpusError(f"battery.reference={config.battery.reference_set.of}: {error}") from error


def _position_tokens(battery: Battery, tokens: Sequence[TokenPair], model: CausalModel) -> list[str | None] | None:
    if not battery.each:
        return None
    return common_tokens(tokens, dict.fromkeys([battery.target, *([] if battery.source is None else [battery.source.run])]),
                         model.spelt)


def _runs(battery: Battery) -> list[RunName]:
    """The runs of a pair that a battery needs."""
    return [battery.target, *([] if battery.source is None else [battery.source.run])]


def _bos_of(model: CausalModel, first: int) -> dict[str, Any]:
    """What begins prompts where a chat template alone decides it."""
    begins = first == model.tokenizer.bos_token_id
    return {"add_bos": begins, "token_id": first if begins else None, "token": model.spelt([first])[0] if begins else None,
            "policy": "chat template"}
