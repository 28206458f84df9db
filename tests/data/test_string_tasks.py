"""Tasks on strings: answers by hand, lengths, distinctness, roles apart; prompts by iteration."""

import pytest
from pydantic import ValidationError

from cream.data import load_data
from cream.data.streams import TaskStream, tasks_of
from cream.data.string_tasks import ANSWERS, added, edited, parities
from cream.errors import DataError
from cream.recipe.data import DataConfig, StringTaskConfig, StringTaskSource


def stream(name, lengths, *, role="prompts", seed=0, taken=None, **options):
    source = StringTaskSource.model_validate(
        {"source": "string_tasks", "tasks": [{"name": name, "lengths": lengths, **options}]}
    )
    (made,) = tasks_of(source, role=role, seed=seed)
    return TaskStream(made, role=role, taken=set() if taken is None else taken)


@pytest.mark.parametrize(
    ("name", "text", "answer"),
    [
        ("reverse", "abc", "cba"),
        ("copy", "abc", "abc"),
        ("spaced_copy", "abc", "a.b.c"),
        ("sort", "cabb", "abbc"),
        ("parity", "0110", "0100"),
        ("edit", "aabbc", "aabc"),
        ("edit", "bab", "baab"),
        ("double", "cab", "ccaabb"),
        ("shift", "abj", "bca"),
        ("highest", "bacab", "bbccc"),
        ("mirror", "abc", "abccba"),
        ("rotate", "abc", "bca"),
    ],
)
def test_answers_of_the_tasks_by_hand(name, text, answer):
    assert ANSWERS[name][2](text) == answer


def test_digits_in_pairs_add_up_with_the_carry_written_out():
    """72 + 19: pairs from the back are 2 9, 7 1; 91 from the back with its third digit is 190."""
    assert added("2971") == "190"
    assert added("9999") == "891"  # 99 + 99 = 198


@pytest.mark.parametrize("first", [0, 7, 385, 999])
@pytest.mark.parametrize("second", [0, 15, 615, 999])
def test_added_is_addition(first, second):
    pairs = "".join(
        f"{a}{b}" for a, b in zip(f"{first:03}"[::-1], f"{second:03}"[::-1], strict=True)
    )

    assert int(added(pairs)[::-1]) == first + second


def test_parities_and_edits_of_longer_strings():
    assert parities("10101") == "11001"
    assert edited("aaa") == "aa"  # one a is left of the run, and it is written twice


def test_characters_can_stand_apart_behind_an_instruction():
    """The same strings as without, and the answer to what was read."""
    plain = stream("reverse", 4).draw(20)
    apart = stream("reverse", 4, instruction="Write backwards:", separator=" ").draw(20)

    for one, other in zip(plain, apart, strict=True):
        text = one.messages[0].content
        assert other.messages[0].content == f"Write backwards: {' '.join(text)}"
        assert other.answer == " ".join(text[::-1])
    assert {one.prompt_id for one in plain}.isdisjoint(other.prompt_id for other in apart)


def test_prompts_have_lengths_between_the_two_named_and_say_theirs_in_the_task():
    prompts = stream("sort", [3, 5]).draw(300)
    lengths = [len(prompt.messages[0].content) for prompt in prompts]

    assert {prompt.task for prompt in prompts} == {"sort-3", "sort-4", "sort-5"}
    assert all(p.task == f"sort-{n}" for p, n in zip(prompts, lengths, strict=True))
    # 100 of each are expected; five standard deviations of a binomial of 300 and 1/3 are 41.
    assert all(59 < lengths.count(n) < 141 for n in (3, 4, 5))


def test_numbers_have_two_characters_for_each_of_their_digits():
    assert all(len(p.messages[0].content) == 8 for p in stream("add", 4).draw(20))


def test_prompts_are_distinct_the_same_again_and_others_for_another_seed_or_role():
    prompts = stream("reverse", [2, 4]).draw(200)

    assert len({prompt.prompt_id for prompt in prompts}) == 200
    assert stream("reverse", [2, 4]).draw(200) == prompts
    assert stream("reverse", [2, 4], seed=1).draw(200) != prompts
    assert stream("reverse", [2, 4], role="test").draw(200) != prompts


