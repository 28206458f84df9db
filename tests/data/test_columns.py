"""What a file means is kept, or refused by name; what is not used is counted and told."""

import json

import pytest

from cream.data.dataset import load_data
from cream.errors import DataError
from cream.recipe.data import DataConfig
from cream.types import Message

USER = {"role": "user", "content": "2 + 2?"}
BOT = {"role": "assistant", "content": "4"}
TOOL = {"type": "function", "function": {"name": "add"}}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def load(tmp_path, seed_rows, *, prompts=({"prompt": "1 + 1?"},), ignore=(), prompt_ignore=()):
    write(tmp_path / "s.jsonl", seed_rows)
    write(tmp_path / "p.jsonl", prompts)
    config = DataConfig.model_validate(
        {
            "seed": {"sources": [{"source": "file", "path": "s.jsonl", "ignore": list(ignore)}]},
            "prompts": {
                "per_iteration": 1,
                "sources": [{"source": "file", "path": "p.jsonl", "ignore": list(prompt_ignore)}],
            },
        }
    )
    return load_data(config, seed=1, iterations=1, base_dir=tmp_path)


def conversation(tmp_path, row, **options):
    (example,) = load(tmp_path, [row], **options).seed_examples
    return [(m.role, m.content) for m in example.prompt.messages], example.completion


# --- understood ---


@pytest.mark.parametrize("column", ["label", "kto_tag"])
@pytest.mark.parametrize(("good", "bad"), [(True, False), ("True", "False"), ("true", "false")])
def test_a_completion_labelled_false_is_no_target(tmp_path, column, good, bad):
    rows = [
        {"prompt": "a", "completion": "right", column: good},
        {"prompt": "a", "completion": "wrong", column: bad},
        {"prompt": "b", "completion": "wrong", column: bad},
    ]

    data = load(tmp_path, rows)

    assert [e.completion for e in data.seed_examples] == ["right"]
    assert data.tallies["seed"].parts == {"used": 1, "unwanted": 2}


def test_a_file_of_thumbs_down_alone_holds_nothing_to_imitate(tmp_path):
    with pytest.raises(DataError, match="holds no rows but 1 labelled as bad"):
        load(tmp_path, [{"prompt": "a", "completion": "b", "label": False}])


def test_labels_are_left_alone_where_the_recipe_says_so(tmp_path):
    rows = [{"prompt": "a", "completion": "b", "label": False}]

    data = load(tmp_path, rows, ignore=["label"])

    assert [e.completion for e in data.seed_examples] == ["b"]
    assert data.unused["seed"] == {"s.jsonl": {"label": 1}}


PAIRS = [["My name is Lena.", "Hello."], ["And I am 7.", "Fine."]]
TURNS = [message for pair in PAIRS for message in (("user", pair[0]), ("assistant", pair[1]))]
AS_MESSAGES = [{"role": role, "content": content} for role, content in TURNS]
AS_SHAREGPT = [
    {"from": "human" if role == "user" else "gpt", "value": content} for role, content in TURNS
]


