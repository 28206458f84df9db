"""SCIR on the larger of two digits: two judges of a tiny model, asked about its own answers.

M1 is fine-tuned on answers and verdicts. 25 steps of 16 unlabelled pairs in every arm, 400 pairs
held out, each with exactly one right answer.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from falsifiers.letters import (
    encoder,
    fine_tuned,
    pair_sums,
    preferred,
    prompt,
    sums,
    text_pair,
)
from falsify import Arm, Claim, Falsified
from scipy.stats import spearmanr

from cream.algorithms.judging import VERDICT_LABELS, verdict_prompt
from cream.algorithms.scir import PAIR, divergence, judges
from cream.models.chat import ChatEncoder
from cream.recipe.scir import Scir
from cream.runs.tables import LOGP_PREFIX
from cream.stages.additions import extend_pairs
from cream.stages.verdicts import Verdicts
from cream.testing import tiny_model
from cream.training.examples import BatchLayout
from cream.training.forward import choose_route
from cream.types import Example, Prompt, RankedPair

DIGITS = "0123456789"
STEPS, BATCH, HELD_OUT = 25, 16, 400
RATE, BETA, REWARD_BETA = 1e-3, 0.1, 0.1
ARMS: dict[str, dict[str, Any] | None] = {
    "M1": None,
    "judge-labelled DPO": {"labels": "judge", "consistency_weight": 0.0},
    "filter only": {"consistency_weight": 0.0},
    "SCIR": {},
    "consistency only": {"preference_weight": 0.0},
    "SCIR, labels exchanged": {},
}
EXCHANGED = "SCIR, labels exchanged"


def question(a: int, b: int) -> str:
    """Which is larger?"""
    return f"max {a} {b}"


def seed_data(draw: random.Random) -> list[tuple[str, str]]:
    """Answers of 60 questions, and verdicts on them, in both orders."""
    asked = draw.sample([(a, b) for a in range(10) for b in range(10)], 60)
    rows = [(question(a, b), str(max(a, b))) for a, b in asked] * 4
    for a, b in asked * 3:
        right = str(max(a, b))
        wrong = draw.choice([d for d in DIGITS if d != right])
        for label, shown in zip(VERDICT_LABELS, ((right, wrong), (wrong, right)), strict=True):
            rows.append((verdict_prompt(question(a, b), *shown), label))
    return rows


def pair_of(
    name: str, asked: Prompt, said: Sequence[str], right: Sequence[bool], by: ChatEncoder
) -> RankedPair:
    """Two answers, in the order given, and whether either is right."""
    known = {f"{s}_verifier": float(r) for s, r in zip(PAIR, right, strict=True)}
    return text_pair(name, asked, said, by, columns=known)


def digits(name: str, a: int, b: int, said: Sequence[str]) -> RankedPair:
    """Two digits as answers."""
    right = [text == str(max(a, b)) for text in said]
    return pair_of(name, prompt(question(a, b)), said, right, encoder())


def examples_of(
    pairs: Sequence[RankedPair], seed_model: Any, start: Any, by: ChatEncoder | None = None
) -> list[Example]:
    """The examples of pairs as the loop makes them, M1 both policy and loss reference."""
    under = [pair_sums(model, pairs).tolist() for model in (seed_model, start)]
    known = [
        replace(
            pair,
            chosen_reference=now[0],
            rejected_reference=now[1],
            columns={
                **pair.columns,
                **{
                    f"{side}_{LOGP_PREFIX}{name}": values[k]
                    for name, values in (("M0", before), ("M1", now))
                    for k, side in enumerate(PAIR)
                },
            },
        )
        for pair, before, now in zip(pairs, *under, strict=True)
    ]
    return extend_pairs(known, [Verdicts(special=(), policy="M1")], by or encoder()).examples


def exchanged(examples: Sequence[Example]) -> list[Example]:
    """The same with the letters of both questions exchanged: b changes its sign."""
    swap = {
        f"{order}_{label}": f"{order}_{other}"
        for order in ("verdict", "swapped")
        for label, other in (("first", "second"), ("second", "first"))
    }
    return [
        replace(e, sequences={swap.get(r, r): s for r, s in e.sequences.items()}) for e in examples
    ]


def sampled(model: Any, draw: random.Random, count: int) -> list[RankedPair]:
    """Pairs of two different digits, each drawn with the model's own probability."""
    asked = [draw.choices(range(10), k=2) for _ in range(count)]
    options = [
        (encoder().encode_prompt(p.messages), encoder().encode_completion(p.messages, d))
        for a, b in asked
        for p in [prompt(question(a, b))]
        for d in DIGITS
    ]
    odds = sums(model, options).reshape(count, 10).softmax(-1).numpy()
    generator = np.random.default_rng(draw.randrange(2**32))
    found = []
    for i, ((a, b), p) in enumerate(zip(asked, odds, strict=True)):
        said = generator.choice(10, size=2, replace=False, p=(p + 1e-9) / (p + 1e-9).sum())
        found.append(digits(f"t{i}", a, b, [str(d) for d in said]))
    return found


