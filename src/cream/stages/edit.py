"""Wrong completions to minimal edits of them: who edits, which edits count, what they touched.

An accepted edit is a completion derived from a sampled one (origin ``edited``), in the same group;
its ids are what the tokenizer gives, the original keeps those that were sampled. What an edit
touched is found by aligning texts and told per token (`cream.algorithms.alignment`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

from cream.algorithms.alignment import (
    MOST_CELLS,
    Span,
    text_spans,
    token_labels,
    token_offsets,
)
from cream.data.extraction import last_number
from cream.errors import DataError, ModelError
from cream.protocols import Sampler, SamplingParams, TextEncoder, Verifier
from cream.recipe.editing import Editing
from cream.stages.sample import greedy
from cream.types import (
    Completion,
    EncodedPrompt,
    FinishReason,
    Message,
    Origin,
    Prompt,
    Tally,
)

ACCEPTED = "accepted"
RIGHT = "right"
"""Nothing to edit: the verifier calls it right."""
UNVERIFIED = "unverified"
"""The prompt has no reference answer, so nothing says that it is wrong."""
DUPLICATE = "duplicate"
"""A copy of a completion before it, whose edit it would repeat."""
TRUNCATED = "truncated"
"""Cut off at the token limit, the original or what the model wrote: a missing end is no edit."""
NO_EDIT = "no_edit"
"""The editor left it alone, or found no place to edit."""
STALE = "stale"
"""The file's original is another text than the completion of that id."""
TOO_LONG = "too_long"
"""The question does not fit the editor's context, or the texts are too long to be aligned."""
UNENCODABLE = "unencodable"
"""The edited text cannot be what the policy says after the prompt."""
NOT_BETTER = "not_better"
"""The verifier does not call the edited text right."""
REWRITE = "rewrite"
"""It touches too large a share of the tokens."""
OUTCOMES = (
    ACCEPTED,
    RIGHT,
    UNVERIFIED,
    DUPLICATE,
    TRUNCATED,
    NO_EDIT,
    STALE,
    TOO_LONG,
    UNENCODABLE,
    NOT_BETTER,
    REWRITE,
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an editor makes of a completion: a text, or why there is none."""

    text: str = ""
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """What became of one completion."""

    original: Completion
    outcome: str
    """One of `OUTCOMES`."""
    edited: Completion | None = None
    """The derived completion; None unless accepted."""
    spans: tuple[Span, ...] = ()
    """What was changed, in characters of both texts."""
    replaced: tuple[bool, ...] = ()
    """Per token of the original: replaced or deleted, or blamed for what was missing."""
    new: tuple[bool, ...] = ()
    """Per token of the edited completion."""


Asked = Sequence[tuple[Prompt, Completion]]
Editor = Callable[[Asked], Mapping[str, Proposal]]
"""Completions with their prompts to proposals by completion id, every one of them answered."""


def by_verifier(verifier: Verifier) -> Editor:
    """Writes the reference answer where the verifier found another one.

    Of several places that spell what was found the last is taken with which the text is right.
    """

    def one(prompt: Prompt, text: str) -> Proposal:
        found = verifier.verify(prompt, text)
        if found is None or found.extracted is None or prompt.answer is None:
            return Proposal(reason=NO_EDIT)
        reference = verifier.verify(prompt, prompt.answer)
        stated = reference.extracted if reference and reference.correct else None
        proposed = ""
        for wrong in dict.fromkeys((found.extracted, last_number(text))):
            for at in _places(text, wrong):
                made = text[:at] + (stated or prompt.answer.strip()) + text[at + len(wrong or "") :]
                verdict = verifier.verify(prompt, made)
                if verdict is not None and verdict.correct:
                    return Proposal(made)
                proposed = proposed or made
        return Proposal(proposed) if proposed else Proposal(reason=NO_EDIT)

    return lambda asked: {c.completion_id: one(prompt, c.text) for prompt, c in asked}


def _places(text: str, part: str | None) -> Iterable[int]:
    """Where a part begins, the last place first."""
    at = text.rfind(part) if part else -1
    while at >= 0:
        yield at
        at = text.rfind(part or "", 0, at + len(part or "") - 1)


@dataclass(frozen=True, slots=True)
class PersonsEdit:
    """A row of a file of edits."""

    original: str
    edited: str | None
    """None: left alone."""


def by_file(rows: Mapping[str, PersonsEdit]) -> Editor:
    """Takes a person's edits by completion id; what is not among them is left alone."""

    def one(completion: Completion) -> Proposal:
        row = rows.get(completion.completion_id)
        if row is None or row.edited is None:
            return Proposal(reason=NO_EDIT)
        return Proposal(row.edited) if row.original == completion.text else Proposal(reason=STALE)

    return lambda asked: {c.completion_id: one(c) for _, c in asked}


def edit_question(messages: Sequence[Message], response: str) -> tuple[Message, ...]:
    """What a model is asked that edits its own answer; it is not told the right one."""
    said = "\n\n".join(message.content for message in messages)
    text = (
        "The response to the message below is wrong. Correct it by changing as few words as "
        "possible, and reply with the corrected response alone.\n\n"
        f"Message:\n{said}\n\nResponse:\n{response}"
    )
    return (Message("user", text),)


@final
class ByModel:
    """Asks a model to correct each completion, greedily; an `Editor` that counts its tokens."""

    def __init__(
        self,
        sampler: Sampler,
        encoder: TextEncoder,
        params: SamplingParams,
        context_length: int | None,
    ) -> None:
        self._sampler, self._encoder, self._params = sampler, encoder, params
        room = params.max_completion_tokens
        self._most = None if context_length is None else context_length - room
        self.tokens = 0

    def __call__(self, asked: Asked) -> dict[str, Proposal]:
        """See `Editor`."""
        encode, questions = self._encoder.encode_prompt, list[EncodedPrompt]()
        for prompt, completion in asked:
            messages = edit_question(prompt.messages, completion.text)
            question = Prompt(completion.completion_id, messages)
            questions.append(EncodedPrompt(question, encode(messages)))
        fits = [q for q in questions if self._most is None or len(q.token_ids) <= self._most]
        answers = {}
        if fits:
            decode = self._encoder.decode
            answers = greedy(fits, self._sampler, self._params, seed=0, decode=decode)
        self.tokens += sum(len(answer.token_ids) for answer in answers.values())
        return {q.prompt.prompt_id: _answered(answers.get(q.prompt.prompt_id)) for q in questions}


def _answered(answer: Completion | None) -> Proposal:
    if answer is None:
        return Proposal(reason=TOO_LONG)
    if answer.finish_reason == FinishReason.LENGTH:
        return Proposal(reason=TRUNCATED)
    return Proposal(answer.text.strip())


def edit_all(
    completions: Sequence[Completion],
    prompts: Mapping[str, Prompt],
    editor: Editor,
    verifier: Verifier,
    settings: Editing,
    encoder: TextEncoder,
) -> list[Edit]:
    """Edit what is wrong; one answer per completion, in order.

    Args:
        completions: Of any prompts.
        prompts: Prompts by id.
        editor: Who edits.
        verifier: Says what is wrong, and whether an edit is better. Without a reference answer
            only a person's edit counts, and is believed.
        settings: Which edits count.
        encoder: Edited text to ids, ids to text.
    """
    believed = settings.editor.by == "file"
    reasons = _nothing_to_edit(completions, prompts, verifier, believed=believed)
    asked = [(prompts[c.prompt_id], c) for c in completions if c.completion_id not in reasons]
    proposals = editor(asked)
    return [
        Edit(c, reasons[c.completion_id])
        if c.completion_id in reasons
        else _examined(
            c, prompts[c.prompt_id], proposals[c.completion_id], verifier, settings, encoder
        )
        for c in completions
    ]


def _nothing_to_edit(
    completions: Sequence[Completion],
    prompts: Mapping[str, Prompt],
    verifier: Verifier,
    *,
    believed: bool,
) -> dict[str, str]:
    """By completion id why it is not given to the editor."""
    found: dict[str, str] = {}
    seen: set[tuple[str, tuple[int, ...]]] = set()
    for completion in completions:
        key, ids = completion.completion_id, (completion.prompt_id, completion.token_ids)
        verdict = verifier.verify(prompts[completion.prompt_id], completion.text)
        if verdict is not None and verdict.correct:
            found[key] = RIGHT
        elif verdict is None and not believed:
            found[key] = UNVERIFIED
        elif ids in seen:
            found[key] = DUPLICATE
        elif completion.finish_reason == FinishReason.LENGTH:
            found[key] = TRUNCATED
        seen.add(ids)
    return found


def _examined(
    original: Completion,
    prompt: Prompt,
    proposal: Proposal,
    verifier: Verifier,
    settings: Editing,
    encoder: TextEncoder,
) -> Edit:
    """Accept a proposal, or say why not."""
    if proposal.reason is not None:
        return Edit(original, proposal.reason)
    try:
        ids = encoder.encode_completion(prompt.messages, proposal.text)
    except ModelError:
        return Edit(original, UNENCODABLE)
    edited = Completion(
        prompt_id=original.prompt_id,
        completion_id=f"{original.completion_id}-{Origin.EDITED}",
        token_ids=ids,
        text=encoder.decode(ids),
        finish_reason=FinishReason.STOP,
        seed=0,
        origin=Origin.EDITED,
    )
    if edited.text == original.text:
        return Edit(original, NO_EDIT)
    verdict = verifier.verify(prompt, edited.text)
    if verdict is not None and not verdict.correct:
        return Edit(original, NOT_BETTER)
    if len(original.text) * len(edited.text) > MOST_CELLS:
        return Edit(original, TOO_LONG)
    return _touched(Edit(original, ACCEPTED, edited), settings, encoder)


def _touched(edit: Edit, settings: Editing, encoder: TextEncoder) -> Edit:
    original, edited = edit.original, edit.edited
    assert edited is not None, "accepted so far"
    spans = text_spans(original.text, edited.text, settings.align)
    offsets = [token_offsets(c.token_ids, c.text, encoder.decode) for c in (original, edited)]
    labels = token_labels(spans, *offsets, insertion_blame=settings.insertion_blame)
    share = (sum(labels.original) + sum(labels.edited)) / (
        len(labels.original) + len(labels.edited)
    )
    if share > settings.max_share:
        return Edit(original, REWRITE)
    if not share:  # nothing that a token stands for
        return Edit(original, NO_EDIT)
    return replace(edit, spans=spans, replaced=labels.original, new=labels.edited)


def tally(outcomes: Iterable[str]) -> Tally:
    """Completions by what became of them."""
    found = list(outcomes)
    return Tally(len(found), {name: found.count(name) for name in OUTCOMES})


def read_edits(rows: Iterable[tuple[Mapping[str, object], str]]) -> dict[str, PersonsEdit]:
    """Rows of a file of edits, each with its place, by completion id.

    Raises:
        DataError: A row is not ``completion_id``, ``original`` and ``edited``, or comes twice.
    """
    found: dict[str, PersonsEdit] = {}
    for values, where in rows:
        key, original = values.get("completion_id"), values.get("original")
        edited = values.get("edited")
        good = isinstance(key, str) and isinstance(original, str)
        if not good or not isinstance(edited, str | None):
            raise DataError(
                f"{where} is no edit; a row has the texts `completion_id`, `original` and "
                "`edited` (null: left alone), as `cream export edits` writes them"
            )
        assert isinstance(key, str)
        assert isinstance(original, str)
        if key in found:
            raise DataError(f"{where} edits completion {key} a second time; keep one of the rows")
        found[key] = PersonsEdit(original, edited)
    return found