@pytest.mark.parametrize(
    "row",
    [
        {"instruction": "My name?", "input": "", "output": "Lena", "history": PAIRS},
        {"prompt": "My name?", "completion": "Lena", "history": PAIRS},
        {"prompt": "My name?", "completion": "Lena", "history": AS_MESSAGES},
        {"prompt": "My name?", "completion": "Lena", "history": AS_SHAREGPT},
        {"prompt": "My name?", "completion": "Lena", "history": json.dumps(PAIRS)},
    ],
)
def test_history_and_system_become_turns(tmp_path, row):
    system = [("system", "One word.")]
    for name in ("system", "system_prompt"):
        assert conversation(tmp_path, {**row, name: "One word."}) == (
            [*system, *TURNS, ("user", "My name?")],
            "Lena",
        )
    assert conversation(tmp_path, {**row, "history": [], "system": ""}) == (
        [("user", "My name?")],
        "Lena",
    )


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]},
        {"conversations": [USER, BOT]},
        {"messages": [USER, BOT]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "2 + 2?"}]}, BOT]},
        {"chosen": [USER, BOT], "rejected": [USER, BOT]},
    ],
)
def test_a_system_column_is_the_system_turn_of_every_shape(tmp_path, row):
    expected = [("system", "Be brief."), ("user", "2 + 2?")]

    assert conversation(tmp_path, {**row, "system": "Be brief."}) == (expected, "4")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"messages": [{"role": "system", "content": "A"}, USER, BOT], "system": "B"},
            "two system messages",
        ),
        ({"messages": [USER, BOT, USER, BOT], "history": PAIRS}, "earlier turns in `history`"),
        ({"prompt": "a", "completion": "b", "history": [["a", ""]]}, "`history` is empty"),
        ({"prompt": "a", "completion": "b", "history": [["a", None]]}, "turns of `history`"),
        ({"prompt": "a", "completion": "b", "history": "before"}, "not a JSON list"),
        ({"prompt": "a", "completion": "b", "system": 3}, "`system` must be text"),
    ],
)
def test_what_cannot_be_put_together_is_refused(tmp_path, row, message):
    with pytest.raises(DataError, match=f"s.jsonl line 1.*{message}"):
        load(tmp_path, [row])


# --- refused by name ---

CARRYING_COLUMNS = {
    "label": 1,
    "kto_tag": "bad",
    "weight": 0,
    "score": 0.2,
    "Score": 0.2,
    "rating": 1,
    "reward": -3.5,
    "is_correct": False,
    "tools": [TOOL],
    "functions": [TOOL],
    "tool_calls": [TOOL],
    "images": ["cat.png"],
    "image": {"bytes": "x"},
    "audio": "a.wav",
    "reasoning_content": "hm",
    "thinking": "hm",
    "rationale": "since",
    "context": "A text.",
    "documents": ["A text."],
    "choices": ["A", "B"],
    "input": "A text.",
}


@pytest.mark.parametrize("name", CARRYING_COLUMNS)
def test_a_column_that_carries_meaning_is_refused_unless_ignored(tmp_path, name):
    plain = {"prompt": "a", "completion": "b"}
    rows = [plain | {"prompt": "c"}, plain | {name: CARRYING_COLUMNS[name]}]

    with pytest.raises(DataError, match=rf"`{name}` \(1 of 2 rows, first at .*s\.jsonl line 2\)"):
        load(tmp_path, rows)
    data = load(tmp_path, rows, ignore=[name])
    assert len(data.seed_examples) == 2
    assert data.unused["seed"] == {"s.jsonl": {name: 1}}


@pytest.mark.parametrize(
    ("turn", "key"),
    [
        (BOT | {"reasoning_content": "hm"}, "reasoning_content"),
        (BOT | {"thinking": "hm"}, "thinking"),
        (BOT | {"tool_calls": [TOOL]}, "tool_calls"),
        (BOT | {"weight": 0}, "weight"),
        (BOT | {"train": False}, "train"),
        (BOT | {"images": ["x.png"]}, "images"),
        (BOT | {"name": "Ann"}, "name"),
    ],
)
@pytest.mark.parametrize("shape", ["messages", "completion", "chosen"])
def test_a_key_of_a_turn_that_carries_meaning_is_refused_unless_ignored(tmp_path, turn, key, shape):
    rows = {
        "messages": {"messages": [USER, turn]},
        "completion": {"prompt": [USER], "completion": [turn]},
        "chosen": {"prompt": [USER], "chosen": [turn], "rejected": [BOT]},
    }

    with pytest.raises(DataError, match=rf"`{key} of turns` \(1 of 1 rows.*`ignore: \[{key}\]`"):
        load(tmp_path, [rows[shape]])
    data = load(tmp_path, [rows[shape]], ignore=[key])
    assert data.unused["seed"]["s.jsonl"][f"{key} of turns"] == 1
    assert data.seed_examples[0].completion == "4"


