"""Exported pairs are the pairs of the run, and flips stand for CREAM's loss in expectation."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from cream.algorithms.objectives import PairLogps, cream, dpo
from cream.data.files import Row
from cream.data.formats import parse_row
from cream.errors import RunError
from cream.recipe.data import ColumnMapping
from cream.recipe.objectives import (
    ConservativeDpo,
    ConstantNll,
    Cream,
    Ipo,
    ObjectiveConfig,
    RobustDpo,
    WeightedDpo,
)
from cream.recipe.training import ReplayConfig
from cream.report.export import (
    ExportedPairs,
    dataset_card,
    export_pairs,
    flip,
    is_flipped,
    write_export,
)
from cream.runs.files import read_sealed, write_sealed
from cream.runs.reader import RunReader


def with_consistency(pairs: ExportedPairs, c: float) -> ExportedPairs:
    column = pairs.table.column_names.index("consistency")
    values = [np.full(pairs.table.num_rows, c)]
    return replace(pairs, table=pairs.table.set_column(column, "consistency", values))


def test_every_row_is_a_pair_of_the_run_joined_by_id(finished_run: Path):
    """Texts, scores and log-probabilities are looked up in the run's own files, by id."""
    exported = export_pairs(finished_run, 2)
    pairs = pq.read_table(finished_run / "iteration-2/pair/pairs.parquet").to_pylist()
    matrix = {
        row["completion_id"]: row
        for part in sorted((finished_run / "iteration-2/matrix").glob("part-*.parquet"))
        for row in pq.read_table(part).to_pylist()
    }
    prompts = {
        row["prompt_id"]: row["prompt"]
        for row in pq.read_table(finished_run / "data/prompts-2/part-00000.parquet").to_pylist()
    }
    rows = {row["pair_id"]: row for row in exported.table.to_pylist()}

    assert exported.iteration == 2
    assert len(rows) == len(pairs) > 0
    for pair in pairs:
        row = rows[f"{pair['chosen_id']}>{pair['rejected_id']}"]
        chosen, rejected = matrix[pair["chosen_id"]], matrix[pair["rejected_id"]]
        assert row["prompt"] == prompts[pair["prompt_id"]]
        assert row["chosen"] == [{"role": "assistant", "content": chosen["text"]}]
        assert row["rejected"] == [{"role": "assistant", "content": rejected["text"]}]
        assert row["margin"] == pair["chosen_reward"] - pair["rejected_reward"] > 0
        assert (row["consistency"], row["weight"]) == (pair["consistency"], 1.0)
        assert row["chosen_logps_M2"] == chosen["logps_M2"]
        assert row["rejected_logps_M0"] == rejected["logps_M0"]
        assert row["chosen_truncated"] == (chosen["finish_reason"] == "length")


def test_the_last_paired_iteration_is_exported_unless_one_is_named(finished_run: Path):
    assert export_pairs(finished_run, None).iteration == 2
    assert export_pairs(finished_run, 1).iteration == 1


def test_what_is_written_can_be_given_back_as_seed_data(finished_run: Path, tmp_path: Path):
    found = export_pairs(finished_run, 1)
    # What a random model writes may hold NUL, which no data file may.
    clean = [row for row in found.table.to_pylist() if "\\u0000" not in json.dumps(row)]
    pairs = replace(found, table=pa.Table.from_pylist(clean, schema=found.table.schema))
    write_export(pairs, finished_run, tmp_path / "x", file_format="jsonl", command="c", seed=0)
    lines = (tmp_path / "x/train.jsonl").read_text(encoding="utf-8").splitlines()
    read = [parse_row(Row(json.loads(line), "here"), ColumnMapping()) for line in lines]

    assert [c.conversation.completion for c in read] == [
        row["chosen"][0]["content"] for row in pairs.table.to_pylist()
    ]
    assert [c.conversation.messages[-1].content for c in read] == [
        row["prompt"][-1]["content"] for row in pairs.table.to_pylist()
    ]


