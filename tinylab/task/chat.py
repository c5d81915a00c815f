"""Prompts as a user's turns: each is put into the tokenizer's chat template, and its answer begins the assistant's turn.

Templates run in transformers' own sandbox, without a clock: one that takes a date (`date_string`) gets `DATE`, and one that asks
for today's is refused, as its numbers would change daily.
"""

from __future__ import annotations

import hashlib
from typing import Any

from tinylab.errors import ModelError, first_sentence

DATE = "01 Jan 2025"
"""What a template is told that takes a date."""


class Turns:
    """A tokenizer's chat template, with a system's turn before the user's or without one."""

    def __init__(self, tokenizer: Any, name: str, system: str | None = None) -> None:
        """Look at the template.

        Args:
            tokenizer: a transformers tokenizer.
            name: what results call the model.
            system: what the system's turn says, None for what the template itself puts there.

        Raises:
            ModelError: there is no template, or it has no place for what is to be said.
        """
        self._tokenizer, self._name, self._system = tokenizer, name, system
        if not getattr(tokenizer, "chat_template", None):
            raise ModelError(f"condition.chat=true, but the tokenizer of {name} has no chat template; use condition.chat=false, "
                             "or a model that was taught to chat.")
        self("word")

    def __call__(self, prompt: str) -> str:
        """The text of a conversation that a prompt opens, up to where the assistant's answer begins.

        Raises:
            ModelError: the template refuses the conversation, or leaves a part of it out.
        """
        text = self._rendered(prompt)
        if self._system is not None and self._system.strip() not in text:
            raise ModelError(f"condition.system: the chat template of {self._name} leaves out the system's turn; leave "
                             "condition.system out, and say it in the prompts.")
        if prompt.strip() not in text:
            raise ModelError(f"condition.chat=true: the chat template of {self._name} leaves out or changes the user's turn; use "
                             "condition.chat=false, and write the turns into the prompts.")
        return text

    def describe(self) -> dict[str, Any]:
        """The template's digest, the system's turn, and the date that stands in prompts (None where there is none)."""
        template = self._tokenizer.get_chat_template()
        return {"template": hashlib.sha256(template.encode()).hexdigest(), "system": self._system,
                "date": DATE if DATE in self._rendered("word") else None}

    def _rendered(self, prompt: str) -> str:
        turns = [{"role": "user", "content": prompt}]
        if self._system is not None:
            turns.insert(0, {"role": "system", "content": self._system})
        try:
            text: str = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, date_string=DATE, strftime_now=""
            )
        except Exception as error:  # whatever a template may raise
            if "'str' object is not callable" in str(error):  # its clock, which was taken away
                raise ModelError(f"condition.chat=true: the chat template of {self._name} writes today's date into prompts, "
                                 "so that numbers would change daily; use condition.chat=false, and write the turns into the "
                                 "prompts.") from error
            asked, mending = ("condition.chat=true", "use condition.chat=false") if self._system is None else (
                "condition.system", "leave condition.system out, and say it in the prompts")
            raise ModelError(f"{asked}: the chat template of {self._name} refuses it ({first_sentence(error)}); "
                             f"{mending}.") from error
        return text
