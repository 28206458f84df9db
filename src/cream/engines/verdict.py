"""A model's verdicts on its own answers, scored instead of sampled: two letters per order.

Where `cream.engines.judge.PairwiseJudge` draws hundreds of tokens to hear a preference, this reads
the probabilities of "A" and "B" as whole answers, and so knows by how much, how much probability
the two letters have together, and how far the place decides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from cream.algorithms.judging import VERDICT_LABELS, Unscored, verdict_question
from cream.engines.texts import Text, TextScore, Unscorable, commonest, special_texts, spells_any
from cream.models.chat import ChatEncoder
from cream.protocols import LogpScorer
from cream.types import ScoringRequest

DETAILS = ("label_mass", "position_bias", "turned")
"""Of a text's verdicts, means: probability of the two letters in the worse order; |log-odds| for
what stands first; share that named the same place in both orders."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a model says of two texts, asked in both orders."""

    preference: float
    """Log-odds that the first is better, the place cancelled; nats."""
    position_bias: float
    """Log-odds for what stands first, nats."""
    label_mass: float
    """Probability of the two letters, in the worse order."""
    turned: bool
    """Whether the same place won in both orders."""


def verdict_of(
    shown: tuple[float, float], swapped: tuple[float, float], *, temperature: float = 1.0
) -> Verdict:
    """A verdict from log-probabilities of the letters "A" and "B", nats.

    ``d = log P(A) - log P(B)`` in either order; the preference is half their difference over the
    temperature, the bias half their sum (`cream.algorithms.scir`).
    """
    d12, d21 = shown[0] - shown[1], swapped[0] - swapped[1]
    mass = min(float(np.exp(letters).sum()) for letters in (shown, swapped))
    return Verdict((d12 - d21) / (2 * temperature), (d12 + d21) / 2, mass, d12 * d21 > 0)


class VerdictJudge:
    """A `TextScorer` that asks for a verdict on every two texts of a group.

    Args:
        scorer: The judging model.
        encoder: Its template and tokenizer.
        context_length: Tokens that it can take, or None for no limit.
        label_mass: Probability of the letters below which a verdict is none.
        temperature: What log-odds are divided by, > 0.
    """

    def __init__(
        self,
        scorer: LogpScorer,
        encoder: ChatEncoder,
        *,
        context_length: int | None,
        label_mass: float,
        temperature: float,
    ) -> None:
        self._scorer, self._encoder = scorer, encoder
        self._limit, self._least, self._temperature = context_length, label_mass, temperature
        self._special = special_texts(encoder.tokenizer)

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield per text its mean probability to be better than another of its group, or a reason.

        Means are over the verdicts there are; ``count`` says how many.
        """
        groups: dict[str, list[Text]] = {}
        for text in texts:
            if spells_any(text, self._special):
                yield TextScore(text.text_id, None, Unscorable.SPELLS_SPECIAL, 0)
            else:
                groups.setdefault(text.group_id, []).append(text)
        pairs = [pair for group in groups.values() for pair in combinations(group, 2)]
        said = self._ask(pairs)
        for group in groups.values():
            for text in group:
                yield _standing(text, [t for t in group if t is not text], said, self._least)

    def _ask(self, pairs: Sequence[tuple[Text, Text]]) -> Mapping[frozenset[str], _Said]:
        """Verdicts by the two texts, and which of them is the first; a reason if it is too long."""
        said: dict[frozenset[str], _Said] = {}
        requests, named = [], {}
        for one, other in pairs:
            key = frozenset((one.text_id, other.text_id))
            both = [self._request(one, other), self._request(other, one)]
            found = [request for request in both if request is not None]
            if len(found) < len(both):
                said[key] = _Said(one.text_id, None)
                continue
            requests += found
            named[found[0].prompt_id, found[1].prompt_id] = (key, one.text_id)
        logps = {
            group.prompt_id: tuple(float(np.sum(t, dtype=np.float64)) for t in group.token_logps)
            for group in self._scorer.score(requests)
        }
        for (shown, swapped), (key, first) in named.items():
            letters = [(logps[name][0], logps[name][1]) for name in (shown, swapped)]
            said[key] = _Said(first, verdict_of(*letters, temperature=self._temperature))
        return said

    def _request(self, first: Text, second: Text) -> ScoringRequest | None:
        asked = verdict_question(first.messages, first.response, second.response)
        prompt = self._encoder.encode_prompt(asked)
        letters = [self._encoder.encode_completion(asked, letter) for letter in VERDICT_LABELS]
        longest = len(prompt) + max(map(len, letters))
        if self._limit is not None and longest > self._limit:
            return None
        name = f"{first.text_id} against {second.text_id}"
        return ScoringRequest(name, prompt, tuple(letters))


@dataclass(frozen=True, slots=True)
class _Said:
    first: str
    """Id of the text that the verdict calls the first."""
    verdict: Verdict | None
    """None: the question is too long."""


def _standing(
    text: Text, others: Sequence[Text], said: Mapping[frozenset[str], _Said], least: float
) -> TextScore:
    if not others:
        return TextScore(text.text_id, None, Unscorable.NO_OPPONENT, 0)
    known, points, reasons = [], [], []
    for other in others:
        one = said[frozenset((text.text_id, other.text_id))]
        if one.verdict is None:
            reasons.append(Unscorable.TOO_LONG)
            continue
        known.append(one.verdict)
        if one.verdict.label_mass < least:
            reasons.append(Unscored.NO_LABEL)
            continue
        sign = 1 if one.first == text.text_id else -1
        points.append(1 / (1 + math.exp(-max(-700.0, sign * one.verdict.preference))))
    details = {
        "label_mass": _mean([v.label_mass for v in known]),
        "position_bias": _mean([abs(v.position_bias) for v in known]),
        "turned": _mean([float(v.turned) for v in known]),
    }
    if points:
        return TextScore(text.text_id, sum(points) / len(points), None, len(points), details)
    return TextScore(text.text_id, None, commonest(reasons), 0, details)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
