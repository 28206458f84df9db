import json

import pytest

from cream.data import load_data, read_seed, write_seed
from cream.data.completion_spans import read_spans
from cream.errors import DataError
from cream.recipe.data import DataConfig

SPANS = [{"text": "7. ", "train": False}, {"text": "Wait. No. "}, {"text": "8", "train": True}]


def read_from(folder, path, **source):
    (folder / "p.jsonl").write_text(json.dumps({"prompt": "3 + 4?"}) + "\n")
    config = DataConfig.model_validate(
        {
            "seed": {"sources": [{"source": "file", "path": path, **source}]},
            "prompts": {"sources": [{"source": "file", "path": "p.jsonl"}], "per_iteration": 1},
        }
    )
    return load_data(config, seed=0, iterations=1, base_dir=folder).seed_examples


def loaded(folder, *rows, **source):
    (folder / "seed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_from(folder, "seed.jsonl", **source)


def test_the_completion_of_a_row_is_its_spans(tmp_path):
    """7. and a space are characters 0 to 3."""
    row = {"prompt": "2 + 6?", "completion_spans": SPANS}
    (example,) = loaded(tmp_path, row)
    assert example.completion == "7. Wait. No. 8"
    assert example.masked == ((0, 3),)
    assert loaded(tmp_path, {**row, "completion": "7. Wait. No. 8"}) == (example,)


def test_spans_that_say_something_else_than_the_completion_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"line 1.*joined, are not the completion"):
        loaded(tmp_path, {"prompt": "q", "completion": "8", "completion_spans": SPANS})


@pytest.mark.parametrize(
    ("spans", "says"),
    [
        ([{"start": 0, "end": 3}], "an object with `text`.*ignore"),
        (["8"], "an object with `text`"),
        ([{"text": "8", "train": 1}], "an object with `text`"),
        ([{"text": "8", "train": False}], "nothing to train on"),
        ([{"text": " "}], "nothing to train on"),
    ],
)
def test_what_is_no_span_is_refused_and_can_be_ignored(tmp_path, spans, says):
    row = {"prompt": "q", "completion": "8", "completion_spans": spans}
    with pytest.raises(DataError, match=says):
        loaded(tmp_path, row)
    (example,) = loaded(tmp_path, row, ignore=["completion_spans"])
    assert example.masked == ()


def test_spans_are_kept_with_the_data_and_read_back(tmp_path):
    rows = ({"prompt": "a", "completion_spans": SPANS}, {"prompt": "b", "completion": "9"})
    examples = loaded(tmp_path, *rows)
    write_seed(tmp_path / "seed.parquet", examples)
    assert read_seed(tmp_path / "seed.parquet") == examples
    again = read_from(tmp_path, "seed.parquet")
    assert [(e.completion, e.masked) for e in again] == [(e.completion, e.masked) for e in examples]


def test_a_mask_is_part_of_what_an_example_is(tmp_path):
    """Else a run would go on with M1 of another mask."""
    (example,) = loaded(tmp_path, {"prompt": "q", "completion_spans": SPANS})
    (whole,) = loaded(tmp_path, {"prompt": "q", "completion": example.completion})
    assert example.content != whole.content
    assert whole.content == [whole.prompt.prompt_id, "7. Wait. No. 8"]


def test_empty_spans_between_others_mask_nothing():
    assert read_spans([{"text": "", "train": False}, {"text": "8"}], None, "here") == ("8", ())
