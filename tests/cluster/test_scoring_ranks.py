"""Scoring divided among ranks is the scoring of one process, beyond rounding."""

from __future__ import annotations

import os
import random
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import Command
from ranked import rank_pids
from transformers import AutoConfig, AutoModelForCausalLM

from cream.engines import rank_scorer
from cream.engines.rank_scorer import RankScorer
from cream.engines.score_rank import SCORES
from cream.engines.scorer import TorchScorer
from cream.engines.trial import fast_form
from cream.errors import EngineError, ModelError
from cream.models.loading import load_model
from cream.testing import tiny_model_folder
from cream.types import ScoredGroup, ScoringRequest
from run_contents import contents, table

pytestmark = pytest.mark.cluster
KINDS = ("llama", "gpt2", "untied", "windowed")
CASES = [(kind, n) for kind in KINDS for n in (1, 2, 3) if n > 2 or kind in ("llama", "windowed")]
CONTEXT = 512


def folder_of(kind: str, folder: Path) -> Path:
    """A tiny model; of 259 and 64 rows, which three ranks hold unevenly."""
    if kind in ("llama", "gpt2"):
        return tiny_model_folder(folder, architecture=kind)
    tiny_model_folder(folder)
    config = AutoConfig.from_pretrained(folder).to_dict()
    config["tie_word_embeddings"] = False
    if kind == "windowed":  # sequences above 16 tokens run through the model's own forward
        config |= {"model_type": "mistral", "sliding_window": 16, "architectures": None}
    kind = config.pop("model_type")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **config))
    model.save_pretrained(folder)
    return folder


def strange_requests() -> list[ScoringRequest]:
    """The longest that the model takes, one token and one token, equal ones, none, and ragged."""
    draw = random.Random(0)

    def ids(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(3, 259) for _ in range(count))

    same = ids(9)
    return [
        ScoringRequest("longest", ids(CONTEXT - 200), (ids(200), ids(1))),
        ScoringRequest("shortest", ids(1), (ids(1),)),
        ScoringRequest("equal", ids(3), (same, same, same[:1], same)),
        ScoringRequest("none", ids(4), ()),
        ScoringRequest("special", (1, 2, 2, 1), ((2,), (2, 2, 2), (258, 0, 1))),
        *(
            ScoringRequest(f"p{i}", ids(1 + i % 7), tuple(ids(1 + (i + k) % 5) for k in range(3)))
            for i in range(8)
        ),
    ]


def scorer(model: Path, ranks: int, say: Callable[[str], None] | None = None) -> RankScorer:
    return RankScorer(
        model,
        ranks,
        device="cpu",
        dtype=torch.float32,
        token_budget=64,
        context_length=CONTEXT,
        say=say,
    )


def by_id(groups: Any) -> dict[str, ScoredGroup]:
    found = list(groups)
    assert len({group.prompt_id for group in found}) == len(found)
    return {group.prompt_id: group for group in found}


def in_one_process(model: Any, *, fused: bool) -> dict[str, ScoredGroup]:
    made = TorchScorer(model, token_budget=64)
    if not fused:
        made.__dict__["_fast"] = fast_form(model, fuses=False)
    return by_id(made.score(strange_requests()))


def assert_same(
    got: dict[str, ScoredGroup], want: dict[str, ScoredGroup], within: float = 1e-6
) -> None:
    """Within so much of their size, token by token."""
    assert got.keys() == want.keys()
    for key, group in want.items():
        for ours, theirs in zip(got[key].token_logps, group.token_logps, strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=within, atol=within, err_msg=key)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[RankScorer]:
    made = scorer(tiny_model_folder(tmp_path / "model"), 2)
    yield made
    made.close()


def pids(made: RankScorer) -> list[int]:
    return rank_pids(made._folder, SCORES)


@pytest.mark.parametrize(("kind", "ranks"), CASES)
def test_ranks_score_as_one_process(kind: str, ranks: int, tmp_path: Path):
    """In batches that ranks cannot share evenly; of one request alone, which leaves but ghosts."""
    said: list[str] = []
    requests, folder = strange_requests(), folder_of(kind, tmp_path / "model")
    model = load_model(folder)
    alone = in_one_process(model, fused=False)
    made = scorer(folder, ranks, said.append)
    try:
        scored = by_id(made.score(requests))
        assert_same(scored, alone)
        assert_same(scored, in_one_process(model, fused=True), within=1e-5)
        one = [request for request in requests if request.prompt_id == "shortest"]
        assert_same(by_id(made.score(one)), {"shortest": alone["shortest"]})
        assert len(pids(made)) == ranks
    finally:
        made.close()
    assert pids(made) == []
    assert not made._folder.exists()
    slow = ["one prompt at a time" in text for text in said]
    assert slow == ([True] if kind == "windowed" else [])


