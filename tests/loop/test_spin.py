"""SPIN pairs what the seed data say to a prompt with what M_t says to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cream.programs.recompute import recompute_pairs
from cream.recipe import Recipe
from run_contents import stage_record, table

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


@pytest.fixture(scope="module")
def spun(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """Two iterations on the 16 seed examples, whose completions are one digit long."""
    recipe = tiny_recipe(
        tmp_path_factory.mktemp("spun") / "run",
        "data.test=null",
        "method={name: spin, truncated: keep}",
    )
    return run_whole(recipe)


@pytest.mark.parametrize("t", [1, 2])
def test_chosen_is_the_seed_completion_and_rejected_is_sampled(spun: Path, t: int):
    seed = {row["prompt_id"]: row["completion"][0]["content"] for row in table(spun, "data/seed")}
    rows = {row["completion_id"]: row for row in table(spun, f"iteration-{t}/sample")}
    pairs = [p for p in table(spun, f"iteration-{t}/pair") if "chosen_id" in p]

    assert pairs
    for pair in pairs:
        chosen, rejected = rows[pair["chosen_id"]], rows[pair["rejected_id"]]
        assert (chosen["origin"], rejected["origin"]) == ("data", "policy")
        assert chosen["text"] == seed[pair["prompt_id"]]
        assert chosen["token_ids"] != rejected["token_ids"]
        assert (pair["chosen_reward"], pair["rejected_reward"]) == (1.0, 0.0)
        assert pair["consistency"] == 1.0


def test_every_prompt_is_paired_unless_m_t_says_nothing_but_the_seed_completion(spun: Path):
    groups: dict[str, set[tuple[int, ...]]] = {}
    for row in table(spun, "iteration-1/sample"):
        groups.setdefault(row["prompt_id"], set()).add(tuple(row["token_ids"]))
    summary = stage_record(spun, "iteration-1/pair")["summary"]

    assert len(groups) == 16
    assert summary["tally"]["parts"]["paired"] == sum(len(g) > 1 for g in groups.values())
    assert summary["tally"]["parts"]["all_duplicates"] == sum(len(g) == 1 for g in groups.values())


def test_seed_completions_end_and_are_scored_like_sampled_ones(spun: Path):
    """A digit and the end token: two tokens, as long as a sampled digit that ended."""
    rows = [r for r in table(spun, "iteration-1/matrix") if r["from_data"] == 1]

    assert len(rows) == 16
    assert {row["num_tokens"] for row in rows} == {2}
    assert {row["finish_reason"] for row in rows} == {"stop"}
    assert all(row["logps_M1"] < 0 and row["logps_M0"] < 0 for row in rows)
    assert stage_record(spun, "iteration-1/score/from_data")["summary"]["data_completions"] == 16


def test_what_is_counted_and_measured_about_the_policy_leaves_the_data_out(spun: Path):
    """4 completions for each of 16 prompts; KL from the rows that M1 sampled."""
    sampled = [r for r in table(spun, "iteration-1/matrix") if r["origin"] == "policy"]
    summary = stage_record(spun, "iteration-1/pair")["summary"]
    tokens = sum(r["num_tokens"] for r in sampled)
    ratio = sum(r["logps_M1"] - r["logps_M0"] for r in sampled)

    assert stage_record(spun, "iteration-1/sample")["summary"]["completions"] == 64
    assert summary["completions"] == 64
    assert summary["kl_to_seed_per_token"] == pytest.approx(ratio / tokens, abs=1e-9)


def test_the_gap_to_the_seed_completions_grows_in_training(spun: Path):
    record = stage_record(spun, "iteration-1/train")["summary"]

    assert record["last_step"]["rewards/margins"] > 0
    assert record["tally"]["total"] > 0


def test_all_distinct_completions_of_the_policy_can_be_rejected(spun: Path, tmp_path: Path):
    """Each seed completion against each distinct sampled one, never two sampled ones."""
    recompute_pairs(spun, 1, ["method.rejected=all"], tmp_path / "all")
    pairs = [p for p in table(tmp_path, "all") if "chosen_id" in p]
    distinct = {
        (row["prompt_id"], tuple(row["token_ids"])) for row in table(spun, "iteration-1/sample")
    }

    assert len(pairs) == len(distinct) - 16
    assert all("-data-" in p["chosen_id"] and "-data-" not in p["rejected_id"] for p in pairs)
