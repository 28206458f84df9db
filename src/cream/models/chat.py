"""Conversations to token ids, by the model's own chat template and in one way only.

The same ids are sampled from, scored and trained on. So the encoder checks what is usually assumed:
that the template writes the prompt of a conversation the same way with and without the answer (else
the ids trained on are not those sampled after), that it ends an answer with a stop token (else the
model unlearns to stop), that it writes no second begin token, and that it keeps what was said.
Masks are no business of this module: where the completion begins is known by length, never by id.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from typing import Any, Never

from transformers import PreTrainedTokenizerBase as Tokenizer

from cream.cache import expanded
from cream.errors import ModelError
from cream.models.templates import PROBE, Template, short
from cream.types import Message

REMEMBERED_IDS = 1 << 24
"""Ids kept of what was encoded, 64 MiB: a run is checked by encoding what it will train on."""


def read_chat_template(value: str | None) -> str | None:
    """Return the template of a recipe's ``model.chat_template``: the text itself, or a file's.

    Text is told from a path by a Jinja tag (``{{`` or ``{%``).

    Raises:
        ModelError: It is a path and cannot be read.
    """
    if value is None or "{{" in value or "{%" in value:
        return value
    path = expanded(value)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"model.chat_template: {value!r} has no Jinja tag, so it is a path, and it cannot be "
            f"read ({error}). Give the path of a text file, or the template itself."
        ) from error


class ChatEncoder:
    """Turns conversations into token ids and ids into text, for one tokenizer and one template.

    Attributes:
        tokenizer: The tokenizer given.
        template: The Jinja text in force.
        end_of_turn_id: The token with which the template ends an assistant turn.
        stop_ids: Ids that end a completion: `end_of_turn_id`, then the other end tokens of the
            tokenizer and the generation config in ascending order.
        notes: Properties of the template that are legal but worth telling, as sentences.
    """

    def __init__(
        self, tokenizer: Tokenizer, chat_template: str | None = None, *, eos_ids: Sequence[int] = ()
    ) -> None:
        """Examine the template.

        Args:
            tokenizer: The model's tokenizer.
            chat_template: Jinja text that replaces the tokenizer's own template.
            eos_ids: The generation config's end tokens (`cream.models.loading.generation_eos_ids`).

        Raises:
            ModelError: There is no template, or it cannot be trained on (see the module).
        """
        self.tokenizer = tokenizer
        self._encoded: dict[Any, array[int]] = {}
        self._room = REMEMBERED_IDS
        self.template = _template(tokenizer, chat_template)
        self._template = Template(tokenizer, self.template)
        self._unknown_id: int | None = None  # the examination says what no model need know
        own: Any = tokenizer.eos_token_id
        self._eos_ids: set[int] = {*eos_ids} | ({own} if own is not None else set())
        self.end_of_turn_id = self._find_end_of_turn()
        self.stop_ids = (self.end_of_turn_id, *sorted(self._eos_ids - {self.end_of_turn_id}))
        self.notes = tuple(self._find_notes())
        self.encode_completion([Message("user", PROBE)], PROBE)
        self._unknown_id = self._find_unknown()
        self._encoded.clear()
        self._room = REMEMBERED_IDS

    def encode_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Encode a conversation up to where the assistant begins to speak (generation prompt).

        Raises:
            ModelError: The template refuses the conversation, or writes the begin token twice, or
                the tokenizer has no token for a character.
        """
        key = tuple(messages)
        return self._remembered(key, lambda: self._encode_prompt(self._render_prompt(messages)))

    def _remembered(self, key: Any, encode: Callable[[], tuple[int, ...]]) -> tuple[int, ...]:
        known = self._encoded.get(key)
        if known is not None:
            return tuple(known)
        ids = encode()
        if len(ids) <= self._room:
            self._room -= len(ids)
            self._encoded[key] = array("I", ids)
        return ids

    def _encode_prompt(self, text: str) -> tuple[int, ...]:
        ids = self._encode(text)
        bos = self.tokenizer.bos_token_id
        if bos is not None and ids[:2] == (bos, bos):
            raise ModelError(
                f"the chat template writes the begin token {self.tokenizer.bos_token!r} twice. "
                "Give a template that writes it once as model.chat_template."
            )
        return ids

    def encode_completion(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        """Encode an answer as the ids the policy would have had to sample after the prompt.

        That is the template applied to prompt and answer, without the ids of `encode_prompt`, cut
        right after the end-of-turn token: what a template writes after it (a newline) is never
        sampled. Templates that trim an answer are followed: ids are the truth.

        Returns:
            At least one id; the last one is `end_of_turn_id`, and no other is a stop id.

        Raises:
            ModelError: The template does not preserve the prompt or the answer, or the answer
                contains a stop token or merges with the end of the prompt.
        """
        key = (tuple(messages), text)
        return self._remembered(key, lambda: self._encode_completion(messages, text))

    def _encode_completion(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        said = next((i for i in self._template.special_in(text) if i in self.stop_ids), None)
        if said is not None:
            self._refuse_stop(text, said)
        prompt = self._render_prompt(messages)
        prompt_token_ids = self._remembered(tuple(messages), lambda: self._encode_prompt(prompt))
        ids = self._encode(prompt + self._render_answer(messages, text, prompt))
        if ids[: len(prompt_token_ids)] != prompt_token_ids:
            raise ModelError(
                f"the completion {short(text)} merges with the end of the prompt into other "
                "tokens, so the policy could never have sampled it. Strip white space at its start."
            )
        ids = ids[len(prompt_token_ids) :]
        if self.end_of_turn_id not in ids:
            raise ModelError(
                f"the chat template does not end the completion {short(text)} with "
                f"{self._token(self.end_of_turn_id)}, as it does others. Give another "
                "model.chat_template."
            )
        last = len(ids) - 1 - ids[::-1].index(self.end_of_turn_id)
        ids = ids[: last + 1]
        early = next((i for i in ids[:-1] if i in self.stop_ids), None)
        if early is not None:
            self._refuse_stop(text, early)
        return ids

    def _refuse_stop(self, text: str, token_id: int) -> Never:
        raise ModelError(
            f"the completion {short(text)} contains the stop token {self._token(token_id)} "
            "before its end; the policy could never have sampled it. Take it out of the data."
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Turn ids into text without special tokens: for people and verifiers, not for training."""
        text = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text if isinstance(text, str) else "".join(text)

    def _render_prompt(self, messages: Sequence[Message]) -> str:
        return self._render(messages, generation_prompt=True)

    def _render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        if not messages:
            raise ModelError("a conversation without messages cannot be encoded. Give a prompt.")
        return self._template.render(messages, generation_prompt=generation_prompt)

    def _render_answer(self, messages: Sequence[Message], text: str, prompt: str) -> str:
        """Return what the template writes after the prompt for this answer, checked."""
        full = self._render([*messages, Message("assistant", text)], generation_prompt=False)
        if not full.startswith(prompt):
            raise ModelError(
                "the chat template is not prefix preserving: with an answer it writes the prompt "
                "differently than it does to ask for one (templates of reasoning models do), so "
                "what is trained is not what is sampled. Give a plain template as "
                "model.chat_template."
            )
        answer = full[len(prompt) :]
        said = self._template.protected(text).strip()
        if said not in answer:
            raise ModelError(
                f"the chat template drops or changes a part of the completion {short(text)} "
                "(templates of reasoning models drop what was thought). Give a plain template as "
                "model.chat_template."
            )
        begins = answer.lstrip().startswith(said)
        if not begins and prompt == self._render(messages, generation_prompt=False):
            raise ModelError(
                "the chat template ignores add_generation_prompt, so the header of the assistant's "
                "turn would count as completion. Give one that honours it as model.chat_template."
            )
        return answer

    def _encode(self, text: str) -> tuple[int, ...]:
        ids = self._template.encode(text)
        if self._unknown_id is not None and self._unknown_id in ids:
            known = (self._template.encode(character) for character in text)
            lost = [c for c, own in zip(text, known, strict=True) if self._unknown_id in own]
            raise ModelError(
                f"the tokenizer has no token for {', '.join(map(repr, dict.fromkeys(lost)))} in "
                f"{short(text)}, so the model would not be given what was said. Take it out of the "
                "data, or name another model (of one from scratch: extend its alphabet)."
            )
        return ids

    def _find_unknown(self) -> int | None:
        """The id of what the tokenizer cannot spell, if that id means nothing else."""
        unknown: Any = self.tokenizer.unk_token_id
        others = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        return None if unknown in (*others, self.tokenizer.pad_token_id) else unknown

    def _find_end_of_turn(self) -> int:
        probe = [Message("user", PROBE)]
        prompt = self._render_prompt(probe)
        answer = self._render_answer(probe, PROBE, prompt)
        tail = answer[answer.index(PROBE) + len(PROBE) :]
        added = self.tokenizer.added_tokens_decoder
        ends = {i for i, token in added.items() if token.special} | self._eos_ids
        for token_id in self._encode(tail):
            if token_id in ends:
                return token_id
        raise ModelError(
            f"the chat template ends an assistant turn with {tail!r}, which holds no stop token, "
            "so a model trained on it would not learn to stop. Give a template that writes "
            "{{ eos_token }} after the assistant's content as model.chat_template."
        )

    def _find_notes(self) -> list[str]:
        notes = []
        prompt = self.encode_prompt([Message("user", PROBE)])
        bos = self.tokenizer.bos_token_id
        plain = tuple(self.tokenizer(PROBE)["input_ids"])
        if bos is not None and plain[:1] == (bos,) and prompt[:1] != (bos,):
            notes.append(
                f"The tokenizer begins plain text with {self.tokenizer.bos_token!r}, the chat "
                "template does not; if the model was trained with it, give a template that writes "
                "{{ bos_token }} first."
            )
        if "strftime_now" in self.template:
            notes.append(
                "The chat template writes today's date, so prompts differ from day to day; give "
                "one with a fixed date for a repeatable run."
            )
        return notes

    def _token(self, token_id: int) -> str:
        return repr(self.tokenizer.convert_ids_to_tokens(token_id))


def _template(tokenizer: Tokenizer, chat_template: str | None) -> str:
    if chat_template is None and not tokenizer.chat_template:
        raise ModelError(
            "the tokenizer has no chat template and the recipe gives none. Set model.chat_template "
            "to a Jinja template or a file with one."
        )
    try:
        return tokenizer.get_chat_template(chat_template)
    except ValueError as error:
        raise ModelError(f"the tokenizer's chat template cannot be used: {error}") from error