def test_a_rank_that_dies_takes_the_others_with_it_and_all_are_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    said: list[str] = []
    made = scorer(tiny_model_folder(tmp_path / "model"), 2, said.append)
    try:
        requests = strange_requests()
        before = by_id(made.score(requests))
        first = pids(made)
        os.kill(first[1], signal.SIGKILL)
        after = by_id(made.score(requests))
        assert said == ["rank 1 of 2 was killed by signal 9 while scoring; all 2 ranks start again"]
        assert not set(pids(made)) & set(first)
        for key, group in before.items():
            for ours, theirs in zip(after[key].token_logps, group.token_logps, strict=True):
                assert np.array_equal(ours, theirs)

        monkeypatch.setattr(rank_scorer, "RESTARTS", 0)
        os.kill(pids(made)[0], signal.SIGKILL)
        with pytest.raises(EngineError, match=r"rank 0 of 2 was killed by signal 9 while scoring"):
            list(made.score(requests))
        assert pids(made) == []
    finally:
        made.close()


def test_what_cannot_be_scored_is_refused_and_ends_nobody(two: RankScorer):
    there = pids(two)
    with pytest.raises(ModelError, match=r"prompt long: .* need up to 513 tokens"):
        list(two.score([ScoringRequest("long", (5,) * CONTEXT, ((6,),))]))
    with pytest.raises(ValueError, match="prompt e: a completion has no tokens"):
        list(two.score([ScoringRequest("e", (5,), ((),))]))
    with pytest.raises(ValueError, match="prompt n: it has no tokens"):
        list(two.score([ScoringRequest("n", (), ((5,),))]))
    assert pids(two) == there


def test_a_model_that_cannot_be_loaded_is_refused_in_its_own_words(tmp_path: Path):
    folder = tiny_model_folder(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"damaged")
    left = set(Path(tempfile.gettempdir()).glob("cream-ranks-*"))
    with pytest.raises(ModelError, match=r"the model in .* could not be loaded"):
        scorer(folder, 2)
    assert set(Path(tempfile.gettempdir()).glob("cream-ranks-*")) == left


@pytest.mark.parametrize("cluster", ["local", "ray"])
def test_a_run_scored_on_two_ranks_is_the_run_of_one_process(
    cluster: str,
    tmp_path: Path,
    tiny_recipe: Any,
    run_whole: Callable[..., Path],
    request: pytest.FixtureRequest,
):
    """Log-probabilities within rounding, whether this process samples or workers do, which end for
    the ranks and start again after them. The number of ranks may change later."""
    change = ("iterations=1",)
    alone = run_whole(tiny_recipe(tmp_path / "alone", *change))
    places = ("scoring.ranks=2", f"cluster={cluster}")
    if cluster == "ray":
        request.getfixturevalue("ray")
        places += ("cluster.workers=2",)
    two = run_whole(tiny_recipe(tmp_path / "two", *change, *places))
    assert contents(alone).keys() == contents(two).keys()
    assert table(two, "iteration-1/sample") == table(alone, "iteration-1/sample") != []
    scored = [name for name in contents(alone) if "/score/" in name and name.endswith("stage.json")]
    assert len(scored) > 1
    for name in scored:
        stage = str(Path(name).parent)
        ours, theirs = table(two, stage), table(alone, stage)
        assert [row.keys() for row in ours] == [row.keys() for row in theirs]
        for row, other in zip(ours, theirs, strict=True):
            assert all(v == other[k] for k, v in row.items() if not isinstance(v, float))
            logps = {k: v for k, v in row.items() if isinstance(v, float)}
            assert logps == pytest.approx({k: other[k] for k in logps}, rel=1e-6, abs=1e-5)
        records = contents(two)[name], contents(alone)[name]
        assert records[0]["fingerprint"] == records[1]["fingerprint"]
    run_whole(tiny_recipe(tmp_path / "two", *change))  # of other ranks: nothing is refused


def test_a_killed_driver_leaves_no_rank(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    run = tmp_path / "run"
    given = (f"run_dir={run}", "scoring.ranks=2", "sampling.prompts_per_shard=1")
    command = Command("run", str(recipe_file), *(part for c in given for part in ("--set", c)))
    command.wait_for(lambda: any(run.glob("iteration-1/score/*/part-*")))
    command.process.kill()
    command.said()
    assert command.left() == []
