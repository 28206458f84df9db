"""Whole conversations to token ids, for models that read an answer instead of writing one.

No generation prompt and no completion boundary: a reward model is given the conversation as its
template writes it. For what is sampled and trained, see `cream.models.chat`.
"""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase as Tokenizer

from cream.errors import ModelError
from cream.types import Message

PROBE = "cream-probe"
"""What is said when a template is examined."""


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
        if PROBE not in self._render([Message("user", "?")], PROBE):
            raise ModelError(
                "the chat template does not write the assistant's turn, so every answer would get "
                "the same score. Give another chat_template."
            )

    def encode(self, messages: Sequence[Message], response: str) -> tuple[int, ...]:
        """Encode a conversation that ends with the assistant's response; at least one id.

        Raises:
            ModelError: The template refuses the conversation.
        """
        # The template has written every special token that belongs there, begin token included.
        text = self._render(messages, response)
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _render(self, messages: Sequence[Message], response: str) -> str:
        turns = [{"role": m.role, "content": m.content} for m in messages]
        turns.append({"role": "assistant", "content": response})
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    turns, chat_template=self.template, tokenize=False
                )
            )
        except (TemplateError, TypeError, ValueError) as error:
            roles = ", ".join(turn["role"] for turn in turns)
            raise ModelError(
                f"the chat template refuses a conversation of roles ({roles}): {error}. "
                "Give another chat_template."
            ) from error
