"""Files of choices: what is read, counted and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cream.data.preferences import read_context, read_preferences, read_responses
from cream.errors import DataError
from cream.types import Message


def row(**changed: Any) -> dict[str, Any]:
    return {"prompt": "p", "a": "x", "b": "y", "choice": "a", "user_id": "u"} | changed


def written(path: Path, *rows: Any) -> Path:
    lines = [text if isinstance(text, str) else json.dumps(text) for text in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_ties_stay_out_duplicates_collapse_and_both_are_counted(tmp_path: Path) -> None:
    """The same choice with its sides exchanged is a duplicate; the opposite choice is none."""
    path = written(
        tmp_path / "pairs.jsonl",
        row(),
        row(),
        row(a="y", b="x", choice="b"),
        row(choice="tie"),
        row(choice="b"),
        row(a="same", b="same"),
        row(user_id=7, prompt=[{"role": "user", "content": "p"}]),
        row(user_id="v", note="kept by hand"),
    )
    found = read_preferences(path)
    assert dict(found.tally.parts) == {"kept": 4, "tie": 1, "duplicate": 2, "same_text": 1}
    assert found.tally.total == 8
    assert [(u.user_id, len(u.rows)) for u in found.users] == [("u", 2), ("7", 1), ("v", 1)]
    assert found.unused == {"note": 1}
    first, opposite = found.users[0].rows
    assert (first.winner.text, first.loser.text) == ("x", "y")
    assert first.winner.completion_id == opposite.loser.completion_id
    assert first.prompt == (Message("user", "p"),)
    assert first.winner.completion_id == found.users[1].rows[0].winner.completion_id


def test_an_answer_is_known_by_prompt_and_text(tmp_path: Path) -> None:
    rows = [row(), row(prompt="q"), row(a="z")]
    found = read_preferences(written(tmp_path / "pairs.jsonl", *rows)).users[0].rows
    assert len({r.winner.completion_id for r in found}) == 3


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (row(choice="c"), "`choice` is 'c'; write a, b or tie"),
        (row(choice=None), "`choice` is None"),
        ({"prompt": "p", "a": "x", "b": "y", "choice": "a"}, "`user_id` must be"),
        (row(user_id=""), "`user_id` must be"),
        (row(user_id=True), "`user_id` must be"),
        (row(user_id="\x00"), "NUL"),
        (row(a=3), "`a` must be a text"),
        (row(b=" "), "`b` must be a text"),
        ({"a": "x", "b": "y", "choice": "a", "user_id": "u"}, "no column `prompt`"),
        (row(prompt=[{"role": "assistant", "content": "p"}]), "assistant"),
        (row(prompt=[]), "wrong order of roles (none)"),
        (row(a="\ud800"), "broken character"),
        ("[1]", "one JSON object per line"),
        ('{"a": 1, "a": 2}', "twice"),
        ("{", "not valid JSON"),
    ],
)
def test_a_malformed_row_is_named(bad: Any, said: str, tmp_path: Path) -> None:
    path = written(tmp_path / "pairs.jsonl", row(), "", bad)
    with pytest.raises(DataError) as raised:
        read_preferences(path)
    assert said in str(raised.value)
    assert f"{path} line 3" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_without_choices_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no choice to learn from: 2 tie"):
        read_preferences(written(tmp_path / "a.jsonl", row(choice="tie"), row(choice="tie")))
    with pytest.raises(DataError, match="no rows"):
        read_preferences(written(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match="does not exist"):
        read_preferences(tmp_path / "c.jsonl")


def test_a_context_is_of_one_user(tmp_path: Path) -> None:
    one = read_context(written(tmp_path / "a.jsonl", row(), row(choice="tie")))
    assert [u.user_id for u in one.users] == ["u"]
    with pytest.raises(DataError, match="2 users \\('u', 'v'\\)"):
        read_context(written(tmp_path / "b.jsonl", row(), row(user_id="v")))


def test_answers_to_be_scored(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "completion": "x", "completion_id": "c1"},
        {"prompt": "p", "completion": "x"},
    ]
    found = read_responses(written(tmp_path / "a.jsonl", *rows))
    assert [given.name for given in found] == ["c1", None]
    assert found[0].response == found[1].response
    with pytest.raises(DataError, match="line 2 has no `completion`"):
        read_responses(written(tmp_path / "b.jsonl", rows[0], {"prompt": "p"}))
    with pytest.raises(DataError, match="both name 'c1'"):
        read_responses(written(tmp_path / "c.jsonl", rows[0], rows[0]))
    with pytest.raises(DataError, match="holds no rows"):
        read_responses(written(tmp_path / "d.jsonl"))
