"""Where prompt and answer meet, and where a prompt begins: what the model reads is what the joined text would be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from conftest import Command, only, write_jsonl
from tinylab.config.groups import ModelConfig
from tinylab.errors import CorpusError
from tinylab.models.loading import skeleton
from tinylab.models.network import CausalModel
from tinylab.models.weights import ModelIdentity
from tinylab.task.corpus import Condition, PromptPair
from tinylab.task.notes import APART, BEGUN, JOINED, MERGED, SPECIAL, UNSPACED
from tinylab.task.tokens import TokenPair, tokenise

PIECES = ["<s>", "▁", "P", "Q", "a", "b", ":", "\n", "▁P", "▁Q", "▁Pa", "Pa", "("]


def llama(add_bos: bool = True) -> CausalModel:
    """A tokenizer that puts a space before every text, as Llama's do; every piece of it is in `PIECES`."""
    merges = [("▁", "P"), ("▁", "Q"), ("▁P", "a"), ("P", "a")]
    words = Tokenizer(models.BPE({piece: at for at, piece in enumerate(PIECES)}, merges))
    words.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>")
    return CausalModel(None, tokenizer, ModelIdentity("toy", None, None), add_bos)


def cut(model: CausalModel, *rows: tuple[str, str, str, str], **changes: Any) -> tuple[Condition, list[TokenPair]]:
    options = {"context": None, "single_token": False, "aligned": False, "strict": False, **changes}
    pairs = tuple(PromptPair(number, *row) for number, row in enumerate(rows))
    return tokenise(Condition("toy", "toy.jsonl", "sha", pairs, {}), model.encode, bos=model.bos, unknown=model.unknown,
                    lost=model.lost, specials=model.specials, **options)


def ids(*pieces: str) -> tuple[int, ...]:
    return tuple(map(PIECES.index, pieces))


def test_a_space_before_an_answer_is_not_read_twice() -> None:
    """Alone, both answers begin with a bare space: all rows of such a corpus were dropped."""
    assert llama().encode(" Pa") == list(ids("▁", "▁Pa"))
    kept, (pair,) = cut(llama(), ("a b", "b a", " Pa", " Q"), single_token=True)
    assert pair == TokenPair(ids("<s>", "▁", "a", "▁", "b"), ids("<s>", "▁", "b", "▁", "a"), *ids("▁Pa", "▁Q"))
    assert (kept.noted, kept.dropped) == ({JOINED: 1}, {})


def test_a_space_that_is_a_token_of_its_own_is_no_answer() -> None:
    """The tokenizer has no ▁a and no ▁b."""
    assert [llama().encode(answer) for answer in "ab"] == [list(ids("▁", "a")), list(ids("▁", "b"))]
    kept, (pair,) = cut(llama(), ("P:", "Q:", "a", "b"), single_token=True)
    assert (pair.target, pair.foil) == ids("a", "b")
    assert kept.noted == {JOINED: 1}


def test_an_answer_on_a_line_of_its_own_has_no_space() -> None:
    """Alone, the answer is ▁Pa, and no spelling of it gives Pa."""
    kept, (pair,) = cut(llama(), ("a:\n", "b:\n", "Pa", "Q"), single_token=True)
    assert (pair.target, pair.foil) == ids("Pa", "Q")
    assert kept.noted == {JOINED: 1}


def test_an_answer_in_a_bracket_has_no_space() -> None:
    """As of multiple choice: after "(" comes P, and no spelling of it gives that alone."""
    kept, (pair,) = cut(llama(), ("a (", "b (", "P", "Q"), single_token=True)
    assert (pair.target, pair.foil) == ids("P", "Q")
    assert kept.noted == {JOINED: 1}


def test_an_answer_glued_to_its_prompt_stays_what_it_is_alone_and_is_counted() -> None:
    kept, (pair, *_) = cut(llama(), ("a b", "b a", "Pa", "Q"), ("a b", "a a", "Pa", "Q"))
    assert (pair.target, pair.foil) == ids("▁Pa", "▁Q")
    assert kept.noted == {APART: 2}


