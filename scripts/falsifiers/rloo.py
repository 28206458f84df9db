"""Policy gradient on completions: what is exact on a bandit, and votes and certainty as rewards.

Expectations are over every draw of M arms, so they are exact up to rounding. Then a model of 0.1 M
weights, which sometimes answers a word by its first letter, is trained by batches of
its own samples; and Intuitor's reward on policies that are tables of two tokens.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from falsifiers.letters import LETTERS, encoder, fine_tuned, preferred, prompt, prompts, sums
from falsify import Arm, Claim, Falsified
from torch import Tensor

from cream.algorithms.advantages import (
    Spread,
    collapse,
    group_deviation,
    group_mean,
    largest_vote,
    leave_one_out,
    majority,
    varies,
)
from cream.algorithms.policy_gradient import clipped_surrogate
from cream.engines.certainty import token_certainty
from cream.engines.sampler import TorchSampler
from cream.protocols import SamplingParams
from cream.recipe.policy_gradient import PolicyGradient
from cream.stages.advantage import WeighedSample, sample_examples
from cream.stages.sample import sample
from cream.types import Completion, EncodedPrompt

ARMS, DRAWN = 4, 3
WORDS, KNOWN, SAMPLES, BATCHES = 48, 800, 8, 12
CHOICES, STEPS, PROMPTS, RATE = 5, 150, 64, 0.3
Figures = dict[str, float]
Baseline = Callable[[np.ndarray, np.ndarray], np.ndarray]


def nothing(rewards: np.ndarray, _: np.ndarray) -> np.ndarray:
    """No baseline."""
    return np.zeros_like(rewards)


def neighbours(rewards: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """A wrong join: the baseline is as it should be, and each reward is that of the next sample."""
    return leave_one_out(rewards, counted) + rewards - np.roll(rewards, 1, axis=1)


def bandit(seed: int) -> dict[str, Figures]:
    """How far the expected gradient of each baseline is from that of the expected reward."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(ARMS, generator=draw, dtype=torch.float64)
    rewards = torch.rand(ARMS, generator=draw, dtype=torch.float64) + 3
    p = logits.softmax(0)
    wanted = p * (rewards - (p * rewards).sum())  # of E[R] in the logits
    groups = torch.tensor(list(itertools.product(range(ARMS), repeat=DRAWN)))
    chance = p[groups].prod(1)
    values = rewards[groups].numpy()
    counted = np.ones_like(values, dtype=bool)
    forms: dict[str, Baseline] = {
        "leave-one-out": leave_one_out,
        "mean of all": group_mean,
        "no baseline": nothing,
        "wrong join": neighbours,
    }
    found = {}
    for name, baseline in forms.items():
        advantage = torch.from_numpy(values - baseline(values, counted))
        each = torch.stack(
            [_gradient(logits, g, a) for g, a in zip(groups, advantage, strict=True)]
        )
        mean = (chance[:, None] * each).sum(0)
        spread = (chance[:, None] * (each - mean) ** 2).sum()
        found[name] = {
            "off the gradient": float((mean - wanted).abs().max() / wanted.abs().max()),
            "times the gradient": float((mean @ wanted) / (wanted @ wanted)),
            "variance": float(spread),
        }
    return found


def _gradient(logits: Tensor, group: Tensor, advantage: Tensor) -> Tensor:
    """Uphill gradient of the clipped surrogate at the start, mean over the samples of a group."""
    own = logits.clone().requires_grad_()
    logps = own.log_softmax(0)[group]
    clipped_surrogate((logps - logps.detach()).exp(), advantage, clip=0.2).mean().backward()
    assert own.grad is not None
    return -own.grad


def answering(seed: int) -> tuple[Any, list[str]]:
    """A model that says the first letter of a word or any other, and words it has not seen."""
    words, draw = prompts(KNOWN + WORDS, seed), random.Random(seed)
    told = [(w, w[0] if draw.random() < 0.6 else draw.choice(LETTERS[:6])) for w in words]
    return fine_tuned(told[:KNOWN], seed=seed, epochs=16, rate=3e-3), words[KNOWN:]


def right(model: Any, words: Sequence[str], answers: Sequence[str]) -> np.ndarray:
    """Probability of an answer to each word."""
    asked = []
    for word, answer in zip(words, answers, strict=True):
        messages = prompt(word).messages
        ids = encoder().encode_prompt(messages), encoder().encode_completion(messages, answer)
        asked.append(ids)
    return sums(model, asked).exp().numpy()


