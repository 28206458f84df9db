from __future__ import annotations

import io
import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest
from hand_made_comparison import write_comparison
from rich.console import Console

from cream.errors import RunError
from cream.report import comparison as comparing
from cream.report.comparison import Comparison, comparison_runs
from cream.report.page.methods import comparison_sections, page_parts
from cream.report.tables import print_comparison
from cream.runs.files import read_sealed, write_sealed
from tiny_run import restamped


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_comparison(tmp_path / "comparison")


def summarise_comparison(root: Path) -> dict[str, Any]:
    return comparing.summarise_comparison(root).as_json()


def method(comparison: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (m for m in comparison["methods"] if m["name"] == name)
    return found


def model(comparison: dict[str, Any], of: str, name: str) -> dict[str, Any]:
    (found,) = (row for row in method(comparison, of)["models"] if row["model"] == name)
    return found


def printed(comparison: dict[str, Any], width: int = 100) -> list[str]:
    stream = io.StringIO()
    print_comparison(Console(file=stream, width=width), Comparison.read(comparison, "x"))
    return [" ".join(line.replace("│", " ").split()) for line in stream.getvalue().splitlines()]


def test_accuracy_is_the_mean_over_seeds_with_seeds_and_prompts_drawn_again(root: Path):
    """M2 of `base`: 0 of 4 and 4 of 4. Only the draw of seeds varies: means 0, 1/2, 1."""
    base = model(summarise_comparison(root), "base", "M2")

    assert (base["accuracy"], base["low"], base["high"]) == (0.5, 0.0, 1.0)
    assert base["by_seed"] == {"0": 0.0, "1": 1.0}
    assert (base["n"], base["seeds"], base["mean_tokens"]) == (8, [0, 1], 1.0)
    assert (base["k"], base["mean_at_k"]) == (1, 0.5)


def test_methods_are_compared_by_seed_and_prompt(root: Path):
    """`new` minus `base` at M2: +1 on every prompt of seed 0, 0 on every one of seed 1.

    So +1/2 in the mean, and 0, 1/2 or 1 in resamples of seeds. M1 is the same model: exactly 0.
    """
    comparison = summarise_comparison(root)

    assert model(comparison, "new", "M2")["difference"] == {
        "difference": 0.5,
        "low": 0.0,
        "high": 1.0,
        "seeds": [0, 1],
    }
    same = model(comparison, "new", "M1")["difference"]
    assert (same["difference"], same["low"], same["high"]) == (0.0, 0.0, 0.0)
    assert model(comparison, "base", "M2")["difference"] is None


def test_gain_is_paired_with_m1_of_the_same_run(root: Path):
    """`new`: from 2 of 4 to 4 of 4 with both seeds, +1/2; `base`: -1/2 and +1/2, 0 in the mean.

    A resample of `new` is 0 if one seed is drawn twice (1/2) and only prompts without a gain
    (1/16), or both seeds with such (1/2 * 1/256): 3.3 %, so that 95 % reach 0, and likewise 1.
    """
    comparison = summarise_comparison(root)
    new, base = (model(comparison, name, "M2")["gain"] for name in ("new", "base"))

    assert (new["difference"], new["low"], new["high"]) == (0.5, 0.0, 1.0)
    assert base["difference"] == 0.0
    assert model(comparison, "new", "M1")["gain"] is None


def test_pairs_of_an_iteration_over_seeds(root: Path):
    """C of `new` is not defined with seed 1. Right pairs: 3 + 1 of 4 + 4, and 4 of 4 + 0."""
    comparison = summarise_comparison(root)
    (base,), (new,) = (method(comparison, name)["iterations"] for name in ("base", "new"))

    assert base["consistency"] == {"mean": 0.625, "by_seed": {"0": 0.5, "1": 0.75}}
    assert new["consistency"] == {"mean": 0.625, "by_seed": {"0": 0.625, "1": None}}
    assert base["consistency_in_loss"]["mean"] is None
    assert (base["pair_accuracy"]["n"], base["pair_accuracy"]["accuracy"]) == (8, 0.5)
    assert (new["pair_accuracy"]["n"], new["pair_accuracy"]["accuracy"]) == (4, 1.0)
    assert base["kl_to_seed_per_token"]["mean"] == 0.75
    assert (base["paired"], base["prompts"]) == (16, 20)


def test_shared_stages_are_paid_once_and_divided_evenly(root: Path):
    """Two seeds of: 10 + 2 seconds shared by two, then 4 and 6 of each method's own.

    `base` 2 (12 / 2 + 4) = 20, `new` 2 (12 / 2 + 6) = 24, together 44; alone 32 and 36.
    """
    comparison = summarise_comparison(root)
    base, new = (method(comparison, name)["cost"] for name in ("base", "new"))
    total = comparison["cost"]

    assert (base["seconds"], new["seconds"], total["seconds"]) == (20.0, 24.0, 44.0)
    assert (base["seconds_alone"], new["seconds_alone"]) == (32.0, 36.0)
    assert total["seconds_alone"] == 68.0


def test_tokens_are_those_of_completions_by_what_was_done_with_them(root: Path):
    """Per seed 100 drawn and scored once for both; 8 pairs of 3 + 2 tokens seen twice;
    8 answers of M0 and of M1 for both, 8 of each M2."""
    comparison = summarise_comparison(root)
    base, total = method(comparison, "base")["cost"], comparison["cost"]

    assert base["tokens"] == {
        "sampled": 100.0,
        "scored": 100.0,
        "trained": 160.0,
        "evaluated": 32.0,
    }
    assert base["tokens_alone"]["sampled"] == 200.0
    assert total["tokens"] == {
        "sampled": 200.0,
        "scored": 200.0,
        "trained": 320.0,
        "evaluated": 64.0,
    }
    assert base["not_counted"] == total["not_counted"] == ["sft/train"]


def test_tokens_that_no_stage_recorded_are_absent_and_not_none_at_all(root: Path):
    """A training that replays seed examples records no tokens: of `new` none are known."""
    for seed in (0, 1):
        path = root / f"new/seed-{seed}/iteration-1/train/stage.json"
        record = read_sealed(path)
        write_sealed(path, {**record, "summary": {**record["summary"], "replayed": 4}})
    comparison = summarise_comparison(root)
    new = method(comparison, "new")["cost"]

    assert new["tokens"]["trained"] is new["tokens_alone"]["trained"] is None
    assert new["tokens"]["sampled"] == 100.0
    assert new["not_counted"] == ["iteration-1/train", "sft/train"]
    assert comparison["cost"]["tokens"]["trained"] == 160.0
    assert any("new 24 36 100 100 – 32" in line for line in printed(comparison))


def test_a_stage_that_was_made_twice_is_paid_twice(root: Path):
    """As happens if a shared folder was deleted by hand: 10 seconds more with seed 0, by halves."""
    (root / "new/seed-0/sft/train/shared.json").unlink()
    comparison = summarise_comparison(root)

    assert comparison["cost"]["seconds"] == 54.0
    assert method(comparison, "base")["cost"]["seconds"] == 25.0


def test_what_is_not_there_yet_is_left_out_and_said(root: Path):
    shutil.rmtree(root / "new/seed-1")
    shutil.rmtree(root / "base/seed-1/iteration-1/evaluate")
    comparison = summarise_comparison(root)

    assert [m["finished"] for m in comparison["members"]] == [False] * 4  # by hand: no data stages
    assert model(comparison, "base", "M2")["seeds"] == [0]
    assert model(comparison, "new", "M2")["difference"]["seeds"] == [0]
    assert model(comparison, "base", "M1")["seeds"] == [0, 1]
    assert comparison_runs(root) == [root / f for f in ("base/seed-0", "base/seed-1", "new/seed-0")]


def test_members_with_other_test_prompts_are_not_compared(root: Path):
    for path in (root / "new/seed-0").rglob("evaluate/part-00000.parquet"):
        table = pq.read_table(path)
        names = [key.replace("0-1", "else") for key in table["prompt_id"].to_pylist()]
        pq.write_table(table.set_column(0, "prompt_id", [names]), path)
        restamped(path.parent)

    with pytest.raises(RunError, match="seed 0 were tested on different prompts"):
        summarise_comparison(root)


def test_a_folder_without_a_comparison_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="no comparison"):
        summarise_comparison(tmp_path)


