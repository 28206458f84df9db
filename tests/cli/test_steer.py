"""``cream steer`` as a user calls it: choices in, a reward, scores for one user, figures."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from cream.cli.documents import json_schema
from cream.data.preferences import read_context, read_preferences, read_responses
from cream.preflight.models import open_steering
from cream.programs.steering import SCORES, fit_reward, score_responses, steering_config
from cream.protocols import Progress
from cream.runs.store import part_files
from cream.testing import tiny_model_folder
from kills import KillAt, Killed
from tiny_run import Silence, write_jsonl

Cream = Callable[..., Any]
SMALL = (
    *("--set", "steps=60", "--set", "latent=16", "--set", "components=16"),
    *("--set", "learning_rate=0.005", "--set", "model.compute_dtype=float32"),
)
ANSWERS = [f"{'a' * k}{'bcdefgh'[k]}" for k in range(7)]


def choices(name: str, sign: int, seed: int, count: int = 40) -> list[dict[str, Any]]:
    """A user who prefers answers with more (or fewer) a's."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        a, b = draw.sample(range(7), 2)
        side = "a" if (a - b) * sign > 0 else "b"
        prompt = f"number {draw.randrange(6)}"
        rows.append(
            {"prompt": prompt, "a": ANSWERS[a], "b": ANSWERS[b], "choice": side, "user_id": name}
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, choices of ten users of two tastes, and answers to be scored."""
    root = tmp_path_factory.mktemp("steer")
    tiny_model_folder(root / "model")
    rows = [r for k in range(10) for r in choices(f"u{k}", 1 if k % 2 else -1, seed=k)]
    write_jsonl(root / "pairs.jsonl", [*rows, {**rows[0], "choice": "tie"}, rows[0]])
    others = [r for k in range(6) for r in choices(f"v{k}", 1 if k % 2 else -1, seed=50 + k)]
    write_jsonl(root / "others.jsonl", others)
    write_jsonl(root / "alice.jsonl", choices("alice", 1, seed=99, count=8))
    write_jsonl(root / "bob.jsonl", choices("bob", -1, seed=98, count=8))
    answers = [{"prompt": "number 1", "completion": said} for said in ANSWERS]
    write_jsonl(root / "answers.jsonl", [*answers, {"prompt": "?", "completion": "<|im_end|>"}])
    return root


@pytest.fixture(scope="module")
def reward(folder: Path) -> Path:
    """A reward fitted on the choices of ten users."""
    out = folder / "reward"
    config = steering_config({"model": {"name": str(folder / "model")}}, SMALL[1::2])
    pairs = read_preferences(folder / "pairs.jsonl")
    fitted = fit_reward(pairs, config, out, cache_dir=folder / "cache", progress=Silence())
    assert fitted.rows.parts["tie"] == 1
    assert fitted.loss < fitted.pooled_loss
    return out


def printed(cream: Cream, command: str, *arguments: object) -> Any:
    result = cream("steer", command, *arguments, "--json")
    assert result.code == 0, result.err
    value = json.loads(result.out)
    found = Draft202012Validator(json_schema(f"steer-{command}")).iter_errors(value)
    assert [error.message for error in found] == []
    return value


def test_two_users_rank_the_same_answers_in_opposite_order(
    cream: Cream, folder: Path, reward: Path, tmp_path: Path
) -> None:
    scored = {}
    for name in ("alice", "bob"):
        context = ("--context", folder / f"{name}.jsonl")
        out = ("--out", tmp_path / "scores")
        found = printed(cream, "score", reward, folder / "answers.jsonl", *context, *out)
        assert found["user"] == name
        assert found["tally"] == {"total": 8, "parts": {"scored": 7, "special_token": 1}}
        assert found["context"] + found["unread"] == found["rows"]["parts"]["kept"]
        assert 1 <= found["alike"] <= 10
        lines = Path(found["scores_file"]).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["reason"] for row in rows] == [None] * 7 + ["special_token"]
        assert rows[-1]["score"] is None
        scored[name] = [row["score"] for row in rows[:7]]
    assert scored["alice"][5] > scored["alice"][1]
    assert scored["bob"][5] < scored["bob"][1]


def test_without_a_context_the_question_asked_is_one_that_users_differ_on(
    cream: Cream, folder: Path, reward: Path, tmp_path: Path
) -> None:
    answers, out = folder / "answers.jsonl", ("--out", tmp_path / "scores")
    bare = printed(cream, "score", reward, answers, *out, "--questions", "3")
    assert (bare["user"], bare["context"], bare["rows"]) == (None, 0, None)
    assert bare["alike"] == pytest.approx(10)
    deviations = [one["deviation"] for one in bare["questions"]]
    assert len(deviations) == 3
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[0] > 0.2
    context = ("--context", folder / "alice.jsonl")
    told = printed(cream, "score", reward, answers, *context, *out)
    assert told["questions"][0]["deviation"] < deviations[0]


def test_figures_on_unseen_users(cream: Cream, folder: Path, reward: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    both.write_text(
        (folder / "others.jsonl").read_text() + (folder / "pairs.jsonl").read_text(),
        encoding="utf-8",
    )
    found = printed(cream, "eval", reward, both, "--contexts", "0,4", "--out", tmp_path / "eval")
    assert (found["users"], found["trained_on"]) == (6, 10)
    none, four = found["sizes"]
    assert none["gain"]["other"]["mean"] == 0
    assert four["accuracy"]["own"]["mean"] > 0.7 > four["accuracy"]["none"]["mean"]
    assert four["accuracy"]["flipped"]["mean"] < 0.3
    assert four["steering_index"]["mean"] > 0.2
    stored = json.loads((tmp_path / "eval" / "figures.json").read_text(encoding="utf-8"))
    assert stored == found


def test_plain_output_names_what_was_counted(
    cream: Cream, folder: Path, reward: Path, tmp_path: Path
) -> None:
    context = ("--context", folder / "alice.jsonl")
    shown = cream("steer", "score", reward, folder / "answers.jsonl", *context, "--out", tmp_path)
    assert shown.code == 0, shown.err
    assert "scored 7, special_token 1 of 8, for user alice" in shown.out
    assert "ask next: number 1" in shown.out
    table = cream("steer", "eval", reward, folder / "others.jsonl", "--out", tmp_path / "eval")
    assert table.code == 0, table.err
    assert "own - other" in table.out
    assert "users: 6 measured, 0 trained on and left out" in table.out


def test_fit_tells_rows_and_losses(cream: Cream, folder: Path, tmp_path: Path) -> None:
    call = (folder / "others.jsonl", "--model", folder / "model", *SMALL, "--set", "steps=2")
    found = printed(cream, "fit", *call, "--out", tmp_path / "reward")
    assert found["users"] == 6
    assert found["rows"]["total"] == 240
    assert found["rows"]["parts"]["kept"] == found["choices"]["parts"]["trained"]
    assert found["steps"] == 2


@pytest.mark.parametrize("killed_at", [1, 2])
def test_an_interrupted_scoring_goes_on(
    killed_at: int, folder: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when a part is kept, it makes only what is missing, and the same scores."""
    monkeypatch.setattr("cream.programs.embeddings.TEXTS_PER_PART", 3)
    answers = read_responses(folder / "answers.jsonl")
    context = read_context(folder / "bob.jsonl")

    def scored(name: str, progress: Progress) -> str:
        opened = open_steering(reward, None, "cpu", tmp_path, tmp_path / "cache")
        out = tmp_path / name
        score_responses(opened, answers, context, out, questions=1, progress=progress)
        return (out / SCORES).read_text(encoding="utf-8")

    whole = scored("whole", Silence())
    with pytest.raises(Killed):
        scored("killed", KillAt("kept", killed_at))
    parts = part_files(tmp_path / "killed" / "embeddings")
    assert len(parts) == killed_at
    before = [path.stat().st_mtime_ns for path in parts]
    assert scored("killed", Silence()) == whole
    assert [path.stat().st_mtime_ns for path in parts] == before


def test_another_set_of_answers_needs_a_folder_of_its_own(
    cream: Cream, folder: Path, reward: Path, tmp_path: Path
) -> None:
    assert cream("steer", "score", reward, folder / "answers.jsonl", "--out", tmp_path).code == 0
    fewer = write_jsonl(tmp_path / "fewer.jsonl", [{"prompt": "number 1", "completion": "ab"}])
    result = cream("steer", "score", reward, fewer, "--out", tmp_path)
    assert result.code == 2
    assert "made from other inputs (changed: completions)" in result.err


def test_embeddings_are_those_of_the_answers_whoever_asks(
    cream: Cream, folder: Path, reward: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No context changes what the model says: a second user's scores embed no answer again."""
    call = ("steer", "score", reward, folder / "answers.jsonl", "--out", tmp_path)
    assert cream(*call, "--context", folder / "alice.jsonl").code == 0
    kept = {p: p.read_bytes() for p in part_files(tmp_path / "embeddings")}
    assert cream(*call, "--context", folder / "bob.jsonl").code == 0
    assert {p: p.read_bytes() for p in part_files(tmp_path / "embeddings")} == kept


def test_what_cannot_be_used_is_told_in_a_sentence(
    cream: Cream, folder: Path, reward: Path, tmp_path: Path
) -> None:
    pairs, out = folder / "pairs.jsonl", ("--out", tmp_path / "new")
    one = write_jsonl(tmp_path / "one.jsonl", choices("u", 1, seed=0))
    model = ("--model", folder / "model")
    tiny_model_folder(tmp_path / "other", seed=7)
    answers = folder / "answers.jsonl"
    for arguments, said in (
        (("fit", pairs, "--out", reward, *model), "holds a reward already"),
        (("fit", one, *out, *model, *SMALL), "one user alone cannot be told from others"),
        (("fit", pairs, *out, *model, "--set", "pool=max"), "pool"),
        (("fit", tmp_path / "none.jsonl", *out), "does not exist"),
        (("score", folder, answers, *out), "is no steered reward"),
        (("score", reward, answers, *out, "--context", pairs), "10 users"),
        (("score", reward, answers, *out, "--model", tmp_path / "other"), "embeddings of model"),
        (("eval", reward, pairs, *out), "trained on every user"),
        (("eval", reward, pairs, *out, "--contexts", "1,x"), "whole numbers"),
    ):
        result = cream("steer", *arguments)
        assert result.code in (1, 2), said
        assert said in result.err
        assert "Traceback" not in result.err


def test_a_context_longer_than_in_training_is_warned_about(
    cream: Cream, folder: Path, reward: Path, tmp_path: Path
) -> None:
    long = write_jsonl(tmp_path / "long.jsonl", choices("alice", 1, seed=5, count=60))
    call = ("steer", "score", reward, folder / "answers.jsonl", "--out", tmp_path)
    assert "more than the 10" in cream(*call, "--context", long).err
    assert "more than" not in cream(*call, "--context", folder / "alice.jsonl").err
