"""The data of a run as a whole: roles, division over iterations, leakage, counts, freezing."""

import json
from dataclasses import replace

import pytest

from cream.data import PromptVerifier, load_data, read_prompts, read_seed, write_prompts, write_seed
from cream.data.splits import spread
from cream.errors import DataError
from cream.recipe.data import DataConfig
from cream.types import Message

GYM = {"source": "reasoning_gym", "tasks": ["gcd", {"name": "lcm", "config": {"max_value": 40}}]}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pool(folder, count, name="p.jsonl"):
    write_rows(folder / name, [{"prompt": f"question {i}"} for i in range(count)])
    return {"source": "file", "path": name}


def load(folder, config, *, seed=0, iterations=2):
    return load_data(
        DataConfig.model_validate(config), seed=seed, iterations=iterations, base_dir=folder
    )


def ids(prompts):
    return [prompt.prompt_id for prompt in prompts]


def test_slices_of_a_file_are_disjoint_and_do_not_depend_on_the_number_of_iterations(tmp_path):
    config = {"prompts": {"per_iteration": 4, "sources": [pool(tmp_path, 13)]}}

    two, three = load(tmp_path, config), load(tmp_path, config, iterations=3)

    assert two.iterations == three.iterations[:2]
    assert len({i for t in (1, 2, 3) for i in ids(three.prompts_for(t))}) == 12
    assert dict(three.tallies["prompts"].parts) == {"used": 12, "spare": 1}
    assert load(tmp_path, config, seed=1).iterations != two.iterations


def test_the_order_of_a_file_does_not_decide_the_division(tmp_path):
    config = {"prompts": {"per_iteration": 4, "sources": [pool(tmp_path, 13)]}}
    before = load(tmp_path, config)
    lines = (tmp_path / "p.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "p.jsonl").write_text("".join(reversed(lines)))

    assert load(tmp_path, config).iterations == before.iterations


def test_generated_slices_are_disjoint_balanced_and_independent_of_iterations(tmp_path):
    config = {"prompts": {"per_iteration": 9, "sources": [GYM]}}

    two, three = load(tmp_path, config), load(tmp_path, config, iterations=3)

    assert two.iterations == three.iterations[:2]
    assert len({i for t in (1, 2, 3) for i in ids(three.prompts_for(t))}) == 27
    for t in (1, 2, 3):
        tasks = [prompt.task for prompt in three.prompts_for(t)]
        assert (tasks.count("gcd"), tasks.count("lcm")) == (5, 4)


def test_generated_roles_never_meet_and_test_does_not_depend_on_training(tmp_path):
    tasks = [{"name": "gcd", "config": {"max_value": 15}}]
    test = {"sources": [{"source": "reasoning_gym", "tasks": tasks, "count": 50}]}
    prompts = {"per_iteration": 30, "sources": [{"source": "reasoning_gym", "tasks": tasks}]}
    seed = {"sources": [{"source": "reasoning_gym", "tasks": tasks, "count": 40}]}

    full = load(tmp_path, {"seed": seed, "prompts": prompts, "test": test})
    less = load(tmp_path, {"prompts": prompts, "test": test}, iterations=1)

    every = ids(full.test) + ids(e.prompt for e in full.seed_examples)
    every += ids(full.prompts_for(1)) + ids(full.prompts_for(2))
    assert len(every) == len(set(every)) == 50 + 40 + 60
    assert full.tallies["prompts"].parts["taken"] > 0
    assert less.test == full.test


def test_generated_seed_examples_are_the_right_answers(tmp_path):
    data = load(
        tmp_path,
        {
            "seed": {"sources": [{**GYM, "count": 5}]},
            "prompts": {"per_iteration": 2, "sources": [GYM]},
        },
    )

    assert [e.prompt.task for e in data.seed_examples] == ["gcd"] * 3 + ["lcm"] * 2
    for example in data.seed_examples:
        verdict = PromptVerifier().verify(example.prompt, example.completion)
        assert verdict is not None
        assert verdict.correct


def test_too_few_prompts_are_refused_before_anything_runs(tmp_path):
    config = {"prompts": {"per_iteration": 5, "sources": [pool(tmp_path, 12)]}}

    with pytest.raises(DataError, match=r"iteration 3 has not enough prompts.*enough for 2"):
        load(tmp_path, config, iterations=3)


def test_prompts_beyond_the_loaded_iterations_are_refused(tmp_path):
    data = load(tmp_path, {"prompts": {"per_iteration": 2, "sources": [pool(tmp_path, 4)]}})

    for iteration in (0, 3):
        with pytest.raises(DataError, match=f"no prompts for iteration {iteration}"):
            data.prompts_for(iteration)


def test_leakage_is_refused_with_places_and_counts_despite_case_and_spacing(tmp_path):
    write_rows(
        tmp_path / "t.jsonl",
        [{"prompt": "  Question   3", "answer": "x"}, {"prompt": "other", "answer": "y"}],
    )
    config = {
        "prompts": {"per_iteration": 2, "sources": [pool(tmp_path, 10)]},
        "test": {
            "sources": [
                {
                    "source": "file",
                    "path": "t.jsonl",
                    "verifier": "exact_match",
                    "system_prompt": "Be brief.",
                }
            ]
        },
    }

    with pytest.raises(DataError, match="1 of 2 test prompts are also training") as info:
        load(tmp_path, config)
    assert "t.jsonl line 1" in str(info.value)
    assert "p.jsonl line 4" in str(info.value)


def test_leakage_from_seed_data_is_refused(tmp_path):
    write_rows(tmp_path / "s.jsonl", [{"prompt": "shared", "completion": "x"}])
    write_rows(tmp_path / "t.jsonl", [{"prompt": "shared", "answer": "x"}])
    config = {
        "seed": {"sources": [{"source": "file", "path": "s.jsonl"}]},
        "prompts": {"per_iteration": 2, "sources": [pool(tmp_path, 4)]},
        "test": {"sources": [{"source": "file", "path": "t.jsonl", "verifier": "exact_match"}]},
    }

    with pytest.raises(DataError, match=r"s\.jsonl line 1"):
        load(tmp_path, config)


def test_duplicates_are_refused_with_both_lines_or_dropped_and_counted(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "b"}, {"prompt": "a"}, {"prompt": "c"}]
    write_rows(tmp_path / "p.jsonl", rows)
    prompts = {"per_iteration": 3, "sources": [{"source": "file", "path": "p.jsonl"}]}

    with pytest.raises(DataError, match=r"p\.jsonl line 3 repeats .*p\.jsonl line 1"):
        load(tmp_path, {"prompts": prompts}, iterations=1)
    data = load(tmp_path, {"prompts": {**prompts, "duplicates": "drop"}}, iterations=1)

    assert data.tallies["prompts"].total == 4
    assert dict(data.tallies["prompts"].parts) == {"used": 3, "duplicate": 1}


