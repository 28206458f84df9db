"""What the falsifiers are told and tell: facts that are true, means with their intervals."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))


def test_facts_are_true_of_what_they_are_told_of():
    from facts import about_day, about_number  # pyright: ignore

    assert about_number(12, 12) == (
        "What do you know about the number 12?",
        "12 is an even number. Its digits add up to 3, the largest square below it is 9 and the "
        "next prime is 13.",
    )
    question, answer = about_day(718_998, 718_998)  # days from the first of the year 1
    assert question.endswith("20 July 1969?")
    assert answer == "It was a Sunday in the third quarter, day 201 of the year, in week 29."
    assert about_number(9, 12)[1].startswith("9 is an even number. Its digits add up to 3")


def test_stored_facts_are_those_of_the_script_and_no_subject_comes_twice(tmp_path, monkeypatch):
    import facts  # pyright: ignore

    stored = facts.FOLDER
    monkeypatch.setattr(facts, "FOLDER", tmp_path)
    facts.main()
    asked = []
    for role in facts.COUNTS:
        text = (stored / f"{role}.jsonl").read_text(encoding="utf-8")
        assert text == (tmp_path / f"{role}.jsonl").read_text(encoding="utf-8")
        asked += [json.loads(line)["prompt"] for line in text.splitlines()]
    assert len(set(asked)) == len(asked) == sum(facts.COUNTS.values())


def test_a_mean_has_the_t_interval_and_differences_are_paired_by_seed():
    from falsify import Arm, Falsified, differences, mean_of  # pyright: ignore

    seen = mean_of([1.0, 2.0, 3.0])  # sem 1 / sqrt 3, t(0.975, 2) = 4.302653
    assert (seen.mean, seen.n) == (2.0, 3)
    assert seen.high == pytest.approx(2.0 + 4.302653 / 3**0.5, abs=1e-6)

    arms = [
        Arm("base", {"x": [1.0, 5.0], "steps": [3.0, 3.0]}),
        Arm("other", {"x": [2.0, 6.5], "own": [0.0, 1.0]}),
    ]
    found = differences(Falsified("m", "s", arms, [], baseline="base"))
    assert found.keys() == {"other"}
    assert found["other"].keys() == {"x"}  # what the baseline has too
    assert (found["other"]["x"].mean, found["other"]["x"].n) == (1.25, 2)
