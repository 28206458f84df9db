"""What a run reads is what it wrote: a damaged, missing or swapped artifact is named, never used.

Each case was once accepted without a word (exit code 0), some with another result.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import ModelError, RunError
from cream.recipe import Recipe
from cream.runs.verification import verify_run
from cream.testing import tiny_model

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]

WEIGHTS = "model.safetensors"


def flip_a_bit(path: Path) -> None:
    """Flip one bit in the middle of a file; size and time of change stay as they were."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def unfinish(root: Path, stage: str) -> None:
    """Take a stage away, so that a run makes it again and reads what comes before."""
    shutil.rmtree(root / stage)


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def swap_m1(root: Path) -> None:
    """Another M1 of the same shapes, as another seed would give: M2 stands for it."""
    shutil.copy(root / "models" / "M2" / WEIGHTS, root / "models" / "M1" / WEIGHTS)


def empty_m2(root: Path) -> None:
    for path in (root / "models" / "M2").iterdir():
        path.unlink()


def overwrite_m2(root: Path) -> None:
    shutil.rmtree(root / "models" / "M2")
    shutil.copytree(root / "models" / "M1", root / "models" / "M2")


@pytest.mark.parametrize(
    ("damage", "named", "words"),
    [
        (swap_m1, "models/M1/model.safetensors", "is damaged"),
        (lambda root: shutil.rmtree(root / "models/M1"), "models/M1", "is missing"),
        (empty_m2, r"models/M2/\S+", "is missing"),
        (overwrite_m2, "models/M2/model.safetensors", "is damaged"),
        (
            lambda root: flip_a_bit(root / "iteration-1/pair/pairs.parquet"),
            "iteration-1/pair/pairs.parquet",
            "is damaged",
        ),
        (
            lambda root: flip_a_bit(next((root / "data").rglob("*.parquet"))),
            r"data/\S+\.parquet",
            "is damaged",
        ),
    ],
    ids=["M1 swapped", "M1 deleted", "M2 empty", "M2 is M1", "pairs altered", "data altered"],
)
def test_a_run_over_a_damaged_artifact_is_refused_and_names_it(
    damage: Callable[[Path], None],
    named: str,
    words: str,
    run_copy: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
):
    assert verify_run(run_copy).whole
    damage(run_copy)

    assert not verify_run(run_copy).whole
    with pytest.raises(RunError, match=rf"{named} {words}.*delete .* to make it again"):
        run_whole(tiny_recipe(run_copy))


def test_one_bit_of_m1_is_noticed_before_m1_is_loaded(
    run_copy: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    flip_a_bit(run_copy / "models" / "M1" / WEIGHTS)
    unfinish(run_copy, "sft/evaluate")

    with pytest.raises(RunError, match=r"M1/model\.safetensors is damaged.*stage sft/train"):
        run_whole(tiny_recipe(run_copy))
    assert not (run_copy / "sft/evaluate/stage.json").exists()


def test_the_remedy_that_the_message_names_makes_the_same_model_again(
    run_copy: Path, finished_run: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    swap_m1(run_copy)
    unfinish(run_copy, "sft/train")
    run_whole(tiny_recipe(run_copy))

    assert verify_run(run_copy).whole
    one, other = (root / "models" / "M1" / WEIGHTS for root in (run_copy, finished_run))
    assert one.read_bytes() == other.read_bytes()


def test_a_seed_model_that_is_not_finite_is_refused_before_it_answers(
    tiny_inputs: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """It was once reported as 0.0 % accurate."""
    model = tiny_model()
    model.model.norm.weight.data[:] = float("nan")
    model.save_pretrained(shutil.copytree(tiny_inputs / "model", tmp_path / "model"))

    with pytest.raises(ModelError, match=r"weights of .*model are not finite"):
        run_whole(tiny_recipe(tmp_path / "run", f"model.name={tmp_path / 'model'}"))
    assert not (tmp_path / "run/seed-model/evaluate/stage.json").exists()


def test_every_bit_flip_in_a_finished_run_is_found_by_verify(run_copy: Path):
    """One flip in each file that a stage or a model of the run is made of."""
    files = [
        path
        for path in sorted(run_copy.rglob("*"))
        if path.is_file() and path.parent != run_copy and path.name != "README.md"
    ]
    assert len(files) > 40
    for path in files:
        content = path.read_bytes()
        flip_a_bit(path)
        found = verify_run(run_copy)
        assert not found.whole, path
        assert any(str(path) in problem for stage in found.stages for problem in stage.problems), (
            path
        )
        path.write_bytes(content)
    assert verify_run(run_copy).whole
