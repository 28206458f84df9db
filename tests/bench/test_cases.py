"""Whole cases on a tiny model: checked for equal work, then timed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from cream.bench.contest import run_case
from cream.bench.floors import Floor, Product
from cream.bench.inputs import (
    Subject,
    load_subject,
    prompts,
    random_model,
    sampling_requests,
    scoring_requests,
)
from cream.bench.machine import LoadWatch
from cream.bench.program import run_whole, stage_seconds
from cream.bench.sampling import Workload, sampling_case, short_answers
from cream.bench.scaling import curves, measure_curve, size_curve
from cream.bench.scoring import Lengths, check_scores, scoring_case
from cream.bench.training import BASELINE, check_sides, training_rows
from cream.engines.scorer import TorchScorer
from cream.errors import BenchmarkError, ModelError
from cream.protocols import SamplingParams
from cream.recipe.model import ModelConfig
from cream.testing import tiny_model, tiny_model_folder

FLOOR = Floor((Product("float32", 1, 1, 1, 1e12),), 1e10)
WATCH = LoadWatch(allowed=True, sleep=lambda seconds: None)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    folder = tiny_model_folder(tmp_path_factory.mktemp("bench") / "model")
    config = ModelConfig(name=str(folder), device="cpu", compute_dtype="float32")
    return load_subject(config, folder.parent)


def workload(subject: Subject, *, tokens: int, stop_ids: tuple[int, ...] = ()) -> Workload:
    requests = sampling_requests(prompts(subject.encoder, 2), 2)
    params = SamplingParams(0.8, 0.95, tokens, stop_ids)
    return Workload("a", tuple(requests), params, "tokens/s", "note")


def test_sampling_is_timed_on_equal_numbers_of_tokens(subject: Subject):
    case = sampling_case(subject, workload(subject, tokens=4), FLOOR, None)
    (row,) = run_case(lambda: case, WATCH, what="a", rounds=2)

    assert [contestant.run() for contestant in case.contestants] == [16.0, 16.0]
    assert (row.baseline, row.unit, row.n) == ("transformers generate()", "tokens/s", 2)
    assert row.low <= row.ratio * 1.0001
    assert row.ours > 0
    assert "mean tokens: cream 4.0, generate() 4.0" in row.notes


def test_answers_that_may_end_are_counted_as_completions(subject: Subject):
    params = SamplingParams(1.0, 1.0, 3, subject.encoder.stop_ids)
    answers = short_answers(prompts(subject.encoder, 2), 3, params, answered_by="M0")

    case = sampling_case(subject, answers, FLOOR, None)

    assert case.unit == "completions/s"
    assert [contestant.run() for contestant in case.contestants] == [6.0, 6.0]


def test_scoring_is_timed_on_equal_values(subject: Subject):
    lengths = Lengths("short", (60, 70), (3, 9))

    case = scoring_case(subject, lengths, FLOOR, quick=True)

    amounts = {contestant.run() for contestant in case.contestants}
    assert len(amounts) == 1
    assert 4 * 5 * 3 <= amounts.pop() <= 4 * 5 * 9
    assert any(note.startswith("float32: largest difference") for note in case.notes)
    assert lengths.longest == 79


def test_scores_that_differ_are_not_timed(subject: Subject):
    """The scorer holds another model, so its values are wrong."""
    requests = scoring_requests(subject.encoder, 1, 2, (60, 60), (3, 3))
    stranger = TorchScorer(tiny_model(seed=5))

    with pytest.raises(BenchmarkError, match="differ in float32"):
        check_scores(subject, stranger, requests, 2)


def test_more_than_the_model_has_positions_for_is_an_error_of_the_engine(subject: Subject):
    """The program leaves such a case out beforehand; see the command's test."""
    with pytest.raises(ModelError, match="positions"):
        scoring_case(subject, Lengths("long", (600, 600), (3, 3)), FLOOR, quick=True)


def logged(loss: float, chosen: float) -> dict[str, Any]:
    return {"metrics": {"loss": loss, "logps/chosen": chosen, "logps/rejected": -50.0}}


def test_sides_that_log_other_values_are_not_timed():
    """1.5 % apart in the log-probabilities, or 0.1 in the loss, is too much; 0.5 % is not."""
    theirs = logged(0.69, -100.0)

    assert "differ by 0.50%" in check_sides({"cream": logged(0.69, -100.5), BASELINE: theirs})
    for wrong in (logged(0.69, -101.5), logged(0.79, -100.0)):
        with pytest.raises(BenchmarkError, match="do not compute the same"):
            check_sides({"cream": wrong, BASELINE: theirs})


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="TRL is an extra")
def test_training_is_timed_against_trl_on_equal_values(subject: Subject):
    speed, memory = training_rows(subject, FLOOR, WATCH, rounds=1, quick=True)

    assert (speed.baseline, speed.unit, speed.better) == (BASELINE, "pairs/s", "higher")
    assert (memory.unit, memory.better) == ("MB", "lower")
    assert memory.ours > 0
    assert speed.floor_share is not None


def test_a_curve_has_a_point_for_each_value(subject: Subject):
    """Values take turns; the cost is seconds per completion."""
    (by_n, *others) = curves(subject, FLOOR, quick=True)
    points = list(measure_curve(by_n, WATCH, rounds=1))

    assert [point.x for point in points] == [4.0, 8.0, 16.0]
    assert {(point.curve, point.x_name, point.unit) for point in points} == {
        ("sampling", "N", "s/completion")
    }
    assert [trial.run.run() for trial in by_n.trials.values()] == [8.0, 16.0, 32.0]
    assert [curve.x_name for curve in others] == ["N", "prompt tokens", "prompt tokens", "prompts"]


@pytest.mark.slow
def test_random_models_have_the_shape_of_their_name_and_are_written_once(
    subject: Subject, tmp_path: Path
):
    folder = random_model("random-llama-40m", subject.folder, tmp_path)
    written = folder.stat().st_mtime_ns
    config = ModelConfig(name=str(folder), device="cpu", compute_dtype="float32")
    other = load_subject(config, tmp_path)
    (small, large) = size_curve([subject, other], FLOOR, quick=True).trials

    assert (other.shape.hidden, other.shape.layers) == (288, 16)
    assert small < large == other.shape.block_weights + other.shape.head_weights
    assert random_model("random-llama-40m", subject.folder, tmp_path) == folder
    assert folder.stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_whole_run_that_fails_says_why(tmp_path: Path):
    with pytest.raises(BenchmarkError, match=r"whole run of .*absent\.yaml failed: error: "):
        run_whole(tmp_path / "absent.yaml", tmp_path, threads=1)


def test_stages_of_a_run_are_listed_with_their_seconds(finished_run: Path):
    found = {entry["stage"]: entry["seconds"] for entry in stage_seconds(finished_run)}

    assert {"sft/train", "iteration-1/sample", "iteration-2/train"} <= set(found)
    assert all(seconds >= 0 for seconds in found.values())
