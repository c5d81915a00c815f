"""What a tokenizer knows: the text that it loses, its special tokens, and what it puts before a text of its own accord."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any


class Lexicon:
    """A tokenizer's words. What is lost is known of tokenizers of the `tokenizers` library, not of those written in Python."""

    def __init__(self, tokenizer: Any) -> None:
        """The lexicon of a transformers tokenizer."""
        self.tokenizer = tokenizer
        self.backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        self._gaps: dict[str, list[str]] = {}

    def try_out(self) -> None:
        """Ask everything once, so that settings of which the tokenizer cannot make anything are found before it is needed.

        Raises:
            Exception: what the tokenizer's own code makes of them.
        """
        self.tokenizer.decode(self.tokenizer.encode("a"))
        _ = self.lost("a"), self.prefix, self.specials

    def lost(self, text: str) -> list[str]:
        """The parts of a text that no token stands for: left out, or behind a token for the unknown.

        What the tokenizer changes by its own rules, such as case, accents or white space between words, is not lost.
        """
        if self.backend is None:
            return []
        found = self._lost(text)
        return [gap for part in self._added.split(text) for gap in self._lost(part)] if found else []

    @cached_property
    def specials(self) -> frozenset[int]:
        """The tokens that are no text, such as those that begin or end documents and turns."""
        added = self.tokenizer.added_tokens_decoder.items()
        return frozenset([*self.tokenizer.all_special_ids, *(token for token, how in added if how.special)])

    @cached_property
    def prefix(self) -> list[int]:
        """The tokens that the tokenizer itself puts before a text."""
        word = next((word for word in self._samples() if not self.lost(word)), "")
        plain, full = (self.tokenizer.encode(word, add_special_tokens=own) for own in (False, True))
        places = range(len(full) - len(plain), -1, -1)  # what is put there may be the word itself
        return next((full[:at] for at in places if full[at:at + len(plain)] == plain), [])

    def _samples(self) -> Iterator[str]:
        yield "a"
        yield from (word for word in self.tokenizer.get_vocab() if word.strip() and word not in self.tokenizer.all_special_tokens)

    def _lost(self, text: str) -> list[str]:
        return [gap for piece in self._pieces(text) for gap in self._gaps_of(piece)]

    def _pieces(self, text: str) -> Iterator[str]:
        """The text as the tokenizer's model is given it: normalised, cut into words."""
        normal = self.backend.normalizer.normalize_str(text) if self.backend.normalizer is not None else text
        if self.backend.pre_tokenizer is None:
            yield normal
        else:
            yield from (piece for piece, _ in self.backend.pre_tokenizer.pre_tokenize_str(normal))

    def _gaps_of(self, piece: str) -> list[str]:
        if piece not in self._gaps:
            self._gaps[piece] = self._find_gaps(piece)
        return self._gaps[piece]

    def _find_gaps(self, piece: str) -> list[str]:
        """What of a piece is behind a token for the unknown, or else no token's; the library counts its bytes."""
        try:
            tokens = self.backend.model.tokenize(piece)
        except Exception as error:  # the library has no class of its own for a model that lacks its unknown token
            if type(error) is not Exception:
                raise
            return [piece]
        raw = piece.encode()
        unknown = [raw[slice(*token.offsets)].decode(errors="replace") for token in tokens if token.id == self._unknown]
        if unknown or sum(end - start for start, end in {token.offsets for token in tokens}) == len(raw):
            return unknown
        return [letter for letter in piece if not self.backend.model.tokenize(letter)] or [piece]

    @cached_property
    def _unknown(self) -> int | None:
        """The token that the tokenizer's own model puts for the unknown, whatever transformers calls so."""
        name = getattr(self.backend.model, "unk_token", None)
        if type(self.backend.model).__name__ == "Unigram":
            unknown: int | None = json.loads(self.backend.to_str())["model"]["unk_id"]
            return unknown
        return None if name is None else self.backend.token_to_id(name)

    @cached_property
    def _added(self) -> re.Pattern[str]:
        """Tokens that are found in a text before it is cut into words, the longest first."""
        contents = sorted((token.content for token in self.tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, contents)) or r"(?!)")