@pytest.mark.parametrize("row", [("a ", "b a", "P", "Q"), ("a b", "b ", "P", "Q"), ("a:P", "b:", "a", "Q")])
def test_a_prompt_that_never_ends_so_before_its_answer_is_counted(row: tuple[str, str, str, str]) -> None:
    kept, (pair,) = cut(llama(), row)
    assert kept.noted[MERGED] == 1
    assert pair.target == llama().encode(row[2])[0]


def test_a_space_at_the_end_of_a_prompt_is_counted_with_a_tokenizer_of_bytes_too(
    tinylab: Command, tmp_path: Path
) -> None:
    """`is ` and `Paris` are other tokens than `is` and ` Paris`; the run goes on, and says so in its log and manifest."""
    write_jsonl(tmp_path / "mine.jsonl", [
        {"clean": "The capital of France is ", "corrupt": "The capital of Italy is ", "target": "Paris", "foil": "Rome"},
        {"clean": "The capital of Spain is", "corrupt": "The capital of Egypt is", "target": " Madrid", "foil": " Cairo"},
        {"clean": "The capital of Japan is", "corrupt": "The capital of Greece is", "target": " Tokyo", "foil": " Athens"},
    ])
    assert tinylab("condition=jsonl", "condition.path=mine.jsonl", "condition.tag=t", "battery.layers=[0]", "plots=false") == 0
    folder = only(tmp_path / "outputs" / "runs", "*")
    corpus = json.loads((folder / "manifest.json").read_text())["provenance"]["corpus"]
    assert corpus["noted"] == {MERGED: 1}
    assert (folder / "run.log").read_text().count(f"1 of 3 rows: {MERGED}: ") == 1


@pytest.mark.parametrize(("text", "length"), [("<s>a", 3), ("a", 3)])
def test_a_prompt_has_one_bos_whether_or_not_it_brings_it(text: str, length: int) -> None:
    kept, (pair,) = cut(llama(), (text, "b", " Pa", " Q"))
    assert pair.clean == ids("<s>", "▁", "a")
    assert len(pair.clean) == length
    assert kept.noted.get(BEGUN, 0) == (text != "a")
    assert SPECIAL not in kept.noted


def test_a_bos_that_a_prompt_brings_is_its_own_where_none_is_put_first() -> None:
    kept, (pair,) = cut(llama(add_bos=False), ("<s>a", "b", " Pa", " Q"))
    assert (pair.clean, pair.corrupt) == (ids("<s>", "▁", "a"), ids("▁", "b"))
    assert kept.noted == {SPECIAL: 1, JOINED: 1}


def test_a_prompt_of_nothing_but_bos_is_empty() -> None:
    kept, _ = cut(llama(), ("<s>", "b", " Pa", " Q"), ("a", "b", " Pa", " Q"))
    assert kept.dropped == {"empty prompt": 1}


@pytest.mark.parametrize("row", [("a<s>b", "b", " P", " Q"), ("a", "b<s>", " P", " Q"), ("<s><s>a", "b", " P", " Q"),
                                 ("a", "b", " P<s>", " Q")])
def test_special_tokens_inside_a_text_are_counted(row: tuple[str, str, str, str]) -> None:
    assert cut(llama(), row)[0].noted[SPECIAL] == 1


def test_characters_that_a_tokenizer_drops_are_an_error_with_their_row() -> None:
    with pytest.raises(CorpusError, match=r"row 1 has words that the model's vocabulary lacks \(首都:\)"):
        cut(llama(), ("a", "b", " P", " Q"), ("首都:\na", "b", " P", " Q"))
    with pytest.raises(CorpusError, match=r"row 0 has words that the model's vocabulary lacks \('\\t'\)"):
        cut(llama(), ("a\tb", "b", " P", " Q"))