def drawn(model: Any, words: Sequence[str], seed: int) -> list[list[Completion]]:
    """Samples of each word, at temperature 1."""
    encoded = [EncodedPrompt(prompt(w), encoder().encode_prompt(prompt(w).messages)) for w in words]
    groups = sample(
        encoded,
        TorchSampler(model.eval()),
        SamplingParams(1.0, 1.0, 3, encoder().stop_ids),
        num_completions=SAMPLES,
        seed_of=lambda key, k: random.Random(f"{seed} {key} {k}").getrandbits(60),
        decode=encoder().decode,
    )
    return list(groups)


def trained(seed: int, reward: str) -> Figures:
    """Batches of own samples: by the right answer, by its opposite, or by votes."""
    model, words = answering(seed)
    wanted = [w[0] for w in words]
    before = right(model, words, wanted)
    first: np.ndarray | None = None
    shares = []
    for batch in range(BATCHES):
        groups = drawn(model, words, 1000 * seed + batch)
        texts = np.array([[c.text for c in group] for group in groups])
        codes = np.unique(texts, return_inverse=True)[1].reshape(texts.shape)
        there = np.ones(texts.shape, dtype=bool)
        correct = (texts == np.array(wanted)[:, None]).astype(float)
        values = {"right": correct, "wrong sign": -correct, "votes": majority(codes, there)}[reward]
        first = correct.mean(1) if first is None else first
        shares.append(float(largest_vote(codes, there).mean()))
        counted = ~np.isnan(values)
        differs = varies(np.nan_to_num(values), np.zeros_like(values), counted)
        advantage = values - leave_one_out(values, counted)
        samples = [
            WeighedSample(c.prompt_id, c.completion_id, float(values[g, k]), float(advantage[g, k]))
            for g in np.flatnonzero(differs)
            for k, c in enumerate(groups[g])
        ]
        examples = sample_examples(
            samples,
            {c.completion_id: c.token_ids for group in groups for c in group},
            {w: encoder().encode_prompt(prompt(w).messages) for w in words},
            dict.fromkeys(words, float("nan")),
        )
        if examples:
            objective = PolicyGradient().build_for(SAMPLES, reads_reference=False)
            steps = -(-len(examples) // 16)
            preferred(model, examples, objective, steps=steps, batch=16, rate=1e-3, seed=batch)
    after = right(model, words, wanted)
    assert first is not None
    return {
        "right before": float(before.mean()),
        "right after": float(after.mean()),
        "vote share before": shares[0],
        "vote share after": shares[-1],
    }


def tables(seed: int) -> dict[str, Figures]:
    """TTRL and Intuitor on tables: what happens where the most probable answer is wrong."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(PROMPTS, CHOICES, generator=draw, dtype=torch.float64)
    order = logits.argsort(1, descending=True)
    wanted = torch.where(torch.arange(PROMPTS) < PROMPTS // 2, order[:, 0], order[:, 1])
    next_token = 2 * torch.randn(PROMPTS, CHOICES, CHOICES, generator=draw, dtype=torch.float64)
    sure = _certainty(next_token)
    p = logits.softmax(1)
    margin = (p.gather(1, order[:, :1]) - p.gather(1, order[:, 1:2]))[:, 0]
    clear = margin > 0.2
    votes = _climbed(logits, seed, lambda codes: majority(codes, np.ones(codes.shape, dtype=bool)))
    rows = np.arange(PROMPTS)[:, None]
    certain = _climbed(logits, seed, lambda codes: sure.numpy()[rows, codes])
    found = {}
    for name, after in (("votes, table", votes), ("certainty, table", certain)):
        q = after.softmax(1)
        good = q.gather(1, wanted[:, None])[:, 0]
        half = torch.arange(PROMPTS) < PROMPTS // 2
        spread = [
            Spread(float(-(x * x.log()).sum(1).mean()), 2.0, float(x.max(1).values.mean()))
            for x in (p, q)
        ]
        found[name] = {
            "right, mode right": float(good[half & clear].mean()),
            "right, mode wrong": float(good[~half & clear].mean()),
            "chosen is most certain": float((q.argmax(1) == sure.argmax(1)).double().mean()),
            "entropy before": spread[0].entropy,
            "entropy after": spread[1].entropy,
            "collapse named": float("entropy_collapse" in collapse(spread)),
        }
    return found


def _certainty(logits: Tensor) -> Tensor:
    """Mean certainty of a completion's two tokens; that of the first is the same for all."""
    flat = logits.reshape(-1, CHOICES)
    every = torch.arange(len(flat))
    return token_certainty(flat, every, every).reshape(logits.shape[:-1]).double() / 2


def _climbed(logits: Tensor, seed: int, reward: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Logits after steps of GRPO's advantages on samples of each prompt."""
    draw = torch.Generator().manual_seed(seed)
    own = logits.clone().requires_grad_()
    optimiser = torch.optim.SGD([own], lr=RATE * PROMPTS)
    for _ in range(STEPS):
        codes = own.detach().softmax(1).multinomial(2 * SAMPLES, replacement=True, generator=draw)
        values = np.asarray(reward(codes.numpy()), dtype=np.float64)
        counted = ~np.isnan(values)
        with np.errstate(divide="ignore", invalid="ignore"):
            scaled = (values - group_mean(values, counted)) / group_deviation(values, counted)
        advantage = torch.from_numpy(np.nan_to_num(scaled, posinf=0, neginf=0))
        logps = own.log_softmax(1).gather(1, codes)
        optimiser.zero_grad()
        clipped_surrogate((logps - logps.detach()).exp(), advantage, clip=0.2).mean().backward()
        optimiser.step()
    return own.detach()


def of_seed(seed: int) -> dict[str, Figures]:
    """Every arm of a seed."""
    trainings = {
        f"letters, {name}": trained(seed, name) for name in ("right", "wrong sign", "votes")
    }
    return {**bandit(seed), **trainings, **tables(seed)}


def run(seeds: int) -> Falsified:
    """All arms."""
    found = [of_seed(seed) for seed in range(seeds)]
    arms = {
        name: {key: [one[name][key] for one in found] for key in found[0][name]}
        for name in found[0]
    }
    setting = (
        f"every draw of {DRAWN} from {ARMS} arms; {WORDS} words with {SAMPLES} samples, {BATCHES} "
        f"batches, 0.1 M weights; {PROMPTS} tables of {CHOICES} answers, {STEPS} steps"
    )
    return Falsified("rloo", setting, [Arm(n, f) for n, f in arms.items()], claims(arms))


def claims(arms: dict[str, dict[str, list[float]]]) -> list[Claim]:
    """What must hold, and what the known collapses look like."""

    def claim(says: str, arm: str, name: str, holds: Callable[[float], bool]) -> Claim:
        values = arms[arm][name]
        return Claim(says, ", ".join(f"{v:.3g}" for v in values), all(map(holds, values)))

    alone = "leave-one-out"
    part = (DRAWN - 1) / DRAWN
    gained, voted = (_gains(arms[f"letters, {name}"]) for name in ("right", "votes"))
    wrong = arms["letters, wrong sign"]
    lost = [a / b for a, b in zip(_gains(wrong), wrong["right before"], strict=True)]
    less = [
        a / b for a, b in zip(arms[alone]["variance"], arms["no baseline"]["variance"], strict=True)
    ]
    return [
        claim("leave-one-out: expected gradient is exact", alone, "off the gradient", _tiny),
        claim(
            "mean of all samples: (M - 1) / M of it",
            "mean of all",
            "times the gradient",
            lambda v: abs(v - part) < 1e-9,
        ),
        Claim("leave-one-out: variance below a tenth of none's", _seen(less), max(less) < 0.1),
        claim("wrong join: shows, by half or more", "wrong join", "off the gradient", _large),
        Claim("the right answer gains .2", _seen(gained), min(gained) >= 0.2),
        Claim("sign reversed: it loses half of what it had", _seen(lost), max(lost) <= -0.5),
        Claim(
            "votes: their share rises by .1",
            _seen(_gains(arms["letters, votes"], "vote share")),
            min(_gains(arms["letters, votes"], "vote share")) >= 0.1,
        ),
        Claim(
            "votes: the right answer gains",
            _seen(voted),
            min(voted) > 0,
            "helps",
        ),
        claim("votes: a right mode becomes certain", "votes, table", "right, mode right", _most),
        claim("votes: a wrong one too", "votes, table", "right, mode wrong", lambda v: v < 0.05),
        claim(
            "certainty: what is most certain is chosen, right or not (chance: .2)",
            "certainty, table",
            "chosen is most certain",
            lambda v: v >= 0.8,
        ),
        claim(
            "certainty: the collapse is named",
            "certainty, table",
            "collapse named",
            lambda v: v == 1,
        ),
    ]


def _gains(figures: dict[str, list[float]], name: str = "right") -> list[float]:
    pairs = zip(figures[f"{name} before"], figures[f"{name} after"], strict=True)
    return [after - before for before, after in pairs]


def _seen(values: Sequence[float]) -> str:
    return ", ".join(f"{value:+.3f}" for value in values)


def _tiny(value: float) -> bool:
    return value < 1e-9


def _large(value: float) -> bool:
    return value >= 0.5


def _most(value: float) -> bool:
    return value >= 0.9