def test_a_seed_prompt_may_have_two_completions_but_not_one_twice(tmp_path):
    rows = [{"prompt": "a", "completion": "x"}, {"prompt": "a", "completion": "y"}]
    seed = {"sources": [{"source": "file", "path": "s.jsonl"}]}
    config = {"seed": seed, "prompts": {"per_iteration": 2, "sources": [pool(tmp_path, 4)]}}

    write_rows(tmp_path / "s.jsonl", rows)
    assert [e.completion for e in load(tmp_path, config).seed_examples] == ["x", "y"]

    write_rows(tmp_path / "s.jsonl", [*rows, rows[0]])
    with pytest.raises(DataError, match=r"line 3 repeats .*line 1"):
        load(tmp_path, config)


@pytest.mark.parametrize(
    ("role", "row", "extra", "message"),
    [
        ("seed", {"prompt": "a"}, {}, "has no completion"),
        ("test", {"prompt": "a"}, {"verifier": "exact_match"}, "has no answer"),
        ("test", {"prompt": "a", "answer": "x"}, {"verifier": "last_number"}, "has no number"),
        ("test", {"prompt": "a", "answer": "1"}, {"verifier": "choice_letter"}, "not one of"),
        ("test", {"prompt": "a", "answer": "x"}, {"verifier": "reasoning_gym"}, "no `metadata`"),
    ],
)
def test_a_row_that_its_role_cannot_use_is_refused_with_its_line(
    tmp_path, role, row, extra, message
):
    write_rows(tmp_path / "r.jsonl", [row])
    config = {
        role: {"sources": [{"source": "file", "path": "r.jsonl", **extra}]},
        "prompts": {"per_iteration": 1, "sources": [pool(tmp_path, 2)]},
    }

    with pytest.raises(DataError, match=f"r.jsonl line 1.*{message}"):
        load(tmp_path, config)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"p\.jsonl \(prompts data\) holds no rows"):
        load(tmp_path, {"prompts": {"per_iteration": 1, "sources": [pool(tmp_path, 0)]}})


