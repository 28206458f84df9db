"""Pairs to goal-conditioned examples: a pair under its high goal, and reversed under its low one.

Every number and text is made here; what the loss does with the rows is in
`cream.algorithms.goals`. A goal text is never cut: a pair that does not fit with it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never, final

import numpy as np
from jaxtyping import Float64

from cream.algorithms.goals import (
    GOOD_REJECTED,
    LOW_GOAL,
    quantile_goals,
    range_goals,
    with_goal,
)
from cream.algorithms.statistics import share_of
from cream.errors import DataError
from cream.protocols import TextEncoder
from cream.recipe.goals import GivenScale, Goals, QuantileScale
from cream.runs.seeds import derive_seed
from cream.types import Example, RankedPair, TokenSequence, Transformed

HIGH, LOW = "high_goal", "low_goal"
"""Columns: the goals of an example as they were told; absent where it was told none."""


@final
class GoalRows:
    """Makes the examples of one iteration."""

    def __init__(self, goals: Goals, *, seed: int, max_tokens: int) -> None:
        """Take the options.

        Args:
            goals: How goals are told.
            seed: Decides which pairs are told goals, where not all are.
            max_tokens: Most tokens of a prompt with its goal and one completion.
        """
        self.goals, self._seed, self._max_tokens = goals, seed, max_tokens
        self.fingerprint = f"goals {goals.model_dump_json(exclude={'sample', 'evaluate'})} {seed}"

    def transform(self, pairs: Sequence[RankedPair], encoder: TextEncoder) -> Iterator[Transformed]:
        """See `cream.protocols.Transform`.

        Raises:
            DataError: A score is out of the range that the recipe gives.
        """
        scores = np.array([s for p in pairs for s in (p.chosen_reward, p.rejected_reward)])
        told = np.rint(self._on_scale(scores)).astype(int).tolist()
        median = float(np.median(scores)) if len(scores) else 0.0
        plain = self._plain(pairs)
        for pair, high, low in zip(pairs, told[::2], told[1::2], strict=True):
            good = {GOOD_REJECTED: float(pair.rejected_reward > median)}
            if pair.pair_id in plain:
                yield Transformed(pair.pair_id, (_example(pair, pair.prompt_token_ids, good),))
            elif abs(high - low) < self.goals.min_gap:
                yield Transformed(pair.pair_id, (), "equal_goals")
            else:
                yield self._told(pair, encoder, high, low, good)

    def _told(
        self, pair: RankedPair, encoder: TextEncoder, high: int, low: int, good: dict[str, float]
    ) -> Transformed:
        messages = pair.prompt.messages
        prompts = [
            encoder.encode_prompt(with_goal(messages, self.goals.told(goal)))
            for goal in (high, low)
        ]
        longest = max(len(pair.chosen.token_ids), len(pair.rejected.token_ids))
        if max(map(len, prompts)) + longest > self._max_tokens:
            return Transformed(pair.pair_id, (), "too_long")
        reversed_row = {
            LOW_GOAL["chosen"]: TokenSequence(pair.rejected.token_ids, None, prompts[1]),
            LOW_GOAL["rejected"]: TokenSequence(pair.chosen.token_ids, None, prompts[1]),
        }
        columns = {**good, HIGH: float(high), LOW: float(low)}
        made = _example(pair, prompts[0], columns, unscored=True)
        low_row = reversed_row if self.goals.rows == "both" else {}
        sequences = {**made.sequences, **low_row}
        example = Example(
            made.example_id, made.prompt_token_ids, sequences, made.columns, made.weight
        )
        return Transformed(pair.pair_id, (example,))

    def _on_scale(self, scores: Float64[np.ndarray, " score"]) -> Float64[np.ndarray, " score"]:
        match self.goals.scale:
            case QuantileScale():
                return quantile_goals(scores)
            case GivenScale(lowest=lowest, highest=highest):
                try:
                    return range_goals(scores, lowest=lowest, highest=highest)
                except ValueError as error:
                    raise DataError(
                        f"method.goals.scale: {error}. Give the range of the scores, or `quantile`."
                    ) from error
            case _:
                assert_never(self.goals.scale)

    def _plain(self, pairs: Sequence[RankedPair]) -> set[str]:
        """Ids of the pairs that are told no goal, an even draw by the seed."""
        ids = sorted((p.pair_id for p in pairs), key=lambda key: derive_seed(self._seed, key))
        return set(ids[share_of(self.goals.share, len(ids)) :])


def _example(
    pair: RankedPair,
    prompt_token_ids: tuple[int, ...],
    columns: dict[str, float],
    *,
    unscored: bool = False,
) -> Example:
    """A pair in its order; its sums are known under the prompt that it was sampled after."""
    sides = ((pair.chosen, pair.chosen_reference), (pair.rejected, pair.rejected_reference))
    chosen, rejected = (
        TokenSequence(side.token_ids, None if unscored else reference) for side, reference in sides
    )
    return Example(
        pair.pair_id,
        prompt_token_ids,
        {"chosen": chosen, "rejected": rejected},
        {"consistency": pair.consistency, **columns},
        pair.weight,
    )
