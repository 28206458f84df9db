"""Preference degree on answers of five key letters among five fillers.

The chosen answer holds keys of the prompt's class, the rejected one those of another. 40 steps of 8
pairs in every arm, gamma 0.3, one version per side and pair, K = 4, heads at 1e-2; 100 pairs held
out. Chance is 0.25.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from falsifiers.letters import encoder, fine_tuned, pair_sums, prompt, sums, text_pair
from falsify import Arm, Claim, Falsified
from safetensors.torch import load_file

from cream.algorithms.degree import HEADS, role_of, zero_heads
from cream.models.chat import ChatEncoder
from cream.recipe.degree import PreferenceDegree
from cream.recipe.objectives import Dpo
from cream.recipe.training import TrainingConfig
from cream.stages.additions import extend_pairs
from cream.stages.degrees import Degrees
from cream.training.examples import BatchLayout
from cream.training.forward import choose_route
from cream.training.train import train
from cream.types import Example, RankedPair

CLASSES = {"p": "abcdefgh", "q": "ijklmnop", "r": "qrstuvab", "s": "efghmnop"}
FILLERS = "wxyz"
STEPS, BATCH, HELD_OUT, DEGREES = 40, 8, 100, 4
RATE, HEAD_RATE, GAMMA, BETA = 1e-3, 1e-2, 0.3, 0.1
SIDES = ("chosen", "rejected")
ARMS: dict[str, dict[str, Any]] = {
    "probe, keys by filler": {"stop_gradient": True},
    "joint, keys by filler": {},
    "joint, random words by filler": {"removal": "random_words"},
    "probe, keys deleted": {"replace": "delete", "stop_gradient": True},
    "joint, keys deleted": {"replace": "delete"},
    "head outside the optimiser": {"head_learning_rate": 1e-12},
}


def answer(kind: str, draw: random.Random) -> str:
    """Five keys of a class, each followed by a filler."""
    return " ".join(f"{key} {draw.choice(FILLERS)}" for key in draw.sample(CLASSES[kind], 5))


def a_pair(name: str, draw: random.Random) -> RankedPair:
    """Keys of the class that is asked for, against those of another."""
    kind = draw.choice(list(CLASSES))
    other = draw.choice([k for k in CLASSES if k != kind])
    return text_pair(name, prompt(f"{kind} {name}"), (answer(kind, draw), answer(other, draw)))


def referenced(pairs: Sequence[RankedPair], model: Any) -> list[RankedPair]:
    """The pairs with their sums under the loss reference."""
    return [
        replace(pair, chosen_reference=one, rejected_reference=other)
        for pair, (one, other) in zip(pairs, pair_sums(model, pairs).tolist(), strict=True)
    ]


def section(**given: Any) -> PreferenceDegree:
    """The term of an arm."""
    return PreferenceDegree.model_validate(
        {
            "gamma": GAMMA,
            "degrees": DEGREES,
            "replace": "filler",
            "filler": "x",
            "stop_words": tuple(FILLERS),
            "head_learning_rate": HEAD_RATE,
            "head_weight_decay": 0.0,
            **given,
        }
    )


def examples_of(
    pairs: Sequence[RankedPair],
    term: PreferenceDegree,
    seed: int,
    by: ChatEncoder | None = None,
) -> tuple[list[Example], float]:
    """The examples of an arm, and what the length alone tells."""
    made = extend_pairs(pairs, [Degrees(term, seed=seed)], by or encoder())
    return made.examples, float(made.figures["degree"]["length_only"] or 0.0)


def trained(
    start: Any, pairs: Sequence[RankedPair], term: PreferenceDegree, seed: int
) -> tuple[Any, torch.nn.Module]:
    """A model and its heads after `STEPS` steps."""
    model = copy.deepcopy(start)
    settings = TrainingConfig(
        epochs=1,
        optimiser={
            "learning_rate": RATE,
            "batch_size": BATCH,
            "schedule": "constant",
            "warmup_ratio": 0.0,
            "weight_decay": 0.0,
        },
        compute={"precision": "float32"},
    )
    objective = Dpo(beta=BETA, degree=term).build()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heads.safetensors"
        made, _ = examples_of(pairs, term, seed)
        train(model, made, objective, settings, seed=seed, objective_file=path)
        return model.eval(), heads_of(model, path)


def heads_of(model: Any, path: Path) -> torch.nn.Module:
    """Heads as a training left them."""
    heads = zero_heads(model.config.hidden_size, DEGREES, SIDES, shared=False)
    heads.load_state_dict({k.removeprefix(f"{HEADS}."): v for k, v in load_file(path).items()})
    return heads


@torch.no_grad()
def told(
    model: Any,
    heads: Any,
    held_out: Sequence[Example],
    term: PreferenceDegree,
    at_once: int = HELD_OUT,
    *,
    shared: bool = False,
) -> tuple[float, list[float]]:
    """Accuracy over both sides and all degrees, and the mean predicted degree by true degree."""
    needs = Dpo(degree=term).build().needs
    logits: list[list[torch.Tensor]] = [[] for _ in range(DEGREES)]
    for begin in range(0, len(held_out), at_once):
        batch = BatchLayout(needs, shared=shared).batch(held_out[begin : begin + at_once])
        computed = choose_route(model).forward(model, batch.tokens)
        inputs = batch.inputs(computed.token_logps, computed.states)
        for k, found in enumerate(logits):
            found += [heads[side](inputs[role_of(side, k)].hidden) for side in SIDES]
    said = [torch.cat(found) for found in logits]
    right = [(one.argmax(-1) == k).float().mean().item() for k, one in enumerate(said)]
    degrees = torch.arange(float(DEGREES))
    return sum(right) / DEGREES, [(one.softmax(-1) @ degrees).mean().item() for one in said]


def tau(model: Any, reference: Any, held_out: Sequence[Example]) -> float:
    """Mean Kendall tau of k and -r over the versions of chosen answers, r the implicit reward."""
    asked = [
        (e.prompt_token_ids, e.sequences[role_of("chosen", k)].token_ids)
        for e in held_out
        for k in range(DEGREES)
    ]
    r = (sums(model, asked) - sums(reference, asked)).reshape(-1, DEGREES)
    signs = [(r[:, i] - r[:, j]).sign() for i, j in combinations(range(DEGREES), 2)]
    return torch.stack(signs).mean().item()


def pair_accuracy(model: Any, held_out: Sequence[RankedPair]) -> float:
    """Share of held-out pairs whose chosen answer has the higher implicit reward."""
    before = torch.tensor([[p.chosen_reference, p.rejected_reference] for p in held_out])
    gained = pair_sums(model, held_out) - before
    return (gained[:, 0] > gained[:, 1]).double().mean().item()


def run(seeds: int) -> Falsified:
    """All arms."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in ARMS}
    rises: list[bool] = []
    for seed in range(seeds):
        draw = random.Random(seed)
        start = fine_tuned(
            [
                (f"{kind} {i}", answer(kind, draw))
                for i in range(200)
                for kind in [draw.choice(list(CLASSES))]
            ],
            seed=seed,
            epochs=6,
            rate=3e-3,
        )
        drawn = [a_pair(f"{i}", draw) for i in range(STEPS * BATCH + HELD_OUT)]
        pairs = referenced(drawn, start)
        train_pairs, held_out = pairs[: STEPS * BATCH], pairs[STEPS * BATCH :]
        for name, given in ARMS.items():
            term = section(**given)
            model, heads = trained(start, train_pairs, term, seed)
            every = section(**{**given, "versions": "all"})
            tests, length_only = examples_of(held_out, every, seed)
            accuracy, predicted = told(model, heads, tests, every)
            if name == "joint, keys by filler":
                rises.append(predicted == sorted(predicted))
            seen = {
                "degree accuracy": accuracy,
                "length only": length_only,
                "tau(k, -r)": tau(model, start, tests),
                "pair accuracy": pair_accuracy(model, held_out),
            }
            for key, value in seen.items():
                figures[name].setdefault(key, []).append(value)
    return Falsified(
        "preference_degree",
        "five key letters among five fillers, 0.1 M weights, 40 steps of 8 pairs, 100 held out",
        [Arm(name, found) for name, found in figures.items()],
        claims(figures, rises),
    )


