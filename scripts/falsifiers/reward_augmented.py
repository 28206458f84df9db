"""Goal-conditioned DPO on answers whose score is their shortness.

Answers of 1 to 8 letters (5 left out, so that goals 3, 5 and 8 are told in no training row), score
10 for one letter down to 1 for eight. A model fine-tuned to uniform lengths; 180 pairs, 90 held
out, 60 steps of 12 rows in every arm.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from falsifiers.letters import (
    LETTERS,
    cost,
    encoder,
    fine_tuned,
    preferred,
    prompt,
    prompts,
    scored,
    sums,
    text_pair,
)
from falsify import Arm, Claim, Falsified

from cream.algorithms.goals import goal_conditioned, with_goal
from cream.recipe.goals import GivenScale, Goals
from cream.recipe.objectives import Dpo
from cream.stages.goals import GoalRows
from cream.stages.transform import transform_pairs
from cream.types import Example, RankedPair

BETA, STEPS, ROWS, RATE = 0.1, 60, 12, 1e-3
LENGTHS = (1, 2, 3, 4, 6, 7, 8)
UNSEEN = (3, 5, 8)
GOALS = Goals(text="score {goal}", scale=GivenScale(kind="given", lowest=1, highest=10))
GOOD = 5.0


def score(text: str) -> float:
    """10 for one letter, 1 for eight."""
    return 10 - 9 * (len(text) - 1) / 7


def some_letters(draw: random.Random, length: int) -> str:
    return "".join(draw.choice(LETTERS) for _ in range(length))


def a_pair(word: str, draw: random.Random) -> RankedPair:
    """Two answers of different length, the shorter one chosen."""
    short, long = sorted(draw.sample(LENGTHS, 2))
    said = some_letters(draw, short), some_letters(draw, long)
    rewards = score(said[0]), score(said[1])
    return replace(
        text_pair(word, prompt(word), said, rewards=rewards), pair_id=f"{word}-0>{word}-1"
    )


def told(pairs: Sequence[RankedPair], goals: Goals = GOALS) -> list[Example]:
    """Goal-conditioned examples as the loop makes them."""
    return transform_pairs(pairs, GoalRows(goals, seed=0, max_tokens=512), encoder())[0]


def shuffled(examples: Sequence[Example], seed: int) -> list[Example]:
    """Every pair under the two goals of another pair."""
    order = list(range(len(examples)))
    random.Random(seed).shuffle(order)
    return [
        replace(
            e,
            sequences={
                role: replace(
                    one,
                    prompt_token_ids=_goal_ids(examples[j].prompt_of(role))
                    + _question_ids(e.prompt_of(role)),
                )
                for role, one in e.sequences.items()
            },
        )
        for e, j in zip(examples, order, strict=True)
    ]


END = encoder().end_of_turn_id


def _goal_ids(ids: tuple[int, ...]) -> tuple[int, ...]:
    """The system turn of a prompt, end of turn included."""
    return ids[: ids.index(END) + 1]


def _question_ids(ids: tuple[int, ...]) -> tuple[int, ...]:
    """What follows the system turn."""
    return ids[ids.index(END) + 1 :]


def constant(examples: Sequence[Example], goal: int) -> list[Example]:
    """Both rows under one text."""
    turn = _goal_ids(encoder().encode_prompt(with_goal(prompt("a").messages, GOALS.told(goal))))
    return [
        replace(
            e,
            sequences={
                role: replace(one, prompt_token_ids=turn + _question_ids(e.prompt_of(role)))
                for role, one in e.sequences.items()
            },
        )
        for e in examples
    ]


def not_reversed(examples: Sequence[Example]) -> list[Example]:
    """The low row in the order of the high one, as the published code has it (8.1 of the page)."""
    low = "low_goal_chosen", "low_goal_rejected"
    return [
        replace(
            e,
            sequences={
                **e.sequences,
                low[0]: e.sequences[low[1]],
                low[1]: e.sequences[low[0]],
            },
        )
        for e in examples
    ]


def plain(pairs: Sequence[RankedPair], goal: int | None) -> list[Example]:
    """DPO's pairs, under the question or under one goal for all."""
    made = told(pairs, GOALS.model_copy(update={"rows": "high"}))
    if goal is not None:
        return constant(made, goal)
    by_id = {p.pair_id: p.prompt_token_ids for p in pairs}
    return [replace(e, prompt_token_ids=by_id[e.example_id]) for e in made]


