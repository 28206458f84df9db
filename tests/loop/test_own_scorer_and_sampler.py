"""A score column and a sampler from outside the package, by public names alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cream
from cream import parts

RecipeMaker = Callable[..., cream.Recipe]
ANSWERS = ((1, 2, 3), (4, 5), (6, 7, 8, 9))


class Brevity:
    """A score column: the shorter a text, the better; digits alone have no score."""

    fingerprint = "brevity v1"

    def score(self, texts: Sequence[cream.Text]) -> Iterator[cream.TextScore]:
        for text in texts:
            if text.response.isdigit():
                yield cream.TextScore(text.text_id, value=None, reason="digits", count=0)
            else:
                value = -float(len(text.response))
                yield cream.TextScore(text.text_id, value=value, reason=None, count=1)


class ByBrevity:
    """A method that ranks by it."""

    name, fingerprint = "by_brevity", "by_brevity v1"

    def parts(self, t: int) -> cream.MethodParts:
        return cream.MethodParts.model_validate(
            {
                "reward": parts.ScoreQuantity(column="brevity"),
                "pairing": {"truncated": "keep"},
                "objective": {"name": "dpo"},
            }
        )


class Recited:
    """A sampler that says the same few answers to every prompt, whatever the model."""

    fingerprint = "recited v1"

    def of(self, model: Any) -> Recited:
        return self

    def sample(
        self, requests: Iterable[cream.SamplingRequest], params: cream.SamplingParams
    ) -> Iterator[cream.SampledGroup]:
        for request in requests:
            assert request.prompt_token_ids
            said = tuple(
                cream.SampledTokens(ANSWERS[k % len(ANSWERS)], cream.FinishReason.LENGTH, seed, 0.0)
                for k, seed in enumerate(request.seeds)
            )
            yield cream.SampledGroup(request.prompt_id, said)


def test_a_score_column_picks_the_pairs_and_what_has_no_score_is_never_paired(
    tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    """Pairs are the best and the worst of the scored completions of each prompt."""
    recipe = tiny_recipe(tmp_path / "run", "iterations=1", "sft.epochs=1")
    result = cream.run(
        recipe, base_dir=tiny_inputs, method=ByBrevity(), scorers={"brevity": Brevity()}
    )
    rows = result.matrix(1).to_pylist()
    scores = {row["completion_id"]: row["brevity"] for row in rows}

    assert {row["text"].isdigit() for row in rows if row["brevity"] is None} <= {True}
    pairs = result.pairs(1).to_pylist()
    assert pairs
    for pair in pairs:
        group = [r["brevity"] for r in rows if r["prompt_id"] == pair["prompt_id"]]
        known = [value for value in group if value is not None]
        assert scores[pair["chosen_id"]] == max(known)
        assert scores[pair["rejected_id"]] == min(known)


def test_completions_are_the_samplers_and_are_scored_and_paired_as_any_other(
    tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    recipe = tiny_recipe(tmp_path / "run", "iterations=1", "sft.epochs=1")
    result = cream.run(recipe, base_dir=tiny_inputs, sampler=Recited())
    said = Counter(tuple(row["token_ids"]) for row in result.matrix(1).to_pylist())

    assert said == {ANSWERS[0]: 16, ANSWERS[1]: 8, ANSWERS[2]: 8}
    assert result.pairs(1).num_rows > 0
