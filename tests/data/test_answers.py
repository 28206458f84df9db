"""Answers that are numbers in the data: as people write them, absent where they say nothing."""

import json
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cream.data.files import Row, file_rows
from cream.data.sources import optional_text, read_source
from cream.data.verifiers import PromptVerifier
from cream.errors import DataError
from cream.recipe.data import FileSource


def text(value):
    return optional_text(Row({"answer": value}, "x.jsonl line 2"), None, "answer")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (42, "42"),
        (42.0, "42"),
        (-42.0, "-42"),
        (0.1, "0.1"),
        (2.50, "2.5"),
        (1e16, "10000000000000000"),
        (1e-7, "0.0000001"),
        (-0.0, "0"),
        (0, "0"),
        (100.0, "100"),
        (Decimal("42.0"), "42"),
        (Decimal("1E+3"), "1000"),
        (Decimal("0.10"), "0.1"),
        (Decimal("12345678901234567890.5"), "12345678901234567890.5"),
        (10**30, "1" + "0" * 30),
        ("42.0", "42.0"),
        (" a ", " a "),
        ("", None),
        ("  ", None),
        (None, None),
        (float("nan"), None),
        (Decimal("NaN"), None),
    ],
)
def test_text_of_a_value(value, expected):
    assert text(value) == expected


def repr_of(value):
    """Python refuses to write an integer of 5,001 digits."""
    return "10**5000" if value == 10**5000 else repr(value)


@pytest.mark.parametrize(
    "value",
    [True, False, float("inf"), -float("inf"), 10**5000, Decimal("1e9999"), b"x"],
    ids=repr_of,
)
def test_what_is_no_answer_is_refused_with_its_place(value):
    with pytest.raises(DataError, match=r"x\.jsonl line 2: column `answer`"):
        text(value)


@pytest.mark.parametrize("broken", ["half \ud83d", "nul \0"])
@pytest.mark.parametrize("name", ["answer", "task", "id"])
def test_broken_characters_are_refused_in_every_column(broken, name):
    with pytest.raises(DataError, match=f"column `{name}` holds"):
        optional_text(Row({name: broken}, "x"), None, name)


def read(path, **options):
    given = {"source": "file", "path": path.name, "verifier": "exact_match", **options}
    source = FileSource.model_validate(given)
    return [item.prompt for item in read_source(source, "test", path.parent)]


def verdicts(prompt, completions):
    return [PromptVerifier().verify(prompt, c).correct for c in completions]  # type: ignore[union-attr]


def write_each(tmp_path, value):
    """The same column as three programs write it."""
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": "6*7=", "answer": value}) + "\n")
    (tmp_path / "t.csv").write_text(f"prompt,answer\n6*7=,{value}\n")
    table = pa.table({"prompt": ["6*7="], "answer": pa.array([value])})
    pq.write_table(table, tmp_path / "t.parquet")
    return [tmp_path / name for name in ("t.jsonl", "t.csv", "t.parquet")]


@pytest.mark.parametrize("value", [42, 42.0])
def test_a_number_in_the_data_is_compared_as_a_number(tmp_path, value):
    for path in write_each(tmp_path, value):
        (prompt,) = read(path)
        assert (
            verdicts(prompt, ["42", "42.0", " 42 ", "42.5", "4", "-42"]) == [True] * 3 + [False] * 3
        )


def test_a_text_in_the_data_is_compared_as_a_text(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "x", "answer": "42"}\n')
    (prompt,) = read(tmp_path / "t.jsonl")
    assert verdicts(prompt, ["42", "42.0"]) == [True, False]

    (tmp_path / "t.csv").write_text("prompt,answer\nx,007\n")
    (code,) = read(tmp_path / "t.csv")
    assert verdicts(code, ["007", "7"]) == [True, False]


def test_a_float32_is_read_as_it_was_written(tmp_path):
    table = pa.table({"prompt": ["x"], "answer": pa.array(np.array([0.1], np.float32))})
    pq.write_table(table, tmp_path / "t.parquet")

    (prompt,) = read(tmp_path / "t.parquet")

    assert prompt.answer == "0.1"


def test_digits_beyond_a_float_are_kept(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"prompt": "x", "answer": 0.12345678901234567891}\n')

    assert read(tmp_path / "t.jsonl")[0].answer == "0.12345678901234567891"


@pytest.mark.parametrize("cell", ["NaN", "null", '""', '"  "'])
def test_absence_of_an_answer_is_refused_at_its_line_in_test_data(tmp_path, cell):
    (tmp_path / "t.jsonl").write_text(
        '{"prompt": "a", "answer": 1}\n{"prompt": "b", "answer": ' + cell + "}\n"
    )

    with pytest.raises(DataError, match=r"t\.jsonl line 2 has no answer"):
        read(tmp_path / "t.jsonl")


def test_an_empty_answer_cell_of_a_prompt_is_absence(tmp_path):
    (tmp_path / "p.csv").write_text("prompt,answer\na,1\nb,\n")
    source = FileSource(source="file", path="p.csv", verifier="last_number")

    one, none = read_source(source, "prompts", tmp_path)

    assert (one.prompt.answer, none.prompt.answer) == ("1", None)


def test_metadata_of_a_task_stays_plain_json(tmp_path):
    """Numbers of JSON are exact here, and floats where scorers read them."""
    entry = {"source_dataset": "gcd", "x": 0.5, "n": 3}
    row = {"prompt": "a", "answer": "1", "metadata": entry}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")

    (prompt,) = read(tmp_path / "t.jsonl", verifier="reasoning_gym")

    assert prompt.metadata["entry"] == entry
    assert isinstance(prompt.metadata["entry"]["x"], float)


def test_jsonl_numbers_are_exact(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"a": 0.1, "b": 3}\n')

    (row,) = file_rows(tmp_path / "t.jsonl")

    assert row.values == {"a": Decimal("0.1"), "b": 3}
