"""SELM on answers of one letter, whose probabilities are exact.

Each prompt has a right letter; for half of the prompts the model's mode is it, for the others a
wrong one. Pairs are right against wrong among 8 own samples, by the verifier; 3 iterations of 10
steps of 16 pairs, beta 0.1. Arms with a negative alpha and with answers of other prompts are what
a wrong sign and a mis-join would do.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from falsifiers.letters import LETTERS, cost, encoder, fine_tuned, preferred, prompt, prompts
from falsify import Arm, Claim, Falsified

from cream.algorithms.objective import Objective
from cream.algorithms.optimism import optimism_term
from cream.recipe.objectives import Dpo
from cream.stages.train import with_answers
from cream.training.examples import pair_example
from cream.types import ScoringRequest, TokenSequence

BETA, ITERATIONS, STEPS, BATCH, SAMPLES = 0.1, 3, 10, 16, 8
RATE = 1e-3
"""Chosen by the arm alpha 0 alone, on a seed that is not reported: there its mode falls by 0.77
nats (page 0.82); at 3e-4 by 0.12, which is less than what the arms are to differ by."""
PROMPTS = 160
CHANGE = "change of log p(M1's greedy), mode wrong"
LETTER_IDS = [encoder().encode_completion(prompt("a").messages, c)[0] for c in LETTERS]
END = encoder().end_of_turn_id


@dataclass(frozen=True)
class Setting:
    """One arm."""

    alpha: float = 0.0
    answer: str = "greedy"
    shuffled: bool = False


ARMS = {
    "alpha 0": Setting(),
    "greedy 0.001": Setting(1e-3),
    "greedy 0.05": Setting(0.05),
    "greedy 0.2": Setting(0.2),
    "greedy 0.5": Setting(0.5),
    "greedy -0.2 (wrong sign)": Setting(-0.2),
    "sampled 0.2": Setting(0.2, "sampled"),
    "sampled 0.5": Setting(0.5, "sampled"),
    "greedy 0.5, answers shuffled": Setting(0.5, shuffled=True),
}


def objective(alpha: float) -> Objective:
    """DPO, and the term with any alpha, negative ones included, which no recipe takes."""
    plain = Dpo(beta=BETA).build()
    if alpha == 0:
        return plain
    return plain + optimism_term(f"alpha {alpha}", plain, weight=alpha * BETA)


class World:
    """Prompts with their right letter, and M1, of one seed."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        self.seed = seed
        self.words = prompts(PROMPTS, seed)
        self.right, shown = {}, []
        for i, word in enumerate(self.words):
            right, *others = draw.sample(LETTERS, 5)
            self.right[word] = LETTERS.index(right)
            first, second = (right, others[0]) if i % 2 else (others[0], right)
            letters = [first] * 6 + [second] * 2 + others[1:]
            shown += [(word, letter) for letter in letters]
        self.start = fine_tuned(shown, seed=seed, epochs=12, rate=3e-3)
        first = self.probabilities(self.start)
        self.mode = first.argmax(1)
        truth = torch.tensor([self.right[word] for word in self.words])
        self.is_right = self.mode == truth
        self.first = first.log()

    def probabilities(self, model: Any) -> torch.Tensor:
        """Of each letter after each prompt, over the letters alone, float64."""
        ids = [encoder().encode_prompt(prompt(word).messages) for word in self.words]
        with torch.no_grad():
            logits = model(torch.tensor(ids)).logits[:, -1, LETTER_IDS].double()
        return logits.softmax(-1)

    def arm(self, setting: Setting) -> dict[str, float]:
        """Three iterations."""
        model = copy.deepcopy(self.start)
        costs = []
        for t in range(1, ITERATIONS + 1):
            examples = self.examples(model, setting, t)
            loss = objective(setting.alpha)
            done = preferred(
                model, examples, loss, steps=STEPS, batch=BATCH, rate=RATE, seed=self.seed + t
            )
            apart = sum("optimism" in e.sequences for e in examples) / len(examples)
            costs.append({**cost(done, seen=STEPS * BATCH), "answers apart": apart})
        means = {name: sum(c[name] for c in costs) / len(costs) for name in costs[0]}
        return {**self.measured(model), **means}

    def examples(self, model: Any, setting: Setting, t: int) -> list[Any]:
        """Pairs of right against wrong, with the answer of their prompt."""
        probabilities = self.probabilities(model)
        generator = torch.Generator().manual_seed(1000 * self.seed + t)
        drawn = probabilities.multinomial(SAMPLES, replacement=True, generator=generator)
        reference = self.sums(model)
        answers, examples, of = {}, [], {}
        for i, word in enumerate(self.words):
            right = self.right[word]
            y = int(probabilities[i].argmax()) if setting.answer == "greedy" else int(drawn[i, 0])
            answers[word] = self.sequence(i, y, reference)
            wrong = [k for k in drawn[i].tolist() if k != right]
            if right not in drawn[i].tolist() or not wrong:
                continue
            example = pair_example(
                word,
                encoder().encode_prompt(prompt(word).messages),
                self.sequence(i, right, reference),
                self.sequence(i, wrong[0], reference),
            )
            examples.append(example)
            of[word] = word
        if setting.shuffled:
            given = list(answers.values())
            random.Random(t).shuffle(given)
            answers = dict(zip(answers, given, strict=True))
        return with_answers(examples, of, answers)[0] if setting.alpha else examples

    def sequence(self, place: int, letter: int, reference: torch.Tensor) -> TokenSequence:
        return TokenSequence((LETTER_IDS[letter], END), float(reference[place, letter]))

    def sums(self, model: Any) -> torch.Tensor:
        """Log-prob sum of every letter with its end, after every prompt."""
        from cream.engines.scorer import TorchScorer

        completions = tuple((i, END) for i in LETTER_IDS)
        requests = [
            ScoringRequest(word, encoder().encode_prompt(prompt(word).messages), completions)
            for word in self.words
        ]
        found = {g.prompt_id: g.token_logps for g in TorchScorer(model).score(requests)}
        return torch.tensor([[float(v.sum()) for v in found[w]] for w in self.words])

    def measured(self, model: Any) -> dict[str, float]:
        p = self.probabilities(model)
        rows = torch.arange(len(self.words))
        truth = torch.tensor([self.right[word] for word in self.words])
        right, wrong = self.is_right, ~self.is_right
        of_mode = p[rows, self.mode].log() - self.first[rows, self.mode]
        of_right = p[rows, truth]
        entropy = -(p * p.log()).sum(1)
        return {
            CHANGE: of_mode[wrong].mean().item(),
            "entropy, nats": entropy.mean().item(),
            "pass@8, mode wrong": (1 - (1 - of_right[wrong]) ** 8).mean().item(),
            "mean@1, mode right": of_right[right].mean().item(),
        }


