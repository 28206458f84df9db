"""Objects that a user brings: named in the run, part of the fingerprints, refused where unfit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from cream.api import run
from cream.engines.texts import Text, TextScore
from cream.errors import DataError, RecipeError, RunError
from cream.loop.extensions import Extensions
from cream.recipe import Recipe, load_recipe
from cream.recipe.objectives import Dpo
from cream.recipe.parts import BestWorst, MethodParts, ScoreQuantity
from cream.types import Prompt, Verdict

RecipeMaker = Callable[..., Recipe]


class Always:
    """A verifier that is content with everything."""

    def __init__(self, fingerprint: str = "always v1") -> None:
        self.fingerprint = fingerprint

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        return Verdict(correct=True, partial_credit=1.0, extracted=completion)


class ByColumn:
    """Ranks by one score column."""

    name, fingerprint = "by_column", "by_column v1"

    def __init__(self, column: str = "brevity") -> None:
        self.column = column

    def parts(self, t: int) -> MethodParts:
        reward = ScoreQuantity(column=self.column)
        return MethodParts(reward=reward, pairing=BestWorst(), objective=Dpo())


class Zeros:
    """A scorer to which every text is worth nothing."""

    def __init__(self, fingerprint: str = "zeros v1") -> None:
        self.fingerprint = fingerprint

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        for text in texts:
            yield TextScore(text.text_id, value=0.0, reason=None, count=1)


def test_an_object_without_a_fingerprint_is_refused():
    with pytest.raises(RecipeError, match=r"verifier \(Always\) has no `fingerprint`"):
        Extensions(verifier=Always(""))
    with pytest.raises(RecipeError, match=r"scorers.x \(Zeros\) has no `fingerprint`"):
        Extensions(scorers={"x": Zeros("")})


@pytest.mark.parametrize("name", ["judge", "verifier", "two words", "logp_M1"])
def test_a_column_of_the_houses_own_cannot_be_taken(name: str):
    with pytest.raises(RecipeError, match="cannot name a score column"):
        Extensions(scorers={name: Zeros()})


def test_a_column_that_nobody_fills_is_refused_before_anything_runs(
    tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    with pytest.raises(RecipeError, match="method custom reads the score column brevity"):
        run(tiny_recipe(tmp_path / "run"), base_dir=tiny_inputs, method=ByColumn())
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_data_that_name_a_custom_verifier_need_one(
    tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    recipe = tiny_recipe(tmp_path / "run", "data.test.sources.0.verifier=custom")

    with pytest.raises(DataError, match=r"give it with cream.run\(\.\.\., verifier=\.\.\.\)"):
        run(recipe, base_dir=tiny_inputs)


def test_a_run_goes_on_only_with_the_same_sampler(
    finished_run: Path, tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    """A finished evaluation was sampled by the engine; another sampler is another input."""

    class Sampler:
        fingerprint = "mine"

        def of(self, model: Any) -> Any:
            raise AssertionError("nothing is sampled")

    shutil.copytree(finished_run, tmp_path / "run")
    with pytest.raises(RunError, match=r"changed: sampler"):
        run(tiny_recipe(tmp_path / "run"), base_dir=tiny_inputs, sampler=Sampler())


def test_a_verifier_that_no_prompt_names_changes_nothing(
    finished_run: Path, tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    shutil.copytree(finished_run, tmp_path / "run")
    result = run(tiny_recipe(tmp_path / "run"), base_dir=tiny_inputs, verifier=Always())
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text(encoding="utf-8"))

    assert result.summary.models[0].model == "M0"
    assert "always v1" in json.dumps(manifest)


def test_a_recorded_method_cannot_run_without_its_object(recipe_file: Path):
    """The record loads, so that results can be read; its parts are in Python only."""
    recipe = Extensions(method=ByColumn()).recorded(load_recipe(recipe_file))
    recorded = yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json")))

    assert recorded["method"] == {
        "name": "custom",
        "label": "by_column",
        "fingerprint": "by_column v1",
    }
    with pytest.raises(RecipeError, match="'by_column' was composed in Python"):
        Recipe.model_validate(recorded).method.parts(1)


def test_overrides_of_a_loaded_recipe_are_refused(tiny_recipe: RecipeMaker, tmp_path: Path):
    with pytest.raises(ValueError, match="loaded already"):
        run(tiny_recipe(tmp_path / "run"), overrides=["seed=2"])