def test_more_than_there_are_is_refused_with_the_number_found():
    with pytest.raises(DataError, match="11 wanted for prompts, 10 found"):
        stream("reverse", 1).draw(11)


def test_lengths_that_are_no_interval_are_refused():
    for lengths in ([3, 2], 0, [0, 4]):
        with pytest.raises(ValidationError, match="shortest, longest"):
            StringTaskConfig(name="copy", lengths=lengths)  # pyright: ignore


def tasks(*lengths):
    return [
        {"source": "string_tasks", "tasks": [{"name": "reverse", "lengths": n} for n in lengths]}
    ]


def config(prompts, **other):
    return DataConfig.model_validate({"prompts": {"per_iteration": 30, **prompts}, **other})


def test_prompts_by_iteration_come_from_their_own_sources_and_the_last_ones_go_on(tmp_path):
    data = config({"by_iteration": [tasks(7), tasks(7, 8)]})
    loaded = load_data(data, seed=1, iterations=3, base_dir=tmp_path)

    found = [sorted({p.task for p in loaded.prompts_for(t)}) for t in (1, 2, 3)]
    assert found == [["reverse-7"], ["reverse-7", "reverse-8"], ["reverse-7", "reverse-8"]]
    ids = [p.prompt_id for t in (1, 2, 3) for p in loaded.prompts_for(t)]
    assert len(set(ids)) == 90


def test_more_iterations_change_no_earlier_prompt(tmp_path):
    data = config({"by_iteration": [tasks(7), tasks(8)]})
    few = load_data(data, seed=1, iterations=1, base_dir=tmp_path)
    many = load_data(data, seed=1, iterations=4, base_dir=tmp_path)

    assert many.prompts_for(1) == few.prompts_for(1)
    again = load_data(data, seed=1, iterations=3, base_dir=tmp_path)
    assert [many.prompts_for(t) for t in (2, 3)] == [again.prompts_for(t) for t in (2, 3)]


def test_a_file_named_for_two_iterations_gives_no_prompt_twice(tmp_path):
    """40 prompts: 30 for iteration 1, and of the 10 others and 25 new ones 30 for iteration 2."""
    for name, start, count in (("a", 0, 40), ("b", 40, 25)):
        lines = [f'{{"prompt": "question {i}"}}' for i in range(start, start + count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    a, b = ({"source": "file", "path": f"{name}.jsonl"} for name in "ab")
    data = config({"by_iteration": [[a], [a, b]]})

    loaded = load_data(data, seed=3, iterations=2, base_dir=tmp_path)

    ids = [p.prompt_id for t in (1, 2) for p in loaded.prompts_for(t)]
    assert len(set(ids)) == 60
    with pytest.raises(DataError, match="not enough prompts"):
        load_data(data, seed=3, iterations=3, base_dir=tmp_path)


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        ({}, "give `sources`, or `by_iteration`"),
        ({"sources": tasks(7), "by_iteration": [tasks(7)]}, "one of them and not both"),
        ({"by_iteration": []}, "at least 1 item"),
        ({"by_iteration": [tasks(7), [{**tasks(7)[0], "count": 3}]]}, "`per_iteration` decides"),
    ],
)
def test_prompts_by_iteration_that_say_too_little_or_too_much_are_refused(prompts, complaint):
    with pytest.raises(ValidationError, match=complaint):
        config(prompts)


def test_test_and_seed_questions_never_meet(tmp_path):
    counted = [{**tasks([1, 2])[0], "count": 50}]
    data = config({"sources": tasks(3)}, seed={"sources": counted}, test={"sources": counted})

    loaded = load_data(data, seed=0, iterations=1, base_dir=tmp_path)

    seed = {e.prompt.prompt_id for e in loaded.seed_examples}
    assert len(seed) == 50
    assert not seed & {p.prompt_id for p in loaded.test}
    assert all(e.completion == e.prompt.messages[0].content[::-1] for e in loaded.seed_examples)
