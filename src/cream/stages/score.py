"""Completions to columns of the score matrix: log-probability sums, verdicts, scores of texts.

Scoring states its noise floor: the same completion scored in another batch gets a slightly
different sum, because floating-point sums depend on shapes. The floor is measured on the spot
(`measure_noise`) and later stages treat smaller differences as ties.

Who reads texts is the scorer's business (`cream.engines.judge`, `cream.engines.reward_model`).
Completions of one prompt with equal text are put to it once: it could not tell them apart, and a
difference between its judgements of them would be noise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from cream.data.preferences import ContextSet, Response
from cream.engines.texts import Text, TextScore, TextScorer
from cream.protocols import LogpScorer, Verifier
from cream.types import Completion, Prompt, ScoringRequest, Tally


@dataclass(frozen=True, slots=True)
class LogpRow:
    """One completion under one model."""

    prompt_id: str
    completion_id: str
    logps: float
    """Token log-prob sum, nats, added up in float64."""
    num_tokens: int


@dataclass(frozen=True, slots=True)
class VerdictRow:
    """One completion before the verifier. None where the prompt has no reference answer."""

    prompt_id: str
    completion_id: str
    correct: float | None
    partial_credit: float | None
    extracted: str | None


def scoring_requests(
    groups: Iterable[Sequence[Completion]], prompt_token_ids: Mapping[str, tuple[int, ...]]
) -> Iterator[ScoringRequest]:
    """Pair each prompt's completions with the prompt's token ids."""
    for group in groups:
        key = group[0].prompt_id
        yield ScoringRequest(key, prompt_token_ids[key], tuple(c.token_ids for c in group))


def score(
    groups: Sequence[Sequence[Completion]],
    prompt_token_ids: Mapping[str, tuple[int, ...]],
    scorer: LogpScorer,
) -> list[LogpRow]:
    """Score all completions under one model; rows in the order of the completions.

    Args:
        groups: Completions, one sequence per prompt.
        prompt_token_ids: Token ids per prompt id.
        scorer: The model's scorer; may answer in any order.

    Raises:
        ValueError: The scorer left a prompt out or returned a wrong number of tokens, or a
            log-probability that is not finite.
    """
    scored = {s.prompt_id: s for s in scorer.score(scoring_requests(groups, prompt_token_ids))}
    rows = []
    for group in groups:
        answer = scored.get(group[0].prompt_id)
        if answer is None or len(answer.token_logps) != len(group):
            raise ValueError(f"scorer left out completions of prompt {group[0].prompt_id}")
        for completion, logps in zip(group, answer.token_logps, strict=True):
            total = float(np.sum(logps, dtype=np.float64))
            if len(logps) != len(completion.token_ids) or not np.isfinite(total):
                raise ValueError(
                    f"scorer gave {len(logps)} log-probs (sum {total}) for the "
                    f"{len(completion.token_ids)} tokens of {completion.completion_id}"
                )
            rows.append(LogpRow(completion.prompt_id, completion.completion_id, total, len(logps)))
    return rows


def measure_noise(
    groups: Sequence[Sequence[Completion]],
    prompt_token_ids: Mapping[str, tuple[int, ...]],
    scorer: LogpScorer,
) -> float:
    """Noise floor of a scorer, in nats per square root of a token.

    Scores the given completions twice, in batches of different shape: with their whole group, and
    one completion per prompt at a time. The floor is the root mean square of (difference of sums) /
    sqrt(tokens), so a sum over T tokens has noise of about ``floor * sqrt(T)``. Float32 gives about
    1e-6; bfloat16 0.01 to 0.1.
    """
    together = {row.completion_id: row for row in score(groups, prompt_token_ids, scorer)}
    squares = []
    for k in range(max((len(group) for group in groups), default=0)):
        one_each = [group[k : k + 1] for group in groups if len(group) > k]
        for row in score(one_each, prompt_token_ids, scorer):
            shift = row.logps - together[row.completion_id].logps
            squares.append(shift**2 / row.num_tokens)
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


def verify(
    completions: Iterable[Completion], prompts: Mapping[str, Prompt], verifier: Verifier
) -> list[VerdictRow]:
    """Check completions against reference answers."""
    rows = []
    for completion in completions:
        verdict = verifier.verify(prompts[completion.prompt_id], completion.text)
        rows.append(
            VerdictRow(
                completion.prompt_id,
                completion.completion_id,
                float(verdict.correct) if verdict else None,
                verdict.partial_credit if verdict else None,
                verdict.extracted if verdict else None,
            )
        )
    return rows


def text_of(one: Response) -> Text:
    """An answer as scorers read it, named by its id."""
    return Text(one.completion_id, one.completion_id, one.prompt, one.text)


def choice_texts(user: ContextSet) -> tuple[tuple[Text, Text], ...]:
    """Winner and loser of each of a user's choices."""
    return tuple((text_of(row.winner), text_of(row.loser)) for row in user.rows)


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
    details: Mapping[str, float | None] = field(default_factory=dict)
    """What else the scorer told of the text."""


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
        completion.prompt_id,
        completion.completion_id,
        score.value,
        score.reason,
        score.count,
        score.details,
    )
