"""Whole conversations to token ids, for models that read an answer instead of writing one.

No generation prompt and no completion boundary: a reward model is given the conversation as its
template writes it. For what is sampled and trained, see `cream.models.chat`.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase as Tokenizer

from cream.errors import ModelError
from cream.models.templates import PROBE, Template
from cream.types import Message


class ConversationEncoder:
    """Turns a conversation and its answer into the ids that a reward model reads.

    Attributes:
        tokenizer: The tokenizer given.
        template: The Jinja text in force.
    """

    def __init__(self, tokenizer: Tokenizer, chat_template: str | None = None) -> None:
        """Examine the template.

        Args:
            tokenizer: The reward model's tokenizer.
            chat_template: Jinja text that replaces the tokenizer's own template.

        Raises:
            ModelError: There is no template, or it leaves the answer out.
        """
        self.tokenizer = tokenizer
        try:
            self.template = tokenizer.get_chat_template(chat_template)
        except ValueError as error:
            raise ModelError(
                "the tokenizer has no usable chat template and the recipe gives none. Set "
                "chat_template to a Jinja template or a file with one."
            ) from error
        self._template = Template(tokenizer, self.template, "chat_template")
        self._render([Message("user", "?")], PROBE)

    def encode(self, messages: Sequence[Message], response: str) -> tuple[int, ...]:
        """Encode a conversation that ends with the assistant's response; at least one id.

        Raises:
            ModelError: The template refuses the conversation, or drops a part of it.
        """
        return self._template.encode(self._render(messages, response))

    def _render(self, messages: Sequence[Message], response: str) -> str:
        whole = [*messages, Message("assistant", response)]
        return self._template.render(whole, generation_prompt=False)
