"""Rows of each file format carry their place; malformed files are refused at the line."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cream.data.files import file_rows, hub_rows
from cream.errors import DataError
from cream.recipe.data import HubSource

ROWS = [{"prompt": "a\nb", "answer": "1"}, {"prompt": "c, d", "answer": "2"}]


def values(path):
    return [dict(row.values) for row in file_rows(path)]


def test_the_three_formats_hold_the_same_rows(tmp_path):
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "d.csv").write_text('prompt,answer\n"a\nb",1\n"c, d",2\n')
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")

    assert values(tmp_path / "d.jsonl") == ROWS
    assert values(tmp_path / "d.csv") == ROWS
    assert values(tmp_path / "d.parquet") == ROWS


def test_places_are_those_an_editor_shows(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "d.csv").write_text('prompt\n"a\nb"\nc\n')
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")

    def places(name):
        return [row.where.removeprefix(f"{tmp_path}/") for row in file_rows(tmp_path / name)]

    assert places("d.jsonl") == ["d.jsonl line 1", "d.jsonl line 3"]
    assert places("d.csv") == ["d.csv line 2", "d.csv line 4"]
    assert places("d.parquet") == ["d.parquet row 1", "d.parquet row 2"]


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "d.csv").write_bytes(b"\xef\xbb\xbfprompt\nx\n")
    (tmp_path / "d.jsonl").write_bytes(b'\xef\xbb\xbf{"prompt": "x"}\n')

    assert values(tmp_path / "d.csv") == values(tmp_path / "d.jsonl") == [{"prompt": "x"}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b'{"a": 1}\n{"a": \n', "d.jsonl line 2 is not valid JSON"),
        ("d.jsonl", b'{"a": 1}\n[1]\n', "d.jsonl line 2 holds a list"),
        ("d.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "d.jsonl line 2 is not UTF-8"),
        ("d.csv", b"", "d.csv is empty"),
        ("d.csv", b"a,b\n1,2\n1\n", "d.csv line 3 has 1 cells, the header has 2"),
        ("d.csv", b"a,a\n1,2\n", "names a column twice"),
        ("d.csv", b'a\n"x" y\n', "d.csv line 2 is not valid CSV"),
        ("d.parquet", b"PAR0", "d.parquet is not a readable Parquet file"),
    ],
)
def test_malformed_files_are_refused_at_the_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        values(tmp_path / name)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        values(tmp_path / "d.jsonl")
    with pytest.raises(DataError, match="is a folder"):
        values(tmp_path)


@pytest.fixture
def hub_folder(tmp_path, monkeypatch):
    """A local dataset folder, with the cache of `datasets` beside it."""
    from datasets import config

    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", True)
    folder = tmp_path / "gsm"
    folder.mkdir()
    rows = [{"question": "2 + 2?", "answer": "#### 4"}, {"question": "1 + 1?", "answer": "#### 2"}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000.parquet")
    pq.write_table(pa.Table.from_pylist(rows[:1]), folder / "test-00000.parquet")
    return folder


def test_a_local_dataset_folder_loads_like_a_hub_dataset(hub_folder):
    source = HubSource(source="hub", dataset="./gsm", split="train")

    rows = list(hub_rows(source, hub_folder.parent))

    assert [row.values["question"] for row in rows] == ["2 + 2?", "1 + 1?"]
    assert rows[1].where == "./gsm train row 2"


def test_an_unknown_split_or_dataset_is_a_data_error(hub_folder):
    for source in (
        HubSource(source="hub", dataset="./gsm", split="validation"),
        HubSource(source="hub", dataset="./nowhere", split="train"),
    ):
        with pytest.raises(DataError, match=f"cannot load dataset {source.dataset}"):
            list(hub_rows(source, hub_folder.parent))
