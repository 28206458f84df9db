"""Runs that edit wrong completions: pairs on touched tokens, token rewards, resume, export."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cream.cli import app
from cream.errors import DataError, RecipeError
from cream.pair_records import EditSummary
from cream.recipe import Recipe
from cream.report.costs import stage_tokens
from cream.report.explain import explain
from cream.report.page.document import write_page
from cream.report.summary import summarise_run
from cream.runs.reader import RunReader
from cream.stages.edit import OUTCOMES
from kills import require_equal_after_kills
from run_contents import same_weights, stage_record, table, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
EDITS = ("method={name: edits, editing: {max_share: 0.8}}", "sampling.num_completions=6")


@pytest.fixture(scope="module")
def edits_run(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """A finished run of two iterations. Read only."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("edits") / "run", *EDITS))


def edits_of(root: Path, t: int) -> EditSummary:
    return EditSummary.read(stage_record(root, f"iteration-{t}/edit")["summary"], root)


def pairs_of(root: Path, t: int) -> list[dict[str, Any]]:
    return pq.read_table(root / f"iteration-{t}/pair/pairs.parquet").to_pylist()


def rows_by_id(root: Path, name: str) -> dict[str, dict[str, Any]]:
    return {row["completion_id"]: row for row in table(root, name)}


def test_every_edit_is_paired_with_its_original_and_is_right(edits_run: Path):
    for t in (1, 2):
        rows, found = rows_by_id(edits_run, f"iteration-{t}/matrix"), edits_of(edits_run, t)
        pairs = pairs_of(edits_run, t)
        assert len(pairs) == found.tally.parts["accepted"] > 0
        for pair in pairs:
            chosen, rejected = rows[pair["chosen_id"]], rows[pair["rejected_id"]]
            assert (chosen["origin"], rejected["origin"]) == ("edited", "policy")
            assert chosen["edit_of"] == rejected["completion_id"]
            assert (chosen["verifier"], rejected["verifier"]) == (1, 0)
            assert chosen["prompt_id"] == rejected["prompt_id"]
            assert any([*chosen["touched"], *rejected["touched"]])


def test_counts_add_up_and_edits_stand_behind_the_samples_of_their_prompt(edits_run: Path):
    found, rows = edits_of(edits_run, 1), table(edits_run, "iteration-1/edit")
    assert list(found.tally.parts) == list(OUTCOMES)
    assert found.tally.total == 8 * 6
    assert found.written_tokens == 0
    assert len(rows) == 8 * 6 + found.tally.parts["accepted"]
    outcomes = [row["edit_outcome"] for row in rows if row["edit_outcome"] is not None]
    assert {name: outcomes.count(name) for name in OUTCOMES} == found.tally.parts
    groups: dict[str, list[str]] = {}
    for row in rows:
        groups.setdefault(row["prompt_id"], []).append(row["origin"])
    assert all(group == sorted(group, reverse=True) for group in groups.values())
    edited = [row for row in rows if row["origin"] == "edited"]
    assert sum(sum(row["touched"]) for row in edited) == found.new_tokens
    assert sum(len(row["token_ids"]) for row in edited) == found.edited_tokens


def test_spans_make_the_edit_of_the_original(edits_run: Path):
    rows = rows_by_id(edits_run, "iteration-2/edit")
    for row in rows.values():
        if row["origin"] != "edited":
            continue
        before, after = rows[row["edit_of"]]["text"], row["text"]
        made, at = "", 0
        for i0, i1, j0, j1 in row["edit_spans"]:
            made += before[at:i0] + after[j0:j1]
            at = i1
        assert made + before[at:] == after


def test_what_the_policy_said_is_measured_without_edits(edits_run: Path):
    summary = stage_record(edits_run, "iteration-1/pair")["summary"]
    sampled = [row for row in table(edits_run, "iteration-1/matrix") if row["origin"] == "policy"]
    ratio = sum(row["logps_M1"] - row["logps_M0"] for row in sampled)
    tokens = sum(row["num_tokens"] for row in sampled)
    assert summary["completions"] == 48
    assert summary["kl_to_seed_per_token"] == pytest.approx(ratio / tokens)
    assert set(summary["chosen_from"]) == {"edited"}


def test_label_rewards_blame_what_was_replaced_and_praise_what_is_new(edits_run: Path):
    for row in table(edits_run, "iteration-2/matrix"):
        told = row["labels_tokens"]
        if row["origin"] == "edited":
            assert told == [float(mark) for mark in row["touched"]]
        elif row["edit_outcome"] == "accepted":
            assert told == [-float(mark) for mark in row["touched"]]
        elif row["edit_outcome"] == "right":
            assert told == [0.0] * row["num_tokens"]
        elif row["edit_outcome"] != "duplicate":
            assert told is None
            assert row["labels"] is None
        if told is not None:
            assert row["labels"] == sum(told)
            assert len(row["labels_ends"]) == len(told) == row["num_tokens"]
            assert row["labels_ends"][-1] == len(row["text"])


def test_a_run_killed_in_every_stage_equals_an_uninterrupted_one(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, edits_run: Path
):
    require_equal_after_kills(
        lambda progress: run_whole(tiny_recipe(tmp_path / "run", *EDITS), progress),
        tmp_path / "run",
        edits_run,
    )


