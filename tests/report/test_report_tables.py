"""Tables show the summary's figures, and names from data as they are written."""

import io
from pathlib import Path

import pytest
from hand_made_run import spec_of, write_run
from rich.console import Console

from cream.pair_records import PairAccuracy
from cream.report.summary import RunSummary, status_of, summarise_run
from cream.report.table import terminal
from cream.report.tables import run_tables, status_table
from cream.runs.files import write_json
from cream.runs.plan import read_plan


@pytest.fixture
def summary(tmp_path: Path) -> RunSummary:
    return summarise_run(write_run(tmp_path / "run"))


def shown(summary: RunSummary, *, colour: bool = False) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=200, force_terminal=colour, color_system=None)
    console.print(run_tables(summary))
    return stream.getvalue()


def line(text: str, *words: str) -> str:
    found = [row for row in text.splitlines() if all(word in row for word in words)]
    assert len(found) == 1, found
    return found[0]


def test_accuracy_gain_and_samples_stand_in_a_models_row(summary: RunSummary):
    text = shown(summary)

    row = line(text, "M2", "75.0 %", "+25.0")
    assert "75.0 % [30.1, 95.4]" in row
    assert "50.0 %" in row  # mean@2
    assert "87.5 %" in row  # partial credit: three right, one at one half
    assert "hand-made: method cream, seed 3, 4 test prompts" in text
    assert "mean@2" in text
    assert "constant" in line(text, "25.0 %", "constant")


def test_a_task_or_answer_named_like_markup_is_shown_as_written(summary: RunSummary):
    text = shown(summary)

    assert "[red] (2)" in text
    assert "'[b]'" in text
    assert "\x1b[31m" not in shown(summary, colour=True)


def test_an_iteration_shows_c_tau_pairs_and_reasons(summary: RunSummary):
    text = shown(summary)
    row = line(text, "1 (M1 -> M2)")

    assert "mean_likelihood(M1), mean_likelihood(M0)" in row
    assert "0.625 [0.500, 0.750]" in row
    assert "+0.25 ± 0.50" in row
    assert "7 of 10" in row
    assert "75.0 % [30.0, 95.0] of 4" in row
    assert "50.0 % [20.0, 80.0] of 6" in row
    assert "iteration 1: prompts without a pair: tied 2, single 1" in text


@pytest.mark.parametrize(
    ("change", "present", "absent"),
    [
        ({"tau_mean": None, "tau_std": None}, "0.625 [0.500, 0.750]", "+0.25"),
        ({"tau_std": None}, "+0.25", "±"),
    ],
)
def test_a_tau_that_does_not_exist_is_not_shown(summary, change, present: str, absent: str):
    """TopOrder has none; the spread needs two prompts."""
    (iteration,) = summary.iterations
    assert iteration.consistency is not None
    changed = {"consistency": iteration.consistency.model_copy(update=change)}
    rows = [iteration.model_copy(update=changed)]
    row = line(shown(summary.model_copy(update={"iterations": rows})), "1 (M1 -> M2)")

    assert present in row
    assert absent not in row


def test_what_was_not_measured_is_said_not_shown_as_0(summary: RunSummary):
    nothing = PairAccuracy(n=0, accuracy=None, low=None, high=None, counts={})
    changes = {"compared": None, "consistency": None, "pair_accuracy": nothing}
    row = summary.iterations[0].model_copy(update={**changes, "consistency_in_loss": None})
    text = line(shown(summary.model_copy(update={"iterations": [row]})), "1 (M1 -> M2)")

    assert "not measured" in text
    assert "none decidable" in text


def test_time_is_summed_per_kind_of_stage(summary: RunSummary):
    assert "time: 38 s (evaluate 7, fine-tune 10, sample 20, score 0)" in shown(summary)


def test_a_run_without_samples_has_no_columns_for_them(summary: RunSummary):
    none = {"k": None, "mean_at_k": None, "pass_at_k": None}
    models = [
        row.model_copy(update={"overall": row.overall.model_copy(update=none)})
        for row in summary.models
    ]

    assert "mean@" not in shown(summary.model_copy(update={"models": models}))


def test_nothing_finished_is_said(summary: RunSummary):
    nothing = {"models": [], "iterations": [], "seconds": {}}

    assert shown(summary.model_copy(update=nothing)) == "nothing is finished yet\n"


def test_status_is_one_line_per_stage(tmp_path: Path):
    stream = io.StringIO()
    root = write_run(tmp_path / "run")
    plan = read_plan(root)
    stages = (*plan.stages, spec_of("iteration-1/score/[red]"))
    write_json(
        root / "plan.json", plan.model_copy(update={"stages": stages}).model_dump(mode="json")
    )
    Console(file=stream, width=120).print(terminal(status_table(status_of(root).stages)))
    text = stream.getvalue()

    assert [word for word in line(text, "sft/train").split() if word != "│"] == [
        "sft/train",
        "finished",
        "10.0",
    ]
    assert "begun" in line(text, "iteration-2/sample")
    assert "missing" in line(text, "iteration-1/score/[red]")
