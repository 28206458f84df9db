"""LLM-as-a-judge: a model is asked in words for a score, several times per text.

The judge is any `Sampler`. What it writes is untrusted text: it is read by `parse_score` and by
nothing else, and a judgement that cannot be read is left out of the mean, never counted as 0.

Source: Self-Rewarding Language Models, Yuan et al. (arXiv 2401.10020): sampled judgements,
averaged. They differ in what is asked and how it is read; see `cream.algorithms.judging`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cream.algorithms.judging import Unscored, judge_prompt, parse_score
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
from cream.types import FinishReason, Message, SampledGroup, SamplingRequest


class RubricJudge:
    """A `TextScorer` that asks a model to judge by the additive five-point rubric.

    Args:
        sampler: Of the judging model.
        encoder: The judging model's template and tokenizer.
        params: How judgements are drawn; ``stop_ids`` are those of `encoder`.
        votes: Judgements per text, at least 1.
        seed_of: Seed of judgement k of a text, from (text id, k).
        context_length: Tokens the judge can take, judgement included, or None for no limit.
    """

    def __init__(
        self,
        sampler: Sampler,
        encoder: ChatEncoder,
        params: SamplingParams,
        *,
        votes: int,
        seed_of: Callable[[str, int], int],
        context_length: int | None,
    ) -> None:
        self._sampler = sampler
        self._encoder = encoder
        self._params = params
        self._votes = votes
        self._seed_of = seed_of
        self._context_length = context_length
        self._special = special_texts(encoder.tokenizer)

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
        for group in self._sampler.sample(requests, self._params):
            yield self._mean(group)

    def _request(self, text: Text) -> SamplingRequest | Unscorable:
        if spells_any(text, self._special):
            return Unscorable.SPELLS_SPECIAL
        question = judge_prompt(conversation(text.messages), text.response)
        ids = self._encoder.encode_prompt([Message("user", question)])
        needed = len(ids) + self._params.max_completion_tokens
        if self._context_length is not None and needed > self._context_length:
            return Unscorable.TOO_LONG
        seeds = tuple(self._seed_of(text.text_id, k) for k in range(self._votes))
        return SamplingRequest(text.text_id, ids, seeds)

    def _mean(self, group: SampledGroup) -> TextScore:
        read = [
            parse_score(
                self._encoder.decode(judgement.token_ids),
                truncated=judgement.finish_reason == FinishReason.LENGTH,
            )
            for judgement in group.completions
        ]
        scores = [score for score in read if not isinstance(score, Unscored)]
        if scores:
            return TextScore(group.prompt_id, sum(scores) / len(scores), None, len(scores))
        reasons = [reason for reason in read if isinstance(reason, Unscored)]
        return TextScore(group.prompt_id, None, commonest(reasons), 0)