def test_the_plan_names_every_stage_and_counts_what_runs(edits_run: Path):
    run = RunReader(edits_run)
    names = [spec.name.removeprefix("iteration-2/") for spec in run.plan.stages if spec.t == 2]
    assert names == [
        "sample",
        "edit",
        "score/M2",
        "score/M0",
        "score/verifier",
        "score/edited",
        "score/labels",
        "matrix",
        "pair",
        "score-tokens/M2",
        "train",
        "evaluate",
    ]
    (edit,) = run.planned("edit", 2)
    assert (edit.completions, edit.model) == (2 * 48, None)
    assert stage_tokens(run, run.finished[edit.name]) == {"sampled": 0.0}
    told = CliRunner().invoke(app, ["status", str(edits_run)]).output
    assert "tokens replaced" in " ".join(told.split())


def test_plain_pairs_of_edits_need_no_token_scores(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, edits_run: Path
):
    """The same edits and pairs; the loss is that of whole completions, so the model is another."""
    method = "method={name: edits, tokens: all, editing: {max_share: 0.8}}"
    root = run_whole(tiny_recipe(tmp_path / "run", method, *EDITS[1:], "iterations=1"))
    assert not (root / "iteration-1/score-tokens").exists()
    assert pairs_of(root, 1) == pairs_of(edits_run, 1)
    assert not same_weights(weights(root, "M2"), weights(edits_run, "M2"))


def test_explain_and_the_page_colour_the_tokens(edits_run: Path, tmp_path: Path):
    pair = pairs_of(edits_run, 1)[0]
    told = explain("pair", edits_run, pair["prompt_id"], 1)
    shown = {one.completion_id: one for one in told.completions}
    chosen, rejected = shown[pair["chosen_id"]], shown[pair["rejected_id"]]
    assert chosen.token_rewards is not None
    assert rejected.token_rewards is not None
    assert max(chosen.token_rewards.rewards) in (0.0, 1.0)
    assert min(rejected.token_rewards.rewards) in (0.0, -1.0)
    assert told.words[0] == "pairing: edited_original by edited"
    coloured = CliRunner().invoke(
        app,
        ["explain", "pair", str(edits_run), "--prompt", pair["prompt_id"]],
        env={"FORCE_COLOR": "1", "TERM": "xterm-256color"},
        color=True,
    )
    assert coloured.exit_code == 0, coloured.output
    write_page([edits_run], tmp_path / "page.html")
    assert "replaced or new is coloured" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert [row.iteration for row in summarise_run(edits_run).edits] == [1, 2]


def test_edits_are_exported_and_a_person_can_edit_them(
    edits_run: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """What the verifier's editor made, read as a person's edits, gives the same pairs."""
    out = tmp_path / "edits.jsonl"
    told = CliRunner().invoke(
        app, ["export", "edits", str(edits_run), "-t", "1", "--out", str(out)]
    )
    assert told.exit_code == 0, told.output
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    found = edits_of(edits_run, 1)
    assert len(rows) == found.tally.total
    assert sum(row["edited"] is not None for row in rows) == found.tally.parts["accepted"]
    assert all((row["outcome"] == "accepted") == (row["edited"] is not None) for row in rows)
    method = (
        f"method={{name: edits, editing: {{max_share: 0.8, editor: {{by: file, path: {out}}}}}}}"
    )
    root = run_whole(tiny_recipe(tmp_path / "run", method, *EDITS[1:], "iterations=1"))
    assert pairs_of(root, 1) == pairs_of(edits_run, 1)
    assert edits_of(root, 1).editor == "file"


def test_a_file_of_edits_that_is_not_there_says_how_to_make_it(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    method = "method={name: edits, editing: {editor: {by: file, path: nowhere.jsonl}}}"
    with pytest.raises(DataError, match="`cream export edits` writes them"):
        run_whole(tiny_recipe(tmp_path / "run", method, "iterations=1"))
    assert (tmp_path / "run/iteration-1/sample/stage.json").exists(), "they can be edited now"


def test_a_model_edits_its_own_wrong_answers(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """The tiny model understands no question, and now and then draws the right digit."""
    method = "method={name: edits, editing: {max_share: 1, editor: {by: model}}}"
    found = edits_of(run_whole(tiny_recipe(tmp_path / "run", method, "iterations=1")), 1)
    asked = found.tally.total - sum(found.tally.parts[n] for n in ("right", "duplicate"))
    assert found.written_tokens > 0
    assert found.written_tokens <= 4 * asked


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (
            "{name: edits, objective: {nll: {kind: constant, weight: 1}}}",
            "leave it out, or set tokens: all",
        ),
        ("{name: edits, editing: {max_share: 0}}", "max_share"),
        ("{name: edits, editing: {editor: {by: person}}}", "by"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    method: str, message: str, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    with pytest.raises(RecipeError, match=message):
        run_whole(tiny_recipe(tmp_path / "run", f"method={method}"))


def test_masked_sums_are_those_of_the_touched_tokens_under_the_reference(edits_run: Path):
    """The step before any training: the policy is the reference, so every margin is 0 and the loss
    ln 2, whatever is masked."""
    lines = (edits_run / "iteration-1/train/metrics.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)
    touched = rows_by_id(edits_run, "iteration-1/matrix")
    scored = rows_by_id(edits_run, "iteration-1/score-tokens/M1")
    sums = [
        sum(np.array(scored[key]["token_logps"])[np.array(row["touched"], dtype=bool)])
        for key, row in touched.items()
        if row["origin"] == "edited"
    ]
    whole = [scored[k]["token_logps"] for k, r in touched.items() if r["origin"] == "edited"]
    assert any(part != pytest.approx(sum(all_of)) for part, all_of in zip(sums, whole, strict=True))
