"""OpenAssistant's message trees become first turns with their best reply."""

from __future__ import annotations

from typing import Any

import pytest

from cream.data.files import Row
from cream.data.public.questions import FirstTurn, first_turns
from cream.errors import DataError


def message(key: str, parent: str | None, **values: Any) -> Row:
    usual = {
        "message_id": key,
        "parent_id": parent,
        "text": f"text of {key}",
        "role": "prompter" if parent is None else "assistant",
        "lang": "en",
        "rank": None,
        "deleted": False,
        "review_result": True,
    }
    return Row({**usual, **values}, f"row {key}")


def test_the_best_reply_to_an_english_initial_prompt_is_kept():
    turns, counts = first_turns(
        [
            message("p", None),
            message("second", "p", rank=1),
            message("best", "p", rank=0),
            message("later", "best", role="prompter", rank=0),
        ]
    )

    assert turns == [FirstTurn("p", "text of p", "text of best")]
    assert counts == {"kept_prompt": 1, "kept_reply": 1, "not_best": 1, "later_turn": 1}


def test_every_message_is_counted_once_whatever_becomes_of_it():
    rows = [
        message("p1", None),
        message("r1", "p1", rank=0),
        message("p2", None, lang="de"),
        message("r2", "p2", rank=0),  # English reply to a German prompt
        message("p3", None, deleted=True),
        message("p4", None, review_result=False),
        message("p5", None),
        message("r5", "p5", rank=None),  # nobody ranked it
        message("p6", None),
        message("r6", "p6", rank=0, lang="fr"),
        message("orphan", "gone", rank=0),
        message("p7", None, review_result=None),
        message("r7", "p7", rank=0),
    ]
    turns, counts = first_turns(rows)

    assert [turn.message_id for turn in turns] == ["p1", "p7"]
    assert sum(counts.values()) == len(rows)
    assert counts == {
        "kept_prompt": 2,
        "kept_reply": 2,
        "not_english": 2,
        "reply_to_dropped": 1,
        "refused": 2,
        "not_best": 1,
        "prompt_without_best_reply": 2,
        "later_turn": 1,
    }


def test_the_order_of_messages_does_not_matter_to_who_is_kept():
    rows = [message("p", None), message("r", "p", rank=0)]

    assert first_turns(rows[::-1]) == first_turns(rows)


def test_another_schema_and_a_repeated_id_are_refused():
    with pytest.raises(DataError, match="row x has no column parent_id, text, role"):
        first_turns([Row({"message_id": "x"}, "row x")])
    with pytest.raises(DataError, match="message_id 'p' occurs twice"):
        first_turns([message("p", None), message("p", None)])