def run(seeds: int) -> Falsified:
    """All arms."""
    arms: dict[str, list[Mapping[str, float]]] = {name: [] for name in ARMS}
    for seed in range(seeds):
        world = World(seed)
        for name, setting in ARMS.items():
            arms[name].append(world.arm(setting))
    found = [Arm(name, {k: [f[k] for f in fs] for k in fs[0]}) for name, fs in arms.items()]
    return Falsified(
        "selm",
        "160 prompts, answers of one letter, 3 iterations of 10 steps of 16, beta 0.1",
        found,
        claims({arm.name: arm.figures for arm in found}),
    )


def claims(arms: Mapping[str, Mapping[str, list[float]]]) -> list[Claim]:
    """What the page says must be seen."""
    base = arms["alpha 0"][CHANGE]

    def above(name: str) -> list[float]:
        return [a - b for a, b in zip(arms[name][CHANGE], base, strict=True)]

    def seen(values: Sequence[float]) -> str:
        return ", ".join(f"{v:+.2f}" for v in values)

    steps = [above(f"greedy {a}") for a in ("0.05", "0.2", "0.5")]
    falls = all(0 > a > b > c for a, b, c in zip(*steps, strict=True))
    passed = "pass@8, mode wrong"
    gains = [
        max(arms[f"greedy {a}"][passed][i] for a in ("0.05", "0.2", "0.5"))
        - arms["alpha 0"][passed][i]
        for i in range(len(base))
    ]
    kept = "mean@1, mode right"
    losses = [a - b for a, b in zip(arms["greedy 0.2"][kept], arms["alpha 0"][kept], strict=True)]
    length, prompt_length = 2, len(encoder().encode_prompt(prompt("abc").messages))
    apart = arms["greedy 0.5"]["answers apart"]
    formula = (prompt_length + (2 + sum(apart) / len(apart)) * length) / (
        prompt_length + 2 * length
    )
    tokens, seconds = (
        sum(arms["greedy 0.5"][n]) / sum(arms["alpha 0"][n])
        for n in ("tokens per pair", "us per token")
    )
    return [
        Claim(
            "tokens of a training step against DPO, (P + (2 + share of answers apart) L) / "
            "(P + 2L), within 15 %",
            f"{tokens:.3f}, formula {formula:.3f}; seconds per token against DPO {seconds:.2f}",
            abs(tokens / formula - 1) < 0.15,
            "cost",
        ),
        Claim(
            "the mode falls below alpha 0 in every seed, the more the larger alpha (page -0.1, "
            "-0.4, -0.9 at 0.05, 0.2, 0.5)",
            "; ".join(map(seen, steps)),
            falls,
        ),
        Claim(
            "at alpha 0.001 nothing is visible (page 0 to 0.02 nats)",
            seen(above("greedy 0.001")),
            max(map(abs, above("greedy 0.001"))) < 0.05,
        ),
        Claim(
            "the wrong sign lies above alpha 0 (page +0.18 to +0.35)",
            seen(above("greedy -0.2 (wrong sign)")),
            min(above("greedy -0.2 (wrong sign)")) > 0.05,
        ),
        Claim(
            "answers of other prompts lie far above alpha 0.5 (page +1.5)",
            seen(
                [
                    a - b
                    for a, b in zip(above("greedy 0.5, answers shuffled"), steps[2], strict=True)
                ]
            ),
            all(
                a > b + 0.3
                for a, b in zip(above("greedy 0.5, answers shuffled"), steps[2], strict=True)
            ),
        ),
        Claim(
            "pass@8 above alpha 0 where the mode is wrong, without loss where it is right (page: "
            "not seen)",
            f"best gain {seen(gains)}; mean@1 at 0.2 {seen(losses)}",
            min(gains) > 0.02 and min(losses) > -0.005,
            "helps",
        ),
    ]