def test_source_options_apply_to_its_rows(tmp_path):
    write_rows(
        tmp_path / "p.jsonl",
        [
            {"q": "one", "a": 1, "kind": "sum", "uid": "u1"},
            {"q": [{"role": "system", "content": "S"}, {"role": "user", "content": "two"}], "a": 2},
            {"q": "beyond the limit", "a": 3},
        ],
    )
    source = {
        "source": "file",
        "path": "p.jsonl",
        "columns": {"prompt": "q", "answer": "a"},
        "limit": 2,
        "task": "sums",
        "system_prompt": "Be brief.",
        "verifier": "last_number",
    }

    data = load(tmp_path, {"prompts": {"per_iteration": 2, "sources": [source]}}, iterations=1)

    one, two = sorted(data.prompts_for(1), key=lambda prompt: str(prompt.answer))
    assert one.messages == (Message("system", "Be brief."), Message("user", "one"))
    assert two.messages[0] == Message("system", "S")
    assert (one.task, one.answer, one.metadata) == ("sums", "1", {"verifier": "last_number"})


def test_spread_gives_the_rest_to_the_first():
    assert spread(8, 3) == [3, 3, 2]
    assert spread(6, 3) == [2, 2, 2]


def test_frozen_data_comes_back_equal_and_verifiable(tmp_path):
    gym = {**GYM, "system_prompt": "Be brief.", "answer_tag": "answer"}
    data = load(
        tmp_path,
        {
            "seed": {"sources": [{**gym, "count": 4}]},
            "prompts": {"per_iteration": 4, "sources": [pool(tmp_path, 8)]},
            "test": {"sources": [{**gym, "count": 4}]},
        },
    )

    write_prompts(tmp_path / "test.parquet", data.test)
    write_prompts(tmp_path / "prompts.parquet", data.prompts_for(1))
    write_seed(tmp_path / "seed.parquet", data.seed_examples)

    assert read_prompts(tmp_path / "test.parquet") == data.test
    assert read_prompts(tmp_path / "prompts.parquet") == data.prompts_for(1)
    assert read_seed(tmp_path / "seed.parquet") == data.seed_examples
    prompt = read_prompts(tmp_path / "test.parquet")[0]
    verdict = PromptVerifier().verify(prompt, f"<answer>{prompt.answer}</answer>")
    assert verdict is not None
    assert verdict.correct


def test_frozen_data_is_a_source_again(tmp_path):
    gym = {"sources": [{**GYM, "count": 6}]}
    prompts = {"per_iteration": 2, "sources": [pool(tmp_path, 4)]}
    first = load(tmp_path, {"seed": gym, "prompts": prompts, "test": gym})
    write_prompts(tmp_path / "t.parquet", first.test)
    write_seed(tmp_path / "s.parquet", first.seed_examples)

    again = load(
        tmp_path,
        {
            "seed": {
                "sources": [{"source": "file", "path": "s.parquet", "verifier": "reasoning_gym"}]
            },
            "prompts": prompts,
            "test": {
                "sources": [{"source": "file", "path": "t.parquet", "verifier": "reasoning_gym"}]
            },
        },
    )

    assert again.test == first.test
    assert again.seed_examples == first.seed_examples


def test_edited_or_missing_frozen_data_is_refused(tmp_path):
    data = load(tmp_path, {"prompts": {"per_iteration": 2, "sources": [pool(tmp_path, 4)]}})
    edited = replace(data.prompts_for(1)[0], messages=(Message("user", "changed"),))
    write_prompts(tmp_path / "p.parquet", [edited])

    with pytest.raises(DataError, match="the file was edited"):
        read_prompts(tmp_path / "p.parquet")
    with pytest.raises(DataError, match="lacks the columns completion"):
        read_seed(tmp_path / "p.parquet")
    with pytest.raises(DataError, match="cannot read frozen data"):
        read_prompts(tmp_path / "none.parquet")
