"""What a tokenizer loses, and what it puts before a text: small tokenizers of each kind, made on the spot."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from tinylab.errors import ModelError
from tinylab.models.lexicon import Lexicon
from tinylab.models.network import CausalModel
from tinylab.models.weights import ModelIdentity

LETTERS = "abc:"


def fast(model: Any, normalizer: Any = None, pre_tokenizer: Any = None, own: str = "", **special: str) -> PreTrainedTokenizerFast:
    """A tokenizer of transformers, which puts tokens `own` before every text."""
    tokenizer = Tokenizer(model)
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special.values()])
    if own:
        ids = [(token, tokenizer.token_to_id(token)) for token in own.split()]
        tokenizer.post_processor = TemplateProcessing(single=f"{own} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def vocabulary(*words: str) -> dict[str, int]:
    return {word: at for at, word in enumerate(words)}


def metaspace() -> Any:
    return pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never")


def bpe(**settings: Any) -> Any:
    return models.BPE(vocabulary("<s>", "<unk>", "▁", *LETTERS), [], **settings)


LOSING = {
    "BPE without a token for the unknown": fast(bpe(), pre_tokenizer=metaspace()),
    "BPE whose own unknown token transformers does not know": fast(bpe(unk_token="<unk>"), pre_tokenizer=metaspace()),
    "BPE whose unknown token is BOS": fast(bpe(unk_token="<s>"), pre_tokenizer=metaspace(), bos_token="<s>", unk_token="<s>"),
    "BPE that cuts no words": fast(bpe(), normalizer=normalizers.Replace(" ", "▁")),
    "BPE of bytes that lacks some": fast(models.BPE(vocabulary("Ġ", *LETTERS), []),
                                         pre_tokenizer=pre_tokenizers.ByteLevel(False)),
    "Unigram": fast(models.Unigram([("<s>", 0.0), ("▁", -1.0), *((letter, -1.0) for letter in LETTERS)], 0),
                    pre_tokenizer=metaspace(), bos_token="<s>", unk_token="<s>"),
}


@pytest.mark.parametrize("kind", LOSING)
def test_a_character_that_the_vocabulary_lacks_is_lost_and_the_others_are_not(kind: str) -> None:
    lexicon = Lexicon(LOSING[kind])
    assert lexicon.lost("a b: c") == []
    for text in ("首", "a 首b", "a\nb", "a首", "é: a"):
        assert len(lexicon.lost(text)) >= 1, text
    if "bytes" not in kind:
        assert lexicon.lost("首a\nb") == ["首", "\n"]


@pytest.mark.parametrize("unknown", ["<s>", "<unk>", "[none]"])
def test_a_word_that_the_vocabulary_lacks_is_lost_whatever_stands_for_it(unknown: str) -> None:
    """BOS, a token of its own, or one that the vocabulary lacks itself, where the library refuses the text."""
    model = models.WordLevel(vocabulary("<s>", "<unk>", "red", "blue"), unk_token=unknown)
    lexicon = Lexicon(fast(model, pre_tokenizer=pre_tokenizers.WhitespaceSplit(), bos_token="<s>"))
    assert lexicon.lost(" red  blue\nred ") == []
    assert lexicon.lost("red purple blue pink") == ["purple", "pink"]
    assert lexicon.lost("red <s> blue") == []


def test_what_a_tokenizer_changes_by_its_own_rules_is_not_lost() -> None:
    normal = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase(), normalizers.Strip()])
    pieces = models.WordPiece(vocabulary("[UNK]", "cafe", "ole", "##s", "!"), unk_token="[UNK]")
    lexicon = Lexicon(fast(pieces, normal, pre_tokenizers.Whitespace(), unk_token="[UNK]"))
    assert lexicon.lost("  CAFÉS\t\nolé !") == []
    assert lexicon.lost("Café noir") == ["noir"]


def test_bytes_stand_for_characters_that_the_vocabulary_lacks() -> None:
    every = [f"<0x{byte:02X}>" for byte in range(256)]
    fallback = models.BPE(vocabulary("<s>", "▁", "a", *every), [], byte_fallback=True)
    assert Lexicon(fast(fallback, pre_tokenizer=metaspace())).lost("a 首\n𝄞") == []
    whole = models.BPE(vocabulary(*sorted(pre_tokenizers.ByteLevel.alphabet())), [])
    assert Lexicon(fast(whole, pre_tokenizer=pre_tokenizers.ByteLevel(False))).lost("a 首\n𝄞") == []


def test_the_name_of_a_special_token_is_not_lost_though_its_letters_are_no_tokens() -> None:
    lexicon = Lexicon(fast(bpe(), pre_tokenizer=metaspace(), bos_token="<s>", eos_token="<end>"))
    assert lexicon.lost("<s>a b<end>") == []
    assert lexicon.lost("<s>a x<end>") == ["x"]


WORDS = {"<s>": 0, "ab": 1, "cd": 2, "</s>": 3, "<unk>": 4, "[gMASK]": 5}


def network(own: str, bos: str | None = "<s>") -> CausalModel:
    model = models.WordLevel(WORDS, unk_token="<unk>")
    special = {"eos_token": "</s>", "unk_token": "<unk>", **({} if bos is None else {"bos_token": bos})}
    tokenizer = fast(model, pre_tokenizer=pre_tokenizers.WhitespaceSplit(), own=own, **special)
    return CausalModel(None, tokenizer, ModelIdentity("toy", None, None), add_bos=True)


@pytest.mark.parametrize("own", ["", "<s>"])
def test_a_tokenizer_that_begins_texts_with_bos_or_with_nothing_gets_its_bos(own: str) -> None:
    assert network(own).bos == 0


@pytest.mark.parametrize(("own", "bos"), [("</s>", "<s>"), ("[gMASK] <s>", "<s>"), ("<s> ab", "<s>"), ("[gMASK]", None)])
def test_a_tokenizer_that_begins_texts_otherwise_is_refused_with_what_to_do(own: str, bos: str | None) -> None:
    """XGLM and BioGPT begin texts with </s>, GLM with two tokens: their prompts would be ones that the model never saw."""
    told = own.replace(" ", "")
    with pytest.raises(ModelError, match=rf"of toy itself puts {re.escape(told)} there; use model.add_bos=false, and begin"):
        _ = network(own, bos).bos
    asked_not_to = network(own, bos)
    asked_not_to.add_bos = False
    assert asked_not_to.bos is None


@pytest.mark.parametrize(("own", "bos", "expected"), [
    ("", "<s>", None), ("", None, None), ("<s>", "<s>", 0), ("</s>", "<s>", 3), ("[gMASK]", None, 5),
])
def test_auto_does_what_the_tokenizer_itself_does(own: str, bos: str | None, expected: int | None) -> None:
    """Whatever transformers calls the token."""
    model = network(own, bos)
    model.add_bos = "auto"
    assert model.bos == expected
    token = None if expected is None else next(word for word, place in WORDS.items() if place == expected)
    assert model.describe_bos() == {"add_bos": expected is not None, "token_id": expected, "token": token, "policy": "auto"}
    prefix = [] if expected is None else [expected]
    assert [*prefix, *model.encode("ab cd")] == model.tokenizer.encode("ab cd")


def test_auto_refuses_a_tokenizer_that_begins_texts_with_several_tokens() -> None:
    model = network("[gMASK] <s>")
    model.add_bos = "auto"
    with pytest.raises(ModelError, match=r"=auto puts one token at most .* itself puts \[gMASK\]<s> there; use model"):
        _ = model.bos


def test_a_prefix_is_found_with_a_word_that_the_tokenizer_has() -> None:
    dropping = fast(models.BPE(vocabulary("<s>", "q"), []), own="<s>", bos_token="<s>")
    dropping.backend_tokenizer.decoder = decoders.BPEDecoder()
    assert Lexicon(dropping).prefix == [0]


def test_special_tokens_are_those_that_are_added_as_such() -> None:
    tokenizer = fast(bpe(), pre_tokenizer=metaspace(), bos_token="<s>")
    tokenizer.add_tokens([AddedToken("<turn>", special=True), AddedToken("plain", special=False)])
    assert Lexicon(tokenizer).specials == set(tokenizer.convert_tokens_to_ids(["<s>", "<turn>"]))