def test_the_tables_fit_100_columns_with_every_cell_whole(root: Path):
    comparison = summarise_comparison(root)
    lines = printed(comparison)

    assert max(map(len, lines)) <= 100
    assert any(line.startswith("all M1 50.0 % [") for line in lines)
    assert (
        "new M2 100.0 % [100.0, 100.0] +50.0 [+0.0, +100.0] +50.0 [+0.0, +100.0] 100.0 %" in lines
    )
    assert "base 1 0.625 – – 16 of 20 50.0 % of 8 50.0 % of 12 0.750 2.5" in lines
    assert "new 24 36 100 100 160 32" in lines
    assert "together 44 68 200 200 320 64" in lines


def test_a_long_name_of_a_method_gives_way_and_no_figure_does(root: Path):
    comparison = summarise_comparison(root)
    comparison["methods"][1]["name"] = "cream_sample{level: shrunken, below_half: [red]}"
    lines = printed(comparison)
    text = "".join(" ".join(lines).split())

    assert max(map(len, lines)) <= 100
    assert any("100.0 % [100.0, 100.0] +50.0 [+0.0, +100.0]" in line for line in lines)
    assert "[red]" in text


def test_the_page_shows_methods_with_their_differences_and_escapes_names(root: Path):
    comparison = summarise_comparison(root)
    comparison["methods"][1]["name"] = "cream{<b>: 1}"
    sections = comparison_sections(Comparison.read(comparison, "x"))
    markup = "".join(section.body for section in sections)

    assert [section.key for section in sections] == ["methods", "methods-pairs", "methods-cost"]
    for shown in ("+50.0 [+0.0, +100.0]", "vs base", "100.0 % of 4", "cream{&lt;b&gt;: 1}"):
        assert shown in markup
    assert "<b>" not in markup
    comparison["methods"] = [{**m, "models": []} for m in comparison["methods"]]
    assert comparison_sections(Comparison.read(comparison, "x")) == []