class World:
    """The model before preferences, and the pairs, of one seed."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        words = prompts(180 + 90, seed)
        answers = [(w, some_letters(draw, draw.choice(LENGTHS))) for w in words for _ in range(4)]
        self.seed = seed
        self.start = fine_tuned(answers, seed=seed, epochs=6, rate=3e-3)
        pairs = [a_pair(word, draw) for word in words]
        self.pairs, self.held_out = pairs[:180], pairs[180:]

    def arm(self, examples: Sequence[Example], *, both: bool) -> dict[str, float]:
        """Train on examples, and measure the four cells on held-out pairs."""
        model = copy.deepcopy(self.start)
        given = scored(self.start, examples)
        objective = Dpo(beta=BETA).build()
        if both:
            objective = goal_conditioned(objective, beta=BETA)
        batch = ROWS // 2 if both else ROWS
        done = preferred(
            model, given, objective, steps=STEPS, batch=batch, rate=RATE, seed=self.seed
        )
        return {**self.measured(model), **cost(done, seen=STEPS * batch)}

    def formula(self) -> float:
        """The page's tokens against DPO: 2 (P + G + 2L) / (P + 2L)."""
        prompt = mean([len(p.prompt_token_ids) for p in self.pairs])
        answers = mean([len(p.chosen.token_ids) + len(p.rejected.token_ids) for p in self.pairs])
        with_goals = mean([len(e.prompt_token_ids) for e in told(self.pairs)])
        return 2 * (with_goals + answers) / (prompt + answers)

    def margins(self, model: Any, goals: Sequence[int | None]) -> list[float]:
        """x of every held-out pair under its goal: chosen over rejected, against the start."""
        asked = []
        for pair, goal in zip(self.held_out, goals, strict=True):
            messages = pair.prompt.messages
            said = messages if goal is None else with_goal(messages, GOALS.told(goal))
            ids = encoder().encode_prompt(said)
            asked += [(ids, pair.chosen.token_ids), (ids, pair.rejected.token_ids)]
        ratio = (sums(model, asked) - sums(self.start, asked)).view(-1, 2)
        return (BETA * (ratio[:, 0] - ratio[:, 1])).tolist()

    def measured(self, model: Any) -> dict[str, float]:
        high = [round(p.chosen_reward) for p in self.held_out]
        low = [round(p.rejected_reward) for p in self.held_out]
        x_high, x_low = (mean(self.margins(model, g)) for g in (high, low))
        right = []
        for goal in UNSEEN:
            for pair, x in zip(
                self.held_out, self.margins(model, [goal] * len(self.held_out)), strict=True
            ):
                r, s = pair.chosen_reward, pair.rejected_reward
                gap = (r - s) * (2 * goal - r - s)
                right.append((x > 0) == (gap > 0))
        good = [p for p in self.pairs if p.rejected_reward >= GOOD]
        asked = [
            (
                encoder().encode_prompt(
                    with_goal(p.prompt.messages, GOALS.told(round(p.chosen_reward)))
                ),
                p.rejected.token_ids,
            )
            for p in good
        ]
        e, m = (x_high - x_low) / 2, (x_high + x_low) / 2
        fall = mean((sums(self.start, asked) - sums(model, asked)).tolist())
        return {
            "x_h": x_high,
            "x_l": x_low,
            "e": e,
            "m": m,
            "e/(|e|+|m|)": e / (abs(e) + abs(m)),
            "unseen goals right": mean(right),
            "fall of good rejected": fall,
        }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def run(seeds: int) -> Falsified:
    """All arms."""
    arms: dict[str, list[Mapping[str, float]]] = {}
    formulas = []
    for seed in range(seeds):
        world = World(seed)
        formulas.append(world.formula())
        rows = told(world.pairs)
        given = {
            "augmented": (rows, True),
            "goals shuffled": (shuffled(rows, seed), True),
            "constant text, both orders": (constant(rows, 10), True),
            "order not reversed": (not_reversed(rows), True),
            "DPO, plain": (plain(world.pairs, None), False),
            "DPO, score 10": (plain(world.pairs, 10), False),
        }
        for name, (examples, both) in given.items():
            arms.setdefault(name, []).append(world.arm(examples, both=both))
    found = [Arm(name, {k: [f[k] for f in fs] for k in fs[0]}) for name, fs in arms.items()]
    return Falsified(
        "reward_augmented",
        "180 pairs, scores by shortness, 60 steps of 12 rows, beta 0.1, 90 held-out pairs",
        found,
        claims({arm.name: arm.figures for arm in found}, mean(formulas)),
    )


