"""LLM-as-a-judge: a model is asked in words, for a score or for the better of two responses.

The judge is any `Sampler`. What it writes is untrusted text: it is read by `parse_score` or
`parse_preference` and by nothing else, and a judgement that cannot be read is left out of the mean,
never counted as 0.

`RubricJudge` averages several scores of each text (Self-Rewarding Language Models, Yuan et al.,
arXiv 2401.10020; what is asked and how it is read differ, see `cream.algorithms.judging`).
`PairwiseJudge` compares every two texts of a group in both orders: judges favour a place, whatever
stands first, or last, so a preference counts only if it survives the exchange of the two. A score
is then the share of the others that a text beats, and scores of different prompts are not
comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations

from cream.algorithms.judging import (
    Preference,
    Unscored,
    comparison_prompt,
    conversation,
    judge_prompt,
    parse_preference,
    parse_score,
)
from cream.engines.texts import (
    Text,
    TextScore,
    Unscorable,
    commonest,
    special_texts,
    spells_any,
)
from cream.models.chat import ChatEncoder
from cream.protocols import Sampler, SamplingParams
from cream.types import FinishReason, Message, SamplingRequest

Shown = tuple[str, str]
"""Ids of the texts shown first and second."""
Said = Preference | Unscored | Unscorable
Answer = tuple[str, bool]
"""What the model wrote, and whether it was cut off."""


@dataclass(frozen=True)
class AskedModel:
    """A model that is asked questions, each in a conversation of its own."""

    sampler: Sampler
    encoder: ChatEncoder
    """The model's template and tokenizer."""
    params: SamplingParams
    """How answers are drawn; ``stop_ids`` are those of `encoder`."""
    context_length: int | None
    """Tokens the model can take, answer included, or None for no limit."""

    @cached_property
    def special(self) -> tuple[str, ...]:
        """How the model's special tokens are spelled; a text that spells one is not shown."""
        return special_texts(self.encoder.tokenizer)

    def request(
        self, name: str, question: str, seeds: tuple[int, ...]
    ) -> SamplingRequest | Unscorable:
        """A question as a request of this name, one answer per seed; a reason if it is too long."""
        ids = self.encoder.encode_prompt([Message("user", question)])
        needed = len(ids) + self.params.max_completion_tokens
        if self.context_length is not None and needed > self.context_length:
            return Unscorable.TOO_LONG
        return SamplingRequest(name, ids, seeds)

    def answers(self, requests: Iterable[SamplingRequest]) -> Iterator[tuple[str, list[Answer]]]:
        """Yield the name of each request with its answers."""
        for group in self.sampler.sample(requests, self.params):
            yield (
                group.prompt_id,
                [
                    (self.encoder.decode(c.token_ids), c.finish_reason == FinishReason.LENGTH)
                    for c in group.completions
                ],
            )


class RubricJudge:
    """A `TextScorer` that asks a model to judge by the additive five-point rubric.

    Args:
        asked: The judging model.
        votes: Judgements per text, at least 1.
        seed_of: Seed of judgement k of a text, from (text id, k).
    """

    def __init__(
        self, asked: AskedModel, *, votes: int, seed_of: Callable[[str, int], int]
    ) -> None:
        self._asked = asked
        self._votes = votes
        self._seed_of = seed_of

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield the mean of the scores in [0, 5] that could be read, or why there is none.

        Without any, the reason is the most frequent one among the judgements (see
        `commonest`). A text that cannot be put to the judge is not judged.
        """
        requests = []
        for text in texts:
            request = self._request(text)
            if isinstance(request, Unscorable):
                yield TextScore(text.text_id, None, request, 0)
            else:
                requests.append(request)
        for text_id, answers in self._asked.answers(requests):
            yield _mean(text_id, answers)

    def _request(self, text: Text) -> SamplingRequest | Unscorable:
        if spells_any(text, self._asked.special):
            return Unscorable.SPELLS_SPECIAL
        question = judge_prompt(conversation(text.messages), text.response)
        seeds = tuple(self._seed_of(text.text_id, k) for k in range(self._votes))
        return self._asked.request(text.text_id, question, seeds)


def _mean(text_id: str, answers: Sequence[Answer]) -> TextScore:
    read = [parse_score(answer, truncated=truncated) for answer, truncated in answers]
    scores = [score for score in read if not isinstance(score, Unscored)]
    if scores:
        return TextScore(text_id, sum(scores) / len(scores), None, len(scores))
    return TextScore(text_id, None, commonest([r for r in read if isinstance(r, Unscored)]), 0)


class PairwiseJudge:
    """A `TextScorer` that asks a model to compare every two texts of a group.

    Args:
        asked: The judging model.
        seed_of: Seed of a judgement, from the ids of the texts shown first and second.
    """

    def __init__(self, asked: AskedModel, *, seed_of: Callable[[str, str], int]) -> None:
        self._asked = asked
        self._seed_of = seed_of

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield per text the mean over the others of 1 (better), 1/2 (tied) and 0, or a reason.

        A comparison counts if both of its judgements could be read; ``count`` says how many did.
        """
        groups: dict[str, list[Text]] = {}
        for text in texts:
            if spells_any(text, self._asked.special):
                yield TextScore(text.text_id, None, Unscorable.SPELLS_SPECIAL, 0)
            else:
                groups.setdefault(text.group_id, []).append(text)
        said = self._ask([pair for group in groups.values() for pair in permutations(group, 2)])
        for group in groups.values():
            for text in group:
                yield _standing(text, [t for t in group if t is not text], said)

    def _ask(self, pairs: Sequence[tuple[Text, Text]]) -> dict[Shown, Said]:
        """What the judge said of each ordered pair."""
        said: dict[Shown, Said] = {}
        shown_as: dict[str, Shown] = {}
        requests = []
        for first, second in pairs:
            shown = (first.text_id, second.text_id)
            question = comparison_prompt(
                conversation(first.messages), first.response, second.response
            )
            name = " against ".join(shown)
            request = self._asked.request(name, question, (self._seed_of(*shown),))
            if isinstance(request, Unscorable):
                said[shown] = request
                continue
            shown_as[name] = shown
            requests.append(request)
        for name, ((answer, truncated),) in self._asked.answers(requests):
            said[shown_as[name]] = parse_preference(answer, truncated=truncated)
        return said


def _standing(text: Text, others: Sequence[Text], said: dict[Shown, Said]) -> TextScore:
    points, reasons = [], []
    for other in others:
        as_first = said[text.text_id, other.text_id]
        as_second = said[other.text_id, text.text_id]
        if isinstance(as_first, Preference) and isinstance(as_second, Preference):
            points.append(_points(as_first, as_second))
        reasons += [s for s in (as_first, as_second) if not isinstance(s, Preference)]
    if points:
        return TextScore(text.text_id, sum(points) / len(points), None, len(points))
    reason = commonest(reasons) if reasons else Unscorable.NO_OPPONENT
    return TextScore(text.text_id, None, reason, 0)


def _points(as_first: Preference, as_second: Preference) -> float:
    """Points of a text from the two orders in which it met another one."""
    if (as_first, as_second) == (Preference.FIRST, Preference.SECOND):
        return 1.0
    if (as_first, as_second) == (Preference.SECOND, Preference.FIRST):
        return 0.0
    return 0.5