def test_the_data_follow_the_schema(root: Path):
    text = resources.files("cream").joinpath("schemas/compare.json").read_text(encoding="utf-8")
    schema = json.loads(text)
    comparison = summarise_comparison(root)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(comparison, schema)

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**comparison, "more": 1}, schema)


def test_a_run_is_a_comparison_of_one(root: Path):
    """Accuracies and pairs of the member alone, its differences to itself left out."""
    together, alone = summarise_comparison(root), summarise_comparison(root / "base" / "seed-1")
    (member,), (only,) = alone["members"], alone["methods"]
    assert (member["run"], member["seed"]) == (".", 1)
    assert comparison_runs(root / "base" / "seed-1") == [root / "base" / "seed-1"]
    for row in only["models"]:
        expected = model(together, "base", row["model"])["by_seed"]["1"]
        assert (row["accuracy"], row["by_seed"]) == (expected, {"1": expected})
        assert row["difference"] is None
    (row,) = only["iterations"]
    assert row["pair_accuracy"]["accuracy"] == 0.25
    assert row["consistency"]["mean"] == 0.75


def test_what_is_neither_run_nor_comparison_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="holds no run and no comparison"):
        summarise_comparison(tmp_path)


def test_a_page_shows_the_runs_of_the_first_seed_and_the_methods_side_by_side(root: Path):
    shown, sections = page_parts([root])
    assert shown == [root / "base" / "seed-0", root / "new" / "seed-0"]
    assert [part.key for part in sections] == ["methods", "methods-pairs", "methods-cost"]
    assert page_parts([root / "new" / "seed-1"]) == ([root / "new" / "seed-1"], [])