def decided(draw: random.Random) -> list[RankedPair]:
    """Pairs of the right digit and a wrong one, in either order."""
    found = []
    for i in range(HELD_OUT):
        a, b = draw.choices(range(10), k=2)
        right = str(max(a, b))
        said = [right, draw.choice([d for d in DIGITS if d != right])]
        draw.shuffle(said)
        found.append(digits(f"h{i}", a, b, said))
    return found


@torch.no_grad()
def measured(
    model: Any, held_out: Sequence[Example], at_once: int = HELD_OUT, *, shared: bool = False
) -> dict[str, float]:
    """What both judges of a model say of the held-out pairs."""
    needs = Scir().build().needs
    found = []
    for begin in range(0, len(held_out), at_once):
        batch = BatchLayout(needs, shared=shared).batch(held_out[begin : begin + at_once])
        computed = choose_route(model).forward(model, batch.tokens)
        inputs = batch.inputs(computed.token_logps)
        logps = {role: inputs[role].logps for role in needs.scored}
        said = judges(inputs, logps, reward_beta=REWARD_BETA, temperature=1.0)
        found.append((said.a, said.b, said.c, said.mass, inputs.columns["right_side"]))
    a, b, c, mass, right = (torch.cat(parts).double() for parts in zip(*found, strict=True))
    implicit, judge = a.sign() == right, b.sign() == right
    return {
        "J": divergence(a, b).mean().item(),
        "rank correlation": float(spearmanr(a.numpy(), b.numpy()).statistic),
        "sign agreement": (a.sign() == b.sign()).double().mean().item(),
        "accuracy implicit": implicit.double().mean().item(),
        "accuracy judge": judge.double().mean().item(),
        "both right": (implicit & judge).double().mean().item(),
        "both wrong": (~implicit & ~judge).double().mean().item(),
        "std a": a.std().item(),
        "std b": b.std().item(),
        "bias": c.abs().mean().item(),
        "label mass": mass.mean().item(),
    }


def run(seeds: int) -> Falsified:
    """All arms."""
    figures: dict[str, dict[str, list[float]]] = {name: {} for name in ARMS}
    for seed in range(seeds):
        draw = random.Random(seed)
        seed_model = tiny_model(seed=seed)
        start = fine_tuned(seed_data(draw), seed=seed, epochs=6, rate=3e-3)
        examples = examples_of(sampled(start, draw, STEPS * BATCH), seed_model, start)
        held_out = examples_of(decided(draw), seed_model, start)
        for name, given in ARMS.items():
            model = copy.deepcopy(start)
            if given is not None:
                objective = Scir.model_validate(
                    {"beta": BETA, "reward_beta": REWARD_BETA, "label_mass": 0.0, **given}
                ).build()
                shown = exchanged(examples) if name == EXCHANGED else examples
                preferred(model, shown, objective, steps=STEPS, batch=BATCH, rate=RATE, seed=seed)
            for key, value in measured(model, held_out).items():
                figures[name].setdefault(key, []).append(value)
    return Falsified(
        "scir",
        "the larger of two digits, 0.1 M weights, 25 steps of 16 pairs, 400 held out",
        [Arm(name, found) for name, found in figures.items()],
        claims(figures),
    )


def claims(figures: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """What must hold, and what would be good."""
    start, alone = figures["M1"], figures["consistency only"]
    filtered, scir, wrong = (figures[n] for n in ("filter only", "SCIR", EXCHANGED))

    def change(arm: dict[str, list[float]], key: str) -> list[float]:
        return [b - a for a, b in zip(start[key], arm[key], strict=True)]

    def falls(arm: dict[str, list[float]]) -> list[float]:
        return [1 - b / a for a, b in zip(start["J"], arm["J"], strict=True)]

    correlation = change(wrong, "rank correlation"), change(scir, "rank correlation")
    agreement = change(wrong, "sign agreement"), change(scir, "sign agreement")
    beyond = [a - b for a, b in zip(scir["both right"], filtered["both right"], strict=True)]
    kept = [
        min(change(scir, "accuracy implicit")[i], change(scir, "accuracy judge")[i])
        for i in range(len(beyond))
    ]
    return [
        Claim(
            "consistency alone lowers J by 25 % or more in every seed",
            _seen(falls(alone)),
            min(falls(alone)) >= 0.25,
        ),
        Claim(
            "the filter alone lowers J by less than 15 %",
            _seen(falls(filtered)),
            max(falls(filtered)) < 0.15,
        ),
        Claim(
            "exchanged labels lower the rank correlation, right ones raise it",
            f"{_seen(correlation[0])}; {_seen(correlation[1])}",
            max(correlation[0]) < 0 < min(correlation[1]),
        ),
        Claim(
            "exchanged labels lower the sign agreement, right ones raise it",
            f"{_seen(agreement[0])}; {_seen(agreement[1])}",
            max(agreement[0]) < 0 < min(agreement[1]),
        ),
        Claim("more pairs both right than the filter", _seen(beyond), min(beyond) > 0, "helps"),
        Claim("no loss of either accuracy", _seen(kept), min(kept) >= 0, "helps"),
    ]


def _seen(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)
