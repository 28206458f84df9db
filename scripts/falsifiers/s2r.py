"""S2R on words written backwards: a model of 0.1 M weights that checks its answer letter by letter.

A check puts each letter beside the one it should be ("?aa+bb+cd-n": the third is wrong), is written
by rule on the model's own answers, and so is always true. Runs are those of `cream run`.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from falsifiers.letters import encoder, fine_tuned, prompt
from falsify import Arm, Claim, Falsified

from cream import run as cream_run
from cream.data import PromptVerifier
from cream.data.trajectories import build_trajectories
from cream.engines.sampler import TorchSampler
from cream.protocols import SamplingParams
from cream.recipe.load import validate_recipe
from cream.recipe.trajectory import Phrases
from cream.report.summary import RunSummary
from cream.report.trajectories import TrajectoryResult
from cream.stages.sample import sample
from cream.testing import tiny_tokenizer
from cream.types import EncodedPrompt, Prompt

LETTERS, LENGTH, LIMIT = "abcdefgh", 6, 96
KNOWN, OWN, HELD_OUT = 700, 1500, 300
ITERATIONS, PROMPTS, SAMPLES = 4, 32, 4
PHRASES = {
    "recheck": "?",
    "retry": "!",
    "correct": ["y"],
    "incorrect": ["n"],
    "joint": "",
    "confirm": "y",
    "reject": "n",
}
SFT = {"epochs": 14, "optimiser": {"learning_rate": 5e-3, "batch_size": 32}}


def words(count: int, seed: int) -> list[str]:
    """Different words."""
    draw, found = random.Random(seed), dict[str, None]()
    while len(found) < count:
        found["".join(draw.choices(LETTERS, k=LENGTH))] = None
    return list(found)


def marks(asked: Prompt, solution: str, right: bool) -> str:
    """Each letter beside the one that it should be, whether they are alike, then the verdict."""
    wanted = asked.messages[0].content[::-1].ljust(len(solution))
    said = [f"{a}{b}{'+' if a == b else '-'}" for a, b in zip(solution, wanted, strict=False)]
    return "".join(said) + ("y" if right else "n")


def own_trajectories(model: Any, known: Sequence[str], seed: int) -> list[dict[str, Any]]:
    """Rows of seed data of the model's own answers to some words."""
    asked = [
        Prompt(p.prompt_id, p.messages, "reverse", word[::-1], {"verifier": "exact_match"})
        for word in known
        for p in [prompt(word)]
    ]
    encoded = [EncodedPrompt(p, encoder().encode_prompt(p.messages)) for p in asked]
    params = SamplingParams(0.7, 1.0, LENGTH + 4, encoder().stop_ids)
    groups = sample(
        encoded,
        TorchSampler(model),
        params,
        num_completions=5,
        seed_of=lambda key, k: random.Random(f"{seed} {key} {k}").getrandbits(60),
        decode=encoder().decode,
    )
    samples = list(zip(asked, groups, strict=True))
    rows, tally = build_trajectories(
        samples, PromptVerifier(), Phrases.model_validate(PHRASES), check=marks, most_rounds=3
    )
    print(f"seed {seed}: {dict(tally.parts)}", flush=True)
    return rows


def shuffled(rows: Sequence[dict[str, Any]], seed: int) -> list[dict[str, Any]]:
    """The same with each check's text exchanged for that of another check, lengths kept."""
    checks = [
        span["text"] for row in rows for span in row["completion_spans"] if "?" in span["text"]
    ]
    random.Random(seed).shuffle(checks)
    left = iter(checks)
    return [
        {
            **row,
            "completion_spans": [
                {**span, "text": next(left)} if "?" in span["text"] else span
                for span in row["completion_spans"]
            ],
        }
        for row in rows
    ]


def recipe(folder: Path, seed: int, iterations: int) -> dict[str, Any]:
    """A run on the words of a folder."""
    compute = {"precision": "float32"}
    source = {"source": "file", "verifier": "exact_match"}
    return {
        "name": "s2r",
        "seed": seed,
        "iterations": iterations,
        "method": {
            "name": "s2r",
            "phrases": PHRASES,
            "credit": {"level": "process", "beta": 0.01},
            "objective": {"ratio": "geometric"},
        },
        "model": {"name": str(folder / "model"), "device": "cpu", "compute_dtype": "float32"},
        "data": {
            "seed": {"sources": [{"source": "file", "path": str(folder / "seed.jsonl")}]},
            "prompts": {
                "per_iteration": PROMPTS,
                "sources": [{**source, "path": str(folder / "prompts.jsonl")}],
            },
            "test": {"sources": [{**source, "path": str(folder / "test.jsonl")}]},
        },
        "sft": {**SFT, "compute": compute},
        "sampling": {
            "num_completions": SAMPLES,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_completion_tokens": LIMIT,
        },
        "training": {
            "epochs": 2,
            "loss_reference": "sft",
            "optimiser": {"learning_rate": 1e-4, "batch_size": 16, "schedule": "constant"},
            "compute": compute,
        },
        "evaluation": {"max_completion_tokens": LIMIT},
        "keep_checkpoints": "last",
        "run_dir": str(folder / "run"),
    }


def arm(
    world: Path, name: str, rows: Sequence[dict[str, Any]], seed: int, *, iterations: int
) -> RunSummary:
    """One run of `cream`."""
    folder = world / name
    folder.mkdir()
    for shared in ("model", "prompts.jsonl", "test.jsonl"):
        (folder / shared).symlink_to(world / shared)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "seed.jsonl").write_text(text, encoding="utf-8")
    return cream_run(validate_recipe(recipe(folder, seed, iterations), source=name)).summary


