"""Files that were never meant to be read: one line with file and place, or read right."""

import json
import tracemalloc
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cream.data import files
from cream.data.files import file_rows
from cream.data.sources import read_source
from cream.errors import DataError
from cream.recipe.data import FileSource


def read(path, role: Literal["prompts", "test"] = "prompts"):
    source = FileSource(source="file", path=path.name, verifier="exact_match")
    return read_source(source, role, path.parent)


def refused(path, role: Literal["prompts", "test"] = "prompts"):
    with pytest.raises(DataError) as info:
        read(path, role)
    text = str(info.value)
    assert "\n" not in text
    assert path.name in text
    return text


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests lists"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nests lists"),
        (b'{"prompt": "a", "x": ' + b"[" * 150 + b"]" * 150 + b"}", "nests lists"),
        (b'{"prompt": "a", "answer": ' + b"9" * 5_000 + b"}", "more digits"),
        (b'{"prompt": "a", "answer": 1e99999}', "more than 400 places"),
        (b'{"prompt": "a", "answer": Infinity}', "infinite number"),
        (b'{"prompt": "half \\ud83d"}', "broken character"),
        (b'{"prompt": "a", "answer": "half \\ud83d"}', "broken character"),
        (b'{"prompt": "a", "task": "half \\ud83d"}', "broken character"),
        (b'{"prompt": "nul \\u0000"}', "NUL"),
        (b'{"prompt": "nul \x00"}', "not valid JSON"),
        (b'{"prompt": "caf\xe9"}', "not UTF-8"),
        (b"\xff\xfe{\x00", "not UTF-8"),
        (b'{"prompt": "a"} {"prompt": "b"}', "not valid JSON"),
        (b'"prompt"', "holds a str"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_jsonl(tmp_path, line, reason):
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"prompt": "fine"}\n' + line + b"\n")

    text = refused(path)

    assert reason in text
    assert "line 2" in text


@pytest.mark.parametrize("name", ["d.jsonl", "d.csv"])
def test_a_line_of_a_hundred_megabytes_is_refused_in_bounded_memory(tmp_path, name, monkeypatch):
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 1 << 20)
    path = tmp_path / name
    with path.open("wb") as file:
        file.write(b'{"prompt": "a"}\n' if name == "d.jsonl" else b"prompt\na\n")
        for _ in range(100):
            file.write(b"x" * (1 << 20))
    tracemalloc.start()

    text = refused(path)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "longer than 1 MiB" in text
    assert peak < 16 << 20


def test_an_open_quote_does_not_swallow_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_ROW_BYTES", 1 << 16)
    path = tmp_path / "d.csv"
    path.write_text('prompt\na\n"open\n' + "line after line\n" * 20_000)

    assert "line 3 is not valid CSV: field larger than field limit" in refused(path)


def test_long_cells_of_csv_are_read_whole(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text(f"prompt,notes\na,{'x' * 150_000}\n{'y' * 200_000},\n")

    one, two = read(path)

    assert one.prompt.messages[0].content == "a"
    assert len(two.prompt.messages[0].content) == 200_000


@pytest.mark.parametrize("bad_row", [1, 2, 300])
def test_parquet_that_is_no_utf8_names_its_row(tmp_path, bad_row):
    values = [b"a"] * 400
    values[bad_row - 1] = b"caf\xe9 x"
    raw = pa.array(values, pa.binary())
    text = pa.Array.from_buffers(pa.string(), len(raw), raw.buffers())
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt": text}), path)

    assert f"d.parquet row {bad_row} is not UTF-8" in refused(path)


def test_parquet_with_a_column_twice_is_refused(tmp_path):
    path = tmp_path / "d.parquet"
    column = pa.array(["a"])
    pq.write_table(pa.Table.from_arrays([column, column], names=["prompt", "prompt"]), path)

    assert "names a column twice: prompt" in refused(path)


def test_a_truncated_parquet_file_is_refused(tmp_path):
    path = tmp_path / "d.parquet"
    pq.write_table(pa.table({"prompt": ["a"] * 1000}), path)
    path.write_bytes(path.read_bytes()[:-100])

    assert "not a readable Parquet file" in refused(path)


@pytest.mark.parametrize("cell", ["", "   "])
def test_an_empty_answer_cell_of_test_data_is_refused_at_its_line(tmp_path, cell):
    path = tmp_path / "d.csv"
    path.write_text(f"prompt,answer\na,1\nb,{cell}\n")

    assert "d.csv line 3 has no answer" in refused(path, "test")


def test_rows_before_a_bad_one_are_read(tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text(json.dumps({"prompt": "a"}) + "\n{\n")
    rows = file_rows(path)

    assert next(rows).values == {"prompt": "a"}
    with pytest.raises(DataError, match="line 2"):
        next(rows)