def test_both_formats_hold_the_same_rows_and_the_card_the_numbers(
    finished_run: Path, tmp_path: Path
):
    pairs = flip(with_consistency(export_pairs(finished_run, 1), 0.5), seed=3)
    for name in ("jsonl", "parquet"):
        out = tmp_path / name
        write_export(pairs, finished_run, out, file_format=name, command="cream it", seed=3)
    lines = (tmp_path / "jsonl/train.jsonl").read_text(encoding="utf-8").splitlines()
    card = (tmp_path / "parquet/README.md").read_text(encoding="utf-8")

    assert [json.loads(x) for x in lines] == pq.read_table(
        tmp_path / "parquet/train.parquet"
    ).to_pylist()
    assert "data_files: train.parquet" in card
    assert "```sh\ncream it\n```" in card
    assert f"{pairs.table.num_rows} pairs of iteration 1" in card
    assert f"Turned: {pairs.flipped} of {pairs.table.num_rows}" in card
    assert "Mean C of the pairs: 0.500" in card
    with pytest.raises(RunError, match="exists already"):
        write_export(
            pairs, finished_run, tmp_path / "jsonl", file_format="jsonl", command="", seed=0
        )


def test_the_card_names_what_was_trained_on_beside_the_pairs(finished_run: Path):
    pairs, recipe = export_pairs(finished_run, 1), RunReader(finished_run).recipe
    parts = {**pairs.summary.tally.parts, "unanimous": 3}
    tally = replace(pairs.summary.tally, parts=parts, total=pairs.summary.tally.total + 3)
    agreed = replace(pairs, summary=pairs.summary.model_copy(update={"tally": tally}))
    training = recipe.training.model_copy(update={"replay": ReplayConfig(share=0.25)})
    replaying = recipe.model_copy(update={"training": training})

    assert "beside these rows" not in dataset_card(pairs, recipe, "x", "", 0)
    card = dataset_card(agreed, replaying, "x", "", 0)
    assert "3 prompts whose completions all say the same; seed examples, 25 % of each epoch" in card


def test_a_turned_row_has_all_its_sides_changed_and_an_unturned_one_none(finished_run: Path):
    before = export_pairs(finished_run, 1)
    never, always = (
        flip(with_consistency(before, 1.0), seed=0),
        flip(with_consistency(before, 0.0), seed=0),
    )

    assert (never.flipped, always.flipped) == (0, before.table.num_rows)
    for row, kept, turned in zip(
        before.table.to_pylist(), never.table.to_pylist(), always.table.to_pylist(), strict=True
    ):
        assert {**kept, "consistency": row["consistency"]} == {**row, "flipped": False}
        assert turned["chosen"] == row["rejected"]
        assert turned["rejected"] == row["chosen"]
        assert turned["chosen_logps_M1"] == row["rejected_logps_M1"]
        assert turned["rejected_tokens"] == row["chosen_tokens"]
        assert turned["margin"] == -row["margin"]
        assert turned["flipped"] is True
        assert turned["prompt"] == row["prompt"]


def test_the_expected_plain_loss_over_flips_is_the_loss_of_cream_by_hand():
    """x = 0.1 * (3 - (-2)) = 0.5 and C = 0.8: 0.8 ln(1 + e^-0.5) + 0.2 ln(1 + e^0.5).

    That is 0.8 * 0.474077 + 0.2 * 0.974077 = 0.574077, and so is softplus(-x) + (1 - C) x.
    """
    policy = PairLogps(torch.tensor([3.0]), torch.tensor([-2.0]))
    turned = PairLogps(policy.rejected, policy.chosen)
    zero = PairLogps(torch.zeros(1), torch.zeros(1))
    expected = 0.8 * dpo(policy, zero, beta=0.1) + 0.2 * dpo(turned, zero, beta=0.1)
    loss = cream(policy, zero, beta=0.1, consistency=torch.tensor([0.8]))

    assert expected.item() == pytest.approx(0.574077, abs=1e-6)
    assert loss.item() == pytest.approx(0.574077, abs=1e-6)


