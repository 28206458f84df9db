"""LLM-as-a-judge of two responses at a time, each pair in both orders.

Judges favour a place: whatever stands first, or last. A preference counts only if it survives the
exchange of the two; one that does not is a tie. A score is the share of the others in its group
that a text beats, so scores of different prompts are not comparable, and need not be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import permutations

from cream.algorithms.judging import Preference, Unscored, comparison_prompt, parse_preference
from cream.engines.texts import (
    Text,
    TextScore,
    Unscorable,
    commonest,
    conversation,
    special_texts,
    spells_any,
)
from cream.models.chat import ChatEncoder
from cream.protocols import Sampler, SamplingParams
from cream.types import FinishReason, Message, SamplingRequest

Shown = tuple[str, str]
"""Ids of the texts shown first and second."""
Said = Preference | Unscored | Unscorable


class PairwiseJudge:
    """A `TextScorer` that asks a model to compare every two texts of a group.

    Args:
        sampler: Of the judging model.
        encoder: The judging model's template and tokenizer.
        params: How judgements are drawn; ``stop_ids`` are those of `encoder`.
        seed_of: Seed of a judgement, from the ids of the texts shown first and second.
        context_length: Tokens the judge can take, judgement included, or None for no limit.
    """

    def __init__(
        self,
        sampler: Sampler,
        encoder: ChatEncoder,
        params: SamplingParams,
        *,
        seed_of: Callable[[str, str], int],
        context_length: int | None,
    ) -> None:
        self._sampler = sampler
        self._encoder = encoder
        self._params = params
        self._seed_of = seed_of
        self._context_length = context_length
        self._special = special_texts(encoder.tokenizer)

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield per text the mean over the others of 1 (better), 1/2 (tied) and 0, or a reason.

        A comparison counts if both of its judgements could be read; ``count`` says how many did.
        """
        groups: dict[str, list[Text]] = {}
        for text in texts:
            if spells_any(text, self._special):
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
        asked: dict[str, Shown] = {}
        requests = []
        for first, second in pairs:
            shown = (first.text_id, second.text_id)
            question = comparison_prompt(
                conversation(first.messages), first.response, second.response
            )
            ids = self._encoder.encode_prompt([Message("user", question)])
            needed = len(ids) + self._params.max_completion_tokens
            if self._context_length is not None and needed > self._context_length:
                said[shown] = Unscorable.TOO_LONG
                continue
            name = " against ".join(shown)
            asked[name] = shown
            requests.append(SamplingRequest(name, ids, (self._seed_of(*shown),)))
        for group in self._sampler.sample(requests, self._params):
            (judgement,) = group.completions
            said[asked[group.prompt_id]] = parse_preference(
                self._encoder.decode(judgement.token_ids),
                truncated=judgement.finish_reason == FinishReason.LENGTH,
            )
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