def claims(figures: dict[str, dict[str, list[float]]], rises: list[bool]) -> list[Claim]:
    """What must hold, and what would be good."""
    joint, probe = figures["joint, keys by filler"], figures["probe, keys by filler"]
    stuck = figures["head outside the optimiser"]["degree accuracy"]
    more = [a - b for a, b in zip(joint["degree accuracy"], probe["degree accuracy"], strict=True)]
    above = [a - b for a, b in zip(joint["degree accuracy"], joint["length only"], strict=True)]
    ordered = [a - b for a, b in zip(joint["tau(k, -r)"], probe["tau(k, -r)"], strict=True)]
    kept = [a - b for a, b in zip(joint["pair accuracy"], probe["pair accuracy"], strict=True)]
    return [
        Claim("joint above the probe by 0.1 in every seed", _seen(more), min(more) >= 0.1),
        Claim("joint above the length rule under filler", _seen(above), min(above) > 0),
        Claim("mean predicted degree rises with the degree", str(rises), all(rises)),
        Claim("a head that does not learn is at chance", _seen(stuck), max(stuck) <= 0.3),
        Claim("tau above the probe's in every seed", _seen(ordered), min(ordered) > 0, "helps"),
        Claim("pair accuracy not below the probe's", _seen(kept), min(kept) >= 0, "helps"),
    ]


def _seen(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)
