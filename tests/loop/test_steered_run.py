"""A policy steered by the loop run once per user: the same answers, paired as each would choose."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cream.data.preferences import read_preferences
from cream.errors import CreamError, DataError, ModelError
from cream.programs.steering import fit_reward, steering_config
from cream.recipe import Recipe
from kills import Killed, KillInside
from run_contents import contents, stage_record, table
from tiny_run import Silence, write_inputs, write_jsonl

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


def choices(name: str, liked: str, seed: int, count: int = 24) -> list[dict[str, Any]]:
    """A user who always prefers the answer 0, or 1, whatever is asked."""
    draw = random.Random(seed)
    asked = draw.sample([f"{a}+{b}=" for a in range(10) for b in range(6)], count)
    rows = []
    for prompt in asked:
        a, b = draw.sample("01", 2)
        side = "a" if a == liked else "b"
        rows.append({"prompt": prompt, "a": a, "b": b, "choice": side, "user_id": name})
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reward fitted on ten users, and the choices of two others."""
    root = tmp_path_factory.mktemp("steered")
    write_inputs(root)
    users = [r for k in range(10) for r in choices(f"u{k}", "01"[k % 2], seed=k)]
    pairs = read_preferences(write_jsonl(root / "pairs.jsonl", users))
    values = {"model": {"name": str(root / "model"), "compute_dtype": "float32"}}
    small = ["steps=80", "latent=16", "components=16", "learning_rate=0.005"]
    config = steering_config(values, small)
    fit_reward(pairs, config, root / "reward", cache_dir=root / "cache", progress=Silence())
    write_jsonl(root / "one.jsonl", choices("one", "1", seed=90, count=8))
    write_jsonl(root / "nought.jsonl", choices("nought", "0", seed=91, count=8))
    return root


def options(folder: Path, context: str) -> list[str]:
    return [
        "iterations=1",
        "method.name=steered",
        f"method.steer.reward={folder / 'reward'}",
        f"method.steer.context={folder / context}.jsonl",
    ]


@pytest.fixture(scope="module")
def steered(
    folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
) -> dict[str, Path]:
    """One run per user."""
    return {
        name: run_whole(tiny_recipe(tmp_path_factory.mktemp(name) / "run", *options(folder, name)))
        for name in ("one", "nought")
    }


def sides(root: Path, side: str) -> list[str]:
    texts = {row["completion_id"]: row["text"] for row in table(root, "iteration-1/matrix")}
    pairs = [row for row in table(root, "iteration-1/pair") if "chosen_id" in row]
    return [texts[row[f"{side}_id"]] for row in pairs]


def test_each_user_has_pairs_of_that_users_taste(steered: dict[str, Path]) -> None:
    """Both runs sample the same answers; chosen begins with the digit the user likes."""
    samples = [table(root, "iteration-1/sample") for root in steered.values()]
    assert samples[0] == samples[1]
    for name, liked in (("one", "1"), ("nought", "0")):
        chosen, rejected = sides(steered[name], "chosen"), sides(steered[name], "rejected")
        assert chosen
        better = sum(text.startswith(liked) for text in chosen)
        worse = sum(text.startswith(liked) for text in rejected)
        assert better > worse
        assert not any(
            text.startswith(liked) and not other.startswith(liked)
            for text, other in zip(rejected, chosen, strict=True)
        )


def test_the_column_is_in_the_matrix_and_its_stage_counts(steered: dict[str, Path]) -> None:
    rows = table(steered["one"], "iteration-1/matrix")
    assert all(row["steer"] is not None for row in rows)
    assert {row["steer_reason"] for row in rows} == {None}
    summary = stage_record(steered["one"], "iteration-1/score/steer")["summary"]
    assert summary["tally"] == {"total": 32, "parts": {"scored": 32}}


def test_a_run_killed_between_parts_of_the_column_goes_on_to_the_same_scores(
    folder: Path,
    steered: dict[str, Path],
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
) -> None:
    recipe = tiny_recipe(tmp_path / "run", *options(folder, "one"))
    with pytest.raises(Killed):
        run_whole(recipe, KillInside("score by steer"))
    name = Path("iteration-1") / "score" / "steer"
    column = tmp_path / "run" / name
    first = (column / "part-00000.parquet").stat()
    assert not (column / "part-00001.parquet").exists()
    with pytest.raises(Killed):
        run_whole(recipe, KillInside("score matrix"))
    assert (column / "part-00000.parquet").stat().st_mtime_ns == first.st_mtime_ns
    assert contents(column) == contents(steered["one"] / name)


def test_what_cannot_steer_is_refused_before_anything_runs(
    folder: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> None:
    cases: list[tuple[list[str], type[CreamError], str]] = [
        (["method.steer.context=none.jsonl"], DataError, "none.jsonl does not exist"),
        ([f"method.steer.context={folder / 'pairs.jsonl'}"], DataError, "10 users"),
        ([f"method.steer.reward={folder / 'model'}"], ModelError, "no steered reward"),
    ]
    for changed, kind, said in cases:
        with pytest.raises(kind, match=said):
            run_whole(tiny_recipe(tmp_path / "run", *options(folder, "one"), *changed))
        assert not (tmp_path / "run" / "iteration-1").exists()
