"""Each stage says what computed it; a change on resume is said, or refused if results change."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from cream.errors import RunError
from cream.loop.iterations import run_recipe
from cream.preflight import opening
from cream.preflight.opening import open_context
from cream.recipe import Recipe
from cream.records import StageSpec
from cream.runs.manifest import RESULTS, MadeBy
from cream.runs.store import Run, Stage
from tiny_run import Silence

MakeRecipe = Callable[..., Recipe]


class Notes(Silence):
    """A `Progress` that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def go_on(tiny_inputs: Path) -> Callable[..., list[str]]:
    """Run a recipe from where its directory stands; returns the notes."""

    def run(recipe: Recipe, **options: Any) -> list[str]:
        notes, place = Notes(), Run(Path(recipe.folder))
        with place.locked():
            context = open_context(
                recipe,
                place,
                notes,
                base_dir=tiny_inputs,
                cache_dir=tiny_inputs / "no-cache",
                **options,
            )
            run_recipe(context)
        return notes.said

    return run


@pytest.fixture
def half(finished_run: Path, tmp_path: Path) -> Path:
    """A run whose second iteration is still to be made."""
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    shutil.rmtree(root / "iteration-2")
    shutil.rmtree(root / "models" / "M3")
    return root


def makers(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text())["made_by"] for path in sorted(root.rglob("stage.json"))]


def test_every_stage_says_what_computed_it(finished_run: Path):
    found = makers(finished_run)

    assert len(found) > 20
    assert all(len(one) == 1 for one in found)
    assert found[0][0]["torch"] == torch.__version__  # pyright: ignore
    assert (found[0][0]["engine"], found[0][0]["dtype"], found[0][0]["device"]) == (  # pyright: ignore
        "torch",
        "float32",
        "cpu",
    )


def test_other_threads_are_said_and_recorded_with_the_stages_that_they_made(
    half: Path, tiny_recipe: MakeRecipe, go_on: Callable[..., list[str]]
):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        said = go_on(tiny_recipe(half))
    finally:
        torch.set_num_threads(threads)

    assert any(f"threads 2 (before: {threads})" in text for text in said)
    manifest = json.loads((half / "manifest.json").read_text())
    assert manifest["made_by"]["threads"] == threads
    assert [one["made_by"]["threads"] for one in manifest["later_openings"]] == [2]
    assert {one[0]["threads"] for one in makers(half)} == {threads, 2}  # pyright: ignore


@pytest.mark.parametrize("what", ["training_dtype", "results"])
def test_what_changes_results_is_refused_unless_it_is_accepted(
    half: Path,
    tiny_recipe: MakeRecipe,
    go_on: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
):
    if what == "results":
        monkeypatch.setattr(opening, "RESULTS", RESULTS + 1)
    else:
        true = opening.made_by
        monkeypatch.setattr(
            opening, "made_by", lambda c: true(c).model_copy(update={"training_dtype": "bfloat16"})
        )
    before = (half / "manifest.json").read_bytes()

    with pytest.raises(RunError, match=rf"go on with {what} .* \(before: .*--accept-changes"):
        go_on(tiny_recipe(half))
    assert not (half / "iteration-2").exists()
    assert (half / "manifest.json").read_bytes() == before

    said = go_on(tiny_recipe(half), accept_changes=True)
    assert any(f"goes on with {what}" in text for text in said)
    assert any("goes on with" in text for text in go_on(tiny_recipe(half))) is False


def test_a_finished_run_may_be_opened_by_anything(
    finished_run: Path,
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    go_on: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
):
    root = Path(shutil.copytree(finished_run, tmp_path / "run"))
    monkeypatch.setattr(opening, "RESULTS", RESULTS + 1)

    assert not any("goes on with" in text for text in go_on(tiny_recipe(root)))


def test_a_stage_that_two_computed_names_both(tmp_path: Path, finished_run: Path):

    here = MadeBy.model_validate(makers(finished_run)[0][0])  # pyright: ignore
    spec = StageSpec(name="a", kind="sample", label="a")
    four = here.model_copy(update={"threads": 4})
    for maker in (here, here, four):
        stage = Stage(tmp_path / "a", {"x": 1}, spec, maker)
        stage.begin()
    stage.finish({}, 0.0)

    record = json.loads((tmp_path / "a" / "stage.json").read_text())
    assert [one["threads"] for one in record["made_by"]] == [1, 4]


@pytest.mark.parametrize("text", ["{}", "[]", '{"inputs": {}}', "\x00" * 40])
def test_a_damaged_note_of_what_was_begun_is_one_sentence(tmp_path: Path, text: str):

    stage = Stage(tmp_path / "a", {"x": 1}, StageSpec(name="a", kind="sample", label="a"))
    stage.begin()
    (tmp_path / "a" / "begun.json").write_text(text)

    with pytest.raises(RunError, match=r"begun\.json.*delete its folder"):
        stage.begin()


def test_the_dtype_auto_follows_the_machine_that_began_the_run(
    tiny_inputs: Path,
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    monkeypatch: pytest.MonkeyPatch,
):
    from cream.models.devices import pick_compute_dtype
    from cream.preflight import models

    def dtype_of(recipe: Recipe) -> torch.dtype:
        place = Run(Path(recipe.folder))
        context = open_context(
            recipe, place, Silence(), base_dir=tiny_inputs, cache_dir=tiny_inputs / "no-cache"
        )
        return context.checkpoints.compute_dtype

    def native(dtype: torch.dtype) -> None:
        def pick(device: torch.device, requested: Any = "auto") -> Any:
            name = str(dtype).removeprefix("torch.") if requested == "auto" else requested
            return pick_compute_dtype(device, name)  # pyright: ignore

        monkeypatch.setattr(models, "pick_compute_dtype", pick)

    recipe = tiny_recipe(tmp_path / "run", "model.compute_dtype=auto")
    native(torch.float32)
    assert dtype_of(recipe) == torch.float32
    native(torch.bfloat16)
    assert dtype_of(recipe) == torch.float32
    assert dtype_of(tiny_recipe(tmp_path / "new", "model.compute_dtype=auto")) == torch.bfloat16