def world_of(seed: int, folder: Path) -> list[dict[str, Any]]:
    """M0, prompts and test words on disk; returns trajectories of M0's answers."""
    every = words(KNOWN + OWN + PROMPTS * ITERATIONS + HELD_OUT, seed)
    known, own, rest = every[:KNOWN], every[KNOWN : KNOWN + OWN], every[KNOWN + OWN :]
    model = fine_tuned([(w, w[::-1]) for w in known], seed=seed, epochs=12, rate=2e-3)
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    for name, part in (("prompts", rest[:-HELD_OUT]), ("test", rest[-HELD_OUT:])):
        text = "".join(json.dumps({"prompt": w, "answer": w[::-1]}) + "\n" for w in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return own_trajectories(model, own, seed)


def measured(summary: RunSummary, model: str) -> dict[str, float]:
    """What a model's greedy answers to the held-out words came to."""
    (found,) = (
        row for row in summary.trajectories if row.model == model and row.sampled_in is None
    )
    return {**figures_of(found), **{f"n {k}": float(v) for k, v in found.counts.items()}}


def figures_of(found: TrajectoryResult) -> dict[str, float]:
    """Shares that exist, the gain, and by how much the identity fails on counts."""
    counts = found.counts
    change = counts["last_right"] - counts["first_right"]
    told = {name: share for name, share in found.shares.items() if share is not None}
    off = float(change - counts["mended"] + counts["spoilt"])
    return {**told, "gain": change / counts["total"], "identity off": off}


def of_seed(seed: int) -> dict[str, dict[str, float]]:
    """All arms of one seed."""
    with tempfile.TemporaryDirectory() as place:
        world = Path(place)
        rows = world_of(seed, world)
        honest = arm(world, "honest", rows, seed, iterations=ITERATIONS)
        wrong = arm(world, "shuffled", shuffled(rows, seed), seed, iterations=1)
    return {
        "M0": measured(honest, "M0"),
        "BI": measured(honest, "M1"),
        "BI, checks shuffled": measured(wrong, "M1"),
        "BI + process": measured(honest, f"M{ITERATIONS + 1}"),
    }


def run(seeds: int) -> Falsified:
    """All arms."""
    return told([of_seed(seed) for seed in range(seeds)])


def told(found: Sequence[dict[str, dict[str, float]]]) -> Falsified:
    """What came out of some seeds."""
    arms = {name: [one[name] for one in found] for name in found[0]}
    return Falsified(
        "s2r",
        f"words of {LENGTH} letters backwards, 0.1 M weights, {HELD_OUT} held out, greedy; "
        f"{ITERATIONS} iterations of {PROMPTS} prompts with {SAMPLES} samples",
        [Arm(name, _by_name(figures)) for name, figures in arms.items()],
        claims(arms),
    )


def _by_name(found: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    names = [name for name in found[0] if all(name in one for one in found)]
    return {name: [one[name] for one in found] for name in names}


def claims(arms: dict[str, list[dict[str, float]]]) -> list[Claim]:
    """What must hold, and what would be good."""
    honest, wrong, process = (arms[n] for n in ("BI", "BI, checks shuffled", "BI + process"))
    off = [one["identity off"] for found in arms.values() for one in found]
    predicted = [_prediction(one) for one in honest]
    j, j_wrong, j_after = ([one["youden"] for one in found] for found in (honest, wrong, process))
    gained = [one["gain"] for one in honest]
    beside = [one["gain"] for one in wrong]
    risen = [b - a for a, b in zip(j, j_after, strict=True)]
    return [
        Claim("the identity holds to the last count, every model", _seen(off), not any(off)),
        Claim("honest checks: J >= .3", _seen(j), min(j) >= 0.3),
        Claim("shuffled checks: J within .1 of 0", _seen(j_wrong), max(map(abs, j_wrong)) <= 0.1),
        Claim(
            "gain within 2 s.e. of (1 - p)(1 - c) q - p (1 - b)(1 - q), q of the retries",
            "; ".join(f"{a:+.3f} for {b:+.3f} +- {c:.3f}" for a, b, c in predicted),
            all(abs(a - b) <= c for a, b, c in predicted),
            "helps",
        ),
        Claim("honest checks: last - first > 0", _seen(gained), min(gained) > 0, "helps"),
        Claim(
            "shuffled checks: gain within .02 of 0",
            _seen(beside),
            max(map(abs, beside)) <= 0.02,
            "helps",
        ),
        Claim("process: J up by .1", _seen(risen), min(risen) >= 0.1, "helps"),
    ]


def _prediction(one: dict[str, float]) -> tuple[float, float, float]:
    """Gain, (1 - p)(1 - c) q - p (1 - b)(1 - q), and two standard errors of the gain."""
    p, q, n = one["first"], one.get("retry", 0.0), one["n total"]
    c = 1 - one["error_recall"]
    b = one["youden"] + c
    told = (1 - p) * (1 - c) * q - p * (1 - b) * (1 - q)
    mended, spoilt = one["n mended"] / n, one["n spoilt"] / n
    error = 2 * ((mended + spoilt - one["gain"] ** 2) / n) ** 0.5
    return one["gain"], told, error


def _seen(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)
