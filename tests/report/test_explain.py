"""Explanations are what the store says, joined by id, computed by the code that decided."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import kendalltau

from cream.algorithms.pairing import Outcome
from cream.algorithms.ranking import Definedness
from cream.errors import RunError
from cream.report.explain import OUTCOMES, UNDEFINED, explain, find_prompt
from cream.runs.reader import RunReader
from cream.stages.advantage import OUTCOMES as OF_SAMPLES
from cream.stages.pair import DROPPED, NO_EDIT
from tiny_run import restamped


def prompts(run: Path, t: int) -> list[dict[str, Any]]:
    return pq.read_table(run / f"iteration-{t}/pair/prompts.parquet").to_pylist()


def test_every_prompt_is_explained_as_it_was_decided(finished_run: Path):
    """Rewards give the stored pair, and scipy's tau of the shown figures is the stored one."""
    for t in (1, 2):
        pairs = {
            row["prompt_id"]: row
            for row in pq.read_table(finished_run / f"iteration-{t}/pair/pairs.parquet").to_pylist()
        }
        for row in prompts(finished_run, t):
            told = explain("consistency", finished_run, row["prompt_id"], t).as_json()
            by_id = {c["completion_id"]: c for c in told["completions"]}
            ranked = [c for c in told["completions"] if c["ranks"][f"implicit(M{t})"] is not None]
            assert len(ranked) == row["num_distinct"]
            assert len(by_id) == row["num_completions"] == 4
            for c in by_id.values():
                logps = c["figures"][f"logps_M{t}"] - c["figures"]["logps_M0"]
                assert c["figures"][f"implicit(M{t})"] == pytest.approx(logps)
            pair = pairs[row["prompt_id"]]
            assert by_id[pair["chosen_id"]]["ranks"][f"implicit(M{t})"] == 1
            assert by_id[pair["rejected_id"]]["ranks"][f"implicit(M{t})"] == len(ranked)
            first, second = list(ranked[0]["ranks"])[-2:]
            tau: Any = kendalltau(*([c["figures"][n] for c in ranked] for n in (first, second)))
            assert told["correlation"] == pytest.approx(tau[0])


def test_the_words_name_the_pair_by_the_numbers_of_the_list(finished_run: Path):
    key = prompts(finished_run, 1)[0]["prompt_id"]
    told = explain("pair", finished_run, key, None).as_json()
    (pair,) = told["pairs"]
    number = [c["completion_id"] for c in told["completions"]].index(pair["chosen_id"]) + 1

    assert any(f"chosen #{number} ({pair['chosen_reward']:.3f})" in line for line in told["words"])


def test_a_prompt_without_a_pair_says_why(finished_run: Path, tmp_path: Path):
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    folder = root / "iteration-1/pair"
    rows = prompts(root, 1)
    key = rows[0]["prompt_id"]
    rows[0] |= {"outcome": "tied", "correlation": None, "definedness": "first_tied"}
    pq.write_table(pa.Table.from_pylist(rows), folder / "prompts.parquet")
    kept = [r for r in pq.read_table(folder / "pairs.parquet").to_pylist() if r["prompt_id"] != key]
    pq.write_table(pa.Table.from_pylist(kept), folder / "pairs.parquet")
    restamped(folder)

    assert "no pair: no two rewards differ" in explain("pair", root, key, 1).as_json()["words"][-1]
    words = explain("consistency", root, key, 1).as_json()["words"]
    assert "no value: all completions are tied in the first ranking" in words


def test_every_outcome_and_reason_has_words():
    known = {kind.name.lower() for kind in Outcome} | set(DROPPED)
    without_pair = {"unanimous", NO_EDIT, *OF_SAMPLES}
    assert set(OUTCOMES) == known | without_pair
    reasons = {kind.name.lower() for kind in Definedness if kind is not Definedness.DEFINED}
    assert set(UNDEFINED) == reasons | {""}


def test_the_beginning_of_an_id_is_enough_if_it_is_the_only_one(finished_run: Path):
    keys = [row["prompt_id"] for row in prompts(finished_run, 2)]

    assert find_prompt(RunReader(finished_run), keys[0][:12], None) == (2, keys[0])
    with pytest.raises(RunError, match="no prompt"):
        find_prompt(RunReader(finished_run), keys[0], 1)  # of the other iteration


def test_an_unknown_id_names_close_ones_and_an_ambiguous_one_its_meanings(finished_run: Path):
    key = prompts(finished_run, 1)[0]["prompt_id"]
    misspelt = key[:6] + ("0" if key[6] != "0" else "1") + key[7:]

    with pytest.raises(RunError, match=f"close: .*{key}"):
        find_prompt(RunReader(finished_run), misspelt, None)
    with pytest.raises(RunError, match="no prompt ''"):
        find_prompt(RunReader(finished_run), "", None)
    firsts = [row["prompt_id"][0] for t in (1, 2) for row in prompts(finished_run, t)]
    shared = next(letter for letter in firsts if firsts.count(letter) > 1)
    with pytest.raises(RunError, match=f"{firsts.count(shared)} prompts begin with"):
        find_prompt(RunReader(finished_run), shared, None)