@pytest.mark.parametrize("c", [0.5, 0.73, 0.95])
def test_the_mean_plain_loss_over_many_seeds_comes_to_the_loss_of_cream(c: float):
    """Monte Carlo over 20,000 draws: within 4 standard errors, and far from the unflipped loss."""
    draws = np.array([is_flipped(c, f"a>{i}", seed=i // 100) for i in range(20_000)])
    x = torch.where(torch.from_numpy(draws), -1.5, 1.5).double()
    zero = PairLogps(torch.zeros(len(x)).double(), torch.zeros(len(x)).double())
    losses = dpo(PairLogps(x, zero.chosen), zero, beta=1.0)
    one = PairLogps(torch.tensor([1.5]).double(), torch.zeros(1).double())
    nothing = PairLogps(torch.zeros(1).double(), torch.zeros(1).double())
    wanted = cream(one, nothing, beta=1.0, consistency=torch.tensor([c]).double()).item()
    error = losses.std().item() / len(x) ** 0.5

    assert abs(losses.mean().item() - wanted) < 4 * error
    assert abs(dpo(one, nothing, beta=1.0).item() - wanted) > 6 * error


def test_flips_depend_on_the_seed_and_the_pair_alone(finished_run: Path):
    pairs = with_consistency(export_pairs(finished_run, 1), 0.5)
    fewer = replace(pairs, table=pairs.table.slice(3))
    runs = {seed: flip(pairs, seed=seed).table["flipped"].to_pylist() for seed in range(20)}

    assert flip(pairs, seed=7).table["flipped"].to_pylist() == runs[7]
    assert flip(fewer, seed=7).table["flipped"].to_pylist() == runs[7][3:]
    assert len({tuple(flips) for flips in runs.values()}) > 10


def test_pairs_with_weights_cannot_be_flipped(finished_run: Path):
    pairs = export_pairs(finished_run, 1)
    place = pairs.table.column_names.index("weight")
    table = pairs.table.set_column(place, "weight", [np.full(pairs.table.num_rows, 0.5)])

    with pytest.raises(RunError, match="carry weights"):
        flip(replace(pairs, table=table), seed=0)


def with_objective(pairs: ExportedPairs, objective: ObjectiveConfig) -> ExportedPairs:
    return replace(pairs, objective=objective)


@pytest.mark.parametrize(
    "objective",
    [WeightedDpo(), RobustDpo(label_smoothing=0.1), Ipo(), Cream(nll=ConstantNll(weight=1.0))],
)
def test_a_loss_that_is_no_mixture_of_both_orders_cannot_be_flipped(
    objective: ObjectiveConfig, finished_run: Path
):
    pairs = with_objective(export_pairs(finished_run, 1), objective)

    with pytest.raises(RunError, match="no mixture of DPO on both orders"):
        flip(pairs, seed=0)


def test_the_c_of_the_objective_is_exported_where_the_pairs_have_none(
    finished_run: Path, tmp_path: Path
):
    """Label smoothing 0.3 is C = 0.7 for every pair, though the pair stage stores 1."""
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    plan = read_sealed(root / "plan.json")
    plan["parts"]["1"]["objective"] = ConservativeDpo(label_smoothing=0.3).model_dump(mode="json")
    write_sealed(root / "plan.json", plan)
    pairs = export_pairs(root, 1)
    turned = sum(flip(pairs, seed=seed).flipped or 0 for seed in range(50))

    assert set(pairs.table["consistency"].to_pylist()) == {0.7}
    assert turned / (50 * pairs.table.num_rows) == pytest.approx(0.3, abs=0.08)


def test_a_run_without_finished_pairs_is_refused(finished_run: Path, tmp_path: Path):
    with pytest.raises(RunError, match="holds no run"):
        export_pairs(tmp_path, None)
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    shutil.rmtree(root / "iteration-2" / "pair")
    assert export_pairs(root, None).iteration == 1
    with pytest.raises(RunError, match="iteration-2/pair is not finished"):
        export_pairs(root, 2)
    shutil.rmtree(root / "iteration-1" / "pair")
    with pytest.raises(RunError, match="no finished pairs"):
        export_pairs(root, None)
