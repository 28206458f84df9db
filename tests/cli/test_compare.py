"""``cream compare`` from the command line: errors before anything runs, output, going on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Cream = Callable[..., Any]

KEEP = ("--set", "method.pairing.truncated=keep")


def test_the_same_command_on_a_finished_comparison_prints_it_again(
    cream: Cream, recipe_file: Path, finished_comparison: Path
):
    """The second command names the methods the other way round and another baseline."""
    out = recipe_file.parent / "out"
    shutil.copytree(finished_comparison, out)
    told = cream(
        "compare", recipe_file, "--methods", "cream,srlm", "--seeds", "1, 2", "--out", out, *KEEP
    )
    asked = ("--methods", "srlm,cream", "--seeds", "1,2", "--baseline", "cream", "--out", out)
    again = cream("compare", recipe_file, *asked, *KEEP, "--json", "--quiet")

    assert told.code == 0, told.err
    assert "tiny: 2 methods, seeds 1, 2; 4 of 4 runs finished" in told.out
    assert "vs cream" in told.out
    assert f"comparison: {out}" in told.out
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Methods compared" in page
    assert "srlm: Consistency of the rankings" in page  # runs of the first seed, one by one
    assert again.err == ""
    comparison = json.loads(again.out)
    schema = json.loads(
        resources.files("cream").joinpath("schemas/compare.json").read_text("utf-8")
    )
    jsonschema.validate(comparison, schema)
    assert comparison == json.loads((out / "comparison.json").read_text(encoding="utf-8"))
    assert [m["name"] for m in comparison["methods"]] == ["srlm", "cream"]
    assert [row["model"] for row in comparison["methods"][0]["models"]] == ["M0", "M1", "M2", "M3"]
    assert comparison["methods"][1]["models"][2]["difference"] is None
    assert comparison["cost"]["seconds"] < comparison["cost"]["seconds_alone"]


def test_each_member_is_a_run_that_other_commands_read(
    cream: Cream, recipe_file: Path, finished_comparison: Path
):
    """A stage that was taken over counts as finished; pairs can be made again from it."""
    out = recipe_file.parent / "out"
    shutil.copytree(finished_comparison, out)
    member = out / "srlm" / "seed-2"
    status = json.loads(cream("status", member, "--json").out)
    pairs = cream("pair", "--from", member, "--set", "method=cream", "--json")

    assert {stage["state"] for stage in status["stages"]} == {"finished"}
    assert pairs.code == 0, pairs.err
    assert json.loads(pairs.out)["consistency_in_loss"] is not None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "say what to compare"),
        (("--methods", "a", "--methods-file", "b.yaml"), "say what to compare"),
        (("--methods", "cream,creme"), "did you mean 'cream'"),
        (("--methods", "cream,srlm", "--seeds", "0,x"), "'x' is not a whole number"),
        (("--methods", "cream,srlm", "--baseline", "dice"), "--baseline dice is none"),
        (("--methods", "cream_cross{witness: twin},srlm"), "asks twin at iteration 1"),
    ],
)
def test_a_comparison_that_cannot_be_made_is_refused_before_anything_runs(
    arguments: tuple[str, ...], message: str, cream: Cream, recipe_file: Path
):
    out = recipe_file.parent / "out"
    result = cream("compare", recipe_file, "--out", out, *arguments)

    assert result.code == 2
    assert message in result.err
    assert not list(out.rglob("stage.json"))
    assert not list(out.rglob("recipe.yaml"))


def test_data_that_cannot_serve_the_last_method_stop_the_first_too(cream: Cream, recipe_file: Path):
    """Without a verifier `oracle` has nothing to rank by; mended, the same folder serves."""
    out = recipe_file.parent / "out"
    methods = ("--methods", "srlm,oracle", "--out", out, *KEEP)
    result = cream(
        "compare", recipe_file, *methods, "--set", "data.prompts.sources.0.verifier=null"
    )

    assert result.code == 2
    assert "oracle, seed 1: method oracle ranks by the verifier" in result.err
    assert not list(out.rglob("recipe.yaml"))
    mended = cream("compare", recipe_file, *methods, "--set", "iterations=1", "--quiet")
    assert mended.code == 0, mended.err


def test_a_folder_of_something_else_is_refused(cream: Cream, recipe_file: Path, finished_run: Path):
    result = cream("compare", recipe_file, "--methods", "srlm,dice", "--out", finished_run)

    assert result.code == 2
    assert "is not empty and holds no comparison" in result.err


def test_a_disk_too_small_for_all_members_is_refused(
    cream: Cream, recipe_file: Path, monkeypatch: pytest.MonkeyPatch
):
    """M1 once, M2 and M3 of each of 3 methods, and one training state (3 checkpoints): 10 in all.

    There is room for 9: enough for any member by itself (3 + 3).
    """
    from cream.preflight import opening

    weights = 4 * 115_000
    monkeypatch.setattr(opening, "stored_parameters", lambda folder: 115_000)
    monkeypatch.setattr(opening, "free_bytes", lambda folder: 9 * weights)
    out = recipe_file.parent / "out"
    result = cream("compare", recipe_file, "--methods", "srlm,dice,cream", "--out", out)

    assert result.code == 2
    assert f"{out} needs about 0.0 GB for 7 checkpoints and the training state" in result.err
    assert not list(out.rglob("recipe.yaml"))