@pytest.mark.parametrize(
    ("turns", "message"),
    [
        ([USER, {"role": "assistant", "content": None, "tool_calls": [TOOL]}], "`tool_calls`"),
        ([USER, {"role": "tool", "content": "4"}, BOT], r"\(user, tool, assistant\)"),
        ([{"from": "human", "value": "x"}, {"from": "function_call", "value": "y"}], "function_c"),
        (
            [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "x"}]}, BOT],
            "`role` and `content` as text",
        ),
    ],
)
def test_turns_that_are_no_text_are_refused(tmp_path, turns, message):
    with pytest.raises(DataError, match=f"s.jsonl line 1.*{message}"):
        load(tmp_path, [{"messages": turns}])


def test_empty_values_and_weights_of_one_carry_nothing(tmp_path):
    row = {"prompt": "a", "completion": [BOT | {"weight": 1, "tool_calls": None, "images": []}]}
    nothing = {"tools": [], "score": float("nan"), "context": "", "weight": 1.0, "label": None}

    data = load(tmp_path, [row | nothing])

    assert data.unused == {}
    assert data.notes == ()


def test_what_is_said_of_a_completion_that_is_not_read_is_only_named(tmp_path):
    prompts = [{"prompt": "1 + 1?", "completion": "2", "score": 1, "rationale": "x", "label": True}]
    seed = [{"prompt": "a", "completion": "b"}]

    data = load(tmp_path, seed, prompts=prompts)

    names = {"completion": 1, "label": 1, "rationale": 1, "score": 1}
    assert data.unused == {"prompts": {"p.jsonl": names}}
    with pytest.raises(DataError, match="`tools`"):
        load(tmp_path, seed, prompts=[{"prompt": "1 + 1?", "tools": [TOOL]}])
    with pytest.raises(DataError, match="`choices`"):
        load(tmp_path, seed, prompts=[{"prompt": "1 + 1?", "choices": ["1", "2"]}])


# --- named ---


def test_other_columns_are_named_once_per_file_with_counts(tmp_path):
    rows = [
        {"prompt": "a", "completion": "b", "source": "web", "extra": None},
        {"prompt": "c", "chosen": "d", "rejected": "e", "source": "book"},
    ]

    data = load(tmp_path, rows)

    assert data.notes == (
        "s.jsonl (seed data): not used are `rejected` (1 rows), `source` (2 rows)",
    )


def test_ignoring_what_is_not_there_is_a_mistake(tmp_path):
    with pytest.raises(DataError, match="`ignore` names `tolls`, which no row has"):
        load(tmp_path, [{"prompt": "a", "completion": "b", "tools": []}], ignore=["tolls"])


def test_system_and_history_can_be_ignored_too(tmp_path):
    row = {"prompt": "a", "completion": "b", "system": "S", "history": PAIRS}

    data = load(tmp_path, [row], ignore=["system", "history"])

    assert data.seed_examples[0].prompt.messages == (Message("user", "a"),)
    assert data.unused["seed"] == {"s.jsonl": {"history": 1, "system": 1}}


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "a", "prompt": "b", "completion": "c"}',
        '{"messages": [{"role": "user", "content": "a", "content": "b"}], "completion": "c"}',
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, line):
    load(tmp_path, [{"prompt": "a", "completion": "c"}])
    (tmp_path / "s.jsonl").write_text(line + "\n")
    config = {
        "seed": {"sources": [{"source": "file", "path": "s.jsonl"}]},
        "prompts": {"per_iteration": 1, "sources": [{"source": "file", "path": "p.jsonl"}]},
    }

    with pytest.raises(DataError, match=r"s\.jsonl line 1 has the key `(prompt|content)` twice"):
        load_data(DataConfig.model_validate(config), seed=1, iterations=1, base_dir=tmp_path)