def claims(arms: Mapping[str, Mapping[str, list[float]]], formula: float) -> list[Claim]:
    """What the page says must be seen."""
    augmented, wrong = arms["augmented"], arms["order not reversed"]
    plain_dpo = [arms["DPO, plain"], arms["DPO, score 10"], wrong]

    def seen(*names: str, of: Mapping[str, list[float]]) -> str:
        return "; ".join(f"{n} " + ", ".join(f"{v:+.3f}" for v in of[n]) for n in names)

    ratio = "e/(|e|+|m|)"
    tokens, seconds = (
        mean(augmented[n]) / mean(arms["DPO, plain"][n])
        for n in ("tokens per pair", "us per token")
    )
    return [
        Claim(
            "tokens of a training step against DPO, 2 (P + G + 2L) / (P + 2L), within 15 %",
            f"{tokens:.2f}, formula {formula:.2f}; seconds per token against DPO {seconds:.2f}",
            abs(tokens / formula - 1) < 0.15,
            "cost",
        ),
        Claim(
            "augmented: x_h > 0 > x_l in every seed",
            seen("x_h", "x_l", of=augmented),
            min(augmented["x_h"]) > 0 > max(augmented["x_l"]),
        ),
        Claim(
            "augmented: right at unseen goals (page 0.71 to 0.74; a positive constant 0.41)",
            seen("unseen goals right", of=augmented),
            min(augmented["unseen goals right"]) > 0.6,
        ),
        Claim(
            "goals shuffled: |e| below 0.01 (page -0.002)",
            seen("e", of=arms["goals shuffled"]),
            max(map(abs, arms["goals shuffled"]["e"])) < 0.01,
        ),
        Claim(
            "constant text: |e| below 0.01 (page -0.006 to -0.002)",
            seen("e", of=arms["constant text, both orders"]),
            max(map(abs, arms["constant text, both orders"]["e"])) < 0.01,
        ),
        Claim(
            "order not reversed: both margins positive, |m| tens of times e (page 5.1, 0.01)",
            seen("x_h", "x_l", "e", of=wrong),
            min(*wrong["x_h"], *wrong["x_l"]) > 0
            and all(m > 10 * abs(e) for m, e in zip(wrong["m"], wrong["e"], strict=True)),
        ),
        Claim(
            f"{ratio}: augmented 0.7 to 0.9, DPO arms below 0.02 (page)",
            f"augmented {seen(ratio, of=augmented)}; "
            + "; ".join(seen(ratio, of=arm) for arm in plain_dpo),
            min(augmented[ratio]) > 0.5 and max(v for arm in plain_dpo for v in arm[ratio]) < 0.05,
        ),
        Claim(
            "unlearning: good rejected answers fall by far less than under DPO (page 0.2 to 0.5, "
            "42 to 45 nats)",
            f"{seen('fall of good rejected', of=augmented)} against "
            + seen("fall of good rejected", of=arms["DPO, plain"]),
            max(augmented["fall of good rejected"]) * 5
            < min(arms["DPO, plain"]["fall of good rejected"]),
            "helps",
        ),
    ]