def test_a_character_that_falls_back_on_bytes_is_read_and_lost_by_no_tokenizer() -> None:
    """As Llama 2's and Gemma's: pieces with ▁ for the space, and a token for every byte."""
    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", -9.0) for byte in range(256)), ("▁", -2.0), ("▁Paris", -1.0), ("▁is", -1.0)]
    words = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    words.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<unk>")
    model = CausalModel(None, tokenizer, ModelIdentity("toy", None, None), add_bos=True)
    kept, (pair,) = cut(model, ("首 is", "都 is", " Paris", " é"))
    assert model.encode("首 is") == [258 - 1, *(1 + byte for byte in "首".encode()), 259]
    assert (kept.noted.get(MERGED), kept.dropped) == (None, {})
    assert (pair.target, pair.clean[-1]) == (258, 259)


def test_answers_that_lack_their_space_are_told_where_most_do_with_an_example() -> None:
    """The embedded model's tokenizer has a token for Paris after a space."""
    tiny = skeleton(ModelConfig(path="pkg://tinylab/assets/tiny"))
    lacking, right = (tuple(row) for row in (("The capital of France is", "The capital of Italy is", "Paris", "Rome"),
                                             ("The capital of France is", "The capital of Italy is", " Paris", " Rome")))
    kept, _ = cut(tiny, lacking, lacking, right, spell=tiny.spelt)
    assert kept.noted[UNSPACED] == 2
    assert kept.shown[UNSPACED].startswith("row 0 ends in …")
    assert "with ' Paris' in …␣France|␣is|␣Paris" in kept.shown[UNSPACED]
    assert UNSPACED not in cut(tiny, lacking, right, spell=tiny.spelt)[0].noted


@pytest.mark.parametrize("row", [
    ("The capital of France is ", "The capital of Italy is ", "Paris", "Rome"),
    ("The capital of France is (", "The capital of Italy is (", "Paris", "Rome"),
    ("法国的首都是", "意大利的首都是", "巴黎", "罗马"),
    ("The capital of France is", "The capital of Italy is", ", Paris", ". Rome"),
])
def test_where_no_space_is_wanted_none_is_missed(row: tuple[str, str, str, str]) -> None:
    tiny = skeleton(ModelConfig(path="pkg://tinylab/assets/tiny"))
    assert UNSPACED not in cut(tiny, row, spell=tiny.spelt)[0].noted


def test_a_tokenizer_that_puts_the_space_itself_misses_none() -> None:
    assert UNSPACED not in cut(llama(), ("a b", "b a", "Pa", "Q"), spell=llama().spelt)[0].noted


def test_a_tokenizer_of_all_bytes_loses_nothing() -> None:
    tiny = skeleton(ModelConfig(path="pkg://tinylab/assets/tiny"))
    kept, pairs = cut(tiny, ("首都:\nThe capital of France is", "首都:\nThe capital of Italy is", " Paris", " Rome"))
    assert (kept.noted, len(pairs)) == ({}, 1)


def test_a_word_that_becomes_bos_is_an_error_and_bos_itself_is_not() -> None:
    """The tokenizer's token for the unknown is its BOS: unknown words were read as the begin of a document."""
    words = Tokenizer(models.WordLevel({"<s>": 0, "red": 1, "blue": 2, "sky": 3}, unk_token="<s>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.add_special_tokens([AddedToken("<s>", special=True, normalized=False)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", unk_token="<s>")
    model = CausalModel(None, tokenizer, ModelIdentity("toy", None, None), add_bos=True)
    assert model.encode("red purple sky") == [1, 0, 3]
    with pytest.raises(CorpusError, match=r"row 1 has words that the model's vocabulary lacks \(purple\)"):
        cut(model, ("red sky", "blue sky", " red", " blue"), ("red sky", "purple sky", " red", " blue"))
    kept, (pair,) = cut(model, ("<s> red sky", "blue sky", " red", " blue"))
    assert pair == TokenPair((0, 1, 3), (0, 2, 3), 1, 2)
    assert kept.noted == {BEGUN: 1}
