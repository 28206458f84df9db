"""Public datasets become files of a recipe, from local files of the same schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cream.data.dataset import load_data
from cream.data.public import DATASETS, prepare_dataset
from cream.data.public.questions import EVALUATION_INSTRUCTION
from cream.errors import DataError
from cream.recipe.data import DataConfig


def arc_row(key: str, question: str, answer: str = "A") -> dict[str, Any]:
    choices = {"text": ["ice", "steam"], "label": ["A", "B"]}
    return {"id": key, "question": question, "choices": choices, "answerKey": answer}


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def arc(tmp_path: Path) -> Path:
    """ARC as the hub lays it out: one folder per configuration, one of the splits in two files."""
    folder = tmp_path / "ai2_arc"
    write_jsonl(
        folder / "ARC-Easy" / "test.jsonl", [arc_row("t1", "Cold?"), arc_row("t2", "x", "")]
    )
    train = [arc_row("e1", "Hot?", "B"), arc_row("e2", "hot? ", "B"), arc_row("e3", "Cold?")]
    for part, rows in enumerate([train[:2], train[2:]]):
        path = folder / "ARC-Easy" / f"train-0000{part}-of-00002.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    write_jsonl(folder / "ARC-Challenge" / "test.jsonl", [arc_row("t3", "Wet?")])
    write_jsonl(folder / "ARC-Challenge" / "train.jsonl", [arc_row("c1", "Dry?", "B")])
    return folder


def test_questions_are_written_with_letters_tasks_and_the_evaluation_instruction(
    arc: Path, tmp_path: Path
):
    prepare_dataset("arc", tmp_path / "out", source=arc)
    prompts = read_jsonl(tmp_path / "out" / "arc.prompts.jsonl")
    test = read_jsonl(tmp_path / "out" / "arc.test.jsonl")

    assert prompts == [
        {"prompt": "Hot?\nA. ice\nB. steam", "answer": "B", "task": "arc_easy", "id": "e1"},
        {"prompt": "Dry?\nA. ice\nB. steam", "answer": "B", "task": "arc_challenge", "id": "c1"},
    ]
    assert [(row["task"], row["answer"]) for row in test] == [
        ("arc_easy", "A"),
        ("arc_challenge", "A"),
    ]
    assert test[0]["prompt"] == "Cold?\nA. ice\nB. steam" + EVALUATION_INSTRUCTION


def test_the_manifest_counts_every_row_once(arc: Path, tmp_path: Path):
    """Training: e1 and c1 kept, e2 asks what e1 asks, e3 is a test question."""
    manifest = prepare_dataset("arc", tmp_path / "out", source=arc)

    assert manifest["files"]["arc.prompts.jsonl"] == {
        "role": "prompts",
        "rows": 2,
        "tally": {"total": 4, "parts": {"kept": 2, "duplicate": 1, "in_test": 1}},
    }
    assert manifest["files"]["arc.test.jsonl"]["tally"] == {
        "total": 3,
        "parts": {"kept": 2, "no_answer": 1},
    }
    written = json.loads((tmp_path / "out" / "arc.manifest.json").read_text(encoding="utf-8"))
    assert written == manifest


def test_the_hub_schema_is_read_by_the_datasets_library(arc: Path, tmp_path: Path):
    """The same rows through `datasets.load_dataset`, whose sequences come as lists in a dict."""
    table = datasets.load_dataset(
        "parquet", data_files=str(arc / "ARC-Easy" / "train-*.parquet"), split="train"
    )

    (tmp_path / "again" / "ARC-Easy").mkdir(parents=True)
    for name in ("ARC-Easy", "ARC-Challenge"):
        for split in ("train", "test"):
            if (name, split) != ("ARC-Easy", "train"):
                source = (arc / name / f"{split}.jsonl").read_text(encoding="utf-8")
                (tmp_path / "again" / name).mkdir(exist_ok=True)
                (tmp_path / "again" / name / f"{split}.jsonl").write_text(source, encoding="utf-8")
    write_jsonl(tmp_path / "again" / "ARC-Easy" / "train.jsonl", [dict(row) for row in table])
    again = prepare_dataset("arc", tmp_path / "out2", source=tmp_path / "again")
    before = prepare_dataset("arc", tmp_path / "out1", source=arc)

    assert again["files"] == before["files"]


@pytest.mark.parametrize(
    ("name", "folder", "split", "rows", "prompt", "answer"),
    [
        (
            "openbookqa",
            "main",
            "test",
            [
                {
                    "id": "7-1",
                    "question_stem": "A stove gives",
                    "choices": {"text": ["heat", "rain"], "label": ["A", "B"]},
                    "answerKey": "A",
                }
            ],
            "A stove gives\nA. heat\nB. rain",
            "A",
        ),
        (
            "siqa",
            "data",
            "validation",
            [
                {
                    "context": "Tracy stayed.",
                    "question": "Why?",
                    "answerA": "plan",
                    "answerB": "sleep",
                    "answerC": "go",
                    "label": "2",
                }
            ],
            "Tracy stayed. Why?\nA. plan\nB. sleep\nC. go",
            "B",
        ),
        (
            "gsm8k",
            "main",
            "test",
            [{"question": "9 eggs at 2 each?", "answer": "9 * 2 = <<9*2=18>>18\n#### 18"}],
            "9 eggs at 2 each?",
            "18",
        ),
    ],
)
def test_each_question_dataset_has_its_test_split(
    tmp_path: Path, name: str, folder: str, split: str, rows: Any, prompt: str, answer: str
):
    write_jsonl(tmp_path / "in" / folder / f"{split}.jsonl", rows)
    training = [
        {
            key: value + "?" if key in ("question", "question_stem") else value
            for key, value in row.items()
        }
        for row in rows
    ]
    write_jsonl(tmp_path / "in" / folder / "train.jsonl", training)
    prepare_dataset(name, tmp_path / "out", source=tmp_path / "in")
    (test,) = read_jsonl(tmp_path / "out" / f"{name}.test.jsonl")
    (train,) = read_jsonl(tmp_path / "out" / f"{name}.prompts.jsonl")

    assert (test["prompt"], test["answer"]) == (prompt + EVALUATION_INSTRUCTION, answer)
    assert train["prompt"] != prompt
    assert EVALUATION_INSTRUCTION not in train["prompt"]


def oasst_rows() -> list[dict[str, Any]]:
    def message(key: str, parent: str | None, text: str, rank: int | None) -> dict[str, Any]:
        return {
            "message_id": key,
            "parent_id": parent,
            "text": text,
            "role": "assistant" if parent else "prompter",
            "lang": "en",
            "rank": rank,
            "deleted": False,
            "review_result": True,
        }

    return [
        message("p", None, "What is rain?", None),
        message("r0", "p", "Water.", 0),
        message("r1", "p", "No idea.", 1),
        message("q", None, "what is  rain?", None),  # the same question in other capitals
        message("s0", "q", "Drops.", 0),
    ]


def test_conversations_become_seed_examples_and_their_prompts(tmp_path: Path):
    write_jsonl(tmp_path / "in" / "data" / "train.jsonl", oasst_rows())
    manifest = prepare_dataset("oasst1", tmp_path / "out", source=tmp_path / "in")
    seed = read_jsonl(tmp_path / "out" / "oasst1.seed.jsonl")

    assert [(row["prompt"], row["completion"]) for row in seed] == [
        ("What is rain?", "Water."),
        ("what is  rain?", "Drops."),
    ]
    assert manifest["files"]["oasst1.seed.jsonl"]["tally"]["total"] == 5
    assert manifest["files"]["oasst1.prompts.jsonl"]["tally"] == {
        "total": 2,
        "parts": {"kept": 1, "duplicate": 1},
    }


def test_a_recipe_reads_what_was_written(arc: Path, tmp_path: Path):
    write_jsonl(tmp_path / "oasst" / "train.jsonl", oasst_rows()[:3])
    prepare_dataset("arc", tmp_path / "out", source=arc)
    prepare_dataset("oasst1", tmp_path / "out", source=tmp_path / "oasst")
    config = DataConfig.model_validate(
        {
            "seed": {"sources": [{"source": "file", "path": "out/oasst1.seed.jsonl"}]},
            "prompts": {
                "per_iteration": 3,
                "sources": [
                    {"source": "file", "path": "out/oasst1.prompts.jsonl"},
                    {"source": "file", "path": "out/arc.prompts.jsonl"},
                ],
            },
            "test": {
                "sources": [
                    {"source": "file", "path": "out/arc.test.jsonl", "verifier": "choice_letter"}
                ]
            },
        }
    )

    data = load_data(config, seed=0, iterations=1, base_dir=tmp_path)

    assert sorted(prompt.task for prompt in data.prompts_for(1)) == [
        "arc_challenge",
        "arc_easy",
        "oasst1",
    ]
    assert data.seed_examples[0].completion == "Water."


def test_what_cannot_be_prepared_is_refused_with_the_reason(arc: Path, tmp_path: Path):
    with pytest.raises(DataError, match="no public dataset 'arcs' is known; there are oasst1, arc"):
        prepare_dataset("arcs", tmp_path)
    with pytest.raises(DataError, match=r"no file .*test\* with one of the suffixes"):
        prepare_dataset("gsm8k", tmp_path / "out", source=tmp_path / "nowhere")
    prepare_dataset("arc", tmp_path / "out", source=arc)
    with pytest.raises(DataError, match="exists; choose another folder or give --force"):
        prepare_dataset("arc", tmp_path / "out", source=arc)
    prepare_dataset("arc", tmp_path / "out", source=arc, replace=True)


def test_the_catalogue_names_every_dataset_of_the_paper():
    assert sorted(DATASETS) == ["arc", "gsm8k", "oasst1", "openbookqa", "siqa"]
