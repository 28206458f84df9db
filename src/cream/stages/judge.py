"""Completions to a score column that a reader of text fills: a judge or a reward model.

Who fills it is the scorer's business (`cream.engines.judge`, `cream.engines.reward_model`).
Completions of one prompt with equal text are put to it once: it could not tell them apart, and a
difference between its judgements of them would be noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cream.engines.texts import Text, TextScore, TextScorer
from cream.types import Completion, Prompt, Tally

SCORED = "scored"
"""Name of the completions with a score in a tally; the others are named by their reason."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One completion before a scorer: a value, or the reason why there is none."""

    prompt_id: str
    completion_id: str
    value: float | None
    reason: str | None
    count: int
    """Numbers that the value is the mean of."""


def score_texts(
    completions: Sequence[Completion], prompts: Mapping[str, Prompt], scorer: TextScorer
) -> list[ScoreRow]:
    """Score completions by what they say; rows in the order of the completions.

    Args:
        completions: Of any prompts; all completions of a prompt together, so that equal texts meet.
        prompts: Prompts by id.
        scorer: May answer in any order. A text is named by the first completion that has it.

    Raises:
        ValueError: The scorer left a text out, or answered one twice or unasked.
    """
    first: dict[tuple[str, str], str] = {}
    for completion in completions:
        first.setdefault((completion.prompt_id, completion.text), completion.completion_id)
    texts = [
        Text(prompt_id, text_id, prompts[prompt_id].messages, response)
        for (prompt_id, response), text_id in first.items()
    ]
    scores: dict[str, TextScore] = {}
    for score in scorer.score(texts):
        if score.text_id in scores:
            raise ValueError(f"scorer answered {score.text_id} twice")
        scores[score.text_id] = score
    if scores.keys() != set(first.values()):
        wrong = sorted(scores.keys() ^ set(first.values()))
        raise ValueError(f"scorer left out or made up {len(wrong)} texts, {wrong[0]} among them")
    return [
        _row(completion, scores[first[completion.prompt_id, completion.text]])
        for completion in completions
    ]


def tally_scores(reasons: Iterable[str | None]) -> Tally:
    """How many completions have a score, and how many have none for each reason."""
    counts = Counter(reason or SCORED for reason in reasons)
    parts = {SCORED: counts.pop(SCORED, 0), **dict(sorted(counts.items()))}
    return Tally(sum(parts.values()), parts)


def _row(completion: Completion, score: TextScore) -> ScoreRow:
    return ScoreRow(
        completion.prompt_id, completion.completion_id, score.value, score.reason, score.count
    )
