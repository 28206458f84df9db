"""Common shapes of instruction data become one conversation; malformed rows are located."""

import json

import pytest

from cream.data.files import Row
from cream.data.formats import Conversation, parse_row
from cream.data.sources import optional_text
from cream.errors import DataError
from cream.recipe.data import ColumnMapping
from cream.types import Message

USER = {"role": "user", "content": "2 + 2?"}
BOT = {"role": "assistant", "content": "4"}
WRONG = {"role": "assistant", "content": "5"}
SYSTEM = {"role": "system", "content": "Be brief."}
SHAREGPT = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
EXPECTED = Conversation((Message("user", "2 + 2?"),), "4")


def parse(values, **columns):
    return parse_row(Row(values, "x.jsonl line 3"), ColumnMapping(**columns)).conversation


@pytest.mark.parametrize(
    ("values", "columns"),
    [
        ({"messages": [USER, BOT]}, {}),
        ({"prompt": "2 + 2?", "completion": "4"}, {}),
        ({"prompt": [USER], "completion": [BOT]}, {}),
        ({"prompt": [USER], "completion": "4"}, {}),
        ({"instruction": "2 + 2?", "input": "", "output": "4"}, {}),
        ({"instruction": "2 + 2?", "output": "4"}, {}),
        ({"conversations": SHAREGPT}, {}),
        ({"q": "2 + 2?", "a": "4"}, {"prompt": "q", "completion": "a"}),
        ({"chat": [USER, BOT], "prompt": "other"}, {"messages": "chat"}),
        ({"messages": json.dumps([USER, BOT])}, {}),
        ({"prompt": "2 + 2?", "completion": "4", "messages": None}, {}),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, {}),
        ({"prompt": [USER], "chosen": [BOT], "rejected": [WRONG]}, {}),
        ({"prompt": "2 + 2?", "chosen": [USER, BOT], "rejected": [USER, WRONG]}, {}),
        ({"chosen": [USER, BOT], "rejected": [USER, WRONG]}, {}),
        ({"chosen": SHAREGPT, "rejected": SHAREGPT}, {}),
        ({"instruction": "2 + 2?", "input": "", "chosen": "4", "rejected": "5"}, {}),
        ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": SHAREGPT[1]}, {}),
        ({"prompt": "2 + 2?", "chosen": "5", "rejected": "4"}, {"completion": "rejected"}),
    ],
)
def test_every_shape_gives_the_same_conversation(values, columns):
    assert parse(values, **columns) == EXPECTED


def test_alpaca_input_follows_the_instruction_after_a_blank_line():
    row = {"instruction": "Translate.", "input": "chat", "output": "cat"}

    assert parse(row).messages == (Message("user", "Translate.\n\nchat"),)


def test_system_and_earlier_turns_stay_in_the_prompt():
    conversation = parse({"messages": [SYSTEM, USER, BOT, USER, BOT]})

    assert [m.role for m in conversation.messages] == ["system", "user", "assistant", "user"]
    assert conversation.completion == "4"


def test_a_prompt_alone_has_no_completion():
    assert parse({"prompt": "2 + 2?"}).completion is None
    assert parse({"messages": [USER]}).completion is None


def test_a_prompt_that_looks_like_json_stays_text():
    assert parse({"prompt": "[1, 2]"}).messages == (Message("user", "[1, 2]"),)


@pytest.mark.parametrize(
    ("values", "columns", "message"),
    [
        ({"promt": "x"}, {}, "no column `prompt`; did you mean `promt`.*It has: `promt`"),
        ({"question": "x"}, {"prompt": "questions"}, "did you mean `question`"),
        ({"prompt": "x", "messages": [USER]}, {}, "several columns"),
        ({"prompt": "  "}, {}, "empty prompt"),
        ({"prompt": None}, {}, "`prompt` is empty"),
        ({"prompt": 3}, {}, "must be text or a list"),
        ({"prompt": []}, {}, "wrong order of roles \\(none\\)"),
        ({"prompt": [BOT]}, {}, "wrong order of roles \\(assistant\\)"),
        ({"prompt": [SYSTEM]}, {}, "wrong order of roles"),
        ({"prompt": [USER, USER]}, {}, "wrong order of roles"),
        ({"prompt": [USER, SYSTEM]}, {}, "wrong order of roles"),
        ({"prompt": [USER, BOT]}, {}, "ends with an assistant turn"),
        ({"prompt": [{"role": "tool", "content": "x"}]}, {}, "wrong order of roles \\(tool\\)"),
        ({"prompt": [{"role": "user", "content": ""}]}, {}, "a user turn of `prompt` is empty"),
        ({"prompt": [{"role": "user"}]}, {}, "need `role` and `content`"),
        ({"prompt": ["hello"]}, {}, "need `role` and `content`"),
        ({"messages": "hello"}, {}, "not a JSON list"),
        ({"messages": {"role": "user"}}, {}, "must be a list of turns"),
        ({"conversations": [{"from": "tool", "value": "x"}]}, {}, "need `role`"),
        ({"prompt": "x", "completion": ""}, {}, "empty or non-text completion"),
        ({"prompt": "x", "completion": [USER]}, {}, "exactly one assistant turn"),
        ({"prompt": "x", "completion": [BOT, BOT]}, {}, "exactly one assistant turn"),
        ({"prompt": "x", "chosen": "y", "completion": "z"}, {}, "`completion` and `chosen`"),
        ({"prompt": "x", "chosen": [USER, BOT]}, {}, "`chosen` must hold exactly one assistant"),
        ({"prompt": "x", "chosen": {"from": "bot", "value": "y"}}, {}, "turns of `chosen` need"),
        ({"prompt": "x", "chosen": 4}, {}, "column `chosen` holds an empty or non-text"),
        ({"chosen": "\n\nHuman: 2 + 2?", "rejected": "x"}, {}, "has no prompt: `chosen` is str"),
        ({"chosen": [USER, USER]}, {}, "wrong order of roles"),
        ({"prompt": "half a pair \ud83d"}, {}, "broken character"),
    ],
)
def test_malformed_rows_are_refused_with_their_place(values, columns, message):
    with pytest.raises(DataError, match=message) as info:
        parse(values, **columns)

    assert "x.jsonl line 3" in str(info.value)


def test_numbers_become_text_and_absence_stays_absence():
    row = Row({"answer": 42, "none": None, "flag": True}, "here")

    assert optional_text(row, None, "answer") == "42"
    assert optional_text(row, None, "none") is None
    assert optional_text(row, None, "other") is None
    with pytest.raises(DataError, match="must be text or a number"):
        optional_text(row, "flag", "answer")
    with pytest.raises(DataError, match="no column `other`"):
        optional_text(row, "other", "answer")
