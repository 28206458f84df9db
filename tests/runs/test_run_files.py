"""A reader sees the old file, the whole new one, or none: never half of one."""

import os
from pathlib import Path

import pyarrow as pa
import pytest

from cream.errors import RunError
from cream.runs.files import (
    read_json,
    read_table,
    read_yaml,
    remove_leftovers,
    replacing_file,
    replacing_folder,
    write_json,
    write_table,
    write_yaml,
)


def fail_while_writing(path: Path) -> None:
    with replacing_file(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError


def fail_while_filling(path: Path) -> None:
    with replacing_folder(path) as temporary:
        (temporary / "a").write_text("1")
        raise ZeroDivisionError


def test_a_file_is_replaced_whole(tmp_path: Path):
    path = tmp_path / "new" / "a.txt"
    for text in ("first", "second"):
        with replacing_file(path) as temporary:
            temporary.write_text(text)

    assert path.read_text() == "second"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing_file(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"


def test_an_exception_while_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    with pytest.raises(ZeroDivisionError):
        fail_while_writing(path)

    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_files_are_readable_by_others_unlike_temporary_ones(tmp_path: Path):
    write_json(tmp_path / "a.json", {})

    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    with replacing_folder(tmp_path / "whole") as temporary:
        (temporary / "a").write_text("1")
        assert not (tmp_path / "whole").exists()
    with pytest.raises(ZeroDivisionError):
        fail_while_filling(tmp_path / "never")

    assert [p.name for p in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "whole" / "a").read_text() == "1"


def test_what_killed_writes_left_is_removed_and_nothing_else(tmp_path: Path):
    with replacing_file(tmp_path / "a.txt") as temporary:  # a kill leaves its temporary name
        os.link(temporary, temporary.with_name(f"{temporary.name}2"))
    (tmp_path / "a.txt").unlink()
    assert len(list(tmp_path.iterdir())) == 1
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "inside").write_text("")
    (tmp_path / "tmp-mine").write_text("")

    remove_leftovers(tmp_path)

    assert [p.name for p in tmp_path.iterdir()] == ["tmp-mine"]


def test_json_keeps_values_and_refuses_what_is_not_json(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, None, "é"], "a": 0.1})

    assert read_json(path) == {"b": [1, None, "é"], "a": 0.1}
    assert list(read_json(path)) == ["b", "a"]
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="JSON compliant"):
            write_json(path, {"a": value})
    assert read_json(path)["a"] == 0.1


def test_yaml_keeps_values_and_the_order_of_keys(tmp_path: Path):
    path = tmp_path / "a.yaml"
    write_yaml(path, {"b": {"c": None}, "a": [1.5, "no", "é"]})

    assert read_yaml(path) == {"b": {"c": None}, "a": [1.5, "no", "é"]}
    assert list(read_yaml(path)) == ["b", "a"]


@pytest.mark.parametrize("read", [read_json, read_yaml, read_table])
def test_a_missing_file_is_named(tmp_path: Path, read):
    with pytest.raises(RunError, match=r"gone\.x"):
        read(tmp_path / "gone.x")


@pytest.mark.parametrize(
    ("read", "content"),
    [
        (read_json, b"{"),
        (read_json, b"[1]"),
        (read_json, b"\xff"),
        (read_yaml, b"a: ["),
        (read_yaml, b"- 1"),
        (read_yaml, b"\xff"),
        (read_table, b"PAR1 not really"),
        (read_table, b""),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, read, content: bytes):
    path = tmp_path / "damaged.x"
    path.write_bytes(content)

    with pytest.raises(RunError, match=r"damaged\.x"):
        read(path)


def test_a_table_is_read_back_with_only_the_columns_asked_for(tmp_path: Path):
    table = pa.table({"a": [1, 2], "b": ["x", None], "c": [[1], []]})
    write_table(tmp_path / "t.parquet", table)

    assert read_table(tmp_path / "t.parquet").equals(table)
    assert read_table(tmp_path / "t.parquet", ["b"]).column_names == ["b"]


def test_a_truncated_table_is_refused(tmp_path: Path):
    path = tmp_path / "t.parquet"
    write_table(path, pa.table({"a": list(range(1000))}))
    path.write_bytes(path.read_bytes()[:-20])

    with pytest.raises(RunError, match="cannot be read as Parquet"):
        read_table(path)
