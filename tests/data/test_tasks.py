"""Generated tasks: distinct, deterministic, verifiable; and what is said if they cannot be made."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest

from cream.data import PromptVerifier, constant_baseline, question_key
from cream.data.streams import TaskStream, tasks_of
from cream.data.tasks import import_reasoning_gym, task_scorer
from cream.errors import DataError, DependencyError, RecipeError
from cream.recipe.data import ReasoningGymSource, TaskConfig


def stream(name, config=None, *, role="prompts", seed=0, taken=None, **source):
    task = TaskConfig(name=name, config=config or {})
    gym = ReasoningGymSource.model_validate(
        {"source": "reasoning_gym", "tasks": [task.model_dump()], **source}
    )
    (made,) = tasks_of(gym, role=role, seed=seed)
    return TaskStream(made, role=role, taken=set() if taken is None else taken)


def test_prompts_are_distinct_and_the_same_for_the_same_seed():
    prompts = stream("lcm", {"max_value": 30}).draw(150)

    assert len({prompt.prompt_id for prompt in prompts}) == 150
    assert stream("lcm", {"max_value": 30}).draw(150) == prompts
    assert stream("lcm", {"max_value": 30}, seed=1).draw(150) != prompts


def test_a_task_that_depends_on_hash_randomisation_is_refused_unless_it_is_off():
    code = (
        "from cream.data.streams import TaskStream, tasks_of;"
        "from cream.recipe.data import ReasoningGymSource as S, TaskConfig as T;"
        "t = T(name='ransom_note');"
        "[g] = tasks_of(S(source='reasoning_gym', tasks=[t]), role='test', seed=3);"
        "s = TaskStream(g, role='test', taken=set());"
        "print(s.draw(1)[0].prompt_id)"
    )

    def run(hash_seed):
        return subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": hash_seed},
        )

    assert "makes other questions in every process" in run("1").stderr
    assert len(run("0").stdout.strip()) == 16


def test_drawing_in_parts_equals_drawing_at_once():
    parts = stream("gcd", {"max_value": 60})

    assert parts.draw(40) + parts.draw(60) == stream("gcd", {"max_value": 60}).draw(100)


def test_prompts_are_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from cream.data.streams import TaskStream, tasks_of;"
        "from cream.recipe.data import ReasoningGymSource as S, TaskConfig as T;"
        "t = T(name='letter_counting');"
        "[g] = tasks_of(S(source='reasoning_gym', tasks=[t]), role='test', seed=3);"
        "s = TaskStream(g, role='test', taken=set());"
        "print(*[p.prompt_id for p in s.draw(20)])"
    )
    here = [prompt.prompt_id for prompt in stream("letter_counting", role="test", seed=3).draw(20)]

    there = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONHASHSEED": "12345"},
    ).stdout.split()

    assert there == here


def test_roles_with_shared_memory_never_meet():
    taken: set[str] = set()
    config = {"max_value": 20}

    test = stream("gcd", config, role="test", taken=taken).draw(60)
    other = stream("gcd", config, role="seed", taken=taken)
    seed = other.draw(60)

    assert not {p.prompt_id for p in test} & {p.prompt_id for p in seed}
    assert other.num_taken > 0
    assert other.num_generated == 60 + other.num_taken + other.num_repeated


def test_an_exhausted_generator_is_refused_with_its_count():
    """Two numbers from 1..3 make 9 ordered pairs; more cannot be had."""
    with pytest.raises(DataError, match=r"`gcd` ran out .* 10 wanted for prompts, 9 found") as info:
        stream("gcd", {"max_value": 3}).draw(10)

    assert "Widen the ranges" in str(info.value)
    assert len(stream("gcd", {"max_value": 3}).draw(9)) == 9


def test_system_prompt_comes_first_and_does_not_hide_equality():
    plain = stream("gcd").draw(1)[0]
    guided = stream("gcd", system_prompt="Be brief.").draw(1)[0]

    assert [m.role for m in guided.messages] == ["system", "user"]
    assert plain.prompt_id != guided.prompt_id
    assert question_key(plain.messages) == question_key(guided.messages)


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("gdc", {}, "no task `gdc`; did you mean `gcd`"),
        ("gcd", {"max_val": 3}, "no option `max_val`; did you mean `max_value`"),
        ("gcd", {"max_value": 0}, "cannot be made with options"),
        ("gcd", {"max_value": "many"}, "cannot be made with options"),
    ],
)
def test_wrong_tasks_and_options_are_recipe_errors(name, config, message):
    with pytest.raises(RecipeError, match=message):
        stream(name, config).draw(1)


def test_a_task_without_reference_answer_is_refused():
    with pytest.raises(DataError, match="`graph_color` cannot be verified"):
        stream("graph_color").draw(1)


def test_reference_answers_are_correct_in_any_case_and_with_spaces():
    prompts = [*stream("simple_equations").draw(20), *stream("syllogism").draw(20)]

    for prompt in prompts:
        assert prompt.answer is not None
        for text in (prompt.answer, f"  {prompt.answer.lower()}\n"):
            verdict = PromptVerifier().verify(prompt, text)
            assert verdict is not None
            assert verdict.correct


@pytest.mark.parametrize(
    ("answer", "completion", "credit"), [("9085", "90850", 0.8), ("1", "10", 0.5)]
)
def test_partial_credit_is_never_correct(answer, completion, credit):
    """reasoning-gym gives a text that contains the answer len(answer) / len(text)."""
    prompt = replace(stream("letter_counting").draw(1)[0], answer=answer)

    verdict = PromptVerifier().verify(prompt, completion)

    assert verdict is not None
    assert verdict.partial_credit == pytest.approx(credit, abs=1e-12)
    assert not verdict.correct
    assert verdict.extracted == completion


def test_an_empty_completion_is_unparsed():
    verdict = PromptVerifier().verify(stream("gcd").draw(1)[0], "\n")

    assert verdict is not None
    assert (verdict.extracted, verdict.correct, verdict.partial_credit) == (None, False, 0.0)


def test_an_answer_tag_limits_the_answer_to_its_inside():
    prompt = stream("gcd", answer_tag="answer").draw(1)[0]

    right = PromptVerifier().verify(
        prompt, f"1 <answer>x</answer> <answer> {prompt.answer}</answer>"
    )
    untagged = PromptVerifier().verify(prompt, str(prompt.answer))
    assert right is not None
    assert untagged is not None
    assert right.correct
    assert untagged.extracted is None


def test_a_scorer_that_chokes_gives_no_credit():
    """Symbolic tasks parse their answer; garbage must not end a run."""
    prompt = stream("simple_integration").draw(1)[0]
    scorer = task_scorer("simple_integration", {})
    entry = {"question": "", "answer": prompt.answer, "metadata": prompt.metadata["entry"]}

    assert scorer("((((x **", entry) == 0.0


def test_always_one_is_right_on_most_of_letter_counting():
    prompts = stream("letter_counting", {"min_words": 2, "max_words": 4}).draw(300)

    best = constant_baseline(prompts, PromptVerifier())["letter_counting"]

    assert best.answer == "1"
    assert best.accuracy == pytest.approx(0.68, abs=0.08)  # 3 standard errors of 300 prompts


@pytest.fixture
def fresh_import():
    import_reasoning_gym.cache_clear()
    yield
    import_reasoning_gym.cache_clear()


def test_missing_package_names_both_commands(monkeypatch, fresh_import):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)

    with pytest.raises(DependencyError, match=r"pip install 'cream-align\[tasks\]'") as info:
        import_reasoning_gym()
    assert "pip install --no-deps reasoning-gym==0.1.25" in str(info.value)


def test_another_version_is_refused(monkeypatch, fresh_import):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1.24")

    with pytest.raises(DependencyError, match=r"reasoning-gym 0\.1\.24 is installed"):
        import_reasoning_gym()


@pytest.mark.skipif(
    importlib.util.find_spec("pycosat") is not None, reason="pycosat is installed here"
)
def test_without_pycosat_only_zebra_puzzles_are_refused():
    with pytest.raises(DependencyError, match="zebra_puzzles needs pycosat"):
        stream("zebra_puzzles").draw(1)

    assert "pycosat" not in sys.modules
    assert stream("gcd").draw(1)
